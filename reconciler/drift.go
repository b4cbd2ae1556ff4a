package reconciler

import (
	"context"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// unknownRetry is how soon an object is looked at again whose comparison failed.
const unknownRetry = 5 * time.Second

// unlabelledRetry is how soon an object is looked at again that has lost a label by which the watch sees it,
// and that nobody may give it back: it is left alone, and what happens to it is to be known all the same.
// One that is missing and may not be made is looked for as often: it may come back without our labels.
const unlabelledRetry = 5 * time.Second

// compareLoop looks at objects until the queue is closed.
func (r *Reconciler) compareLoop(ctx context.Context) {
	for {
		id, since, ok := r.queue.get()
		if !ok {
			return
		}
		r.compare(ctx, id, since)
		r.queue.done(id, r.Now())
	}
}

// compare looks at one object: does it differ from what was applied, and what is to be done?
func (r *Reconciler) compare(ctx context.Context, id string, since time.Time) {
	ref, ok := api.ParseID(id)
	if !ok || ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	b := r.bundleOfLocked(id, ref)
	started := r.started
	r.mu.Unlock()
	if b == nil || !started {
		return
	}
	if !b.busy.TryRLock() {
		r.hold(b, id)
		return
	}
	defer b.busy.RUnlock()
	t := r.target(b, id, ref)
	if t == nil {
		return
	}
	ins, err := r.inspect(ctx, b, t)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.unknownObject(b, id, err)
		return
	}
	r.judge(ctx, b, t, ins, since)
}

// inspect looks at an object, at what may own its replicas, and at what others added to it.
func (r *Reconciler) inspect(ctx context.Context, b *bundle, t *target) (ins apply.Inspection, err error) {
	if t.extra {
		ins = r.Applier.InspectExtra(ctx, t.rendered, api.RefOf(t.desired))
		return ins, ins.Err
	}
	for range maxLooks {
		if ins = r.Applier.Inspect(ctx, t.rendered, t.desired); ins.Err != nil {
			return ins, ins.Err
		}
		if t.near, err = r.autoscalers(ctx, t.desired, ins.Live); err != nil {
			return ins, err
		}
		if err = r.withoutAdditions(ctx, b, t, &ins); !kube.IsConflict(err) {
			break // else it changed while it was looked at
		}
	}
	return ins, err
}

// maxLooks is how often an object is inspected that changes between two questions about it.
const maxLooks = 5

// withoutAdditions asks what would be left of an inspected object without what others added, where that is looked for:
// a value that the API server sets anyway is nobody's addition.
func (r *Reconciler) withoutAdditions(ctx context.Context, b *bundle, t *target, ins *apply.Inspection) (err error) {
	if t.extra || ins.Live == nil || ins.DryRun == nil || ins.Refused != nil || !t.rendered.Spec.Drift.AsksForExtra() {
		return nil
	}
	if patch := r.Detective.Additions(r.observation(b, t, *ins, r.Now())); patch != nil {
		ins.Stripped, err = r.Applier.Without(ctx, t.rendered, *ins, patch)
	}
	return err
}

// hold keeps an event back until the bundle is no longer being applied.
func (r *Reconciler) hold(b *bundle, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !b.running() {
		// It ended in between.
		r.queue.addAfter(id, time.Millisecond)
		return
	}
	b.objects.change(id, func(x *object) { x.deferred = true })
}

// bundleOfLocked finds whose object it is: the one whose inventory holds it, the one whose ApplySet its label names,
// or the one that is to have it: it may be applied right now, and the object gone again.
func (r *Reconciler) bundleOfLocked(id string, ref api.ObjectRef) *bundle {
	if name, ok := r.owners[id]; ok {
		return r.bundles[name]
	}
	if seen, ok := r.Watch.Get(ref); ok {
		return r.bundles[r.applySets[seen.PartOf]]
	}
	for _, b := range r.bundles {
		if b.objects[id].episode != nil {
			return b
		}
	}
	return r.bundles[r.claims[id]]
}

