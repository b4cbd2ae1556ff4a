package correct

import (
	"errors"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
)

// drifted has the bench's object edited, by the word of a detective that has it corrected.
func drifted(b *bench, o *unstructured.Unstructured) {
	b.live = settings("edited")
	b.seen[api.RefOf(o).ID()] = objects.Seen{UID: "u", ResourceVersion: "7", Generation: 2, MetaDigest: api.MetaDigest(b.live)}
	b.verdict = func(o Observation) Verdict {
		return Verdict{
			Opened: true, Write: o.Desired,
			Episode: &api.Episode{Object: o.Object, Bundle: o.Bundle, Class: api.ClassChanged, Outcome: api.OutcomePending},
		}
	}
}

func (b *bench) look(o *unstructured.Unstructured) []string {
	b.compare(b.ctx(), api.RefOf(o).ID(), b.now)
	return b.step()
}

// The evidence of a drift is stored before it is corrected, and what came of the correction afterwards.
func TestCompare_storesBeforeItWrites(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	drifted(b, o)
	want := []string{"store pending", "touch", "event Drifted", "write", "store corrected", "touch", "event Corrected"}
	if got := b.look(o); !slices.Equal(got, want) {
		t.Errorf("did %q, want %q", got, want)
	}
	e, _ := b.Home.Entry("app", api.RefOf(o).ID())
	if e.ResourceVersion != "9" || e.Digest != apply.Digest(o) || len(b.Home.AllOpen()) != 0 {
		t.Errorf("left %+v, open %v", e, b.Home.AllOpen())
	}
}

// What cannot be stored is not corrected, and neither what a suspension covers or a newer revision says something else of.
func TestCompare_writesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*bench, *objects.Bundle)
		steps  []string
	}{
		"that is not stored": {func(b *bench, _ *objects.Bundle) { b.storeErr = errors.New("disk full") }, []string{"store pending", "touch"}},
		"that is suspended between the look and the write": {func(b *bench, _ *objects.Bundle) {
			verdict := b.verdict
			b.verdict = func(o Observation) Verdict {
				b.Publish(Scope{Suspensions: api.Suspensions{{Name: "s", Scope: api.Scope{All: true}, Until: b.now.Add(time.Hour)}}})
				return verdict(o)
			}
		}, []string{"store pending", "touch", "event Drifted"}},
		"that a newer revision changes": {func(_ *bench, x *objects.Bundle) {
			x.Synced, x.Desired = false, &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{settings("blue")}}
		}, []string{"store pending", "touch", "event Drifted"}},
		"that a newer revision takes out": {func(_ *bench, x *objects.Bundle) {
			x.Synced, x.Desired = false, &api.RenderedBundle{Name: "app"}
		}, []string{"store pending", "touch", "event Drifted"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, o := newBench(), settings("red")
			x := b.applied("app", o)
			drifted(b, o)
			c.change(b, &x)
			b.Home.Publish(x)
			if got := b.look(o); !slices.Equal(got, c.steps) {
				t.Errorf("did %q, want %q", got, c.steps)
			}
		})
	}
}

// An object that is as a newer revision says, which is yet to be applied, has not drifted: an apply was stopped half-way.
func TestCompare_anApplyThatWasStoppedHalfWay(t *testing.T) {
	b, red, blue := newBench(), settings("red"), settings("blue")
	x := b.applied("app", red)
	drifted(b, red)
	verdict := b.verdict
	b.verdict = func(o Observation) Verdict {
		if apply.Digest(o.Desired) == apply.Digest(blue) {
			return Verdict{}
		}
		return verdict(o)
	}
	x.Synced, x.Desired = false, &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{blue}}
	b.Home.Publish(x)
	if got := b.look(red); len(got) != 0 || len(b.Home.AllOpen()) != 0 {
		t.Errorf("did %q, open %v", got, b.Home.AllOpen())
	}
}

