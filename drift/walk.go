package drift

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
)

// difference is one field in which live and desired differ.
type difference struct {
	path  trail
	class api.Class
	// want and have are the values; nil is absent.
	want, have any
	by         api.Attribution
	// reason is why it is no drift; set only for what is kept. rule is set if an ignore rule says so.
	reason string
	rule   bool
	// shared is set when another manager owns the live value.
	shared bool
	// order is set where only the order of a list differs; want and have name the items.
	order bool
}

// walker goes down the dry run's answer and the live object side by side.
type walker struct {
	in      Input
	rules   rules
	live    []entry
	own     *fieldpath.Set
	shape   *fieldpath.Set
	mask    masker
	found   []difference
	kept    []difference
	passed  []difference   // of what others added
	stringy map[string]any // a Secret's stringData in Git
	// all is set to keep also what a write would change in fields that are not ours.
	all bool
}

func newWalker(in Input) *walker {
	w := &walker{
		in: in, rules: rulesFor(in), live: entriesOf(in.Live, in.Manager),
		own: &fieldpath.Set{}, shape: &fieldpath.Set{}, mask: maskFor(in.Live),
	}
	applied := false
	for _, e := range entriesOf(in.DryRun, in.Manager) {
		w.shape = w.shape.Union(e.fields)
		if e.applied {
			w.own, applied = w.own.Union(e.fields), true
		}
	}
	for _, e := range w.live {
		w.shape = w.shape.Union(e.fields)
		if e.applied {
			w.own = w.own.Union(e.fields)
		}
	}
	if !applied {
		w.own = w.own.Union(declared(in.Desired))
	}
	if isSecret(in.Live) {
		w.stringy, _, _ = unstructured.NestedMap(in.Desired.Object, "stringData")
		for key := range w.stringy {
			w.own.Insert(fieldpath.MakePathOrDie("data", key))
		}
	}
	return w
}

// node is how the place that the walker stands at is owned.
type node struct {
	// self is set if we own the place itself; whole, if also everything below it.
	self, whole bool
	own, shape  *fieldpath.Set
}

func (n node) child(pe fieldpath.PathElement) node {
	c := node{self: n.own.Members.Has(pe), own: n.own.WithPrefix(pe), shape: n.shape.WithPrefix(pe)}
	c.whole = n.whole || (c.self && c.own.Empty())
	return c
}

func (n node) owned() bool { return n.self || n.whole || !n.own.Empty() }

// object compares all that can drift: everything but the status and what the API server writes.
func (w *walker) object() {
	root := node{own: w.own, shape: w.shape}
	for _, key := range keys(w.in.DryRun.Object, w.in.Live.Object) {
		want, have := w.in.DryRun.Object[key], w.in.Live.Object[key]
		switch key {
		case "apiVersion", "kind", "status":
		case "metadata":
			w.metadata(root.child(fieldpath.FieldNameElement(key)), asMap(want), asMap(have))
		default:
			w.walk(trail{}.then(fieldStep(key)), root.child(fieldpath.FieldNameElement(key)), want, have)
		}
	}
}

func (w *walker) metadata(n node, want, have map[string]any) {
	at := trail{}.then(fieldStep("metadata"))
	for _, key := range []string{"annotations", "finalizers", "labels", "ownerReferences"} {
		w.walk(at.then(fieldStep(key)), n.child(fieldpath.FieldNameElement(key)), want[key], have[key])
	}
}

func (w *walker) walk(at trail, n node, want, have any) {
	if equal(want, have) {
		return
	}
	if !n.owned() {
		w.notOurs(at, want, have)
		return
	}
	wantMap, wantIsMap := want.(map[string]any)
	haveMap, haveIsMap := have.(map[string]any)
	wantList, wantIsList := want.([]any)
	haveList, haveIsList := have.([]any)
	// What is absent altogether is looked at part by part where we own the parts and not the whole.
	parts := !n.whole && !n.own.Empty()
	switch {
	case wantIsMap && haveIsMap, parts && wantIsMap && have == nil, parts && want == nil && haveIsMap:
		for _, key := range keys(wantMap, haveMap) {
			w.walk(at.then(fieldStep(key)), n.child(fieldpath.FieldNameElement(key)), wantMap[key], haveMap[key])
		}
	case wantIsList && haveIsList, parts && wantIsList && have == nil, parts && want == nil && haveIsList:
		w.list(at, n, wantList, haveList)
	default:
		w.differ(at, want, have)
	}
}

// list compares two lists as the API server merges them: by key, as a set, or as one.
// The managedFields of either side tell which it is.
func (w *walker) list(at trail, n node, want, have []any) {
	ident := identify(n.shape)
	wantItems, ok := items(want, ident)
	haveItems, ok2 := items(have, ident)
	if ident == nil || n.whole || !ok || !ok2 {
		w.atomic(at, n, want, have)
		return
	}
	for _, it := range wantItems.order {
		other, there := haveItems.find(it.elem)
		c := n.child(it.elem)
		if there {
			w.walk(at.then(it), c, it.item, other.item)
		} else if c.owned() {
			w.differ(at.then(it), it.item, nil)
		} else {
			w.notOurs(at.then(it), it.item, nil)
		}
	}
	for _, it := range haveItems.order {
		if _, there := wantItems.find(it.elem); !there && n.child(it.elem).owned() {
			w.differ(at.then(it), nil, it.item)
		}
	}
	if ordered(at) && !sameOrder(wantItems, haveItems) {
		w.judge(difference{path: at, class: api.ClassChanged, want: wantItems.names(), have: haveItems.names(), order: true}, nil) // nobody owns the order
	}
}

