package render

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// without returns an object that lacks the fields of a rule's plain paths: a copy, if there are any.
func without(o *unstructured.Unstructured, paths []string) *unstructured.Unstructured {
	if len(paths) == 0 {
		return o
	}
	c := o.DeepCopy()
	for _, p := range paths {
		removeAt(c.Object, strings.Split(strings.TrimPrefix(p, "/"), "/"))
	}
	return c
}

var pointerUnescape = strings.NewReplacer("~1", "/", "~0", "~")

func removeAt(v any, keys []string) {
	key := pointerUnescape.Replace(keys[0])
	switch x := v.(type) {
	case map[string]any:
		if len(keys) == 1 {
			delete(x, key)
			return
		}
		removeAt(x[key], keys[1:])
	case []any:
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(x) {
			return
		}
		if len(keys) == 1 {
			x[i] = nil
			return
		}
		removeAt(x[i], keys[1:])
	}
}
