package reconciler

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// bundle is what is known of one bundle. Its fields are guarded by Reconciler.mu,
// except busy, which is taken before it.
type bundle struct {
	name string
	// busy is held for writing while the bundle is applied or pruned,
	// and for reading while one of its objects is compared or corrected.
	busy sync.RWMutex

	// desired is what Git says; nil until that is known, and once the bundle has left Git (gone).
	desired  *api.RenderedBundle
	gone     bool
	revision string
	// applied is what was last applied: the baseline that drift is measured against.
	// It is nil until that is known, and stays when Git breaks.
	applied        *api.RenderedBundle
	appliedObjects map[string]*unstructured.Unstructured // object ID -> object of applied

	entries map[string]api.InventoryEntry // object ID -> what we own
	status  api.BundleStatus
	// open: object ID -> its open episode
	open map[string]api.Episode
	// unknown: object ID -> why it could not be compared
	unknown map[string]string
	// orders: object ID -> what the annotations of the live object say, where they say anything
	orders map[string]api.Orders
	// passed are the objects that were there before and are not ours for what an annotation on them says, each with that.
	passed []string
	// unlabelled are objects that were seen without a label by which they are watched, and were left so.
	unlabelled map[string]struct{}
	// look are objects to be compared whatever the watch says: what counts as drift has changed.
	look map[string]struct{}
	// held are drift events that came while the bundle was applied.
	held map[string]struct{}

	running bool
	// began is when it last ran; zero if it has not since Git changed it.
	began time.Time
	// counted says that it holds one of the workers' places, and busyFor is what takes it away when it takes long.
	counted bool
	busyFor *time.Timer
	// supersede ends the wait for a hook, if the bundle is in one: a newer revision makes it pointless.
	supersede context.CancelFunc
	// back does the same for a hook of its removal: what makes that pointless is only that the bundle comes back.
	back context.CancelFunc
	// settled is set when the desired digest was applied, pruned and recorded without error.
	settled bool
	// force makes the next apply look at every object.
	force bool
	// attempt counts the failures since the last success, retry is when to try again
	// (zero: at once), and stalled says that only a new input helps.
	attempt int
	retry   time.Time
	stalled bool
	// anew has objects sent again that were refused before, and again says that a refusal is not the last word.
	anew, again bool
	// unanswered says that a write may have succeeded of which nothing is known.
	unanswered bool
	// tried: object ID -> what the watch had seen of it when the bundle was last tried because of it
	tried map[string]Seen
	// renamed says that it has objects of one that was applied and has left Git.
	renamed bool
	// kept counts what the bundle owns that left Git, and that it keeps until every bundle of the revision can be rendered.
	kept int
	// strays says that it owns what it does not declare, because of that or since another bundle is to take it over:
	// the next revision may say that it goes.
	strays bool
	// deadline is when waiting for health ends; zero when nobody waits.
	deadline time.Time
	// timedOut is set when it has.
	timedOut bool
}

func newBundle(name string) *bundle {
	return &bundle{
		name:       name,
		entries:    map[string]api.InventoryEntry{},
		open:       map[string]api.Episode{},
		unknown:    map[string]string{},
		orders:     map[string]api.Orders{},
		unlabelled: map[string]struct{}{},
		held:       map[string]struct{}{},
		look:       map[string]struct{}{},
		tried:      map[string]Seen{},
		status:     api.BundleStatus{Name: name, Phase: api.PhasePending},
	}
}

// order makes the bundle run at the next chance, whatever happened before.
func (b *bundle) order() {
	b.force, b.settled, b.stalled, b.attempt, b.retry = true, false, false, 0, time.Time{}
}

// ever reports whether it was ever applied to its end.
func (b *bundle) ever() bool { return b.status.Digest != "" || b.status.AppliedRevision != "" }

// superseded ends what only the revision before is waiting for.
func (b *bundle) superseded() {
	if b.supersede != nil {
		b.supersede()
	}
}

