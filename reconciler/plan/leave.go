package plan

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// MayLeave reports whether a desired object declares a field that may be somebody else's on the cluster
// although no ignore rule says so: replicas, a CA bundle, the rules of an aggregated ClusterRole.
// Whoever wants to know for certain has to look at the whole live object.
func MayLeave(desired *unstructured.Unstructured) bool {
	return replicas(desired) != nil || !onlyReplicas(desired)
}

// onlyReplicas reports whether there is nothing of the kind but replicas.
func onlyReplicas(desired *unstructured.Unstructured) bool {
	return desired.Object["aggregationRule"] == nil && !holds(desired.Object, "caBundle")
}

func replicas(o *unstructured.Unstructured) any {
	spec, _ := o.Object["spec"].(map[string]any)
	return spec["replicas"]
}

// holds reports whether a key stands anywhere in a value.
func holds(v any, key string) bool {
	switch x := v.(type) {
	case map[string]any:
		for k, part := range x {
			if k == key || holds(part, key) {
				return true
			}
		}
	case []any:
		for _, part := range x {
			if holds(part, key) {
				return true
			}
		}
	}
	return false
}

// otherScale reports an entry of the scale subresource that claims another field than spec.replicas.
func otherScale(e metav1.ManagedFieldsEntry) bool {
	s, ok := fieldSet(e)
	return ok && e.Subresource == "scale" && !s.Difference(smd.NewSet(smd.MakePathOrDie("spec", "replicas"))).Empty()
}

// ScaledElsewhere reports whether the number of an object's replicas was set through its scale subresource
// and stands in another field than spec.replicas, as a custom resource may have it.
func ScaledElsewhere(live metav1.Object) bool {
	return slices.ContainsFunc(live.GetManagedFields(), otherScale)
}