// target is an object to compare, with what it is compared to.
type target struct {
	id       string
	ref      api.ObjectRef
	rendered api.RenderedBundle
	// desired is never nil: for an object that is extra it holds nothing but the identity.
	desired  *unstructured.Unstructured
	extra    bool
	entry    *api.InventoryEntry // nil for an extra object
	revision string
	// near are the autoscalers that may own its replicas.
	near []*unstructured.Unstructured
}

// target decides whether an object needs looking at. It returns nil when nothing can have happened:
// our own write, a change of status only, or an object that an apply is about to take care of.
func (r *Reconciler) target(b *bundle, id string, ref api.ObjectRef) *target {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bundles[b.name] != b {
		return nil
	}
	entry, owned := b.entries[id]
	seen, there := r.Watch.Get(ref)
	if owned {
		r.keptLocked(b, entry, seen, there)
	}
	if b.objects[id].orders != seen.Orders && (there || !owned) {
		b.noteOrders(id, seen.Orders)
		r.driftCountLocked(b) // whether or not it is looked at
	}
	if b.applied == nil {
		return nil
	}
	desired := b.appliedObjects[id]
	known := b.objects[id]
	open := known.episode != nil
	asked := open || known.look || known.unknown != ""
	t := &target{id: id, ref: ref, rendered: *b.applied, desired: desired, revision: b.status.AppliedRevision}
	if owned {
		t.entry = &entry
	}
	if to := r.claims[id]; to != "" && to != b.name {
		return nil // it moves to another bundle, whose apply takes care of it
	}
	if owned && desired != nil && r.leavesHeldLocked(b, t) {
		return nil // Git says nothing of it any more, and a suspension keeps it from being pruned
	}
	switch {
	case desired == nil && owned:
		return nil // left Git; pruning is the apply's business
	case desired == nil && !there && !open:
		return nil
	case desired == nil:
		if r.claims[id] != "" || b.desired == nil {
			return nil // another bundle is about to take it over, or all of this one goes
		}
		if there && r.strayLocked(b, ref, seen) {
			return nil // pruning is the apply's business
		}
		if !open && !b.applied.Spec.Drift.AsksForExtra() {
			return nil // controllers copy our labels to what they make; nobody asks
		}
		if there {
			ref.Version = r.versionOfLocked(ref)
		}
		t.extra, t.desired = true, identity(ref)
		return t
	case !owned:
		return nil // not yet applied
	case there && !asked && !changed(entry, seen):
		return nil // our own write, or a change of status
	case entry.Digest != "" && entry.Digest != apply.Digest(desired) && !b.handsOff(id):
		r.retryLocked(b, id, seen, there || r.Watch.Synced(ref.GVK()))
		return nil // its apply failed, and is tried again
	}
	// The mark is taken off before anybody looks: one that is set meanwhile is for another look. A look that fails makes it unknown.
	b.objects.change(id, func(x *object) { x.look = false })
	if !asked && !there && !r.Watch.Synced(desired.GroupVersionKind()) && entry.ResourceVersion != "" {
		return nil // the watch will tell
	}
	return t
}

// leavesHeldLocked reports whether an object has left Git and a suspension keeps it. Its open episode ends.
func (r *Reconciler) leavesHeldLocked(b *bundle, t *target) bool {
	now := r.Now()
	want, pending := r.pendingLocked(b, t)
	if _, held := r.heldLocked(now, b.name, t.ref); !held || !pending || want != nil {
		return false
	}
	if e, open := b.objects.episode(t.id); open {
		b.objects.endEpisode(t.id)
		r.driftCountLocked(b)
		r.recordLocked(b, r.Detective.Resolved(e, now, "the object left Git"))
	}
	return true
}

// handsOff reports whether an object of the bundle is not to be written, by Git's word or an annotation on the cluster.
// That it is not as Git says is known all the same.
func (b *bundle) handsOff(id string) bool {
	return b.objects[id].orders.Reconcile == api.ValueDisabled ||
		api.OrdersIn(b.appliedObjects[id].GetAnnotations()).Reconcile == api.ValueDisabled
}

// noteOrders notes what the annotations of a live object say.
func (b *bundle) noteOrders(id string, o api.Orders) {
	b.objects.change(id, func(x *object) { x.orders = o })
}

