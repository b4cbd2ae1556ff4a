package render

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// unstableFields compares two renderings of the same input.
// The fields that differ become ignore rules; objects that differ in name are an error.
func unstableFields(a, b []manifest.Object) ([]api.IgnoreRule, error) {
	other := make(map[string]*unstructured.Unstructured, len(b))
	for _, o := range b {
		other[api.RefOf(o.Unstructured).ID()] = o.Unstructured
	}
	var rules []api.IgnoreRule
	for _, o := range a {
		ref := api.RefOf(o.Unstructured)
		twin := other[ref.ID()]
		if twin == nil {
			return nil, fmt.Errorf("%s has another name each time it is rendered", ref)
		}
		var paths []string
		differing(o.Object, twin.Object, "", &paths)
		if len(paths) == 0 {
			continue
		}
		slices.Sort(paths)
		rules = append(rules, api.IgnoreRule{
			Target: api.IgnoreTarget{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name},
			Paths:  paths,
		})
	}
	return rules, nil
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

// without returns a copy of an object that lacks the fields of a rule's plain paths.
func without(o *unstructured.Unstructured, paths []string) *unstructured.Unstructured {
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
