package api

// Orders are the annotations that keep an object out of drift correction, as they stand in Git or on the live object.
// Each is empty where there is none.
type Orders struct {
	// Reconcile, Drift and SSA are AnnotationReconcile, AnnotationDrift and AnnotationSSA.
	Reconcile, Drift, SSA string
}

// OrdersIn reads the orders among an object's annotations.
func OrdersIn(annotations map[string]string) Orders {
	return Orders{
		Reconcile: annotations[AnnotationReconcile],
		Drift:     annotations[AnnotationDrift],
		SSA:       annotations[AnnotationSSA],
	}
}
