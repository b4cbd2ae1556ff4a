package plan

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/merge"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/drift"
)

// server merges objects as the API server does, by the same library: lists by key, as sets and as one.
type server struct {
	typ     typed.ParseableType
	updater merge.Updater
}

// oneVersion converts nothing.
type oneVersion struct{}

func (oneVersion) Convert(o *typed.TypedValue, _ smd.APIVersion) (*typed.TypedValue, error) {
	return o, nil
}
func (oneVersion) IsMissingVersionError(error) bool { return false }

const things = `types:
- name: thing
  map:
    fields:
    - {name: apiVersion, type: {scalar: string}}
    - {name: kind, type: {scalar: string}}
    - {name: metadata, type: {namedType: meta}}
    - {name: spec, type: {namedType: spec}}
- name: meta
  map:
    fields:
    - {name: name, type: {scalar: string}}
    - {name: labels, type: {map: {elementType: {scalar: string}}}}
- name: spec
  map:
    fields:
    - {name: size, type: {scalar: numeric}}
    - {name: free, type: {map: {elementType: {scalar: string}}}}
    - {name: deep, type: {namedType: spec}}
    - {name: whole, type: {map: {elementRelationship: atomic, elementType: {scalar: string}}}}
    - {name: args, type: {list: {elementRelationship: atomic, elementType: {scalar: string}}}}
    - {name: set, type: {list: {elementRelationship: associative, elementType: {scalar: string}}}}
    - {name: items, type: {list: {elementRelationship: associative, keys: [name], elementType: {namedType: item}}}}
    - {name: ports, type: {list: {elementRelationship: associative, keys: [port, protocol], elementType: {namedType: port}}}}
- name: item
  map:
    fields:
    - {name: name, type: {scalar: string}}
    - {name: value, type: {scalar: string}}
    - {name: env, type: {list: {elementRelationship: associative, keys: [name], elementType: {namedType: item}}}}
- name: port
  map:
    fields:
    - {name: port, type: {scalar: numeric}}
    - {name: protocol, type: {scalar: string}, default: TCP}
    - {name: target, type: {scalar: string}}
`

func newServer(t testing.TB) *server {
	t.Helper()
	p, err := typed.NewParser(things)
	if err != nil {
		t.Fatal(err)
	}
	b := &merge.UpdaterBuilder{Converter: oneVersion{}}
	return &server{typ: p.Type("thing"), updater: *b.BuildUpdater()}
}

// stored is an object with who claims what.
type stored struct {
	value    *typed.TypedValue
	managers smd.ManagedFields
}

func (s *server) apply(t testing.TB, to stored, manager string, o *unstructured.Unstructured) stored {
	t.Helper()
	v, err := s.typ.FromUnstructured(bare(o))
	if err != nil {
		t.Fatalf("%v in %v", err, o.Object)
	}
	next, managers, err := s.updater.Apply(to.value, v, "v1", to.managers.Copy(), manager, true)
	if err != nil {
		t.Fatalf("%v: %v", err, o.Object)
	}
	if next == nil {
		next = to.value // nothing changes
	}
	return stored{next, managers}
}

func (s *server) update(t testing.TB, to stored, manager string, o *unstructured.Unstructured) stored {
	t.Helper()
	v, err := s.typ.FromUnstructured(bare(o))
	if err != nil {
		t.Fatal(err)
	}
	next, managers, err := s.updater.Update(to.value, v, "v1", to.managers.Copy(), manager)
	if err != nil {
		t.Fatal(err)
	}
	return stored{next, managers}
}

func bare(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	unstructured.RemoveNestedField(o.Object, "metadata", "managedFields")
	return o.Object
}

func (st stored) object(t testing.TB) *unstructured.Unstructured {
	t.Helper()
	m, _ := st.value.AsValue().Unstructured().(map[string]any)
	o := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(m)}
	var entries []metav1.ManagedFieldsEntry
	for name, v := range st.managers {
		raw, err := v.Set().ToJSON()
		if err != nil {
			t.Fatal(err)
		}
		op := metav1.ManagedFieldsOperationUpdate
		if v.Applied() {
			op = metav1.ManagedFieldsOperationApply
		}
		entries = append(entries, metav1.ManagedFieldsEntry{Manager: name, Operation: op, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw))})
	}
	o.SetManagedFields(entries)
	return o
}

// inventor makes things up.
type inventor struct{ *rand.Rand }

func (r inventor) word() string { return []string{"a", "b", "c/d", "e~f"}[r.IntN(4)] }

