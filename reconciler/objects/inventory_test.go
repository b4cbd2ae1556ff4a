package objects

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

func objectOf(name, says string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "ns", "name": name},
		"data": map[string]any{"says": says},
	}}
}

func objectsOf(names ...string) (out []*unstructured.Unstructured) {
	for _, name := range names {
		out = append(out, objectOf(name, ""))
	}
	return out
}

func idOf(name string) string { return api.RefOf(objectOf(name, "")).ID() }

func entryOf(name, version string) api.InventoryEntry {
	o := objectOf(name, "")
	return api.InventoryEntry{Object: api.RefOf(o), ResourceVersion: version, Digest: apply.Digest(o)}
}

// declare has bundles declare objects.
func declare(h *Home, git map[string][]string) {
	var bundles []api.RenderedBundle
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range git {
			if !yield(name) {
				return
			}
		}
	}) {
		bundles = append(bundles, api.RenderedBundle{Name: name, Objects: objectsOf(git[name]...)})
	}
	h.Adopt(bundles, func(string) string { return "" })
}

// An object that several bundles declare stays with the one that owns it; one whose namespace was not known is found by its ID with one.
func TestClaims(t *testing.T) {
	h := known("a", "b")
	h.SetInventory("b", []api.InventoryEntry{entryOf("x", "1")})
	declare(h, map[string][]string{"a": {"x", "y"}, "b": {"x"}})
	if got := h.Claims()[idOf("x")]; !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("x is declared by %v, want its owner first", got)
	}
	if got := h.Claims()[idOf("y")]; !slices.Equal(got, []string{"a"}) || h.DesiredBy(idOf("y")) != "a" || h.DesiredBy(idOf("z")) != "" {
		t.Errorf("y is declared by %v", got)
	}
	bare, whole := objectOf("late", ""), objectOf("late", "")
	bare.SetNamespace("")
	h.Adopt([]api.RenderedBundle{{Name: "a", Objects: []*unstructured.Unstructured{bare}}}, func(string) string { return "" })
	if got := h.DesiredBy(idOf("late")); got != "a" {
		t.Errorf("claimed without its namespace by %q", got)
	}
	before := h.Claims()
	h.Rename("a", []*unstructured.Unstructured{bare}, []*unstructured.Unstructured{whole}, func(string) string { return "" })
	if got := h.Claims()[idOf("late")]; !slices.Equal(got, []string{"a"}) || len(h.Claims()[api.RefOf(bare).ID()]) != 0 {
		t.Errorf("declared by %v", got)
	}
	if before.Of(api.RefOf(bare).ID()) != "a" || before.Of(idOf("late")) != "" {
		t.Error("claims that were given away have changed")
	}
}

// A bundle that cannot be rendered still claims all that it owns.
func TestDesiredBy_aBrokenBundle(t *testing.T) {
	h := known("a")
	h.SetInventory("a", []api.InventoryEntry{entryOf("x", "1")})
	if got := h.DesiredBy(idOf("x")); got != "" {
		t.Errorf("desired by %q", got)
	}
	h.Publish(Bundle{Name: "a", Desired: &api.RenderedBundle{Err: fmt.Errorf("broken")}})
	if got := h.DesiredBy(idOf("x")); got != "a" {
		t.Errorf("desired by %q, want the bundle that may hold it", got)
	}
}

// An object goes to the bundle that declares it when that has written it, and not back to one that wrote it before.
func TestSetInventory_anObjectThatMoves(t *testing.T) {
	h := known("old", "new")
	h.SetInventory("old", []api.InventoryEntry{entryOf("x", "1")})
	h.Change("old", idOf("x"), func(o *Object) { o.Orders = api.Orders{Keep: "for good"} })
	declare(h, map[string][]string{"new": {"x"}})
	taken := h.SetInventory("new", []api.InventoryEntry{entryOf("x", "2")})
	if !slices.Equal(taken.From, []string{"old"}) || len(taken.Overwritten) != 0 || h.Owner(idOf("x")) != "new" || h.Count("old") != 0 {
		t.Errorf("%+v, owner %q, old has %d", taken, h.Owner(idOf("x")), h.Count("old"))
	}
	if got := h.Get("new", idOf("x")).Orders.Keep; got != "for good" {
		t.Errorf("what its annotations say is forgotten: %q", got)
	}
	// The old bundle ends a run that began before.
	taken = h.SetInventory("old", []api.InventoryEntry{entryOf("x", "1")})
	if h.Owner(idOf("x")) != "new" || h.Count("old") != 0 || len(taken.Overwritten) != 0 {
		t.Errorf("%+v, owner %q, old has %d", taken, h.Owner(idOf("x")), h.Count("old"))
	}
	// One that wrote it afterwards has labelled it as its own.
	taken = h.SetInventory("old", []api.InventoryEntry{entryOf("x", "3")})
	if !slices.Equal(taken.Overwritten, []string{"new"}) || h.Owner(idOf("x")) != "new" {
		t.Errorf("%+v, owner %q", taken, h.Owner(idOf("x")))
	}
	taken = h.SetInventory("new", []api.InventoryEntry{entryOf("x", "2")})
	if !slices.Equal(taken.Overwritten, []string{"new"}) || len(taken.From) != 0 {
		t.Errorf("%+v, want it to be written again", taken)
	}
}