// noteOrdersOf notes it of an object that was read; nil for one that is not there.
func (b *bundle) noteOrdersOf(id string, live *unstructured.Unstructured) {
	var o api.Orders
	if live != nil {
		o = api.OrdersIn(live.GetAnnotations())
	}
	b.noteOrders(id, o)
}

// keptLocked has a bundle run again when an object changed that the last run passed over,
// such as one with api.AnnotationPrune or api.AnnotationReconcile: what it was passed over for may be gone.
func (r *Reconciler) keptLocked(b *bundle, e api.InventoryEntry, seen Seen, there bool) {
	unlabelled := b.objects[e.Object.ID()].unlabelled
	if there && !api.SameLabels(e.MetaDigest, seen.MetaDigest) || !there && !unlabelled && r.Watch.Synced(e.Object.GVK()) {
		r.tryAgainLocked(b, e)
	}
}

// tryAgainLocked has a bundle run again if its last run passed an object over.
func (r *Reconciler) tryAgainLocked(b *bundle, e api.InventoryEntry) {
	id := e.Object.ID()
	want := b.appliedObjects[id]
	if b.synced() && (want != nil && e.Digest != apply.Digest(want) || r.desiredByLocked(id) == "") {
		r.onLocked(b, lifecycle.Unsettled{})
	}
}

// unlabelledLocked notes what the annotations of an object say that was read, and has one that the watch does not see
// looked at again. What the watch cannot tell of that one, this does.
func (r *Reconciler) unlabelledLocked(b *bundle, t *target, live *unstructured.Unstructured) {
	before := b.objects[t.id]
	b.noteOrdersOf(t.id, live)
	is := live != nil && !watched(live)
	b.objects.change(t.id, func(x *object) { x.unlabelled = is })
	if is {
		r.queue.addAfter(t.id, unlabelledRetry)
	}
	if e, owned := b.entries[t.id]; owned && before.unlabelled && (!is || b.objects[t.id].orders != before.orders) {
		r.tryAgainLocked(b, e)
	}
}

// watched reports whether the watch sees an object: it selects by both labels.
func watched(o *unstructured.Unstructured) bool {
	labels := o.GetLabels()
	return labels[api.LabelPartOf] != "" && labels[api.LabelManagedBy] == api.ManagedBy
}

// versionOfLocked is the version in which we know the kind of an extra object.
func (r *Reconciler) versionOfLocked(ref api.ObjectRef) string {
	for _, b := range r.bundles {
		for _, e := range b.entries {
			if e.Object.Group == ref.Group && e.Object.Kind == ref.Kind && e.Object.Version != "" {
				return e.Object.Version
			}
		}
	}
	return ref.Version
}

func identity(ref api.ObjectRef) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(ref.GVK())
	o.SetNamespace(ref.Namespace)
	o.SetName(ref.Name)
	return o
}

// unknownObject notes that an object could not be compared: it is neither in sync nor drifted.
func (r *Reconciler) unknownObject(b *bundle, id string, err error) {
	r.Metrics.unknown.Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	first := b.objects[id].unknown == ""
	b.objects.change(id, func(x *object) { x.unknown = err.Error() })
	if first {
		r.Log.Warn("compare", "bundle", b.name, "object", id, "error", err)
	}
	r.driftCountLocked(b)
	r.queue.addAfter(id, unknownRetry)
}