func (r inventor) thing() *unstructured.Unstructured {
	labels := r.words()
	labels[api.LabelPartOf] = "set"
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Thing", "metadata": map[string]any{"name": "x", "labels": labels}, "spec": r.spec(2),
	}}
}

func (r inventor) words() map[string]any {
	out := map[string]any{}
	for range r.IntN(3) {
		out[r.word()] = r.word()
	}
	return out
}

func (r inventor) spec(depth int) map[string]any {
	out := map[string]any{}
	if r.IntN(2) == 0 {
		out["size"] = int64(r.IntN(3))
	}
	for _, key := range []string{"free", "whole"} {
		if r.IntN(2) == 0 {
			out[key] = r.words()
		}
	}
	if r.IntN(2) == 0 {
		args := []any{}
		for range 2 {
			args = append(args, r.word())
		}
		out["args"] = args
	}
	if r.IntN(2) == 0 {
		set := []any{}
		for w := range r.words() {
			set = append(set, w)
		}
		out["set"] = set
	}
	if r.IntN(2) == 0 {
		out["items"] = r.items(1)
	}
	if r.IntN(2) == 0 {
		ports := []any{}
		for port := range r.IntN(3) {
			p := map[string]any{"port": int64(port), "target": r.word(), "protocol": "TCP"}
			if r.IntN(2) == 0 {
				p["protocol"] = "UDP"
			}
			ports = append(ports, p)
		}
		out["ports"] = ports
	}
	if depth > 0 && r.IntN(2) == 0 {
		out["deep"] = r.spec(depth - 1)
	}
	return out
}

func (r inventor) items(depth int) []any {
	out := []any{}
	for name := range r.words() {
		item := map[string]any{"name": name, "value": r.word()}
		if depth > 0 && r.IntN(2) == 0 {
			item["env"] = r.items(depth - 1)
		}
		out = append(out, item)
	}
	return out
}

