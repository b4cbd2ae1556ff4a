package reconciler

import (
	"slices"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// This file is about what has bundles run again beside Git: what they wrote themselves, and what became of their objects.

// reopenLocked has bundles tried again that fail, where another one has changed what they may fail for:
// one that they depend on, or an object by which the API server judges others.
func (r *Reconciler) reopenLocked(by *bundle, cs api.ChangeSet) {
	// What hooks leave behind at every try is none of the bundle's objects, and no change that anybody waits for.
	wrote := func(c api.Change) bool { return c.Wrote() && (c.Action == api.Pruned || hasEntry(by, c.Object.ID())) }
	if !slices.ContainsFunc(cs.Changes, wrote) {
		return
	}
	governs := slices.ContainsFunc(cs.Changes, func(c api.Change) bool { return wrote(c) && plan.Governs(c.Object) })
	for _, b := range r.bundles {
		if governs || b.desired != nil && slices.Contains(b.desired.Spec.DependsOn, by.name) {
			r.onLocked(b, lifecycle.Reopened{})
		}
	}
}

// markRendered records the current discovery generation. Calling the returned function marks all charts as rendered against it.
func (r *Reconciler) markRendered() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	gen := r.discoveryGen
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.renderedGen = gen
		wake(r.kick)
	}
}

// offerLocked has charts rendered anew after a bundle has changed what the cluster offers, and so what they may ask for.
func (r *Reconciler) offerLocked(cs api.ChangeSet) {
	if slices.ContainsFunc(cs.Changes, func(c api.Change) bool {
		return c.Wrote() && (c.Object.Kind == "CustomResourceDefinition" || c.Object.Kind == "APIService")
	}) {
		r.discoveryGen++
		wake(r.sync)
	}
}

// strayLocked takes into a bundle's inventory what we applied and never heard back of, because the answer was lost or we were killed,
// if it has left Git since: it is the bundle's to prune. It reports whether it is such an object.
func (r *Reconciler) strayLocked(b *bundle, ref api.ObjectRef, seen Seen) bool {
	ref.Version = r.versionOfLocked(ref)
	e := api.InventoryEntry{
		Object: ref, UID: seen.UID, ResourceVersion: seen.ResourceVersion, Generation: seen.Generation, MetaDigest: seen.MetaDigest,
	}
	if !seen.Applied || b.desired.Err != nil || r.desiredByLocked(ref.ID()) != "" ||
		plan.Prune(plan.PruneInput{Bundle: b.name, Entry: e, Spec: b.desired.Spec}).Next != plan.Look {
		return false
	}
	b.entries[ref.ID()], r.owners[ref.ID()] = e, b.name
	r.onLocked(b, lifecycle.Unsettled{})
	return true
}

// retryLocked has a bundle tried again of which an object was refused that is not as it was then, or is gone:
// it may not be refused any more.
func (r *Reconciler) retryLocked(b *bundle, id string, seen Seen, known bool) {
	was := b.objects[id].tried
	same := was != nil && was.UID == seen.UID && was.Generation == seen.Generation && api.SameMeta(was.MetaDigest, seen.MetaDigest)
	if !known || same || b.synced() {
		return
	}
	b.objects.change(id, func(x *object) { x.tried = &seen })
	r.onLocked(b, lifecycle.ObjectChanged{})
}
