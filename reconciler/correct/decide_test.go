package correct

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// asApplied is what is known, and what the watch sees, of an object that is as it was applied.
func asApplied() (objects.View, sight) {
	o := settings("red")
	ref := api.RefOf(o)
	rb := &api.RenderedBundle{Name: "app", Objects: []*unstructured.Unstructured{o}}
	v := objects.View{
		Bundle:  objects.Bundle{Name: "app", Desired: rb, Applied: rb, AppliedRevision: "1", Synced: true},
		Object:  objects.Object{Baseline: o, Entry: &api.InventoryEntry{Object: ref, UID: "u", ResourceVersion: "5", Generation: 1, MetaDigest: api.MetaDigest(o), Digest: apply.Digest(o)}},
		Claimed: "app", DesiredBy: "app",
	}
	seen := objects.Seen{UID: "u", ResourceVersion: "5", Generation: 1, MetaDigest: api.MetaDigest(o), PartOf: plan.ApplySetID("app"), Applied: true}
	ref.Version = ""
	return v, sight{id: ref.ID(), ref: ref, seen: seen, there: true, synced: true}
}

// said is a decision in a few letters: what it has looked at (L, or X for an extra object), and what else it does.
func said(d decision) (s string) {
	if d.target != nil && !d.target.extra {
		s += "L"
	}
	if d.target != nil && d.target.extra {
		s += "X"
	}
	for _, c := range []struct {
		is   bool
		what string
	}{
		{d.orders, " orders"},
		{d.unsettled, " unsettled"},
		{d.stray != nil, " stray"},
		{d.left, " left"},
		{d.changed, " changed"},
		{d.looked && d.target == nil, " looked"},
	} {
		if c.is {
			s += c.what
		}
	}
	return s
}

