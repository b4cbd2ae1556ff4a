package reconciler

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// run is one run of a bundle, from the worker's place that it is given to the state that it leaves behind.
type run struct {
	r *Reconciler
	b *bundle

	// desired and revision are what Git said when the run began; desired is nil for a removal.
	desired  *api.RenderedBundle
	revision string
	hold     *hold
	saw      *correct.Witness

	// counted is set while the run holds a worker's place, and slow takes the place away when the run takes long.
	// Reconciler.mu guards them, and the two below.
	counted bool
	slow    *time.Timer
	// supersede ends the wait for a hook, if the run is in one: a newer revision makes it pointless.
	supersede context.CancelFunc
	// back does the same for a hook of a removal: only that the bundle comes back makes that pointless.
	back context.CancelFunc
}

// A bundle that takes long, because something in it does not answer, must not hold up the others:
// after slowAfter its place is free for another one. There are never more than slowFactor times as many as there are workers.
const (
	slowAfter  = 2 * time.Second
	slowFactor = 8
)

// placeLocked gives a bundle that is due a worker's place.
func (r *Reconciler) placeLocked(b *bundle) *run {
	x := &run{r: r, b: b, counted: true}
	b.run = x
	r.onLocked(b, lifecycle.Placed{})
	r.running++
	r.applying++
	x.slow = time.AfterFunc(slowAfter, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		x.yieldLocked()
	})
	return x
}

// yieldLocked lets another bundle have the place of one that goes on.
func (x *run) yieldLocked() {
	if x.counted {
		x.counted = false
		x.r.running--
		wake(x.r.kick)
	}
}

// doneLocked takes the place back. What became of the run is another event.
func (x *run) doneLocked() {
	x.yieldLocked()
	x.slow.Stop()
	x.r.applying--
	x.b.run = nil
}

// do applies, prunes and records the bundle. None of its objects is compared meanwhile.
func (x *run) do(ctx context.Context) {
	r, b := x.r, x.b
	r.drift.Begin(b.name)
	defer r.drift.End(b.name)

	r.mu.Lock()
	force, anew, renamed, inGit := b.life.Force, b.life.RetryRefused, b.renamed, r.inGit
	r.onLocked(b, lifecycle.Began{})
	if b.life.Phase != lifecycle.Running {
		x.doneLocked()
		r.mu.Unlock()
		r.HealthChanged(b.name) // what was told while it had its place
		return
	}
	x.desired, x.revision = b.desired, b.revision
	inventory := r.objects.Inventory(b.name)
	r.phaseLocked(b, api.PhaseApplying, "")
	x.saw = r.drift.Witness(b.name)
	r.mu.Unlock()
	x.hold = &hold{ask: r.holder(b.name)}

	if x.desired == nil {
		x.remove(ctx, inventory)
		return
	}
	x.desired = r.resolve(ctx, b, x.desired)
	req := apply.Request{
		Bundle: *x.desired, Revision: x.revision, Inventory: inventory, Held: x.hold.Held, InGit: inGit, Renamed: renamed,
		Declared: r.objects.Claims(), MayTake: r.mayTake(b), Left: r.drift.Left, AsLeft: r.drift.AsLeft, Witness: x.saw, Waiting: x.waiting(), Anew: anew,
	}
	if force {
		req.Compare = apply.CompareAll
	}
	res := r.Applier.Apply(ctx, req)
	if res.Err == nil {
		res = x.prune(ctx, x.desired.Spec, res)
	}
	x.finish(ctx, res)
}

// superseded ends what only the revision before is waiting for.
func (x *run) superseded() {
	if x != nil && x.supersede != nil {
		x.supersede()
	}
}

// cameBack ends what only a removal is waiting for.
func (x *run) cameBack() {
	if x != nil && x.back != nil {
		x.back()
	}
}

// waiting lets another bundle work while this one waits for a hook, and ends the wait when a newer revision comes.
func (x *run) waiting() apply.Waiting {
	return x.waitingUntil(&x.supersede, func() bool { return !x.b.life.Current() })
}

// waitingForRemoval is waiting for the hooks of a removal: only that the bundle comes back ends the wait.
func (x *run) waitingForRemoval() apply.Waiting {
	return x.waitingUntil(&x.back, func() bool { return x.b.desired != nil })
}

// waitingUntil lets another bundle work while this one waits. The wait ends by what it puts into end, which Reconciler.mu
// guards, and does not begin where it is pointless already.
func (x *run) waitingUntil(end *context.CancelFunc, pointless func() bool) apply.Waiting {
	r := x.r
	return func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancel(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		*end = cancel
		if pointless() {
			cancel()
		}
		x.yieldLocked()
		next := x.b.status
		next.Message = "waiting for a hook to end, or for an object to be gone"
		r.setStatusLocked(x.b, next)
		r.applying-- // however many wait, nobody is held up
		wake(r.kick)
		return ctx, func() {
			cancel()
			r.mu.Lock()
			defer r.mu.Unlock()
			r.applying++
			*end = nil
		}
	}
}

