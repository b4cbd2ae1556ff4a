package drift

import (
	"maps"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
)

func key(index int, fields map[string]any) step {
	var l value.FieldList
	for k, v := range fields {
		l = append(l, value.Field{Name: k, Value: value.NewValueInterface(v)})
	}
	l.Sort()
	item := map[string]any{"image": "nginx"}
	maps.Copy(item, fields)
	return itemStep(fieldpath.PathElement{Key: &l}, index, item)
}

func TestRulePaths(t *testing.T) {
	set := fieldpath.ValueElement(value.NewValueInterface("a/b"))
	image := trail{fieldStep("spec"), fieldStep("containers"), key(1, map[string]any{"name": "app"}), fieldStep("image")}
	port := trail{fieldStep("ports"), key(0, map[string]any{"port": int64(53), "protocol": "UDP"})}
	annotation := trail{fieldStep("metadata"), fieldStep("annotations"), fieldStep("example.com/a~b")}
	flag := trail{fieldStep("flags"), itemStep(set, 2, "a/b")}
	arg := trail{fieldStep("args"), itemStep(fieldpath.IndexElement(3), 3, "-v")}
	tests := []struct {
		rule string
		at   trail
		want bool
	}{
		{"/spec/containers/[name=app]/image", image, true},
		{"/spec/containers/[name=app]", image, true},
		{"/spec/containers/[name=other]/image", image, false},
		{"/spec/containers/[name=app]/image/x", image, false},
		{"/spec/containers/*/image", image, true},
		{"/spec/*/*/image", image, true},
		{"/spec/*/image", image, false},
		{"/spec/containers/1/image", image, true},
		{"/spec/containers/0/image", image, false},
		{"/spec/containers/[image=nginx]/image", image, true},
		{"/spec/containers/[name=app,image=nginx]", image, true},
		{"/spec/containers/[name=app,image=other]", image, false},
		{"/spec/containers/app/image", image, false},
		{"/", image, true},
		{"/spec", image, true},
		{"/spe", image, false},
		{"/ports/[port=53]", port, true},
		{"/ports/[port=53,protocol=UDP]", port, true},
		{"/ports/[protocol=UDP,port=53]", port, true},
		{"/ports/[port=53,protocol=TCP]", port, false},
		{"/metadata/annotations/example.com~1a~0b", annotation, true},
		{"/metadata/annotations/example.com/a~b", annotation, false},
		{"/metadata/annotations/*", annotation, true},
		{"/flags/[=a~1b]", flag, true},
		{"/flags/[=a/b]", flag, true},
		{"/flags/[=a]", flag, false},
		{"/flags/2", flag, true},
		{"/args/3", arg, true},
		{"/args/2", arg, false},
	}
	for _, tt := range tests {
		if got := compile(tt.rule).covers(tt.at); got != tt.want {
			t.Errorf("%q covers %q: %v, want %v", tt.rule, tt.at, got, tt.want)
		}
	}
}

func TestWild(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "anything", true},
		{"a", "a", true},
		{"a", "b", false},
		{"*", "", true},
		{"a*", "abc", true},
		{"*c", "abc", true},
		{"a*c", "abbc", true},
		{"a*c", "abcd", false},
		{"*b*b*", "abcb", true},
		{"a*b*c", "acb", false},
	}
	for _, tt := range tests {
		if got := wild(tt.pattern, tt.s); got != tt.want {
			t.Errorf("wild(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

func TestEqual(t *testing.T) {
	m := func(kv ...any) map[string]any {
		out := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i].(string)] = kv[i+1]
		}
		return out
	}
	tests := []struct {
		a, b any
		want bool
	}{
		{nil, nil, true},
		{int64(1), float64(1), true},
		{float64(1.5), int64(1), false},
		{"1", int64(1), false},
		{m("a", nil), m(), true},
		{m("a", nil), m("b", nil), true},
		{m("a", "x"), m(), false},
		{m(), nil, false},
		{[]any{"a", "b"}, []any{"b", "a"}, false},
		{[]any{}, nil, false},
		{m("a", []any{m("b", nil)}), m("a", []any{m()}), true},
		{true, true, true},
		{true, "true", false},
	}
	for _, tt := range tests {
		if equal(tt.a, tt.b) != tt.want || equal(tt.b, tt.a) != tt.want {
			t.Errorf("equal(%v, %v) is not %v", tt.a, tt.b, tt.want)
		}
	}
}

