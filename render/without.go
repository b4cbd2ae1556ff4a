package render

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// without returns an object that lacks the fields of a rule's plain paths: a copy, if there are any.
func without(o *unstructured.Unstructured, paths []string) *unstructured.Unstructured {
	if len(paths) == 0 {
		return o
	}
	c := o.DeepCopy()
	for _, p := range paths {
		fieldpath.Remove(c.Object, fieldpath.Parts(p))
	}
	return c
}