// wants reports whether a rendering that was applied is still what Git says.
func (b *bundle) wants(rb *api.RenderedBundle) bool {
	if b.desired == nil || rb == nil {
		return b.desired == rb
	}
	return b.desired == rb || b.desired.Err == nil && b.desired.Digest == rb.Digest
}

// unguard lets a bundle whose deletions a guard refused, or of which another one declares an object, run at once:
// a new revision may allow it.
func (b *bundle) unguard() {
	if e := b.status.Error; e != nil && (e.Reason == plan.ReasonProtected || e.Reason == plan.ReasonDeclaredTwice || e.Reason == api.ReasonTenantDenied) {
		b.attempt, b.retry = 0, time.Time{}
	}
}

// setDesired takes a new rendering. It reports whether there is anything to apply.
func (b *bundle) setDesired(rb *api.RenderedBundle, revision string) bool {
	if b.desired != nil && b.desired.Err == nil && rb.Err == nil && b.desired.Digest == rb.Digest {
		b.desired = rb
		return false
	}
	if rb.Err == nil && b.status.Digest == rb.Digest && b.settled {
		b.desired = rb
		return false
	}
	b.desired, b.revision = rb, revision
	b.superseded()
	if b.back != nil {
		b.back()
	}
	b.settled, b.stalled, b.attempt, b.retry = false, false, 0, time.Time{}
	b.timedOut, b.deadline = false, time.Time{}
	clear(b.tried)
	return true
}

// setApplied makes a rendering the baseline for drift.
func (b *bundle) setApplied(rb *api.RenderedBundle) {
	b.applied = rb
	b.appliedObjects = make(map[string]*unstructured.Unstructured, len(rb.Objects))
	for _, o := range rb.Objects {
		b.appliedObjects[api.RefOf(o).ID()] = o
	}
}

// keepHeld keeps what was applied before of the objects that a suspension held back from a commit:
// drift is measured from there until they are written. A restart finds the same.
func (b *bundle) keepHeld(before map[string]*unstructured.Unstructured, hold *hold) {
	for id := range hold.by {
		was, now := before[id], b.appliedObjects[id]
		if was == nil || now == nil || !hasEntry(b, id) {
			continue
		}
		if d := b.entries[id].Digest; d != apply.Digest(now) && d == apply.Digest(was) {
			b.appliedObjects[id] = was
		}
	}
}

// dependOn adds to what the bundle depends on. What it was last applied with counts until it is applied with something else:
// until then it may have objects that need what it depended on.
func (b *bundle) dependOn(names []string) {
	for _, name := range names {
		if !slices.Contains(b.status.DependsOn, name) {
			b.status.DependsOn = append(slices.Clip(b.status.DependsOn), name)
		}
	}
}

// remember makes an inventory that was rebuilt from the cluster what it would be if nothing had been lost:
// it knows what was applied of each object, and objects that are gone. All of them are to be compared.
func (b *bundle) remember(rb *api.RenderedBundle) {
	b.status.Digest = rb.Digest
	for id, o := range b.appliedObjects {
		a := o.GetAnnotations()
		e, there := b.entries[id]
		if !there && (a[api.AnnotationReconcile] != "" || a[api.AnnotationSSA] != "") {
			continue // it may well never have been ours
		}
		b.entries[id] = api.InventoryEntry{Object: api.RefOf(o), UID: e.UID, Digest: apply.Digest(o), Origin: rb.Origin[id], HandsOff: e.HandsOff}
		b.look[id] = struct{}{}
	}
}

// inventory returns the entries in a stable order.
func (b *bundle) inventory() []api.InventoryEntry {
	out := make([]api.InventoryEntry, 0, len(b.entries))
	for _, e := range b.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	return out
}

// record is what the store keeps of the bundle.
func (b *bundle) record() api.BundleRecord {
	return api.BundleRecord{Status: b.status, Inventory: b.inventory()}
}

