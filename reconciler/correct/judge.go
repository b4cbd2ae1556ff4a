package correct

import (
	"context"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// judge stores what was found and corrects it where that is wanted.
// The evidence is in the store before anything is written.
func (l *Loop) judge(ctx context.Context, t *target, ins apply.Inspection, since time.Time) {
	now := l.Now()
	verdict := l.observe(t, ins, now)
	if verdict.Opened && l.halfDone(ctx, t, ins, now) {
		return // the apply that comes says so
	}
	if verdict.drifts() {
		t, ins, verdict = l.asGitSaysNow(ctx, t, ins, verdict, now)
	}
	if verdict.Opened && since.Before(now) && now.Sub(since) < time.Minute {
		verdict.Episode.MoveBegin(since) // when we were told, and not when we had looked
	}
	l.known(t, ins, verdict)
	if verdict.Episode != nil {
		if err := l.store(t, verdict.Episode); err != nil {
			l.unknown(t, err)
			return
		}
		if verdict.Opened {
			l.opened(*verdict.Episode, since, now)
		}
	} else {
		l.Recount(t.bundle)
	}
	if verdict.After > 0 {
		l.queue.addAfter(t.id, verdict.After)
	}
	if !t.extra && ins.Live == nil && verdict.drifts() {
		l.queue.addAfter(t.id, unlabelledRetry)
	}
	// What Git has changed meanwhile is not set back to its old value first: the apply that comes writes the new one.
	if (verdict.Write != nil || verdict.Strip != nil || verdict.Remove) && !l.superseded(t) {
		l.correct(ctx, t, ins, verdict, since)
	}
}

// known notes what a look that did not fail has told of an object.
func (l *Loop) known(t *target, ins apply.Inspection, verdict Verdict) {
	if t.extra {
		l.Home.Change(t.bundle, t.id, func(o *objects.Object) { o.Unknown = "" })
		return
	}
	live, scaled := ins.Live, l.autoscaled(t, ins.Live)
	before, _ := l.Home.View(t.bundle, t.id)
	orders, unlabelled := api.Orders{}, live != nil && !watched(live)
	if live != nil {
		orders = api.OrdersIn(live.GetAnnotations())
	}
	l.Home.Change(t.bundle, t.id, func(o *objects.Object) {
		o.Unknown, o.Orders, o.Unlabelled = "", orders, unlabelled
		if o.Entry != nil && live != nil && !verdict.drifts() {
			o.Entry = matched(*o.Entry, t, live, scaled)
		}
	})
	if unlabelled {
		l.queue.addAfter(t.id, unlabelledRetry)
	}
	// What the watch cannot tell of an object that it does not see, this does.
	was := before.Object
	if was.Entry != nil && was.Unlabelled && (!unlabelled || orders != was.Orders) && passedOver(before) {
		l.wish(t.bundle, lifecycle.Unsettled{})
	}
}

// watched reports whether the watch sees an object: it selects by both labels.
func watched(o *unstructured.Unstructured) bool {
	labels := o.GetLabels()
	return labels[api.LabelPartOf] != "" && labels[api.LabelManagedBy] == api.ManagedBy
}

// matched is the entry of an object that, as it is now, was found to be as it should be.
func matched(e api.InventoryEntry, t *target, live *unstructured.Unstructured, scaled bool) *api.InventoryEntry {
	e.UID, e.ResourceVersion, e.Generation = string(live.GetUID()), live.GetResourceVersion(), live.GetGeneration()
	e.MetaDigest, e.Claimed = api.MetaDigest(live), api.ClaimedAt(live)
	e.Scaled, e.Plain = scaled, plan.Plain(live, t.bundle, t.rendered.Spec.Drift)
	return &e
}

// superseded reports whether a newer revision, which is yet to be applied, says something else of the object.
// When it has been applied, the open episode is looked at again.
func (l *Loop) superseded(t *target) bool {
	want, pending := pending(l.Home.Bundle(t.bundle), t)
	return pending && (want == nil || apply.Digest(want) != apply.Digest(t.desired))
}

// asGitSaysNow judges drift against a newer revision that is yet to be applied: an object that is as that one says
// has not drifted any more, and while a suspension keeps the revision back, what it says is what the object will be set to.
// In any other case it returns what it is given.
func (l *Loop) asGitSaysNow(ctx context.Context, t *target, ins apply.Inspection, v Verdict, now time.Time) (*target, apply.Inspection, Verdict) {
	next := newer(l.Home.Bundle(t.bundle), t)
	if next == nil {
		return t, ins, v
	}
	_, held := l.Held(now, t.bundle, t.ref)
	look, err := l.inspect(ctx, next)
	if err != nil {
		return t, ins, v // what is known of it is against the older revision
	}
	again := l.observe(next, look, now)
	if again.drifts() && !held {
		return t, ins, v // the apply that comes writes over it
	}
	return next, look, again
}

// newer returns an object with what a newer revision, yet to be applied, says of it: nil if that is nothing else.
func newer(b objects.Bundle, t *target) *target {
	want, pending := pending(b, t)
	if !pending || want == nil || apply.Digest(want) == apply.Digest(t.desired) {
		return nil
	}
	next := *t
	next.rendered, next.desired, next.revision = *b.Desired, want, b.Revision
	return &next
}

// halfDone reports whether the object is as the newer revision says, which is yet to be applied as a whole:
// we were stopped in the middle of that, and nobody else did anything.
func (l *Loop) halfDone(ctx context.Context, t *target, ins apply.Inspection, now time.Time) bool {
	b := l.Home.Bundle(t.bundle)
	if want, pending := pending(b, t); pending && want == nil {
		return ins.Live == nil // it has left Git, and is gone
	}
	next := newer(b, t)
	if next == nil {
		return false
	}
	next.revision = t.revision
	look := l.Inspector.Inspect(ctx, next.rendered, next.desired)
	if look.Err != nil || look.Live == nil || l.withoutAdditions(ctx, next, &look) != nil {
		return false
	}
	return !l.observe(next, look, now).drifts()
}

// observe asks the detective, with the object's last episode and the suspension that covers it.
func (l *Loop) observe(t *target, ins apply.Inspection, now time.Time) Verdict {
	prev := l.Home.Get(t.bundle, t.id).Episode
	if prev != nil {
		prev = new(*prev)
	} else {
		prev, _ = l.Episodes.LatestEpisode(t.id)
	}
	return l.Detective.Observe(prev, l.observation(t, ins, now))
}

// observation is what was found, in the detective's words.
func (l *Loop) observation(t *target, ins apply.Inspection, now time.Time) Observation {
	s, _ := l.Held(now, t.bundle, t.ref)
	o := Observation{
		Bundle: t.bundle, Object: t.ref, Revision: t.revision, Spec: t.rendered.Spec.Drift,
		Live: ins.Live, DryRun: ins.DryRun, Stripped: ins.Stripped, Refused: ins.Refused != nil, Suspension: s.Name, At: now,
	}
	if !t.extra {
		o.Desired, o.Object = ins.Desired, api.RefOf(t.desired)
		o.Known, o.Neighbours = t.entry, t.near
		o.Unapplied = t.entry != nil && t.entry.Digest != apply.Digest(t.desired)
	}
	return o
}

// store keeps an episode, and with it the bundle's counts and inventory. A new one is given its ID.
func (l *Loop) store(t *target, e *api.Episode) error {
	if e.ID == "" {
		e.ID = l.Episodes.NextEpisodeID()
	}
	e.Cluster = l.Cluster
	var noted *record.Batch
	l.Home.Keep(t.bundle, t.id, *e, l.Now(), func() { noted = l.Recorder.Note(t.bundle, *e) })
	if err := l.Recorder.Wait(noted); err != nil {
		return err
	}
	l.Publisher.Touch(t.bundle)
	return nil
}

// opened tells that a drift has begun.
func (l *Loop) opened(e api.Episode, since, now time.Time) {
	l.Metrics.Detected(e.Class, since, now)
	l.Log.Info("drift", "bundle", e.Bundle, "object", e.Object.ID(), "class", e.Class, "episode", e.ID,
		"manager", e.By.Manager, "fields", len(e.Fields)+e.FieldsOmitted, "outcome", e.Outcome)
	l.Publisher.Event(cluster.EventRequest{Bundle: e.Bundle, Object: e.Object, Type: "Warning", Reason: "Drifted", Message: summary(e)})
}

// summary is one line about an episode, without any value.
func summary(e api.Episode) string {
	s := string(e.Class)
	for i, f := range e.Fields {
		if i == 3 {
			s += " and " + strconv.Itoa(len(e.Fields)+e.FieldsOmitted-i) + " more"
			break
		}
		s += " " + f.Path
	}
	if e.By.Manager != "" {
		s += " by " + e.By.Manager
	}
	return s
}
