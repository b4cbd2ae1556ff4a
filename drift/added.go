package drift

import (
	"encoding/json"
	"fmt"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
)

// added are the fields of the live object that only others own, and no controller:
// a dry run does not show them, because server-side apply leaves them alone. An entry of another version of the API
// counts as far as its fields are there in this one too.
func (w *walker) added() []difference {
	if !w.in.Spec.AsksForExtra() {
		return nil
	}
	var out []difference
	foreign, known := &fieldpath.Set{}, &fieldpath.Set{}
	for _, e := range w.live {
		switch {
		case e.ours || controller(e.manager):
			known = known.Union(e.fields)
		case e.subresource == "" && !nobody(e.manager):
			foreign = foreign.Union(e.fields)
		}
	}
	known = known.Union(w.own)
	taken := &fieldpath.Set{} // list items that were added as a whole
	for p := range foreign.Difference(known).All() {
		p = p.Copy()
		if above(taken, p) {
			continue
		}
		at, have, ok := locate(w.in.Live.Object, p)
		if !ok || !w.desirable(at) || wholeOwned(known, p) {
			continue
		}
		item := p[len(p)-1].FieldName == nil
		if !item && !below(foreign, p).Empty() {
			continue // its parts come by themselves
		}
		if item {
			taken.Insert(p)
		}
		by := owner(w.live, p)
		d := difference{path: at, class: api.ClassAdded, have: have, by: attribution(by)}
		if d.reason = w.rules.ignores(at, d.by); d.reason != "" {
			d.rule = true
			w.passed = append(w.passed, d)
			continue
		}
		w.name(&d, by)
		out = append(out, d)
	}
	return out
}

// desirable reports paths that hold desired state: not the status, not what the API server writes,
// and not the annotations that are orders to us or notes of tools.
func (w *walker) desirable(at trail) bool {
	switch {
	case at.under("status"), at.under("apiVersion"), at.under("kind"):
		return false
	case at.under("metadata", "labels"):
		return true
	case at.under("metadata", "annotations"):
		switch key := at.field(0); {
		case len(at) < 3, key == lastApplied, stamp(key), orders[key] && w.in.Spec.Heeds(key):
			return false
		}
		return true
	}
	return !at.under("metadata")
}

// orders are annotations by which people tell us what to do with an object.
var orders = map[string]bool{
	api.AnnotationReconcile: true, api.AnnotationPrune: true, api.AnnotationForce: true,
	api.AnnotationSSA: true, api.AnnotationDrift: true,
}

// wholeOwned reports whether something above the path is known as a whole.
func wholeOwned(known *fieldpath.Set, p fieldpath.Path) bool {
	set := known
	for _, pe := range p[:len(p)-1] {
		below := set.WithPrefix(pe)
		if below.Empty() {
			return set.Members.Has(pe)
		}
		set = below
	}
	return false
}

// locate finds a path of managedFields in an object.
func locate(object map[string]any, p fieldpath.Path) (trail, any, bool) {
	var at trail
	var v any = object
	for _, pe := range p {
		switch {
		case pe.FieldName != nil:
			v = asMap(v)[*pe.FieldName]
			at = at.then(fieldStep(*pe.FieldName))
		default:
			list, _ := v.([]any)
			i := slices.IndexFunc(list, func(item any) bool { return isExactly(pe, item) })
			if i < 0 {
				i = slices.IndexFunc(list, func(item any) bool { return isItem(pe, item) })
			}
			if pe.Index != nil && *pe.Index < len(list) {
				i = *pe.Index
			}
			if i < 0 {
				return nil, nil, false
			}
			v = list[i]
			at = at.then(itemStep(pe, i, v))
		}
		if v == nil {
			return nil, nil, false
		}
	}
	return at, v, len(at) > 0
}

// isExactly is isItem for an item that has all the key fields.
func isExactly(pe fieldpath.PathElement, item any) bool {
	m := asMap(item)
	return isItem(pe, item) && (pe.Key == nil || !slices.ContainsFunc(*pe.Key, func(f value.Field) bool {
		_, there := m[f.Name]
		return !there
	}))
}

// isItem reports whether a path element selects a list item. A key field that the item leaves out
// is one that the API server fills in, and does not count.
func isItem(pe fieldpath.PathElement, item any) bool {
	switch {
	case pe.Key != nil:
		m := asMap(item)
		found := false
		for _, f := range *pe.Key {
			if v, there := m[f.Name]; there {
				if !equal(v, f.Value.Unstructured()) {
					return false
				}
				found = true
			}
		}
		return found
	case pe.Value != nil:
		return equal(item, (*pe.Value).Unstructured())
	}
	return false
}

// StripPatch is a JSON patch (RFC 6902) that removes the added fields from the live object it was
// compared with, and from no later one. It is nil if there are none.
func (r Result) StripPatch() []byte {
	if len(r.added) == 0 || r.Evidence == nil {
		return nil
	}
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	ops := []op{{Op: "test", Path: "/metadata/resourceVersion", Value: r.Evidence.ResourceVersion}}
	added := slices.Clone(r.added)
	// The last item of a list goes first, so that the others stay where they are.
	slices.SortStableFunc(added, func(a, b difference) int { return comparePositions(b.path, a.path) })
	for _, d := range added {
		path := ""
		for _, s := range d.path {
			if s.index >= 0 {
				path += fmt.Sprintf("/%d", s.index)
			} else {
				path += "/" + s.text
			}
		}
		ops = append(ops, op{Op: "remove", Path: path})
	}
	b, err := json.Marshal(ops)
	if err != nil {
		return nil // strings always marshal
	}
	return b
}

func comparePositions(a, b trail) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i].index != b[i].index:
			return a[i].index - b[i].index
		case a[i].text < b[i].text:
			return -1
		case a[i].text > b[i].text:
			return 1
		}
	}
	return len(a) - len(b)
}

// below is the part of a set below a path.
func below(set *fieldpath.Set, p fieldpath.Path) *fieldpath.Set {
	for _, pe := range p {
		set = set.WithPrefix(pe)
	}
	return set
}

// above reports whether the set holds something above a path.
func above(set *fieldpath.Set, p fieldpath.Path) bool {
	for _, pe := range p[:len(p)-1] {
		if set.Members.Has(pe) {
			return true
		}
		set = set.WithPrefix(pe)
	}
	return false
}
