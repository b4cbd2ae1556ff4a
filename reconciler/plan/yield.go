package plan

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// RulesFor returns the ignore rules whose target an object matches.
func RulesFor(ref api.ObjectRef, d api.Drift) []api.IgnoreRule {
	var out []api.IgnoreRule
	for _, r := range d.Ignore {
		if r.Target.Matches(ref) {
			out = append(out, r)
		}
	}
	return out
}

// Yield returns the desired object with the live values of all fields that the rules leave to others:
// what Git says of them holds only when the object is created. An item of a list that is not live is left out.
// A field that is ours on the cluster and has left Git stays in what is sent: left out, it would go.
// Neither object is changed.
func Yield(desired, live *unstructured.Unstructured, rules []api.IgnoreRule) *unstructured.Unstructured {
	y := yielder{shape: smd.NewSet(), own: smd.NewSet(), theirs: smd.NewSet(), patterns: patternsOf(rules)}
	for _, e := range live.GetManagedFields() {
		s, ok := fieldSet(e)
		if !ok {
			continue
		}
		y.shape = y.shape.Union(s)
		switch {
		case e.Manager != api.FieldManager && Spared(e.Manager, rules):
			y.theirs = y.theirs.Union(held(live, s))
		case e.Manager == api.FieldManager && e.Subresource == "":
			y.own = y.own.Union(s)
		}
	}
	out := desired.DeepCopy()
	for _, key := range keysOf(out.Object, live.Object) {
		at := fieldpath.Trail{fieldpath.Field(key)}
		switch key {
		case "apiVersion", "kind", "status":
		case "metadata":
			y.metadata(at, out.Object, live.Object)
		default:
			y.key(at, y.shape.WithPrefix(at[0].Elem), out.Object, live.Object)
		}
	}
	return out
}

// held are the places that a set of claims holds, with all that is there: whoever claims an empty map or list holds no part of it.
func held(live *unstructured.Unstructured, s *smd.Set) *smd.Set {
	out := smd.NewSet()
	for p := range s.Leaves().All() {
		if _, v, ok := fieldpath.Locate(live.Object, p); ok && !fieldpath.Hollow(v) {
			out.Insert(p.Copy())
		}
	}
	return out
}

// patternsOf are the paths of rules.
func patternsOf(rules []api.IgnoreRule) []fieldpath.Pattern {
	var out []fieldpath.Pattern
	for _, r := range rules {
		for _, p := range r.Paths {
			out = append(out, fieldpath.Parse(p))
		}
	}
	return out
}

// yielder goes down a desired and a live object side by side.
type yielder struct {
	patterns []fieldpath.Pattern
	// theirs are the fields of the managers to whom rules leave all; own are ours, and shape all that anybody claims.
	theirs, own, shape *smd.Set
}

func (y *yielder) metadata(at fieldpath.Trail, want, have map[string]any) {
	w, _ := want["metadata"].(map[string]any)
	h, _ := have["metadata"].(map[string]any)
	shape := y.shape.WithPrefix(at[0].Elem)
	for _, field := range []string{"annotations", "finalizers", "labels", "ownerReferences"} {
		s := fieldpath.Field(field)
		if field != "labels" {
			y.key(at.Then(s), shape.WithPrefix(s.Elem), w, h)
			continue
		}
		labels, _ := w[field].(map[string]any)
		live, _ := h[field].(map[string]any)
		for _, key := range keysOf(labels, live) {
			if labels != nil && !api.OwnLabel(key) {
				y.key(at.Then(s).Then(fieldpath.Field(key)), smd.NewSet(), labels, live)
			}
		}
	}
}

// key yields one field of a map, in place.
func (y *yielder) key(at fieldpath.Trail, shape *smd.Set, want, have map[string]any) {
	key := at.Field(0)
	w, inGit := want[key]
	h := have[key]
	switch {
	case !inGit && (h == nil || want == nil || !y.ours(at.Path()) && !y.whole(at[:len(at)-1].Path())):
	case !inGit && y.covered(at):
		want[key] = runtime.DeepCopyJSONValue(h)
	case !inGit:
		if v := y.below(at, shape, h); v != nil {
			want[key] = v
		}
	default:
		if v, stays := y.value(at, shape, w, h); stays {
			want[key] = v
		} else {
			delete(want, key)
		}
	}
}

// below is what stays of a map or list that has left Git because of rules for parts of it; nil for nothing.
func (y *yielder) below(at fieldpath.Trail, shape *smd.Set, have any) any {
	if !slices.ContainsFunc(y.patterns, func(p fieldpath.Pattern) bool { return p.Within(at) }) {
		return nil
	}
	switch h := have.(type) {
	case map[string]any:
		out := map[string]any{}
		for key := range h {
			s := fieldpath.Field(key)
			y.key(at.Then(s), shape.WithPrefix(s.Elem), out, h)
		}
		if len(out) > 0 {
			return out
		}
	case []any:
		if out := y.list(at, shape, nil, h); len(out) > 0 {
			return out
		}
	}
	return nil
}