// rule is a path that covers some of the fields that differ, as people and flotilla drift ignore write it.
func (r inventor) rule(fields []api.FieldDiff) string {
	path := fields[r.IntN(len(fields))].Path
	parts := strings.Split(fieldpath.Parse(path).String(), "/") // a slash in brackets is ~1
	switch r.IntN(4) {
	case 0:
		parts = parts[:2+r.IntN(len(parts)-1)]
	case 1:
		if i := 2 + r.IntN(len(parts)-1); i < len(parts) && strings.HasPrefix(parts[i], "[") {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

// rules leave some of the fields that differ to others: by one path or two, and now and then all that a manager owns.
// It is nil where a rule is for a part of what is replaced as one, which is left as one.
func (r inventor) rules(fields []api.FieldDiff) []api.IgnoreRule {
	var out []api.IgnoreRule
	for range 1 + r.IntN(2) {
		path := r.rule(fields)
		if strings.Contains(path, "/args/") || strings.Contains(path, "/whole/") {
			return nil
		}
		out = append(out, api.IgnoreRule{Paths: []string{path}})
	}
	if r.IntN(4) == 0 {
		out[0] = api.IgnoreRule{Managers: []string{"kubectl-edit"}}
	}
	return out
}

// What a comparison ignores an apply leaves as it is, and so does a correction; what it does not ignore either brings:
// as Git says, whatever the rules, the lists and who else claims something.
func FuzzDriftIgnoresWhatApplyRetains(f *testing.F) {
	for i := range uint64(600) {
		f.Add(i, uint64(7))
	}
	f.Fuzz(func(t *testing.T, a, b uint64) { ignoresAndRetains(t, inventor{rand.New(rand.NewPCG(a, b))}) })
}

func ignoresAndRetains(t *testing.T, r inventor) {
	t.Helper()
	s := newServer(t)
	none := stored{managers: smd.ManagedFields{}}
	var err error
	if none.value, err = s.typ.FromUnstructured(map[string]any{}); err != nil {
		t.Fatal(err)
	}
	desired := r.thing()
	applied := desired
	if r.IntN(3) == 0 {
		applied = r.thing() // what Git said before
	}
	st := s.apply(t, none, api.FieldManager, applied)
	for range r.IntN(3) {
		st = s.update(t, st, "kubectl-edit", r.thing())
	}
	live := st.object(t)
	in := drift.Input{Unapplied: true, Desired: desired, Live: live, DryRun: s.apply(t, st, api.FieldManager, desired).object(t)}
	all := drift.Compare(in).Fields
	if len(all) == 0 {
		return
	}
	rules := r.rules(all)
	if rules == nil {
		return
	}
	in.Spec.Ignore = rules
	res := drift.Compare(in)
	seen := map[string]bool{}
	for _, d := range res.Fields {
		seen[d.Path] = true
	}
	said := func() string {
		return "rules " + text(rules) + "\ndesired " + text(desired.Object) + "\nlive " + text(bare(live))
	}
	for what, sent := range map[string]*unstructured.Unstructured{
		"an apply": Yield(desired, live, rules), "a correction": Yield(res.Keep(desired), live, rules),
	} {
		after := s.apply(t, st, api.FieldManager, sent)
		if Emptied(sent.Object, after.object(t).Object) {
			after = s.apply(t, after, api.FieldManager, sent)
		}
		got := after.object(t)
		for _, d := range all {
			want, from := in.DryRun, "the dry run's"
			if !seen[d.Path] {
				want, from = live, "the live"
			}
			if g, w := at(got, d.Path), at(want, d.Path); !fieldpath.Equal(g, w) {
				t.Errorf("%s is %s after %s, and not %s %s\n%s", d.Path, text(g), what, from, text(w), said())
			}
		}
		next := in
		next.Live, next.DryRun = got, s.apply(t, after, api.FieldManager, desired).object(t)
		if left := drift.Compare(next).Fields; len(left) > 0 {
			t.Errorf("after %s %v differs\n%s", what, left, said())
		}
	}
}

// at is the value at a path as a comparison writes it; nil if there is none.
func at(o *unstructured.Unstructured, path string) any {
	v, _ := fieldpath.Get(o.Object, fieldpath.Parts(path))
	return v
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// Both sides of what drift.md promises of ignored items, in the words of people.
func TestYield_items(t *testing.T) {
	s := newServer(t)
	empty, err := s.typ.FromUnstructured(map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	parseThing := func(spec string) *unstructured.Unstructured {
		return parse(t, `{apiVersion: v1, kind: Thing, metadata: {name: x}, spec: `+spec+`}`)
	}
	for name, tt := range map[string]struct{ before, git, edit, path, want string }{
		"a slash in a key":        {"", `{items: [{name: /data, value: a}]}`, `{items: [{name: /data, value: z}]}`, "/spec/items/[name=/data]/value", `{items: [{name: /data, value: z}]}`},
		"an item that is gone":    {"", `{items: [{name: a, value: a}, {name: b, value: b}]}`, `{items: [{name: b, value: b}]}`, "/spec/items/[name=a]", `{items: [{name: b, value: b}]}`},
		"an item of a set":        {"", `{set: [a, b]}`, `{set: [b]}`, "/spec/set/[=a]", `{set: [b]}`},
		"any item":                {"", `{set: [a, b]}`, `{set: [b]}`, "/spec/set/*", `{set: [b]}`},
		"a port without a key":    {"", `{ports: [{port: 1, target: a}]}`, `{ports: [{port: 1, protocol: TCP, target: z}]}`, "/spec/ports/[port=1,protocol=TCP]/target", `{ports: [{port: 1, protocol: TCP, target: z}]}`},
		"a field that left Git":   {`{size: 2, free: {a: b}}`, `{free: {a: b}}`, `{size: 7, free: {a: b}}`, "/spec/size", `{size: 7, free: {a: b}}`},
		"ours that left Git":      {`{size: 2, free: {a: b}}`, `{free: {a: b}}`, `{size: 2, free: {a: b}}`, "/spec/size", `{size: 2, free: {a: b}}`},
		"an item that left Git":   {`{set: [a, b]}`, `{}`, `{set: [a, b]}`, "/spec/set/[=a]", `{set: [a]}`},
		"a key of a map":          {`{free: {a: a, b: b}}`, `{}`, `{free: {a: a, b: b}}`, "/spec/free/a", `{free: {a: a}}`},
		"what the rule is not of": {"", `{items: [{name: a, value: a}]}`, `{items: []}`, "/spec/items/[name=b]", `{items: [{name: a, value: a}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.before == "" {
				tt.before = tt.git
			}
			st := s.apply(t, stored{empty, smd.ManagedFields{}}, api.FieldManager, parseThing(tt.before))
			st = s.update(t, st, "kubectl-edit", parseThing(tt.edit))
			desired, live := parseThing(tt.git), st.object(t)
			after := s.apply(t, st, api.FieldManager, Yield(desired, live, []api.IgnoreRule{{Paths: []string{tt.path}}})).object(t)
			if d := cmp.Diff(parseThing(tt.want).Object["spec"], after.Object["spec"]); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