// judge stores what was found and corrects it where that is wanted.
// The evidence is in the store before anything is written.
func (r *Reconciler) judge(ctx context.Context, b *bundle, t *target, ins apply.Inspection, since time.Time) {
	now := r.Now()
	verdict := r.observe(b, t, ins, now)
	if verdict.Opened && r.halfDone(ctx, b, t, ins, now) {
		return // the apply that comes says so
	}
	if drifts(verdict) {
		t, ins, verdict = r.asGitSaysNow(ctx, b, t, ins, verdict, now)
	}
	if verdict.Opened && since.Before(now) && now.Sub(since) < time.Minute {
		verdict.Episode.MoveBegin(since) // when we were told, and not when we had looked
	}
	scaled := !t.extra && r.autoscaled(t, ins.Live)
	r.mu.Lock()
	b.objects.change(t.id, func(x *object) { x.unknown = "" })
	if !t.extra {
		r.unlabelledLocked(b, t, ins.Live)
	}
	if verdict.Episode == nil || !verdict.Episode.Open() {
		if ins.Live != nil && !t.extra {
			r.seenLocked(b, t, ins.Live, scaled)
		}
	}
	r.mu.Unlock()
	if verdict.Episode != nil {
		if err := r.store(b, t.id, verdict.Episode); err != nil {
			r.unknownObject(b, t.id, err)
			return
		}
		if verdict.Opened {
			r.opened(*verdict.Episode, since, now)
		}
	} else {
		r.mu.Lock()
		r.driftCountLocked(b)
		r.mu.Unlock()
	}
	if verdict.After > 0 {
		r.queue.addAfter(t.id, verdict.After)
	}
	if !t.extra && ins.Live == nil && verdict.Episode != nil && verdict.Episode.Open() {
		r.queue.addAfter(t.id, unlabelledRetry)
	}
	// What Git has changed meanwhile is not set back to its old value first: the apply that comes writes the new one.
	if (verdict.Write != nil || verdict.Strip != nil || verdict.Remove) && !r.superseded(b, t) {
		r.correct(ctx, b, t, ins, verdict, since)
	}
}

// superseded reports whether a newer revision, which is yet to be applied, says something else of the object.
// When it has been applied, the open episode is looked at again.
func (r *Reconciler) superseded(b *bundle, t *target) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, pending := r.pendingLocked(b, t)
	return pending && (want == nil || apply.Digest(want) != apply.Digest(t.desired))
}

// pendingLocked returns what a newer revision, which is yet to be applied as a whole, says of the object:
// nil if it has left Git. The second result is false if there is no such revision.
func (r *Reconciler) pendingLocked(b *bundle, t *target) (*unstructured.Unstructured, bool) {
	switch {
	case t.extra || b.synced():
		return nil, false
	case b.gone():
		return nil, true
	case b.desired == nil || b.desired.Err != nil:
		return nil, false
	}
	for _, o := range b.desired.Objects {
		if api.RefOf(o).ID() == t.id {
			return o, true
		}
	}
	return nil, true
}

// drifts reports whether a verdict is that the object has drifted, or still has.
func drifts(v Verdict) bool { return v.Episode != nil && v.Episode.Open() }

// asGitSaysNow judges drift against a newer revision that is yet to be applied: an object that is as that one says
// has not drifted any more, and while a suspension keeps the revision back, what it says is what the object will be set to.
// In any other case it returns what it is given.
func (r *Reconciler) asGitSaysNow(ctx context.Context, b *bundle, t *target, ins apply.Inspection, v Verdict, now time.Time) (*target, apply.Inspection, Verdict) {
	next, held := r.newer(b, t, now)
	if next == nil {
		return t, ins, v
	}
	look, err := r.inspect(ctx, b, next)
	if err != nil {
		return t, ins, v // what is known of it is against the older revision
	}
	again := r.observe(b, next, look, now)
	if drifts(again) && !held {
		return t, ins, v // the apply that comes writes over it
	}
	return next, look, again
}

// newer returns an object with what a newer revision, yet to be applied, says of it: nil if that is nothing else.
// The second result says whether a suspension keeps the revision from being applied to it.
func (r *Reconciler) newer(b *bundle, t *target, now time.Time) (*target, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, pending := r.pendingLocked(b, t)
	if !pending || want == nil || apply.Digest(want) == apply.Digest(t.desired) {
		return nil, false
	}
	next := *t
	next.rendered, next.desired, next.revision = *b.desired, want, b.revision
	_, held := r.heldLocked(now, b.name, t.ref)
	return &next, held
}

// halfDone reports whether the object is as the newer revision says, which is yet to be applied as a whole:
// we were stopped in the middle of that, and nobody else did anything.
func (r *Reconciler) halfDone(ctx context.Context, b *bundle, t *target, ins apply.Inspection, now time.Time) bool {
	r.mu.Lock()
	want, pending := r.pendingLocked(b, t)
	var rendered api.RenderedBundle
	if pending && b.desired != nil {
		rendered = *b.desired
	}
	r.mu.Unlock()
	switch {
	case !pending:
		return false
	case want == nil:
		return ins.Live == nil // it has left Git, and is gone
	case apply.Digest(want) == apply.Digest(t.desired):
		return false
	}
	next := *t
	next.rendered, next.desired = rendered, want
	look := r.Applier.Inspect(ctx, rendered, want)
	if look.Err != nil || look.Live == nil || r.withoutAdditions(ctx, b, &next, &look) != nil {
		return false
	}
	verdict := r.observe(b, &next, look, now)
	return verdict.Episode == nil || !verdict.Episode.Open()
}

