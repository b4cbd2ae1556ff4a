package reconciler

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// HealthChanged takes the news that the health of a bundle's objects changed.
func (r *Reconciler) HealthChanged(bundle string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[bundle]
	if b == nil || b.running() {
		return
	}
	before := b.status
	r.healthLocked(b, r.Now())
	after := b.status
	b.status = before
	r.setStatusLocked(b, after)
	if after.Phase != before.Phase {
		wake(r.kick)
	}
}

// healthLocked derives the phase of a bundle that is applied from the health of its objects.
func (r *Reconciler) healthLocked(b *bundle, now time.Time) {
	sum := r.Health.Get(b.name)
	if sum.Unseen > 0 && b.synced() && b.status.Phase == api.PhaseReady {
		return // it was ready when the agent was stopped, and nothing else is known yet
	}
	b.status.Objects = r.objects.Count(b.name)
	b.status.ReadyObjects = max(0, b.status.Objects-sum.Total+sum.Ready) // of what is kept nothing is expected
	r.countLocked(b)
	if b.status.Error != nil && !b.life.TimedOut || !b.synced() {
		if s := b.status.Suspended; s != "" && b.status.Error == nil {
			b.status.Phase, b.status.Message = api.PhaseSuspended, "suspended by "+s
		}
		return
	}
	switch by := r.heldBackLocked(b, now, sum); {
	case sum.Ready >= sum.Total && len(sum.Failed) == 0:
		b.status.Phase, b.status.Message, b.status.Error = api.PhaseReady, r.staysLocked(b), nil
		r.onLocked(b, lifecycle.Healthy{})
	case b.life.TimedOut:
		b.status.Message = healthMessage(sum.Failed, sum.InProgress)
	case by != "":
		// Nobody may do anything about it: no time runs out.
		b.status.Phase = api.PhaseSuspended
		b.status.Message = "suspended by " + by + "; " + healthMessage(sum.Failed, sum.InProgress)
		r.onLocked(b, lifecycle.Excused{})
	default:
		b.status.Phase, b.status.Message = api.PhaseProgressing, healthMessage(sum.Failed, sum.InProgress)
		if b.desired != nil {
			// If it was ready and is no longer, it gets the same time to recover.
			r.onLocked(b, lifecycle.Unhealthy{Timeout: b.desired.Spec.WaitTimeout()})
		}
	}
}

// heldBackLocked names a suspension that covers something of what a bundle is not ready for,
// if everything of that is covered by one; empty if not.
func (r *Reconciler) heldBackLocked(b *bundle, now time.Time, sum health.Summary) string {
	by := ""
	for _, o := range slices.Concat(sum.Failed, sum.InProgress) {
		s, held := r.drift.Held(now, b.name, o.Ref)
		if !held {
			return ""
		}
		by = s.Name
	}
	return by
}

// staysLocked says how many objects of a bundle that is ready are still there although they left Git; empty for none.
func (r *Reconciler) staysLocked(b *bundle) string {
	left := b.gone()
	if b.life.Kept > 0 && r.brokenLocked(b.status.Tenant) != "" {
		what := "objects that left Git and stay"
		if left {
			what = "has left Git; objects that stay"
		}
		return fmt.Sprintf("%s until bundle %s can be rendered: %d", what, r.brokenLocked(b.status.Tenant), b.life.Kept)
	}
	if n := r.objects.Count(b.name); left && n > 0 {
		return fmt.Sprintf("has left Git; objects that stay: %d", n)
	}
	return ""
}

// timeoutLocked fails a bundle that did not become healthy in time,
// and returns how long until that happens.
func (r *Reconciler) timeoutLocked(ctx context.Context, b *bundle, now time.Time) time.Duration {
	if b.status.Phase != api.PhaseProgressing {
		return lifecycle.Never
	}
	if left := b.life.Patience(now); left > 0 {
		return left
	}
	r.onLocked(b, lifecycle.Overdue{})
	sum := r.Health.Get(b.name)
	stuck := slices.Concat(sum.Failed, sum.InProgress)
	timeout := api.DefaultTimeout
	if b.desired != nil {
		timeout = b.desired.Spec.WaitTimeout()
	}
	r.wg.Go(func() { r.explain(ctx, b, stuck, timeout) })
	return lifecycle.Never
}

// explain asks why a bundle did not become healthy, and says so.
func (r *Reconciler) explain(ctx context.Context, b *bundle, stuck []health.Object, timeout time.Duration) {
	var why []string
	for i, o := range stuck {
		if i == 3 {
			why = append(why, fmt.Sprintf("and %d more", len(stuck)-i))
			break
		}
		reason := r.Health.Explain(ctx, o.Ref)
		if reason == "" {
			reason = o.Message
		}
		why = append(why, fmt.Sprintf("%s: %s", o.Ref, reason))
	}
	err := &api.Error{
		Kind: api.Waiting, Reason: "HealthTimeout",
		Err: fmt.Errorf("not healthy after %s: %s", timeout, strings.Join(why, "; ")),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !b.life.TimedOut {
		return
	}
	next := b.status
	next.Phase, next.Error = api.PhaseFailed, api.StatusErrorOf(err)
	r.setStatusLocked(b, next)
	r.publish.failed(b.name, err)
}

// healthMessage names the first object that is not healthy, failed ones first.
func healthMessage(failed, inProgress []health.Object) string {
	n := len(failed) + len(inProgress)
	if n == 0 {
		return ""
	}
	first := slices.Concat(failed, inProgress)[0]
	s := fmt.Sprintf("%s: %s", first.Ref, first.Message)
	if n > 1 {
		s += fmt.Sprintf(" (and %d more)", n-1)
	}
	return s
}

// setStatusLocked records a status if it differs from what is known.
func (r *Reconciler) setStatusLocked(b *bundle, next api.BundleStatus) {
	if reflect.DeepEqual(b.status, next) {
		return
	}
	b.status = next
	b.status.Updated = r.Now()
	r.recorder.Note(b.name)
	r.publish.add(b.name, b.status.Phase)
}

// countLocked counts what drifted, what could not be compared and what is exempt.
func (r *Reconciler) countLocked(b *bundle) {
	b.status.Suspended = r.suspendedLocked(b.name)
	r.drift.Recount(b.name)
}

// advanceLocked moves the applied revision on once every bundle was applied from it.
func (r *Reconciler) advanceLocked() {
	if r.rendering == nil || r.status.AppliedRevision == r.rendering.Revision {
		return
	}
	for _, b := range r.bundles {
		if !b.synced() {
			return
		}
	}
	r.status.AppliedRevision = r.rendering.Revision
	r.Log.Info("revision applied", "revision", r.rendering.Revision)
	r.recorder.Note("")
}

// announce emits Events about what an apply did.
func (r *Reconciler) announce(ctx context.Context, name string, res apply.Result) {
	if ctx.Err() != nil {
		return
	}
	if res.Err != nil {
		r.publish.failed(name, res.Err)
		return
	}
	cs := res.Changes
	if n := cs.Count(api.Created, api.Updated, api.Recreated, api.Pruned); n > 0 {
		r.publish.Event(cluster.EventRequest{Bundle: name, Type: "Normal", Reason: "Applied", Message: fmt.Sprintf(
			"%d created, %d updated, %d pruned", cs.Count(api.Created), cs.Count(api.Updated, api.Recreated), cs.Count(api.Pruned))})
	}
}