// What follows from what the watch knows of an object, by what is known of it already.
func TestDecide(t *testing.T) {
	edited := func(s *sight) { s.seen.ResourceVersion, s.seen.Generation = "7", 2 }
	gone := func(s *sight) { s.seen, s.there = objects.Seen{}, false }
	episode := &api.Episode{ID: "1"}
	undeclared := func(v *objects.View) {
		v.Object, v.Claimed, v.DesiredBy = objects.Object{}, "", ""
	}
	for name, c := range map[string]struct {
		know func(*objects.View)
		see  func(*sight)
		want string
	}{
		"nothing has happened":                    {nil, nil, ""},
		"its status has changed":                  {nil, func(s *sight) { s.seen.ResourceVersion = "7" }, ""},
		"the watch is behind our own write":       {nil, func(s *sight) { s.seen.ResourceVersion, s.seen.Generation = "4", 0 }, ""},
		"it was edited":                           {nil, edited, "L"},
		"it is another object under its name":     {nil, func(s *sight) { s.seen.UID, s.seen.ResourceVersion = "v", "4" }, "L"},
		"it is gone":                              {nil, gone, "L"},
		"it may not have been seen yet":           {nil, func(s *sight) { gone(s); s.synced = false }, " looked"},
		"it is not seen, and of no known version": {func(v *objects.View) { e := *v.Object.Entry; e.ResourceVersion = ""; v.Object.Entry = &e }, func(s *sight) { gone(s); s.synced = false }, "L"},
		"it has an open episode":                  {func(v *objects.View) { v.Object.Episode = episode }, nil, "L"},
		"it could not be compared":                {func(v *objects.View) { v.Object.Unknown = "no answer" }, nil, "L"},
		"it is to be looked at":                   {func(v *objects.View) { v.Object.Look = true }, nil, "L"},
		"an annotation was added": {nil, func(s *sight) {
			edited(s)
			s.seen.Orders = api.Orders{Reconcile: api.ValueDisabled}
		}, "L orders"},
		"what its annotations say is not known of one that is gone": {func(v *objects.View) { v.Object.Orders = api.Orders{Keep: "x"} }, gone, "L"},
		"nothing was applied yet":                                   {func(v *objects.View) { v.Bundle.Applied = nil }, edited, ""},
		"it moves to another bundle":                                {func(v *objects.View) { v.Claimed = "other" }, edited, ""},
		"it is not owned yet":                                       {func(v *objects.View) { v.Object.Entry = nil }, edited, ""},
		"it has left Git, and is to be pruned":                      {func(v *objects.View) { v.Object.Baseline, v.Claimed = nil, "" }, edited, ""},
		"its apply was refused, and it was edited since": {func(v *objects.View) {
			v.Object.Baseline, v.Bundle.Synced = settings("blue"), false
		}, edited, " changed"},
		"its apply was refused, and it is as then": {func(v *objects.View) {
			v.Object.Baseline, v.Bundle.Synced = settings("blue"), false
			_, s := asApplied()
			edited(&s)
			v.Object.Tried = &s.seen
		}, edited, ""},
		"it was passed over, and is to be left alone": {func(v *objects.View) {
			v.Object.Baseline = settings("blue")
			v.Object.Orders = api.Orders{Reconcile: api.ValueDisabled}
		}, func(s *sight) { edited(s); s.seen.Orders = api.Orders{Reconcile: api.ValueDisabled} }, "L"},
		"it left Git, and a suspension keeps it": {func(v *objects.View) {
			v.Bundle.Synced, v.Bundle.Desired, v.Bundle.Gone, v.Object.Episode = false, nil, true, episode
		}, func(s *sight) { edited(s); s.held = true }, " left"},
		"it is suspended, and Git still has it": {func(v *objects.View) { v.Bundle.Synced = false }, func(s *sight) { edited(s); s.held = true }, "L"},
		"it copies our labels":                  {undeclared, func(s *sight) { s.seen.Applied = false }, ""},
		"it copies our labels, and is not to be there": {func(v *objects.View) {
			undeclared(v)
			rb := *v.Bundle.Applied
			rb.Spec.Drift.Extra = api.ExtraRemove
			v.Bundle.Applied = &rb
		}, func(s *sight) { s.seen.Applied = false }, "X"},
		"nothing is there, and nothing else is to be": {func(v *objects.View) {
			undeclared(v)
			rb := *v.Bundle.Applied
			rb.Spec.Drift.Extra = api.ExtraRemove
			v.Bundle.Applied = &rb
		}, gone, ""},
		"we applied it, and never heard":                {undeclared, nil, " stray"},
		"we applied it, and Git cannot be rendered":     {func(v *objects.View) { undeclared(v); v.Bundle.Desired = &api.RenderedBundle{Err: errRefused} }, nil, ""},
		"another bundle is about to take it":            {func(v *objects.View) { undeclared(v); v.Claimed = "app" }, nil, ""},
		"all of its bundle goes":                        {func(v *objects.View) { undeclared(v); v.Bundle.Desired = nil }, nil, ""},
		"it was extra, and is gone":                     {func(v *objects.View) { undeclared(v); v.Object.Episode = episode }, gone, "X"},
		"it is neither in Git nor there":                {undeclared, gone, ""},
		"it was passed over, and its labels changed":    {func(v *objects.View) { v.DesiredBy, v.Claimed, v.Object.Baseline = "", "", nil }, func(s *sight) { edited(s); s.seen.MetaDigest = "x" }, " unsettled"},
		"it was passed over, and its bundle runs again": {func(v *objects.View) { v.DesiredBy, v.Claimed, v.Object.Baseline, v.Bundle.Synced = "", "", nil, false }, func(s *sight) { edited(s); s.seen.MetaDigest = "x" }, ""},
		"it is gone and was never seen, being unlabelled": {func(v *objects.View) {
			v.DesiredBy, v.Claimed, v.Object.Baseline, v.Object.Unlabelled = "", "", nil, true
		}, gone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := asApplied()
			if c.know != nil {
				c.know(&v)
			}
			if c.see != nil {
				c.see(&s)
			}
			if got := said(decide(v, s)); got != c.want {
				t.Errorf("decided %q, want %q", got, c.want)
			}
		})
	}
}

// What a newer revision says of an object counts until that revision is applied.
func TestPending(t *testing.T) {
	red, blue := settings("red"), settings("blue")
	of := func(b objects.Bundle, extra bool) string {
		o, is := pending(b, &target{id: api.RefOf(red).ID(), extra: extra})
		switch {
		case !is:
			return "none"
		case o == nil:
			return "left"
		}
		says, _, _ := unstructured.NestedString(o.Object, "data", "says")
		return says
	}
	next := &api.RenderedBundle{Objects: []*unstructured.Unstructured{blue}}
	for name, c := range map[string]struct {
		bundle objects.Bundle
		extra  bool
		want   string
	}{
		"it is applied":             {objects.Bundle{Desired: next, Synced: true}, false, "none"},
		"it is yet to be applied":   {objects.Bundle{Desired: next}, false, "blue"},
		"it does not have it":       {objects.Bundle{Desired: &api.RenderedBundle{}}, false, "left"},
		"it does not have the rest": {objects.Bundle{Gone: true}, false, "left"},
		"it cannot be rendered":     {objects.Bundle{Desired: &api.RenderedBundle{Err: errRefused}}, false, "none"},
		"it is not known":           {objects.Bundle{}, false, "none"},
		"it never was in Git":       {objects.Bundle{Desired: next}, true, "none"},
	} {
		if got := of(c.bundle, c.extra); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