// observe asks the detective, with the object's last episode and the suspension that covers it.
func (r *Reconciler) observe(b *bundle, t *target, ins apply.Inspection, now time.Time) Verdict {
	r.mu.Lock()
	var prev *api.Episode
	if e, ok := b.objects.episode(t.id); ok {
		prev = &e
	}
	r.mu.Unlock()
	if prev == nil {
		prev, _ = r.Store.LatestEpisode(t.id)
	}
	return r.Detective.Observe(prev, r.observation(b, t, ins, now))
}

// observation is what was found, in the detective's words.
func (r *Reconciler) observation(b *bundle, t *target, ins apply.Inspection, now time.Time) Observation {
	r.mu.Lock()
	s, _ := r.heldLocked(now, b.name, t.ref)
	r.mu.Unlock()
	o := Observation{
		Bundle: b.name, Object: t.ref, Revision: t.revision, Spec: t.rendered.Spec.Drift,
		Live: ins.Live, DryRun: ins.DryRun, Stripped: ins.Stripped, Refused: ins.Refused != nil, Suspension: s.Name, At: now,
	}
	if !t.extra {
		o.Desired, o.Object = ins.Desired, api.RefOf(t.desired)
		o.Known, o.Neighbours = t.entry, t.near
		o.Unapplied = t.entry != nil && t.entry.Digest != apply.Digest(t.desired)
	}
	return o
}

// seenLocked notes that an object, as it is now, was found to be as it should be.
func (r *Reconciler) seenLocked(b *bundle, t *target, live *unstructured.Unstructured, scaled bool) {
	e, ok := b.entries[t.id]
	if !ok {
		return
	}
	e.UID, e.ResourceVersion, e.Generation = string(live.GetUID()), live.GetResourceVersion(), live.GetGeneration()
	e.MetaDigest, e.Claimed = api.MetaDigest(live), api.ClaimedAt(live)
	e.Scaled, e.Plain = scaled, plan.Plain(live, b.name, t.rendered.Spec.Drift)
	b.entries[t.id] = e
}

// store keeps an episode, and with it the bundle's counts and inventory. A new one is given its ID.
func (r *Reconciler) store(b *bundle, id string, e *api.Episode) error {
	r.mu.Lock()
	if e.ID == "" {
		e.ID = r.Store.NextEpisodeID()
	}
	e.Cluster = r.Cluster
	b.objects.setEpisode(id, *e)
	r.countLocked(b)
	stored, phase := r.recordLocked(b, *e), b.status.Phase
	r.mu.Unlock()
	if err := r.recorder.wait(stored); err != nil {
		return err
	}
	r.publish.add(b.name, phase)
	return nil
}

