package api

// Names that flotilla writes into, or reads from, a cluster or a repository.
const (
	Group      = "flotilla.dev"
	Version    = "v1alpha1"
	APIVersion = Group + "/" + Version

	KindFleet            = "Fleet"
	KindCluster          = "Cluster"
	KindBundle           = "Bundle"
	KindSuspension       = "Suspension"
	KindBundleDeployment = "BundleDeployment"

	// FieldManager owns every field that flotilla applies.
	FieldManager = "flotilla"
	// SystemNamespace holds the BundleDeployments and the agent itself.
	SystemNamespace = "flotilla-system"

	// LabelManagedBy is set to ManagedBy on every applied object.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "flotilla"
	// LabelPartOf names the ApplySet (one per bundle) that an object belongs to (KEP-3659).
	LabelPartOf = "applyset.kubernetes.io/part-of"
	// LabelBundle names the bundle in plain words, beside the ApplySet's hash.
	LabelBundle = Group + "/bundle"
	// LabelApplySetID marks an ApplySet's parent, the BundleDeployment.
	LabelApplySetID = "applyset.kubernetes.io/id"
	// AnnotationTooling names the tool that manages an ApplySet; it stands on the parent.
	AnnotationTooling = "applyset.kubernetes.io/tooling"
	// AnnotationGroupKinds lists the kinds in an ApplySet; it stands on the parent.
	AnnotationGroupKinds = "applyset.kubernetes.io/contains-group-kinds"
	// AnnotationNamespaces lists the namespaces of an ApplySet beyond its parent's own.
	AnnotationNamespaces = "applyset.kubernetes.io/additional-namespaces"

	// AnnotationCheckIgnore says which findings of flotilla check are meant: a line of REASON: WHY for each.
	AnnotationCheckIgnore = Group + "/check-ignore"
	// AnnotationReconcile with the value "disabled" keeps flotilla from writing or deleting an object.
	AnnotationReconcile = Group + "/reconcile"
	// AnnotationPrune with the value "disabled" keeps flotilla from deleting an object.
	AnnotationPrune = Group + "/prune"
	// AnnotationForce with the value "enabled" lets flotilla recreate an object
	// whose immutable fields changed.
	AnnotationForce = Group + "/force"
	// AnnotationSSA is "IfNotPresent" or "Merge".
	AnnotationSSA = Group + "/ssa"
	// AnnotationDrift is "report" or "ignore", for one object.
	AnnotationDrift = Group + "/drift"
	// AnnotationLastEditor is the user who made the last change,
	// where the cluster's admission policy stamps it.
	AnnotationLastEditor = Group + "/last-editor"
	// AnnotationLastEditorFrom is the state that this change began from: "resourceVersion/generation".
	AnnotationLastEditorFrom = Group + "/last-editor-from"

	// ValueDisabled and ValueEnabled are the only words those switches understand.
	ValueDisabled = "disabled"
	ValueEnabled  = "enabled"

	// ClusterBundle is the name of the implicit bundle made of
	// clusters/<name>/kustomization.yaml.
	ClusterBundle = "cluster"
)

// OwnLabel reports whether a label is one by which an object is known as flotilla's own.
func OwnLabel(key string) bool {
	return key == LabelPartOf || key == LabelManagedBy || key == LabelBundle
}
