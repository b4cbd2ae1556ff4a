package drift

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Keep is the desired object as it must be written so that a correction leaves alone
// what the result ignores: the fields of ignore rules, replicas that an autoscaler chose.
// Such a field is left out where somebody else owns it, and has its live value where nobody would own it without us:
// also where a correction takes over what others own, as extra: remove has it.
// Desired itself is not changed; it is returned as it is if there is nothing to leave alone.
func (r Result) Keep(desired *unstructured.Unstructured) *unstructured.Unstructured {
	if len(r.kept) == 0 {
		return desired
	}
	out := desired.DeepCopy()
	for _, d := range r.kept {
		switch {
		case d.order: // cannot be left alone without leaving the items alone
		case d.have == nil, d.shared && !r.takesAll:
			paths.Set(out.Object, d.path, nil)
		default:
			paths.Set(out.Object, d.path, runtime.DeepCopyJSONValue(d.have))
		}
	}
	return out
}
