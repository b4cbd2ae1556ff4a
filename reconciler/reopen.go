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
	wrote := func(c api.Change) bool {
		_, owned := r.objects.Entry(by.name, c.Object.ID())
		return c.Wrote() && (c.Action == api.Pruned || owned)
	}
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