// finish takes over what an apply left behind, records it and decides what comes next.
func (x *run) finish(ctx context.Context, res apply.Result) {
	r, b, desired := x.r, x.b, x.desired
	now := r.Now()
	r.mu.Lock()
	moved := r.takeInventoryLocked(b, res.Inventory)
	episodes := x.saw.Corrected(res.Changes, x.revision)
	policy := false // it has changed
	if desired != nil && res.Changes.Changes != nil {
		policy = b.applied != nil && !reflect.DeepEqual(b.applied.Spec.Drift, desired.Spec.Drift)
		r.setAppliedLocked(b, desired, x.hold.by)
		r.objects.Pass(b.name, res.Passed)
		episodes = append(episodes, r.drift.EndUndeclared(b.name)...)
		r.countLocked(b)
	}
	x.doneLocked()
	unanswered := b.life.Unanswered
	x.endedLocked(ctx, res)
	unanswered = unanswered && !b.life.Unanswered
	for _, c := range res.Changes.Changes {
		if c.Action == api.Skipped {
			r.drift.LookAtSkipped(b.name, c.Object.ID())
		}
	}
	r.noteChangesLocked(b, res.Changes)
	entries, checks := r.objects.Awaited(b.name), []api.HealthCheck(nil)
	if desired != nil {
		checks = desired.Spec.Health
	}
	r.mu.Unlock()

	r.Health.Set(b.name, entries, checks)
	r.movedOut(moved)

	r.mu.Lock()
	r.healthLocked(b, now)
	r.recorder.Note(b.name, episodes...)
	r.reopenLocked(b, res.Changes)
	r.offerLocked(res.Changes)
	r.advanceLocked()
	phase := b.status.Phase
	r.mu.Unlock()
	if policy {
		r.drift.LookAgain(b.name)
	} else if unanswered {
		r.drift.LookForStrays(b.name)
	}
	r.announce(ctx, b.name, res)
	r.publish.add(b.name, phase)
	wake(r.kick)
}

// endedLocked says how the run ended.
func (x *run) endedLocked(ctx context.Context, res apply.Result) {
	r, b, desired := x.r, x.b, x.desired
	heldBack := x.hold.back(res.Changes, desired, func(id string) string {
		e, _ := r.objects.Entry(b.name, id)
		return e.Digest
	})
	switch {
	case ctx.Err() != nil:
		// We are stopping; what was done is recorded, and the rest goes on at the next start.
		r.onLocked(b, lifecycle.Stopped{})
	case res.Err != nil:
		r.failLocked(b, res.Err)
	case heldBack != "":
		// Nothing more can be done until the suspensions change, which runs the bundle again:
		// unless that happened while it ran.
		r.onLocked(b, lifecycle.HeldBack{Active: r.activeNamedLocked(heldBack, r.Now())})
		b.status.Phase, b.status.Message = api.PhaseSuspended, "held back by "+heldBack
	default:
		var timeout time.Duration
		b.status.Error = nil
		b.status.Removing = desired == nil
		if desired != nil {
			b.status.AppliedRevision, b.status.Digest = x.revision, desired.Digest
			b.status.DependsOn = desired.Spec.DependsOn
			timeout = desired.Spec.WaitTimeout()
		}
		r.onLocked(b, lifecycle.Succeeded{Timeout: timeout})
	}
}

// failLocked notes an error and when to try again.
func (r *Reconciler) failLocked(b *bundle, err error) {
	r.onLocked(b, lifecycle.Failure(err, rand.Float64()))
	b.status.Error = api.StatusErrorOf(err)
	b.status.Phase = api.PhaseFailed
	b.status.Message = ""
	stalled, retry := b.life.Phase == lifecycle.Stalled, time.Duration(0)
	if wait := b.life.Wait(r.Now()); wait != lifecycle.Never {
		retry = wait
	}
	r.Log.Error("bundle", "bundle", b.name, "error", err, "kind", api.KindOf(err), "stalled", stalled, "retry", retry)
}

// hold remembers which objects a suspension held back while a bundle was applied.
type hold struct {
	ask apply.Held

	mu sync.Mutex
	// by: object ID -> name of the suspension
	by map[string]string
}

// Held asks, and remembers a yes.
func (h *hold) Held(ref api.ObjectRef) (api.Suspension, bool) {
	s, yes := h.ask(ref)
	if yes {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.by == nil {
			h.by = map[string]string{}
		}
		h.by[ref.ID()] = s.Name
	}
	return s, yes
}

// back returns the suspension that kept something from being done that Git wants done; empty if none did.
// digest is of what the object was last written as, by its ID; empty if the bundle does not own it.
func (h *hold) back(cs api.ChangeSet, desired *api.RenderedBundle, digest func(id string) string) string {
	if len(h.by) == 0 {
		return ""
	}
	want := map[string]string{} // object ID -> digest
	if desired != nil {
		for _, o := range desired.Objects {
			want[api.RefOf(o).ID()] = apply.Digest(o)
		}
	}
	for _, c := range cs.Changes {
		id := c.Object.ID()
		name, held := h.by[id]
		if held && c.Action == api.Skipped && (want[id] == "" || want[id] != digest(id)) {
			return name
		}
	}
	return ""
}