// runBundle applies, prunes and records one bundle. It is called with b.busy free and b.running set.
func (r *Reconciler) runBundle(ctx context.Context, b *bundle) {
	b.busy.Lock()
	defer b.busy.Unlock()

	r.mu.Lock()
	desired, revision, force, anew, renamed := b.desired, b.revision, b.force, b.anew, b.renamed
	b.force, b.anew = false, false
	inventory := b.inventory()
	r.phaseLocked(b, api.PhaseApplying, "")
	saw := &witness{r: r, b: b, applied: b.applied, objects: b.appliedObjects, met: map[string]bool{}, over: map[string]bool{}}
	r.mu.Unlock()
	hold := &hold{ask: r.holder(b.name)}
	held := hold.Held

	if desired == nil {
		r.removeBundle(ctx, b, inventory, hold, saw)
		return
	}
	desired = r.resolve(ctx, b, desired)
	req := apply.Request{
		Bundle: *desired, Revision: revision, Inventory: inventory, Held: held, InGit: r.inGit, Renamed: renamed, Declared: r.declaredTwice, MayTake: r.mayTake(b),
		Left: r.leave, AsLeft: r.asLeft, Witness: saw, Waiting: r.waiting(b, desired), Anew: anew,
	}
	if force {
		req.Compare = apply.CompareAll
	}
	res := r.Applier.Apply(ctx, req)
	if res.Err == nil {
		res = r.prune(ctx, b, desired, desired.Spec, res, held)
	}
	r.finish(ctx, b, desired, revision, res, hold, saw)
}

// inGit reports whether a bundle is in Git.
func (r *Reconciler) inGit(bundle string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[bundle]
	return b != nil && !b.gone
}

// waiting lets another bundle work while this one waits for a hook, and ends the wait when a newer revision comes.
func (r *Reconciler) waiting(b *bundle, desired *api.RenderedBundle) apply.Waiting {
	return r.waitingUntil(b, &b.supersede, func() bool { return !b.wants(desired) })
}