// correct does what the verdict asks for, and stores what came of it.
func (r *Reconciler) correct(ctx context.Context, b *bundle, t *target, ins apply.Inspection, v Verdict, since time.Time) {
	r.mu.Lock()
	now := r.Now()
	s, held := r.heldLocked(now, b.name, t.ref)
	e, known := b.objects.episode(t.id)
	r.mu.Unlock()
	if !known {
		return
	}
	if held {
		// Suspended between the look and the write: the next look records it.
		r.Log.Info("correction held back", "object", t.id, "suspension", s.Name)
		r.queue.addAfter(t.id, time.Millisecond)
		return
	}
	entry, err := r.write(ctx, t, ins, v)
	if err != nil && ctx.Err() != nil {
		return
	}
	if kube.IsConflict(err) {
		// It changed again after the evidence was taken: look again, so that nothing unseen is overwritten.
		r.queue.addAfter(t.id, conflictRetry)
		return
	}
	at := r.Now()
	e = r.Detective.Corrected(e, at, err)
	if err == nil && !v.Remove {
		r.mu.Lock()
		entry.Origin = b.entries[t.id].Origin
		b.entries[t.id] = entry
		r.mu.Unlock()
	}
	if serr := r.store(b, t.id, &e); serr != nil {
		r.Log.Error("store", "error", serr)
	}
	if err != nil {
		r.correctionFailed(b, t, err)
		return
	}
	r.Metrics.corrected(since, at)
	r.Log.Info("drift corrected", "bundle", b.name, "object", t.id, "episode", e.ID, "manager", e.By.Manager)
	r.publish.event(cluster.EventRequest{Bundle: b.name, Object: e.Object, Type: "Normal", Reason: "Corrected", Message: "drift corrected: " + summary(e)})
	if (v.Write != nil || v.Strip != nil) && t.rendered.Spec.Drift.AsksForExtra() {
		// Writing our fields does not touch those that others added, and taking those away must have left ours.
		r.mu.Lock()
		b.objects.look(t.id)
		r.mu.Unlock()
		r.queue.add(t.id, r.Now())
	}
	if ins.Live == nil || v.Remove {
		// Another object under the old name, or none any more.
		r.mu.Lock()
		entries, checks := b.awaited(), b.applied.Spec.Health
		r.mu.Unlock()
		r.Health.Set(b.name, entries, checks)
	}
}

// conflictRetry is how soon an object is looked at again that changed between the look and the write.
const conflictRetry = 20 * time.Millisecond

// write writes what the verdict asks for.
func (r *Reconciler) write(ctx context.Context, t *target, ins apply.Inspection, v Verdict) (api.InventoryEntry, error) {
	switch {
	case v.Remove:
		return api.InventoryEntry{}, r.Applier.RemoveExtra(ctx, t.rendered, ins.Live)
	case v.Strip != nil:
		return r.Applier.Strip(ctx, t.rendered, ins.Live, v.Strip)
	}
	entry, err := r.Applier.Correct(ctx, t.rendered, v.Write, ins.Live)
	// The digest is of what Git says, whatever was left to others.
	entry.Digest, entry.Scaled = apply.Digest(t.desired), r.autoscaled(t, ins.Live)
	return entry, err
}

// correctionFailed has the object looked at again: later after a refusal than after a hiccup.
func (r *Reconciler) correctionFailed(b *bundle, t *target, err error) {
	r.Log.Error("correct", "bundle", b.name, "object", t.id, "error", err, "kind", api.KindOf(err))
	d, again := retryDelay(err, 1)
	if !again || api.KindOf(err) == api.Forbidden {
		d = lifecycle.RetryLongest
	}
	r.queue.addAfter(t.id, d)
}

// opened tells that a drift has begun.
func (r *Reconciler) opened(e api.Episode, since, now time.Time) {
	r.Metrics.detected(e.Class, since, now)
	r.Log.Info("drift", "bundle", e.Bundle, "object", e.Object.ID(), "class", e.Class, "episode", e.ID,
		"manager", e.By.Manager, "fields", len(e.Fields)+e.FieldsOmitted, "outcome", e.Outcome)
	r.publish.event(cluster.EventRequest{Bundle: e.Bundle, Object: e.Object, Type: "Warning", Reason: "Drifted", Message: summary(e)})
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

// resolveGoneLocked closes the episodes of objects that are no longer the bundle's.
func (r *Reconciler) resolveGoneLocked(b *bundle) []api.Episode {
	var out []api.Episode
	now := r.Now()
	for id, e := range b.objects.open() {
		if b.appliedObjects[id] == nil && e.Class != api.ClassExtra {
			b.objects.endEpisode(id)
			out = append(out, r.Detective.Resolved(e, now, "the object left Git"))
		} else {
			r.queue.add(id, now)
		}
	}
	r.countLocked(b)
	return out
}

// resolveAllLocked closes every open episode of a bundle.
func (r *Reconciler) resolveAllLocked(b *bundle, why string) []api.Episode {
	var out []api.Episode
	for id, e := range b.objects.open() {
		b.objects.endEpisode(id)
		out = append(out, r.Detective.Resolved(e, r.Now(), why))
	}
	return out
}
