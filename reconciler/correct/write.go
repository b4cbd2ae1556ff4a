package correct

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
)

// conflictRetry is how soon an object is looked at again that changed between the look and the write.
const conflictRetry = 20 * time.Millisecond

// correct does what the verdict asks for, and stores what came of it.
func (l *Loop) correct(ctx context.Context, t *target, ins apply.Inspection, v Verdict, since time.Time) {
	known := l.Home.Get(t.bundle, t.id).Episode
	if known == nil {
		return
	}
	if s, held := l.Held(l.Now(), t.bundle, t.ref); held {
		// Suspended between the look and the write: the next look records it.
		l.Log.Info("correction held back", "object", t.id, "suspension", s.Name)
		l.queue.addAfter(t.id, time.Millisecond)
		return
	}
	entry, err := l.write(ctx, t, ins, v)
	if err != nil && ctx.Err() != nil {
		return
	}
	if kube.IsConflict(err) {
		// It changed again after the evidence was taken: look again, so that nothing unseen is overwritten.
		l.queue.addAfter(t.id, conflictRetry)
		return
	}
	at := l.Now()
	e := l.Detective.Corrected(*known, at, err)
	if err == nil && !v.Remove {
		l.Home.Change(t.bundle, t.id, func(o *objects.Object) {
			if o.Entry != nil {
				entry.Origin = o.Entry.Origin
			}
			o.Entry = &entry
		})
	}
	if serr := l.store(t, &e); serr != nil {
		l.Log.Error("store", "error", serr)
	}
	if err != nil {
		l.failed(t, err)
		return
	}
	l.Metrics.Corrected(since, at)
	l.Log.Info("drift corrected", "bundle", t.bundle, "object", t.id, "episode", e.ID, "manager", e.By.Manager)
	l.Publisher.Event(cluster.EventRequest{Bundle: t.bundle, Object: e.Object, Type: "Normal", Reason: "Corrected", Message: "drift corrected: " + summary(e)})
	l.corrected(t, ins, v)
}

// corrected has looked at again, and followed, what a correction has made.
func (l *Loop) corrected(t *target, ins apply.Inspection, v Verdict) {
	if !v.Remove && t.rendered.Spec.Drift.AsksForExtra() {
		// Writing our fields does not touch those that others added, and taking those away must have left ours.
		l.lookAnew(t.bundle, t.id)
	}
	if applied := l.Home.Bundle(t.bundle).Applied; applied != nil && (ins.Live == nil || v.Remove) {
		// Another object under the old name, or none any more.
		l.Health.Set(t.bundle, l.Home.Awaited(t.bundle), applied.Spec.Health)
	}
}

// write writes what the verdict asks for.
func (l *Loop) write(ctx context.Context, t *target, ins apply.Inspection, v Verdict) (api.InventoryEntry, error) {
	switch {
	case v.Remove:
		return api.InventoryEntry{}, l.Writer.RemoveExtra(ctx, t.rendered, ins.Live)
	case v.Strip != nil:
		return l.Writer.Strip(ctx, t.rendered, ins.Live, v.Strip)
	}
	entry, err := l.Writer.Correct(ctx, t.rendered, v.Write, ins.Live)
	// The digest is of what Git says, whatever was left to others.
	entry.Digest, entry.Scaled = apply.Digest(t.desired), l.autoscaled(t, ins.Live)
	return entry, err
}

// failed has the object looked at again: later after a refusal than after a hiccup.
func (l *Loop) failed(t *target, err error) {
	l.Log.Error("correct", "bundle", t.bundle, "object", t.id, "error", err, "kind", api.KindOf(err))
	d, again := lifecycle.DelayAfter(err, 1, rand.Float64())
	if !again || api.KindOf(err) == api.Forbidden {
		d = lifecycle.RetryLongest
	}
	l.queue.addAfter(t.id, d)
}
