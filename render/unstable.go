package render

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// unstableFields compares two renderings of the same input. It returns the paths that differ, by the object of the first;
// an object that differs in name is an error. Hooks may share a name: then their order tells them apart.
func unstableFields(a, b []*unstructured.Unstructured) (map[*unstructured.Unstructured][]string, error) {
	other := make(map[string][]*unstructured.Unstructured, len(b))
	for _, o := range b {
		id := api.RefOf(o).ID()
		other[id] = append(other[id], o)
	}
	out := map[*unstructured.Unstructured][]string{}
	for _, o := range a {
		ref := api.RefOf(o)
		twins := other[ref.ID()]
		if len(twins) == 0 {
			return nil, fmt.Errorf("%s has another name each time it is rendered", ref)
		}
		other[ref.ID()] = twins[1:]
		var paths []string
		differing(o.Object, twins[0].Object, "", &paths)
		if len(paths) > 0 {
			slices.Sort(paths)
			out[o] = paths
		}
	}
	return out, nil
}

// findUnstable notes what differs in a second rendering of a chart: in objects it becomes ignore rules, and nothing of it is a change.
func (b *built) findUnstable(second built, random string) error {
	var all [2][]*unstructured.Unstructured
	for i, r := range []*built{b, &second} {
		for _, o := range r.objects {
			all[i] = append(all[i], o.Unstructured)
		}
		for _, h := range r.hooks {
			all[i] = append(all[i], h.Object)
		}
	}
	var err error
	if b.unstable, err = unstableFields(all[0], all[1]); err != nil {
		return err
	}
	for i, o := range all[0] {
		ref, paths := api.RefOf(o), b.unstable[o]
		switch {
		case paths == nil:
		case i < len(b.objects):
			b.ignore = append(b.ignore, api.IgnoreRule{
				Target: api.IgnoreTarget{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}, Paths: paths,
			})
			b.warnings = append(b.warnings, fmt.Sprintf("%s/%s: %s comes out differently each time (random functions in %s): the value first applied is kept",
				ref.Kind, ref.Name, strings.Join(paths, ", "), random))
		default:
			b.warnings = append(b.warnings, fmt.Sprintf("hook %s/%s: %s comes out differently each time (random functions in %s): the hook does not run again for that",
				ref.Kind, ref.Name, strings.Join(paths, ", "), random))
		}
	}
	return nil
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// differing lists JSON pointers to the values that differ.
func differing(a, b any, at string, out *[]string) {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		for k := range x {
			if w, there := y[k]; there {
				differing(x[k], w, at+"/"+pointerEscape.Replace(k), out)
			} else {
				*out = append(*out, at+"/"+pointerEscape.Replace(k))
			}
		}
		for k := range y {
			if _, there := x[k]; !there {
				*out = append(*out, at+"/"+pointerEscape.Replace(k))
			}
		}
		return
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			break
		}
		for i := range x {
			differing(x[i], y[i], at+"/"+strconv.Itoa(i), out)
		}
		return
	}
	if !reflect.DeepEqual(a, b) {
		*out = append(*out, at)
	}
}

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