// An object that a newer revision has taken out, and that is gone, has not drifted: the apply was stopped after it was pruned.
func TestCompare_aPruneThatWasStoppedHalfWay(t *testing.T) {
	b, red := newBench(), settings("red")
	x := b.applied("app", red)
	drifted(b, red)
	b.live = nil
	delete(b.seen, api.RefOf(red).ID())
	x.Synced, x.Desired = false, &api.RenderedBundle{Name: "app"}
	b.Home.Publish(x)
	if got := b.look(red); len(got) != 0 || len(b.Home.AllOpen()) != 0 {
		t.Errorf("did %q, open %v", got, b.Home.AllOpen())
	}
}

// A correction that is refused leaves the drift open, and one that conflicts is tried again without a word.
func TestCompare_aCorrectionThatFails(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	drifted(b, o)
	b.writeErr = errRefused
	want := []string{"store pending", "touch", "event Drifted", "write", "store failed", "touch"}
	if got := b.look(o); !slices.Equal(got, want) {
		t.Errorf("did %q, want %q", got, want)
	}
	if e, _ := b.Home.Entry("app", api.RefOf(o).ID()); e.ResourceVersion != "1" || b.Home.Tally("app").Drifted != 1 {
		t.Errorf("left %+v, %+v", e, b.Home.Tally("app"))
	}
}

// An object that is as it should be is known as it is now, and costs no look again.
func TestCompare_anObjectThatMatches(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	b.live = settings("red")
	b.live.SetResourceVersion("7")
	b.live.SetUID("u")
	b.live.SetGeneration(2)
	b.seen[api.RefOf(o).ID()] = objects.Seen{UID: "u", ResourceVersion: "7", Generation: 2, MetaDigest: api.MetaDigest(b.live)}
	for range 2 {
		if got := b.look(o); len(got) != 0 {
			t.Errorf("did %q", got)
		}
	}
	if b.inspected != 1 {
		t.Errorf("inspected %d times, want once", b.inspected)
	}
}

// What cannot be compared is unknown until it can.
func TestCompare_unknown(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	drifted(b, o)
	b.inspectErr = errRefused
	if got := b.look(o); !slices.Equal(got, []string{"touch"}) || b.Home.Tally("app").Unknown != 1 {
		t.Errorf("did %q, %+v", got, b.Home.Tally("app"))
	}
	b.inspectErr, b.verdict = nil, func(Observation) Verdict { return Verdict{} }
	if got := b.look(o); !slices.Equal(got, []string{"touch"}) || b.Home.Tally("app").Unknown != 0 {
		t.Errorf("did %q, %+v", got, b.Home.Tally("app"))
	}
}

// An extra object is removed, and nothing of it stays.
func TestCompare_anExtraObject(t *testing.T) {
	b, o, extra := newBench(), settings("red"), settings("extra")
	extra.SetName("extra")
	x := b.applied("app", o)
	rb := *x.Applied
	rb.Spec.Drift.Extra = api.ExtraRemove
	x.Applied = &rb
	b.Home.Publish(x)
	b.live = extra
	b.seen[api.RefOf(extra).ID()] = objects.Seen{UID: "e", ResourceVersion: "3", PartOf: partOf("app")}
	b.verdict = func(o Observation) Verdict {
		return Verdict{Opened: true, Remove: true, Episode: &api.Episode{Object: o.Object, Bundle: o.Bundle, Class: api.ClassExtra, Outcome: api.OutcomePending}}
	}
	want := []string{"store pending", "touch", "event Drifted", "remove", "store corrected", "touch", "event Corrected", "follow"}
	if got := b.look(extra); !slices.Equal(got, want) || b.extra != 1 {
		t.Errorf("did %q, want %q", got, want)
	}
	if n := b.Home.Count("app"); n != 1 {
		t.Errorf("the bundle owns %d objects", n)
	}
}

// An object that was created and deleted while its bundle is applied is in no inventory and in no watch:
// whoever is to have it is asked once that is done.
func TestCompare_anObjectThatIsGoneAgain(t *testing.T) {
	b, o := newBench(), settings("red")
	b.Home.Publish(objects.Bundle{Name: "app"})
	b.Home.Adopt([]api.RenderedBundle{{Name: "app", Objects: []*unstructured.Unstructured{o}}}, func(string) string { return "" })
	b.Begin("app")
	b.compare(b.ctx(), api.RefOf(o).ID(), b.now)
	b.End("app")
	if id, _, _ := b.queue.get(); id != api.RefOf(o).ID() {
		t.Error("its deletion is forgotten")
	}
}

