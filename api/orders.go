package api

// Orders are the annotations that keep an object from being corrected or deleted, as they stand in Git or on the live object.
// Each is empty where there is none.
type Orders struct {
	// Reconcile, Drift, SSA and Prune are AnnotationReconcile, AnnotationDrift, AnnotationSSA and AnnotationPrune.
	Reconcile, Drift, SSA, Prune string
}

// OrdersIn reads the orders among an object's annotations.
func OrdersIn(annotations map[string]string) Orders {
	return Orders{
		Reconcile: annotations[AnnotationReconcile],
		Drift:     annotations[AnnotationDrift],
		SSA:       annotations[AnnotationSSA],
		Prune:     annotations[AnnotationPrune],
	}
}