// value is what is sent at a place where Git says want; false for nothing.
func (y *yielder) value(at fieldpath.Trail, shape *smd.Set, want, have any) (any, bool) {
	if y.covered(at) {
		return runtime.DeepCopyJSONValue(have), have != nil
	}
	switch w := want.(type) {
	case map[string]any:
		h, _ := have.(map[string]any)
		for _, key := range keysOf(w, h) {
			s := fieldpath.Field(key)
			y.key(at.Then(s), shape.WithPrefix(s.Elem), w, h)
		}
	case []any:
		h, _ := have.([]any)
		return y.list(at, shape, w, h), true
	}
	return want, true
}

func (y *yielder) list(at fieldpath.Trail, shape *smd.Set, want, have []any) []any {
	id := fieldpath.Identify(shape)
	items, ok := fieldpath.ItemsOf(want, id)
	live, ok2 := fieldpath.ItemsOf(have, id)
	if !ok || !ok2 {
		return y.atomic(at, want, have)
	}
	out := make([]any, 0, len(want))
	for i, it := range items.Order {
		var other any
		if j := fieldpath.Find(have, it.Elem); j >= 0 {
			other, it.Elem = have[j], live.Order[j].Elem
		}
		s := fieldpath.Item(it.Elem, i, overlaid(it.Item, other))
		if other == nil && !y.covered(at.Then(s)) {
			out = append(out, it.Item) // it is made anew, with all that Git says of it
			continue
		}
		if v, stays := y.value(at.Then(s), shape.WithPrefix(s.Elem), it.Item, other); stays {
			out = append(out, v)
		}
	}
	for _, it := range live.Order {
		_, there := items.Find(it.Elem)
		at := at.Then(it)
		if !there && !slices.ContainsFunc(want, func(w any) bool { return fieldpath.IsItem(it.Elem, w) }) && y.covered(at) && y.ours(at.Path()) {
			out = append(out, runtime.DeepCopyJSONValue(it.Item))
		}
	}
	return out
}

// atomic yields parts of a list that the API server replaces as one: item by item, as a comparison goes through it.
// Of lists of another length nothing is left but the whole. Where nobody claims anything, items are known by their names.
func (y *yielder) atomic(at fieldpath.Trail, want, have []any) []any {
	if len(have) == 0 {
		// Nothing tells any more what kind of list it was: that it was one with items of their own, as the rule has it, is to be believed.
		return slices.DeleteFunc(want, func(item any) bool {
			i := slices.IndexFunc(want, func(w any) bool { return fieldpath.Equal(w, item) })
			return y.coveredItem(at.Then(fieldpath.Item(smd.IndexElement(i), i, item)))
		})
	}
	if len(want) != len(have) && !y.shape.Empty() {
		return want
	}
	for i := range want {
		j := i
		if y.shape.Empty() {
			j = counterpart(want[i], i, have)
		}
		if j < 0 {
			continue
		}
		s := fieldpath.Item(smd.IndexElement(i), i, have[j])
		if v, stays := y.value(at.Then(s), smd.NewSet(), want[i], have[j]); stays {
			want[i] = v
		}
	}
	return want
}

// coveredItem reports whether a rule covers an item of a list itself, and does not only lead to its place.
func (y *yielder) coveredItem(at fieldpath.Trail) bool {
	return slices.ContainsFunc(y.patterns, func(p fieldpath.Pattern) bool { return p.Covers(at) && !p.ByIndex(len(at)-1) })
}

// counterpart finds the live item that a desired one became: by name where items have names, else by position.
func counterpart(item any, i int, live []any) int {
	if m, ok := item.(map[string]any); ok {
		if name, ok := m["name"]; ok {
			return slices.IndexFunc(live, func(l any) bool {
				lm, ok := l.(map[string]any)
				return ok && lm["name"] == name
			})
		}
	}
	if i < len(live) {
		return i
	}
	return -1
}

// overlaid is an item as the API server knows it: what Git says, over what it was.
func overlaid(want, have any) any {
	w, ok := want.(map[string]any)
	h, ok2 := have.(map[string]any)
	if !ok || !ok2 {
		return want
	}
	out := maps.Clone(h)
	maps.Copy(out, w)
	return out
}

// whole reports whether somebody claims a map as one: an apply that leaves a key out of it takes the key away.
func (y *yielder) whole(p smd.Path) bool {
	if len(p) == 0 {
		return false
	}
	set := y.shape
	for _, pe := range p[:len(p)-1] {
		set = set.WithPrefix(pe)
	}
	last := p[len(p)-1]
	return set.Members.Has(last) && set.WithPrefix(last).Empty()
}

func (y *yielder) covered(at fieldpath.Trail) bool {
	return covers(y.patterns, at) || y.theirs.Has(at.Path())
}

// covers reports whether a pattern covers a place that rules may leave to others.
func covers(patterns []fieldpath.Pattern, at fieldpath.Trail) bool {
	return slices.ContainsFunc(patterns, func(p fieldpath.Pattern) bool { return p.Covers(at) })
}

func (y *yielder) ours(p smd.Path) bool {
	set := y.own
	for _, pe := range p[:len(p)-1] {
		set = set.WithPrefix(pe)
	}
	last := p[len(p)-1]
	return set.Members.Has(last) || !set.WithPrefix(last).Empty()
}

func keysOf(a, b map[string]any) []string {
	out := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(out)
	return slices.Compact(out)
}
