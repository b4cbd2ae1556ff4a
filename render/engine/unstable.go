package engine

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// findClocked notes what the time decides in hooks, even their names. Hooks are told apart by their order.
func (r *Result) findClocked(later Result) {
	for i := range r.Hooks[:min(len(r.Hooks), len(later.Hooks))] {
		var paths []string
		differing(r.Hooks[i].Object.Object, later.Hooks[i].Object.Object, "", &paths)
		r.Hooks[i].Unstable = paths
	}
}

// findRandom notes what differs in two renderings. An object or a hook that differs in name is an error.
func (r *Result) findRandom(first, second Result, from string) (err error) {
	if r.Ignore, err = unstableFields(first.Objects, second.Objects); err != nil {
		return err
	}
	const differs = "%s/%s: %s comes out differently each time (random functions in %s): %s"
	for _, i := range r.Ignore {
		r.Warnings = append(r.Warnings, fmt.Sprintf(differs, i.Target.Kind, i.Target.Name, strings.Join(i.Paths, ", "), from, "the value first applied is kept"))
	}
	for i := range r.Hooks[:min(len(r.Hooks), len(first.Hooks), len(second.Hooks))] {
		h := &r.Hooks[i]
		var paths []string
		differing(first.Hooks[i].Object.Object, second.Hooks[i].Object.Object, "", &paths)
		if len(paths) == 0 {
			continue
		}
		ref := api.RefOf(h.Object)
		if slices.Contains(paths, "/metadata/name") {
			return fmt.Errorf("hook %s has another name each time it is rendered", ref)
		}
		slices.Sort(paths)
		r.Warnings = append(r.Warnings, fmt.Sprintf("hook "+differs, ref.Kind, ref.Name, strings.Join(paths, ", "), from, "the hook does not run again for that"))
		h.Unstable = append(h.Unstable, paths...)
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
				differing(x[k], w, at+"/"+fieldpath.Escape(k), out)
			} else {
				*out = append(*out, at+"/"+fieldpath.Escape(k))
			}
		}
		for k := range y {
			if _, there := x[k]; !there {
				*out = append(*out, at+"/"+fieldpath.Escape(k))
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
