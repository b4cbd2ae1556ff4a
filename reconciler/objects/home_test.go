package objects

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// known is a home that has bundles.
func known(names ...string) *Home {
	h := New()
	for _, name := range names {
		h.Publish(Bundle{Name: name})
	}
	return h
}

// What is known of an object goes with the last of it, and an episode counts while it is open.
func TestHome_forgetsWhatIsNotKnown(t *testing.T) {
	h := known("app")
	h.Change("app", "a", func(o *Object) { o.Look = true })
	h.Keep("app", "a", api.Episode{ID: "1"}, time.Time{}, func() {})
	h.Change("app", "b", func(o *Object) { o.Unknown = "no answer" })
	h.Recount("app", time.Time{}, func() {})
	if got := h.Tally("app"); got.Drifted != 1 || got.Unknown != 1 || len(h.bundles["app"].objects) != 2 {
		t.Errorf("%d drifted, %d unknown, of %d", got.Drifted, got.Unknown, len(h.bundles["app"].objects))
	}
	if e := h.Get("app", "a").Episode; e == nil || e.ID != "1" {
		t.Errorf("%+v", e)
	}
	h.Keep("app", "a", api.Episode{ID: "1", End: time.Unix(1, 0)}, time.Time{}, func() {})
	if o := h.Get("app", "a"); o.Episode != nil || !o.Look {
		t.Errorf("its end takes away too much, or too little: %+v", o)
	}
	h.mark("app", func(o *Object) bool {
		o.Look, o.Unknown = false, ""
		return false
	})
	if n := len(h.bundles["app"].objects); n != 0 {
		t.Errorf("nothing is known, and %d are kept", n)
	}
}

// The episodes of what a bundle no longer has end, but for those of objects that never were in Git.
func TestHome_EndUndeclared(t *testing.T) {
	h := known("app")
	h.SetBaseline("app", objectsOf("a"), nil)
	for id, class := range map[string]api.Class{idOf("a"): api.ClassChanged, idOf("b"): api.ClassChanged, idOf("c"): api.ClassExtra} {
		h.Keep("app", id, api.Episode{ID: id, Class: class}, time.Time{}, func() {})
	}
	h.Change("app", idOf("b"), func(o *Object) { o.Look = true })
	ended, kept := h.EndUndeclared("app")
	if len(ended) != 1 || ended[0].ID != idOf("b") || len(kept) != 2 {
		t.Errorf("ended %v, kept %v", ended, kept)
	}
	if o := h.Get("app", idOf("b")); o.Episode != nil || !o.Look {
		t.Errorf("left is %+v", o)
	}
	if open := h.Open("app"); len(open) != 2 || len(h.AllOpen()) != 2 {
		t.Errorf("open are %v", open)
	}
}

// Whose an object is, is answered by its owner, then by its label, then by its drift, then by Git.
func TestHome_BundleOf(t *testing.T) {
	h := known("app", "other")
	id := idOf("x")
	if got := h.BundleOf(id, Seen{}, false); got != "" {
		t.Errorf("nobody's: %q", got)
	}
	declare(h, map[string][]string{"app": {"x"}})
	if got := h.BundleOf(id, Seen{}, false); got != "app" {
		t.Errorf("in Git: %q", got)
	}
	h.Keep("other", id, api.Episode{ID: "1"}, time.Time{}, func() {})
	if got := h.BundleOf(id, Seen{}, false); got != "other" {
		t.Errorf("drifted: %q", got)
	}
	part := slices.Collect(maps.Keys(h.applySets))
	for _, p := range part {
		if got := h.BundleOf(id, Seen{PartOf: p}, true); got != h.applySets[p] {
			t.Errorf("labelled for %s: %q", h.applySets[p], got)
		}
	}
	if got := h.BundleOf(id, Seen{PartOf: "of nobody"}, true); got != "" {
		t.Errorf("labelled for nobody: %q", got)
	}
	h.SetInventory("app", []api.InventoryEntry{entryOf("x", "1")})
	if got := h.BundleOf(id, Seen{PartOf: "of nobody"}, true); got != "app" {
		t.Errorf("owned: %q", got)
	}
	if episodes := h.Remove("other"); len(episodes) != 1 {
		t.Errorf("it had %d episodes open", len(episodes))
	}
}

// The contents that are read include all that was noted before the choice, and nothing is noted between the two.
func TestHome_ContentsAreOfTheMomentOfTheChoice(t *testing.T) {
	h := known("app")
	noted := make(chan bool)
	c := h.Contents(func() []string {
		go func() {
			h.Keep("app", "a", api.Episode{ID: "1"}, time.Time{}, func() { close(noted) })
		}()
		select {
		case <-noted:
			t.Error("something was noted after the choice and before the contents were read")
		default:
		}
		return []string{"app", "gone"}
	})
	<-noted
	if len(c) != 1 || c["app"].Tally.Drifted != 0 || h.Tally("app").Drifted != 1 {
		t.Errorf("%+v", c)
	}
}

// A status says when it changed last: itself, or the tally in it.
func TestContents_In(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	c := Contents{Tally: Tally{Drifted: 3}, Counted: late}
	if got := c.In(api.BundleStatus{Name: "a", Updated: early}); !got.Updated.Equal(late) || got.Drifted != 3 || got.Name != "a" {
		t.Errorf("%+v", got)
	}
	c.Counted = early
	if got := c.In(api.BundleStatus{Updated: late}); !got.Updated.Equal(late) {
		t.Errorf("%+v", got)
	}
}
