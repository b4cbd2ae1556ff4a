package api

// InventoryEntry is one object that a bundle owns on a cluster,
// with what the agent needs to tell without a request whether it is as it was left.
type InventoryEntry struct {
	Object ObjectRef `json:"object"`
	// UID tells an object from its namesake after a deletion.
	UID string `json:"uid,omitempty"`
	// Digest is of the desired object that was last applied; empty if that is unknown
	// (rebuilt from the cluster, or a failed deletion).
	Digest string `json:"digest,omitempty"`
	// ResourceVersion, Generation and MetaDigest (see there)
	// are what the API server answered to the last apply or compare.
	ResourceVersion string `json:"resourceVersion,omitempty"`
	Generation      int64  `json:"generation,omitempty"`
	MetaDigest      string `json:"metaDigest,omitempty"`
	// Claimed is when we wrote last by the word of managedFields, in seconds since 1970; zero if that is unknown.
	// It moves with a write in our name, and with no other.
	Claimed int64 `json:"claimed,omitempty"`
	// Plain says that nothing stood on the object then which decides what may be done to it: no order in an annotation,
	// and no claim of a tool whose fields become ours. What Git says next can be written without a look.
	Plain bool `json:"plain,omitempty"`
	// Scaled says that its replicas were an autoscaler's then.
	Scaled bool `json:"scaled,omitempty"`
	// HandsOff says that Git has it with AnnotationReconcile disabled: it is not deleted when it leaves Git either.
	// The annotation itself is not written to the object.
	HandsOff bool `json:"handsOff,omitempty"`
	// Origin is the file in the repository that the object comes from.
	Origin string `json:"origin,omitempty"`
}

// BundleRecord is all that the agent keeps of one bundle.
type BundleRecord struct {
	Status    BundleStatus     `json:"status"`
	Inventory []InventoryEntry `json:"inventory"`
}