// What a suspension kept from being written keeps its baseline, if it still is what was written of it.
func TestSetBaseline_held(t *testing.T) {
	h := known("a")
	h.SetBaseline("a", []*unstructured.Unstructured{objectOf("x", "old"), objectOf("y", "old"), objectOf("z", "old"), objectOf("gone", "old")}, nil)
	for name, says := range map[string]string{"x": "old", "y": "new"} {
		h.Add("a", api.InventoryEntry{Object: api.RefOf(objectOf(name, "")), Digest: apply.Digest(objectOf(name, says))})
	}
	next := []*unstructured.Unstructured{objectOf("x", "new"), objectOf("y", "new"), objectOf("z", "new")}
	h.SetBaseline("a", next, map[string]string{idOf("x"): "s", idOf("y"): "s", idOf("z"): "s", idOf("gone"): "s"})
	for name, want := range map[string]string{"x": "old", "y": "new", "z": "new"} {
		got, _, _ := unstructured.NestedString(h.Get("a", idOf(name)).Baseline.Object, "data", "says")
		if got != want {
			t.Errorf("%s is measured against %q, want %q", name, got, want)
		}
	}
	if h.Get("a", idOf("gone")).Baseline != nil {
		t.Error("what has left Git is measured")
	}
}

// An inventory that was rebuilt holds what was applied, also what is gone, but not what may never have been ours.
func TestRemember(t *testing.T) {
	h := known("a", "b")
	handed := objectOf("handed", "")
	handed.SetAnnotations(map[string]string{api.AnnotationReconcile: api.ValueDisabled})
	h.SetInventory("a", []api.InventoryEntry{{Object: api.RefOf(objectOf("x", "")), UID: "u"}})
	h.SetInventory("b", []api.InventoryEntry{entryOf("moved", "1")})
	h.SetBaseline("a", append(objectsOf("x", "gone", "moved"), handed), nil)
	h.Remember("a", map[string]string{idOf("x"): "x.yaml"})
	x, _ := h.Entry("a", idOf("x"))
	if x.UID != "u" || x.Origin != "x.yaml" || x.Digest != apply.Digest(objectOf("x", "")) || !h.Get("a", idOf("x")).Look {
		t.Errorf("%+v", x)
	}
	if h.Owner(idOf("gone")) != "a" || h.Owner(idOf("moved")) != "b" || h.Count("a") != 2 {
		t.Errorf("gone is of %q, moved of %q, and a has %d", h.Owner(idOf("gone")), h.Owner(idOf("moved")), h.Count("a"))
	}
	if _, ok := h.Entry("a", idOf("handed")); ok {
		t.Error("what nobody was to write is said to be owned")
	}
}

// However inventories are taken over, no object has an owner that does not own it, each that is owned has one,
// and the count of what a bundle owns is that of its inventory.
func FuzzHome(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	names, things := []string{"a", "b", "c"}, []string{"p", "q", "r", "s"}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := known(names...)
		for range 60 {
			name, thing := names[r.IntN(3)], things[r.IntN(4)]
			switch r.IntN(6) {
			case 0:
				declare(h, map[string][]string{name: {thing}, names[r.IntN(3)]: {things[r.IntN(4)], things[r.IntN(4)]}})
			case 1:
				h.Remove(name)
				h.Publish(Bundle{Name: name})
			case 2:
				h.SetBaseline(name, objectsOf(things[:r.IntN(4)]...), nil)
			case 3:
				h.Remember(name, nil)
			case 4:
				h.Add(name, entryOf(thing, fmt.Sprint(r.IntN(9))))
			default:
				inventory := h.Inventory(name)
				inventory = slices.DeleteFunc(inventory, func(e api.InventoryEntry) bool { return r.IntN(4) == 0 || e.Object.Name == thing })
				h.SetInventory(name, append(inventory, entryOf(thing, fmt.Sprint(r.IntN(9)))))
			}
			holds(t, h)
		}
	})
}

func holds(t *testing.T, h *Home) {
	t.Helper()
	for id, owner := range h.owners {
		if b := h.bundles[owner]; b == nil || !b.owns(id) {
			t.Fatalf("%s is said to be owned by %q, which does not", id, owner)
		}
	}
	for name, b := range h.bundles {
		for id, o := range b.objects {
			if *o == (Object{}) {
				t.Fatalf("%s has %s, of which nothing is known", name, id)
			}
			if o.Entry != nil && h.owners[id] == "" {
				t.Fatalf("%s owns %s, and nobody knows", name, id)
			}
		}
		if got, want := h.Count(name), len(h.Inventory(name)); got != want {
			t.Fatalf("%s is said to own %d, and owns %d", name, got, want)
		}
	}
}
