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

// findClocked notes what the time decides in hooks, even their names. Hooks are told apart by their order.
func (b *built) findClocked(later built) {
	for i, h := range b.hooks[:min(len(b.hooks), len(later.hooks))] {
		var paths []string
		differing(h.Object.Object, later.hooks[i].Object.Object, "", &paths)
		b.unstable[h.Object] = paths
	}
}

// findRandom notes what differs in two renderings. An object or a hook that differs in name is an error.
func (b *built) findRandom(first, second built, from string) (err error) {
	if b.ignore, err = unstableFields(first.objects, second.objects); err != nil {
		return err
	}
	const differs = "%s/%s: %s comes out differently each time (random functions in %s): %s"
	for _, r := range b.ignore {
		b.warnings = append(b.warnings, fmt.Sprintf(differs, r.Target.Kind, r.Target.Name, strings.Join(r.Paths, ", "), from, "the value first applied is kept"))
	}
	for i, h := range b.hooks[:min(len(b.hooks), len(first.hooks), len(second.hooks))] {
		var paths []string
		differing(first.hooks[i].Object.Object, second.hooks[i].Object.Object, "", &paths)
		if len(paths) == 0 {
			continue
		}
		ref := api.RefOf(h.Object)
		if slices.Contains(paths, "/metadata/name") {
			return fmt.Errorf("hook %s has another name each time it is rendered", ref)
		}
		slices.Sort(paths)
		b.warnings = append(b.warnings, fmt.Sprintf("hook "+differs, ref.Kind, ref.Name, strings.Join(paths, ", "), from, "the hook does not run again for that"))
		b.unstable[h.Object] = append(b.unstable[h.Object], paths...)
	}
	return nil
}

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
