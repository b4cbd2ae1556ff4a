package plan

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// ApplySetID is the value of the part-of label of a bundle's objects.
// KEP-3659 makes it from the parent's identity: the bundle's BundleDeployment.
func ApplySetID(bundle string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s.%s.%s.%s", bundle, api.SystemNamespace, api.KindBundleDeployment, api.Group))
	return "applyset-" + base64.RawURLEncoding.EncodeToString(sum[:]) + "-v1"
}

// owner is what the labels of a live object say about whom it belongs to.
type owner struct {
	applySet string
	// ours: it belongs to the bundle in question.
	ours bool
	// bundle is the flotilla bundle that it belongs to; empty if none.
	bundle string
	// foreign: it belongs to an ApplySet that is not flotilla's.
	foreign bool
}

func ownerOf(live *unstructured.Unstructured, bundle string) owner {
	o := owner{applySet: label(live, api.LabelPartOf)}
	if o.applySet == "" {
		return o
	}
	if o.applySet == ApplySetID(bundle) {
		o.ours, o.bundle = true, bundle
		return o
	}
	// The plain name counts only if the hash confirms it.
	if name := label(live, api.LabelBundle); name != "" && ApplySetID(name) == o.applySet {
		o.bundle = name
		return o
	}
	o.foreign = true
	return o
}