// atomic compares two lists that the API server replaces as one.
func (w *walker) atomic(at trail, n node, want, have []any) {
	if len(want) != len(have) || len(want) == 0 || (unordered(at, w.in.Live) && (sameItems(want, have) || scalars(want))) {
		w.differ(at, listOrNil(want), listOrNil(have))
		return
	}
	n.whole = true
	for i := range want {
		s := itemStep(fieldpath.IndexElement(i), i, have[i])
		c := n.child(s.elem)
		w.walk(at.then(s), c, want[i], have[i])
	}
}

func listOrNil(l []any) any {
	if l == nil {
		return nil
	}
	return l
}

// differ takes a difference in a value; nil is absent. A removal leaves no owner.
func (w *walker) differ(at trail, want, have any) {
	if have == nil {
		w.judge(difference{path: at, class: api.ClassRemoved, want: want}, nil)
		return
	}
	w.judge(difference{path: at, class: api.ClassChanged, want: want, have: have}, owner(w.live, at.path()))
}

// notOurs keeps a difference in a field that nobody owns, where all is asked for.
// Where somebody does, they wrote between the look and the dry run.
func (w *walker) notOurs(at trail, want, have any) {
	if !w.all || !w.desirable(at) || owns(w.shape, at.path()) {
		return
	}
	d := difference{path: at, class: api.ClassChanged, want: want, have: have, by: attribution(nil), reason: nextWrite}
	if have == nil {
		d.class = api.ClassRemoved
	}
	w.kept = append(w.kept, d)
}

// judge decides whether a difference is drift, or what the reason is why it is not.
func (w *walker) judge(d difference, by *entry) {
	d.by = attribution(by)
	d.shared = by != nil && !by.ours
	if d.reason = w.builtin(d, by); d.reason == "" {
		d.reason = w.rules.ignores(d.path, d.by)
		d.rule = d.reason != ""
	}
	if d.reason != "" {
		w.kept = append(w.kept, d)
		return
	}
	if m := w.in.Matched; by != nil && by.applied && m != nil && m.Claimed != 0 && m.Claimed == api.ClaimedAt(w.in.Live) {
		d.by = attribution(nil) // it stands under our name, and we have written nothing
	}
	w.name(&d, by)
	w.found = append(w.found, d)
}

// name puts a person to a difference where that can be proven.
func (w *walker) name(d *difference, by *entry) {
	if by != nil && (by.ours || controller(by.manager)) {
		return
	}
	p := w.person(*d, by)
	if p != "" && w.in.Person != nil {
		p = w.in.Person(p)
	}
	if p != "" {
		d.by.Person, d.by.Confidence = p, api.ConfidencePerson
	}
}

// diff is the difference as it is stored and shown.
func (d difference) diff(m masker) api.FieldDiff {
	want, have := m.pair(d.path, d.want, d.have)
	return api.FieldDiff{Path: d.path.String(), Class: d.class, Desired: want, Live: have, By: d.by}
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// keys are the keys of both maps, sorted.
func keys(a, b map[string]any) []string {
	out := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(out)
	return slices.Compact(out)
}

// identity says what tells the items of a list apart: some fields, or (without fields) the item itself.
type identity struct{ fields []string }

// identify reads from managedFields how a list is merged; nil means as one.
func identify(shape *fieldpath.Set) *identity {
	var id *identity
	see := func(pe fieldpath.PathElement) bool {
		switch {
		case pe.Key != nil:
			id = &identity{}
			for _, f := range *pe.Key {
				id.fields = append(id.fields, f.Name)
			}
		case pe.Value != nil:
			id = &identity{}
		}
		return id == nil
	}
	for pe := range shape.Members.All() {
		if !see(pe) {
			return id
		}
	}
	for p := range shape.All() {
		if !see(p[0]) {
			return id
		}
	}
	return id
}

// itemSet is a list's items, by identity.
type itemSet struct {
	order []step
	index fieldpath.PathElementMap
}

func (s *itemSet) find(pe fieldpath.PathElement) (step, bool) {
	i, ok := s.index.Get(pe)
	if !ok {
		return step{}, false
	}
	return s.order[i.(int)], true
}

// names lists the items by what tells them apart.
func (s *itemSet) names() []any {
	out := make([]any, len(s.order))
	for i, it := range s.order {
		out[i] = it.text
	}
	return out
}

// items sorts a list by identity. It reports false if two items share one, or one has none.
func items(list []any, id *identity) (*itemSet, bool) {
	out := &itemSet{index: fieldpath.MakePathElementMap(len(list))}
	if id == nil {
		return out, false
	}
	for i, item := range list {
		pe := fieldpath.ValueElement(value.NewValueInterface(item))
		if len(id.fields) > 0 {
			m := asMap(item)
			key := value.FieldList{}
			for _, f := range id.fields {
				if m[f] != nil {
					key = append(key, value.Field{Name: f, Value: value.NewValueInterface(m[f])})
				}
			}
			if len(key) == 0 {
				return out, false
			}
			key.Sort()
			pe = fieldpath.PathElement{Key: &key}
		}
		if _, twice := out.index.Get(pe); twice {
			return out, false
		}
		out.index.Insert(pe, i)
		out.order = append(out.order, itemStep(pe, i, item))
	}
	return out, true
}

// sameOrder reports whether the items that both lists hold follow each other in the same order.
func sameOrder(a, b *itemSet) bool {
	last := -1
	for _, it := range a.order {
		other, ok := b.find(it.elem)
		if !ok {
			continue
		}
		if other.index < last {
			return false
		}
		last = other.index
	}
	return true
}