// Of several owners of one field it is the other one who changed it, and of others the latest.
func TestOwner(t *testing.T) {
	field := fieldpath.MakePathOrDie("spec", "replicas")
	by := func(manager string, second int, ours bool, path ...any) entry {
		return entry{
			manager: manager, time: time.Unix(int64(second), 0), ours: ours,
			fields: fieldpath.NewSet(fieldpath.MakePathOrDie(path...)),
		}
	}
	ours := by("flotilla", 9, true, "spec", "replicas")
	old, late := by("old", 1, false, "spec", "replicas"), by("late", 2, false, "spec", "replicas")
	whole, other := by("whole", 3, false, "spec"), by("other", 3, false, "spec", "paused")
	tests := []struct {
		entries []entry
		want    string
	}{
		{nil, ""},
		{[]entry{other}, ""},
		{[]entry{ours}, "flotilla"},
		{[]entry{ours, old}, "old"},
		{[]entry{old, ours}, "old"},
		{[]entry{old, late}, "late"},
		{[]entry{late, old}, "late"},
		{[]entry{whole, old}, "whole"},
		{[]entry{other, old}, "old"},
	}
	for _, tt := range tests {
		got := ""
		if e := owner(tt.entries, field); e != nil {
			got = e.manager
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.entries, got, tt.want)
		}
	}
}

// The state that an editor began from must be the one that was known to match.
func TestPersonIsProven(t *testing.T) {
	matched := &api.InventoryEntry{ResourceVersion: "10", Generation: 3}
	tests := []struct {
		from       string
		generation int64
		metadata   bool
		want       string
	}{
		{"10/3", 4, false, "alice"},
		{"10/3", 3, true, "alice"},
		{"12/3", 4, false, "alice"}, // only the status changed in between
		{"12/3", 4, true, ""},       // labels may have changed in between
		{"12/3", 5, false, ""},
		{"12/4", 5, false, ""},
		{"", 4, false, ""},
		{"/", 4, false, ""},
	}
	for _, tt := range tests {
		o := &unstructured.Unstructured{Object: map[string]any{}}
		o.SetGeneration(tt.generation)
		o.SetAnnotations(map[string]string{api.AnnotationLastEditor: "alice", api.AnnotationLastEditorFrom: tt.from})
		if got := person(o, matched, tt.metadata); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// A long value is cut around the place where it differs: what is shown is never twice the same.
func TestBounded(t *testing.T) {
	head := strings.Repeat("x", 5*api.MaxValueBytes)
	for _, tt := range [][2]string{{head + "1", head + "2"}, {head, head + "2"}, {"1" + head, "2" + head}, {"", head}, {"short", head}, {head + "é", head + "è"}} {
		a, b := bounded(tt[0], tt[1])
		if a == b || len(a) > api.MaxValueBytes || len(b) > api.MaxValueBytes {
			t.Errorf("%d and %d bytes: %.80q %.80q", len(a), len(b), a, b)
		}
	}
	if a, b := bounded("1", "2"); a != "1" || b != "2" {
		t.Error(a, b)
	}
}

// A path that is shown, written into a rule as it is, covers its field and what is below, and not its parent.
func FuzzRulePath(f *testing.F) {
	f.Add("name", "app", "example.com/a", uint8(0))
	f.Add("a,b", "c=d]/e", "[x=y]", uint8(1))
	f.Add("", "~1", "*", uint8(2))
	f.Add("~", "/", "", uint8(3))
	f.Fuzz(func(t *testing.T, k, v, name string, kind uint8) {
		var item step
		switch kind % 3 {
		case 0:
			item = key(0, map[string]any{k: v})
		case 1:
			item = itemStep(fieldpath.ValueElement(value.NewValueInterface(v)), 0, v)
		case 2:
			item = itemStep(fieldpath.IndexElement(int(kind)), int(kind), v)
		}
		at := trail{fieldStep("spec"), item, fieldStep(name)}
		if name == "" {
			at = at[:2]
		}
		p := compile(at.String())
		if !p.covers(at) || !p.covers(at.then(fieldStep("below"))) {
			t.Fatalf("%q does not cover itself: %+v", at, p)
		}
		if p.covers(at[:len(at)-1]) {
			t.Fatalf("%q covers its parent", at)
		}
		compile(name).covers(at) // whatever somebody writes must not panic
		compile("/" + k + "/" + v).covers(at)
	})
}
