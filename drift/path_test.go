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
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// key is the step to an item that a list knows by these fields.
func key(index int, fields map[string]any) step {
	var l value.FieldList
	for k, v := range fields {
		l = append(l, value.Field{Name: k, Value: value.NewValueInterface(v)})
	}
	l.Sort()
	item := map[string]any{"image": "nginx"}
	maps.Copy(item, fields)
	return paths.Item(fieldpath.PathElement{Key: &l}, index, item)
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
		{[]entry{whole, old}, "old"}, // the whole is what stayed of an earlier claim
		{[]entry{whole, other}, ""},
		{[]entry{whole}, "whole"},
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

// What is on an object when a person is asked for: alice's stamp, and what else is known.
type scene struct {
	from       string // of the stamp; the policy's mark is added
	generation int64
	path       string // /metadata/labels/a or /spec/a
	by         *entry // nil is nobody
	have       any    // the live value; nil is a removal
	others     []entry
	change     func(w *walker)
}

// The state that an editor began from must be the one that was known to match, and nothing else may have led away from it.
func TestPersonIsProven(t *testing.T) {
	at := func(manager, subresource string, second int, path ...any) entry {
		return entry{
			manager: manager, subresource: subresource, operation: "Update", time: time.Unix(int64(second), 0),
			fields: fieldpath.NewSet(fieldpath.MakePathOrDie(path...)),
		}
	}
	spec, label := at("kubectl-edit", "", 5, "spec", "a"), at("kubectl-edit", "", 5, "metadata", "labels", "a")
	scale := at("kubectl", "scale", 5, "spec", "a")
	lumped := at("ancient-changes", "", 5, "spec", "a")
	const inSpec, inLabels = "/spec/a", "/metadata/labels/a"
	tests := map[string]struct {
		scene
		want string
	}{
		"a field":                                                    {scene{from: "10/3", generation: 4, path: inSpec, by: &spec}, "alice"},
		"a label":                                                    {scene{from: "10/3", generation: 3, path: inLabels, by: &label}, "alice"},
		"a removal":                                                  {scene{from: "10/3", generation: 4, path: inSpec}, "alice"},
		"only the status changed in between":                         {scene{from: "12/3", generation: 4, path: inSpec, by: &spec}, "alice"},
		"labels may have changed in between":                         {scene{from: "12/3", generation: 4, path: inLabels, by: &label}, ""},
		"two changes of the spec":                                    {scene{from: "12/3", generation: 5, path: inSpec, by: &spec}, ""},
		"a later change of the spec":                                 {scene{from: "12/4", generation: 5, path: inSpec, by: &spec}, ""},
		"no state":                                                   {scene{from: "/", generation: 4, path: inSpec, by: &spec}, ""},
		"alice edited, then somebody scaled":                         {scene{from: "10/3", generation: 5, path: inSpec, by: &scale, others: []entry{at("kubectl-set", "", 4, "spec", "b")}}, ""},
		"alice added a label, then somebody scaled":                  {scene{from: "10/3", generation: 4, path: inSpec, by: &scale, others: []entry{at("kubectl-label", "", 4, "metadata", "labels", "b")}}, ""},
		"alice's own field, and somebody scaled":                     {scene{from: "10/3", generation: 5, path: inSpec, by: &spec, others: []entry{at("kubectl", "scale", 6, "spec", "b")}}, "alice"},
		"shared with a subresource":                                  {scene{from: "10/3", generation: 5, path: inSpec, by: &spec, others: []entry{scale}}, ""},
		"another manager wrote later":                                {scene{from: "10/3", generation: 5, path: inSpec, by: &spec, others: []entry{at("helm", "", 6, "spec", "b")}}, ""},
		"another manager wrote before":                               {scene{from: "10/3", generation: 5, path: inSpec, by: &spec, others: []entry{at("helm", "", 4, "spec", "b")}}, "alice"},
		"managers that the API server lumps":                         {scene{from: "10/3", generation: 5, path: inSpec, by: &lumped}, ""},
		"a removed label, perhaps through /status":                   {scene{from: "10/3", generation: 3, path: inLabels, change: withStatus}, ""},
		"a removed field, with a status":                             {scene{from: "10/3", generation: 4, path: inSpec, change: withStatus}, "alice"},
		"a removed label of an object with no status":                {scene{from: "10/3", generation: 3, path: inLabels}, "alice"},
		"a value that nobody owns, since managedFields were cleared": {scene{from: "10/3", generation: 4, path: inSpec, have: "y"}, ""},
		"another object of the same name": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Live.SetUID("other")
		}}, ""},
		"an object whose UID is not known": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Matched.UID = ""
			w.in.Live.SetUID("")
		}}, ""},
		"nothing is known": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) { w.in.Matched = nil }}, ""},
		"no policy in force": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Stamps = ""
		}}, ""},
		"no policy in force, and a stamp that looks like it": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Stamps = ""
			w.in.Live.SetAnnotations(map[string]string{api.AnnotationLastEditor: "alice", api.AnnotationLastEditorFrom: "10/3/"})
		}}, ""},
		"a stamp of the policy before": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Stamps = "newer"
		}}, ""},
		"without our label, which is what the policy goes by": {scene{from: "10/3", generation: 4, path: inSpec, by: &spec, change: func(w *walker) {
			w.in.Live.SetLabels(nil)
		}}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := &unstructured.Unstructured{Object: map[string]any{}}
			o.SetUID("u")
			o.SetGeneration(tt.generation)
			o.SetLabels(map[string]string{api.LabelPartOf: "set"})
			o.SetAnnotations(map[string]string{api.AnnotationLastEditor: "alice", api.AnnotationLastEditorFrom: tt.from + "/mark"})
			w := &walker{live: tt.others, in: Input{
				Live: o, Stamps: "mark", Matched: &api.InventoryEntry{UID: "u", ResourceVersion: "10", Generation: 3},
			}}
			d := difference{want: "x", have: tt.have}
			for part := range strings.SplitSeq(strings.TrimPrefix(tt.path, "/"), "/") {
				d.path = d.path.Then(paths.Field(part))
			}
			if tt.by != nil {
				w.live = append(w.live, *tt.by)
				d.have = "y"
			}
			if tt.change != nil {
				tt.change(w)
			}
			w.name(&d, tt.by)
			if d.by.Person != tt.want || (d.by.Confidence == api.ConfidencePerson) != (tt.want != "") {
				t.Errorf("%+v", d.by)
			}
		})
	}
}

func withStatus(w *walker) { w.in.Live.Object["status"] = map[string]any{} }

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
			item = paths.Item(fieldpath.ValueElement(value.NewValueInterface(v)), 0, v)
		case 2:
			item = paths.Item(fieldpath.IndexElement(int(kind)), int(kind), v)
		}
		at := trail{paths.Field("spec"), item, paths.Field(name)}
		if name == "" {
			at = at[:2]
		}
		p := paths.Parse(at.String())
		if !p.Covers(at) || !p.Covers(at.Then(paths.Field("below"))) {
			t.Fatalf("%q does not cover itself: %+v", at, p)
		}
		if p.Covers(at[:len(at)-1]) {
			t.Fatalf("%q covers its parent", at)
		}
		paths.Parse(name).Covers(at) // whatever somebody writes must not panic
		paths.Parse("/" + k + "/" + v).Covers(at)
	})
}
