package apply

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sameContent reports whether two states of an object say the same in all that Git can set.
func sameContent(a, b *unstructured.Unstructured) bool {
	return equality.Semantic.DeepEqual(content(a), content(b))
}

// content is an object without status and without the metadata that the server keeps.
func content(o *unstructured.Unstructured) map[string]any {
	out := make(map[string]any, len(o.Object))
	for k, v := range o.Object {
		switch k {
		case "status":
		case "metadata":
			md, _ := v.(map[string]any)
			keep := map[string]any{}
			for _, f := range []string{"labels", "annotations", "ownerReferences", "finalizers"} {
				if md[f] != nil {
					keep[f] = md[f]
				}
			}
			out[k] = keep
		default:
			out[k] = v
		}
	}
	return out
}
