package drift

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
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
	// top is what goes when an addition is taken away: the field itself, or what was added around it.
	top trail
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
			w.walk(trail{}.Then(paths.Field(key)), root.child(fieldpath.FieldNameElement(key)), want, have)
		}
	}
}

func (w *walker) metadata(n node, want, have map[string]any) {
	at := trail{}.Then(paths.Field("metadata"))
	for _, key := range []string{"annotations", "finalizers", "labels", "ownerReferences"} {
		w.walk(at.Then(paths.Field(key)), n.child(fieldpath.FieldNameElement(key)), want[key], have[key])
	}
}

func (w *walker) walk(at trail, n node, want, have any) {
	if paths.Equal(want, have) {
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
	hollow := w.hollow(at, n)
	n.whole = n.whole && !hollow
	// What is absent altogether is looked at part by part where we own the parts and not the whole.
	parts := hollow || !n.whole && !n.own.Empty()
	switch {
	case wantIsMap && haveIsMap, parts && wantIsMap && have == nil, parts && want == nil && haveIsMap:
		for _, key := range keys(wantMap, haveMap) {
			w.walk(at.Then(paths.Field(key)), n.child(fieldpath.FieldNameElement(key)), wantMap[key], haveMap[key])
		}
	case wantIsList && haveIsList, parts && wantIsList && have == nil, parts && want == nil && haveIsList:
		w.list(at, n, wantList, haveList)
	default:
		w.differ(at, want, have)
	}
}

// hollow reports whether Git leaves a place empty in which others claim parts: the parts are theirs.
func (w *walker) hollow(at trail, n node) bool {
	if !n.self || !n.own.Empty() || n.shape.Empty() {
		return false
	}
	git, _ := w.inGit(at.Path())
	return paths.Hollow(git)
}

// list compares two lists as the API server merges them: by key, as a set, or as one.
// The managedFields of either side tell which it is.
func (w *walker) list(at trail, n node, want, have []any) {
	ident := paths.Identify(n.shape)
	wantItems, ok := paths.ItemsOf(want, ident)
	haveItems, ok2 := paths.ItemsOf(have, ident)
	if ident == nil || n.whole || !ok || !ok2 {
		w.atomic(at, n, want, have)
		return
	}
	for _, it := range wantItems.Order {
		other, there := haveItems.Find(it.Elem)
		c := n.child(it.Elem)
		if there {
			w.walk(at.Then(it), c, it.Item, other.Item)
		} else if c.owned() {
			w.differ(at.Then(it), it.Item, nil)
		} else {
			w.notOurs(at.Then(it), it.Item, nil)
		}
	}
	for _, it := range haveItems.Order {
		if _, there := wantItems.Find(it.Elem); !there && n.child(it.Elem).owned() {
			w.differ(at.Then(it), nil, it.Item)
		}
	}
	if ordered(at) && !sameOrder(wantItems, haveItems) {
		w.judge(difference{path: at, class: api.ClassChanged, want: wantItems.Names(), have: haveItems.Names(), order: true}, nil) // nobody owns the order
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
		s := paths.Item(fieldpath.IndexElement(i), i, have[i])
		c := n.child(s.Elem)
		w.walk(at.Then(s), c, want[i], have[i])
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
	w.judge(difference{path: at, class: api.ClassChanged, want: want, have: have}, owner(w.live, at.Path()))
}

// notOurs keeps a difference in a field that nobody owns, where all is asked for.
// Where somebody does, they wrote between the look and the dry run.
func (w *walker) notOurs(at trail, want, have any) {
	if !w.all || !w.desirable(at) || owns(w.shape, at.Path()) {
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
		d.reason = w.rules.ignores(d.path, w.claimants(d))
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

// claimants are the managers that claim the live value of a difference: who wrote it last, and whoever else has it so.
// What is gone is claimed by whoever holds as one what it was a part of, if there is anything left of that.
// An item of ours that left Git is not claimed by whoever has a part of it: with the item that goes.
func (w *walker) claimants(d difference) []string {
	p := d.path.Path()
	left := d.want == nil && d.have != nil && d.class != api.ClassAdded && p[len(p)-1].FieldName == nil
	var out []string
	if !left {
		out = append(out, d.by.Manager)
	}
	for _, e := range w.live {
		if d.order || e.ours {
			continue
		}
		claims := false
		switch {
		case left:
			claims = e.fields.Has(p) || w.holdsWhole(e, p)
		case d.have != nil:
			claims = e.owns(p)
		default:
			claims = w.holdsWhole(e, p)
		}
		if claims {
			out = append(out, e.manager)
		}
	}
	return out
}

// holdsWhole reports whether a claim is to something above a place as one, and not to an empty map or list.
func (w *walker) holdsWhole(e entry, p fieldpath.Path) bool {
	whole := wholeAbove(e.fields, p)
	_, v, ok := paths.Locate(w.in.Live.Object, whole)
	return ok && !paths.Hollow(v)
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

// sameOrder reports whether the items that both lists hold follow each other in the same order.
func sameOrder(a, b *paths.Items) bool {
	last := -1
	for _, it := range a.Order {
		other, ok := b.Find(it.Elem)
		if !ok {
			continue
		}
		if other.Index < last {
			return false
		}
		last = other.Index
	}
	return true
}