// Nothing is looked at before it is known what was applied.
func TestCompare_beforeTheStart(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	drifted(b, o)
	b.started.Store(false)
	if got := b.look(o); len(got) != 0 || b.inspected != 0 {
		t.Errorf("did %q", got)
	}
}

// What the bundle's last run passed over, and what we applied and never heard of, has the bundle run again by a wish.
func TestCompare_wishes(t *testing.T) {
	b, o, lost := newBench(), settings("red"), settings("lost")
	lost.SetName("lost")
	b.applied("app", o)
	b.seen[api.RefOf(lost).ID()] = objects.Seen{UID: "l", ResourceVersion: "3", PartOf: partOf("app"), Applied: true}
	if got := b.look(lost); !slices.Equal(got, []string{"wished"}) {
		t.Errorf("did %q", got)
	}
	if w := b.Wishes(); len(w) != 1 || w[0].Bundle != "app" || len(b.Wishes()) != 0 {
		t.Errorf("wished %v", w)
	}
	if b.Home.Owner(api.RefOf(lost).ID()) != "app" {
		t.Error("nobody owns it")
	}
}

// The watch of a kind that stays down makes its objects unknown; one that comes back in time does not.
func TestLost(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	k := kindOf{"", "ConfigMap"}
	b.lost[k] = b.now
	b.Relisted(k.group, k.kind)
	b.stillLost(k, b.now, errRefused)
	if got := b.Home.Tally("app").Unknown; got != 0 {
		t.Errorf("%d unknown although the watch is back", got)
	}
	b.lost[k] = b.now
	b.stillLost(k, b.now, errRefused)
	if got := b.Home.Tally("app").Unknown; got != 1 {
		t.Errorf("%d unknown, want 1", got)
	}
}

// An object that became what the newer revision says between two looks has no episode to keep.
func TestWitness_anObjectThatBecomesAsGitSays(t *testing.T) {
	b, red, blue := newBench(), settings("red"), settings("blue")
	x := b.applied("app", red)
	x.Synced, x.Desired = false, &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{blue}}
	b.Home.Publish(x)
	b.live = red
	b.verdict = func(Observation) Verdict {
		if len(b.observed) > 2 {
			return Verdict{}
		}
		return Verdict{Opened: true, Episode: &api.Episode{Class: api.ClassChanged}}
	}
	w := b.Witness("app")
	if err := w.Found(b.ctx(), api.RefOf(red), apply.Inspection{Desired: red, Live: red}); err != nil {
		t.Fatal(err)
	}
	if len(b.observed) != 3 || len(b.step()) != 0 || len(w.met) != 0 {
		t.Errorf("%d looks, met %v", len(b.observed), w.met)
	}
}

// An apply that writes over drift ends its episode, if it wrote; drift that cannot be recorded is not written over.
func TestWitness(t *testing.T) {
	b, o := newBench(), settings("red")
	b.applied("app", o)
	drifted(b, o)
	ref := api.RefOf(o)
	w := b.Witness("app")
	if err := w.Found(b.ctx(), ref, apply.Inspection{Desired: o, Live: b.live}); err != nil {
		t.Fatal(err)
	}
	failed := api.ChangeSet{Changes: []api.Change{{Object: ref, Action: api.Failed, Error: "no"}}}
	if got := w.Corrected(failed, "2"); len(got) != 0 || len(b.Home.AllOpen()) != 1 {
		t.Errorf("an apply that failed ends %v", got)
	}
	wrote := api.ChangeSet{Changes: []api.Change{{Object: ref, Action: api.Updated}}}
	if got := w.Corrected(wrote, "2"); len(got) != 1 || got[0].Outcome != api.OutcomeCorrected || len(b.Home.AllOpen()) != 0 {
		t.Errorf("an apply that wrote ends %v, open %v", got, b.Home.AllOpen())
	}
	b.storeErr = errors.New("disk full")
	if err := w.Found(b.ctx(), ref, apply.Inspection{Desired: o, Live: b.live}); api.KindOf(err) != api.Transient {
		t.Errorf("what is not recorded is written over: %v", err)
	}
}