// waitingUntil lets another bundle work while this one waits. The wait ends by what it puts into end, which Reconciler.mu
// guards, and does not begin where it is pointless already.
func (r *Reconciler) waitingUntil(b *bundle, end *context.CancelFunc, pointless func() bool) apply.Waiting {
	return func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancel(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		*end = cancel
		if pointless() {
			cancel()
		}
		r.yieldLocked(b)
		next := b.status
		next.Message = "waiting for a hook to end, or for an object to be gone"
		r.setStatusLocked(b, next)
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
func (h *hold) back(cs api.ChangeSet, desired *api.RenderedBundle, entries map[string]api.InventoryEntry) string {
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
		if held && c.Action == api.Skipped && (want[id] == "" || want[id] != entries[id].Digest) {
			return name
		}
	}
	return ""
}

// resolve gives namespaces to objects whose kinds were not known when the revision was adopted:
// their CRD may have come with a bundle that this one depends on.
func (r *Reconciler) resolve(ctx context.Context, b *bundle, desired *api.RenderedBundle) *api.RenderedBundle {
	out := r.Applier.Resolve(ctx, api.Rendering{Bundles: []api.RenderedBundle{*desired}}).Bundles[0]
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.desired != desired {
		return desired // a newer revision came, and runs next
	}
	for i, o := range out.Objects {
		if o != desired.Objects[i] {
			delete(r.claims, api.RefOf(desired.Objects[i]).ID())
			id := api.RefOf(o).ID()
			claim(r.claims, r.twice, id, b.name, r.owners[id], r.tenantLocked)
		}
	}
	b.desired = &out
	return b.desired
}

func hasEntry(b *bundle, id string) bool {
	_, ok := b.entries[id]
	return ok
}

// desiredByLocked names the bundle whose rendering holds the object.
// A bundle that cannot be rendered still claims all that it owns: nothing of it is deleted.
func (r *Reconciler) desiredByLocked(id string) string {
	if name, ok := r.claims[id]; ok {
		return name
	}
	// An object whose kind nobody knew at the time is claimed without its namespace.
	if ref, ok := api.ParseID(id); ok && ref.Namespace != "" {
		ref.Namespace = ""
		if name, ok := r.claims[ref.ID()]; ok {
			return name
		}
	}
	if name, ok := r.owners[id]; ok {
		if b := r.bundles[name]; b != nil && b.desired != nil && b.desired.Err != nil {
			return name
		}
	}
	return ""
}

// finish takes over what an apply left behind, records it and decides what comes next.
func (r *Reconciler) finish(ctx context.Context, b *bundle, desired *api.RenderedBundle, revision string, res apply.Result, hold *hold, saw *witness) {
	now := r.Now()
	r.mu.Lock()
	moved := r.takeEntriesLocked(b, res.Inventory)
	episodes := saw.correctedLocked(res.Changes, revision)
	policy := false // it has changed
	if desired != nil && res.Changes.Changes != nil {
		policy = b.applied != nil && !reflect.DeepEqual(b.applied.Spec.Drift, desired.Spec.Drift)
		before := b.appliedObjects
		b.setApplied(desired)
		b.keepHeld(before, hold)
		b.notePassed(res.Passed)
		episodes = append(episodes, r.resolveGoneLocked(b)...)
	}
	r.doneLocked(b)
	heldBack := hold.back(res.Changes, desired, b.entries)
	switch {
	case ctx.Err() != nil:
		// We are stopping; what was done is recorded, and the rest goes on at the next start.
	case res.Err != nil:
		r.failLocked(b, res.Err, now)
		b.unanswered = true
		if b.force || !b.wants(desired) {
			// The error is that of a revision, or of a try, that is over.
			b.stalled, b.attempt, b.retry = false, 0, time.Time{}
		}
	case heldBack != "":
		// Nothing more can be done until the suspensions change, which runs the bundle again:
		// unless that happened while it ran.
		b.stalled = b.wants(desired) && !b.force && r.activeNamedLocked(heldBack, now)
		b.status.Phase, b.status.Message = api.PhaseSuspended, "held back by "+heldBack
	default:
		b.attempt, b.retry, b.stalled, b.again = 0, time.Time{}, false, false
		b.settled = b.wants(desired) && !b.force // an order may have come meanwhile
		b.status.Error = nil
		b.status.Removing = desired == nil
		if desired != nil {
			b.status.AppliedRevision, b.status.Digest = revision, desired.Digest
			b.status.DependsOn = desired.Spec.DependsOn
			b.deadline = now.Add(desired.Spec.WaitTimeout())
			b.timedOut = false
		}
	}
	for _, c := range res.Changes.Changes {
		if id := c.Object.ID(); c.Action == api.Skipped && hasEntry(b, id) && b.appliedObjects[id] != nil && b.handsOff(id) {
			b.look[id], b.held[id] = struct{}{}, struct{}{} // it was left as it is, and may not be as Git says
		}
	}
	r.noteChangesLocked(b, res.Changes)
	entries, checks := b.awaited(), []api.HealthCheck(nil)
	if desired != nil {
		checks = desired.Spec.Health
	}
	r.mu.Unlock()

	r.Health.Set(b.name, entries, checks)
	r.movedOut(moved)

	r.mu.Lock()
	r.healthLocked(b, now)
	r.recordLocked(b, episodes...)
	r.reopenLocked(b, res.Changes)
	r.offerLocked(res.Changes)
	r.advanceLocked()
	for id := range b.held {
		r.queue.add(id, now)
	}
	clear(b.held)
	phase, unanswered := b.status.Phase, b.unanswered && res.Err == nil
	b.unanswered = b.unanswered && !unanswered
	r.mu.Unlock()
	if policy {
		r.lookAgain(b)
	} else if unanswered {
		r.lookForStrays(b)
	}
	r.announce(ctx, b.name, res)
	r.publish.add(b.name, phase)
	wake(r.kick)
}

// takeEntriesLocked replaces what the bundle owns. It returns the bundles whose objects it has taken over.
func (r *Reconciler) takeEntriesLocked(b *bundle, inventory []api.InventoryEntry) (from []*bundle) {
	for id := range b.entries {
		if r.owners[id] == b.name {
			delete(r.owners, id)
		}
	}
	b.entries = make(map[string]api.InventoryEntry, len(inventory))
	for _, e := range inventory {
		id := e.Object.ID()
		want := r.claims[id]
		if other := r.bundles[want]; want != b.name && other != nil && hasEntry(other, id) {
			if !newer(e, other.entries[id]) {
				r.owners[id] = want
				continue // it has moved there while this bundle ran
			}
			other.force, other.settled = true, false // it was there before, and is labelled as this one's now
		}
		b.entries[id] = e
		// The bundle that Git names wins while an object moves from one to another.
		if want == "" || want == b.name || r.owners[id] == "" {
			r.owners[id] = b.name
		}
		if want != b.name {
			continue
		}
		for _, other := range r.bundles {
			switch {
			case other == b || !hasEntry(other, id):
			case newer(other.entries[id], e):
				b.force = true // it was here before, and is labelled as the other's now
			default:
				delete(other.entries, id)
				b.noteOrders(id, other.orders[id])
				if !slices.Contains(from, other) {
					from = append(from, other)
				}
			}
		}
	}
	return from
}

// newer reports whether an object was written for one bundle after it was for another one,
// which has not written it since the inventory was rebuilt if no version is known.
func newer(e, other api.InventoryEntry) bool {
	return other.ResourceVersion == "" && e.ResourceVersion != "" || older(other.ResourceVersion, e.ResourceVersion)
}

// movedOut has it known that objects of these bundles belong to another one now.
func (r *Reconciler) movedOut(from []*bundle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range from {
		if r.bundles[b.name] != b {
			continue // it was all that it had
		}
		var checks []api.HealthCheck
		if b.applied != nil {
			checks = b.applied.Spec.Health
		}
		b.status.Objects = len(b.entries)
		r.recordLocked(b)
		r.Health.Set(b.name, b.awaited(), checks)
		r.publish.add(b.name, b.status.Phase)
	}
}

// failLocked notes an error and when to try again.
func (r *Reconciler) failLocked(b *bundle, err error, now time.Time) {
	b.attempt++
	b.settled = false
	d, again := retryDelay(err, b.attempt)
	if !again && b.again {
		d, again, b.anew = lifecycle.RetryFirst, true, true
	}
	b.again = false
	b.stalled = !again
	b.retry = now.Add(d)
	b.status.Error = api.StatusErrorOf(err)
	b.status.Phase = api.PhaseFailed
	b.status.Message = ""
	r.Log.Error("bundle", "bundle", b.name, "error", err, "kind", api.KindOf(err), "stalled", b.stalled, "retry", d)
}

// noteChangesLocked keeps what was done, if anything was.
func (r *Reconciler) noteChangesLocked(b *bundle, cs api.ChangeSet) {
	var changed []api.Change
	for _, c := range cs.Changes {
		if c.Action != api.Unchanged {
			changed = append(changed, c)
		}
	}
	b.status.Objects = len(b.entries)
	b.status.Updated = r.Now()
	if len(changed) == 0 {
		return
	}
	b.status.ChangesOmitted = max(0, len(changed)-api.MaxChanges)
	b.status.Changes = changed[:min(len(changed), api.MaxChanges)]
	b.status.Changed, b.status.ChangedRevision = b.status.Updated, b.revision
	if b.gone {
		b.status.ChangedRevision = r.status.DesiredRevision // which does not have it
	}
	r.Log.Info("bundle applied", "bundle", b.name, "revision", b.status.ChangedRevision,
		"created", cs.Count(api.Created), "updated", cs.Count(api.Updated, api.Recreated),
		"pruned", cs.Count(api.Pruned), "failed", cs.Count(api.Failed, api.Denied), "skipped", cs.Count(api.Skipped))
}
