package correct

import (
	"context"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
)

const (
	// unknownRetry is how soon an object is looked at again whose comparison failed.
	unknownRetry = 5 * time.Second

	// unlabelledRetry is how soon an object is looked at again that has lost a label by which the watch sees it,
	// and that nobody may give it back: it is left alone, and what happens to it is to be known all the same.
	// One that is missing and may not be made is looked for as often: it may come back without our labels.
	unlabelledRetry = 5 * time.Second

	// maxLooks is how often an object is inspected that changes between two questions about it.
	maxLooks = 5
)

// compare looks at one object: does it differ from what was applied, and what is to be done?
func (l *Loop) compare(ctx context.Context, id string, since time.Time) {
	ref, ok := api.ParseID(id)
	if !ok || ctx.Err() != nil {
		return
	}
	seen, there := l.Watch.Get(ref)
	bundle := l.Home.BundleOf(id, seen, there)
	if bundle == "" || !l.started.Load() || !l.turns.compare(bundle, id) {
		return
	}
	defer l.turns.done(bundle)
	t := l.target(bundle, id, ref)
	if t == nil {
		return
	}
	ins, err := l.inspect(ctx, t)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.unknown(t, err)
		return
	}
	l.judge(ctx, t, ins, since)
}

// target decides whether an object needs looking at, and does what else follows from what the watch knows of it.
func (l *Loop) target(bundle, id string, ref api.ObjectRef) *target {
	v, ok := l.Home.View(bundle, id)
	if !ok {
		return nil
	}
	s := sight{id: id, ref: ref, synced: l.Watch.Synced(ref.GVK())}
	s.seen, s.there = l.Watch.Get(ref)
	_, s.held = l.Held(l.Now(), bundle, ref)
	if v.Object.Baseline == nil && v.Object.Entry == nil && v.Claimed == "" && s.there {
		s.version = l.Home.Version(ref)
	}
	d := decide(v, s)
	l.note(v, s, d)
	return d.target
}

// note does what follows from a decision, beside a look at the object.
func (l *Loop) note(v objects.View, s sight, d decision) {
	bundle := v.Bundle.Name
	if d.orders || d.looked || d.changed {
		l.Home.Change(bundle, s.id, func(o *objects.Object) {
			if d.orders {
				o.Orders = s.seen.Orders
			}
			if d.changed {
				o.Tried = &s.seen
			}
			if d.looked {
				o.Look = false
			}
		})
	}
	if d.orders {
		l.Recount(bundle) // whether or not it is looked at
	}
	if d.left {
		l.end(bundle, s.id, l.Detective.Resolved(*v.Object.Episode, l.Now(), "the object left Git"))
	}
	if d.stray != nil {
		l.Home.Add(bundle, *d.stray)
	}
	if d.unsettled || d.stray != nil {
		l.wish(bundle, lifecycle.Unsettled{})
	}
	if d.changed {
		l.wish(bundle, lifecycle.ObjectChanged{})
	}
}

// end forgets an episode that has ended, and has its end stored.
func (l *Loop) end(bundle, id string, e api.Episode) {
	l.Home.Keep(bundle, id, e, l.Now(), func() { l.Recorder.Note(bundle, e) })
	l.Publisher.Touch(bundle)
}

// inspect looks at an object, at what may own its replicas, and at what others added to it.
func (l *Loop) inspect(ctx context.Context, t *target) (ins apply.Inspection, err error) {
	if t.extra {
		ins = l.Inspector.InspectExtra(ctx, t.rendered, api.RefOf(t.desired))
		return ins, ins.Err
	}
	for range maxLooks {
		if ins = l.Inspector.Inspect(ctx, t.rendered, t.desired); ins.Err != nil {
			return ins, ins.Err
		}
		if t.near, err = l.autoscalers(ctx, t.desired, ins.Live); err != nil {
			return ins, err
		}
		if err = l.withoutAdditions(ctx, t, &ins); !kube.IsConflict(err) {
			break // else it changed while it was looked at
		}
	}
	return ins, err
}

// withoutAdditions asks what would be left of an inspected object without what others added, where that is looked for:
// a value that the API server sets anyway is nobody's addition.
func (l *Loop) withoutAdditions(ctx context.Context, t *target, ins *apply.Inspection) (err error) {
	if t.extra || ins.Live == nil || ins.DryRun == nil || ins.Refused != nil || !t.rendered.Spec.Drift.AsksForExtra() {
		return nil
	}
	if patch := l.Detective.Additions(l.observation(t, *ins, l.Now())); patch != nil {
		ins.Stripped, err = l.Inspector.Without(ctx, t.rendered, *ins, patch)
	}
	return err
}

// unknown notes that an object could not be compared: it is neither in sync nor drifted.
func (l *Loop) unknown(t *target, err error) {
	l.Metrics.Uncompared()
	first := false
	l.Home.Change(t.bundle, t.id, func(o *objects.Object) {
		first = o.Unknown == ""
		o.Unknown = err.Error()
	})
	if first {
		l.Log.Warn("compare", "bundle", t.bundle, "object", t.id, "error", err)
	}
	l.Recount(t.bundle)
	l.queue.addAfter(t.id, unknownRetry)
}
