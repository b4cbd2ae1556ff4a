package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// dependentsLocked returns, by the name of what they depend on, the bundles that are not as Git says: what they depended on
// when they were last applied may be needed until they are, to take away what has left them.
func (r *Reconciler) dependentsLocked() map[string][]*bundle {
	out := map[string][]*bundle{}
	for _, name := range r.namesLocked() {
		if b := r.bundles[name]; !b.synced() {
			for _, d := range b.status.DependsOn {
				out[d] = append(out[d], b)
			}
		}
	}
	return out
}

// mayGoLocked reports whether a bundle that left Git may be removed: it goes after everything that depends on it,
// and after what may take its objects over. If it may not, its status says what it waits for.
func (r *Reconciler) mayGoLocked(b *bundle, dependents []*bundle) bool {
	var waits, cycle []string
	for _, d := range dependents {
		switch {
		case d == b:
		case b.name < d.name && r.dependsLocked(b, d):
			cycle = append(cycle, d.name)
		default:
			waits = append(waits, fmt.Sprintf("%s (%s), which depended on it", d.name, d.status.Phase))
		}
	}
	for _, name := range r.takersLocked(b) {
		waits = append(waits, fmt.Sprintf("%s (%s), which takes objects over from it", name, r.bundles[name].status.Phase))
	}
	if len(waits) > 0 {
		next := b.status
		next.Phase, next.Message, next.Error = api.PhaseBlocked, "left Git; waits for "+strings.Join(waits, ", "), nil
		r.setStatusLocked(b, next)
		return false
	}
	if len(cycle) > 0 {
		r.Log.Warn("bundles that left Git depend on each other: one of them goes first", "bundle", b.name, "before", cycle)
	}
	return true
}

// dependsLocked reports whether one bundle that left Git depends on another such, itself or by others.
func (r *Reconciler) dependsLocked(b, on *bundle) bool {
	seen := map[*bundle]bool{}
	var visit func(*bundle) bool
	visit = func(from *bundle) bool {
		if seen[from] || !from.gone() || from.synced() {
			return false
		}
		seen[from] = true
		return slices.ContainsFunc(from.status.DependsOn, func(name string) bool {
			next := r.bundles[name]
			return next != nil && (next == on || visit(next))
		})
	}
	return on.gone() && visit(b)
}

// takersLocked names the bundles that stay and have yet to take over objects of one that goes.
func (r *Reconciler) takersLocked(gone *bundle) []string {
	var out []string
	claims := r.objects.Claims()
	for _, id := range r.objects.Owned(gone.name) {
		owner := claims.Of(id)
		if owner != "" && r.wantedByLocked(gone, id) == "" {
			continue
		}
		if b := r.bundles[owner]; owner != "" && b != nil && !b.synced() && !slices.Contains(out, owner) {
			out = append(out, owner)
		}
	}
	slices.Sort(out)
	return out
}

// staleLocked tells apart what the bundle owns: what is to be deleted, unless the guard of this revision refuses,
// and what stays, because Git names it, another bundle is taking it over, or not all of Git is known.
func (r *Reconciler) staleLocked(b *bundle, inventory []api.InventoryEntry) (stale, keep []api.InventoryEntry, guard error) {
	broken := r.brokenLocked(b.status.Tenant)
	var kept lifecycle.Sorted
	for _, e := range inventory {
		id := e.Object.ID()
		switch owner := r.wantedByLocked(b, id); owner {
		case b.name:
			keep = append(keep, e)
		case "":
			if broken != "" {
				// It may have moved into the bundle that cannot be rendered.
				kept.Kept++
				kept.Undeclared = true
				keep = append(keep, e)
				continue
			}
			stale = append(stale, e)
		default:
			// The other bundle's apply takes it over; until then it stays on our list.
			if has, ok := r.objects.Entry(owner, id); !ok || objects.Newer(e, has) {
				kept.Undeclared = true
				keep = append(keep, e)
			}
		}
	}
	r.onLocked(b, kept)
	return stale, keep, r.guardLocked(b.name, stale)
}

// stays is apply.PruneRequest.Stays: what staleLocked says of one object, at the moment when it would be deleted.
func (r *Reconciler) stays(b *bundle) func(api.ObjectRef) (string, error) {
	return func(ref api.ObjectRef) (string, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		owner, broken := r.wantedByLocked(b, ref.ID()), r.brokenLocked(b.status.Tenant)
		switch {
		case owner == b.name:
			return "it is in Git again", nil
		case owner != "":
			return fmt.Sprintf("bundle %q is to take it over", owner), nil
		case broken != "":
			return fmt.Sprintf("it may have moved to bundle %q, which cannot be rendered", broken), nil
		case b.desired != nil && !b.desired.Spec.PruneEnabled():
			return "prune is off for the bundle", nil
		}
		return "", plan.GuardProtected([]plan.Deletion{{Bundle: b.name, Object: ref}}, r.rendering.Guards())
	}
}

// prune deletes what the bundle owns and Git no longer names.
func (x *run) prune(ctx context.Context, spec api.BundleSpec, res apply.Result) apply.Result {
	r, b := x.r, x.b
	r.mu.Lock()
	if !spec.PruneEnabled() {
		r.onLocked(b, lifecycle.Sorted{}) // it stays whatever comes
		r.mu.Unlock()
		return res
	}
	stale, keep, guard := r.staleLocked(b, res.Inventory)
	removal := x.desired == nil && b.life.Kept == 0 && guard == nil
	r.mu.Unlock()
	if removal && len(res.Inventory) > 0 {
		ok := x.removalHooks(ctx, &res, r.Applier.RunPreDelete)
		// They may have taken long: another revision may say something else by now.
		r.mu.Lock()
		stale, keep, guard = r.staleLocked(b, res.Inventory)
		if b.desired != nil {
			ok, res.Err = false, cmp.Or(res.Err, error(cameBack()))
		}
		r.mu.Unlock()
		if !ok {
			return res
		}
	}
	if guard != nil {
		res.Inventory, res.Err = append(keep, stale...), guard
		return res
	}
	if len(stale) == 0 {
		res.Inventory = keep
		return res
	}
	pruned := r.Applier.Prune(ctx, apply.PruneRequest{Bundle: b.name, Spec: spec, Entries: stale, Held: x.hold.Held, Waiting: x.waiting(), Stays: r.stays(b)})
	res.Changes.Changes = append(res.Changes.Changes, pruned.Changes.Changes...)
	res.Inventory, res.Err = append(keep, pruned.Inventory...), pruned.Err
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _, _ = r.staleLocked(b, res.Inventory) // what stays may do so by the word of a revision that came meanwhile
	return res
}

// cameBack is the error of a removal that a newer revision has made pointless.
func cameBack() *api.Error {
	return &api.Error{Kind: api.Waiting, Reason: "Superseded", After: time.Millisecond, Err: errors.New("the bundle is in Git again")}
}

// removalHooks runs the hooks of a bundle's removal, and adds to the result what they did. It reports whether to go on.
// A bundle that was never applied to its end has none: what they need may not be there. One of which another bundle
// has objects now is not removed, but renamed.
func (x *run) removalHooks(
	ctx context.Context, res *apply.Result, hooks func(context.Context, apply.Request) ([]api.Change, bool, error),
) bool {
	r, b := x.r, x.b
	r.mu.Lock()
	ever, unknown, revision, facts := b.ever(), b.applied == nil, b.status.AppliedRevision, r.facts
	r.mu.Unlock()
	if !ever {
		return true
	}
	if unknown {
		// The start could not read what was applied. Only what may pass is waited for.
		err := r.baseline(ctx, revision, []*bundle{b}, facts)
		e, _ := errors.AsType[*api.Error](err)
		if k := api.KindOf(err); k == api.Transient || k == api.Waiting || e != nil && e.Reason == "NoKey" || ctx.Err() != nil {
			res.Err = fmt.Errorf("which hooks the removal of bundle %q has is not known: %w", b.name, err)
			return false
		}
	}
	r.mu.Lock()
	applied := b.applied
	moved, inGit := len(r.heirsLocked(b)) > 0, r.inGit
	r.mu.Unlock()
	if applied == nil || moved {
		return true
	}
	changes, ok, err := hooks(ctx, apply.Request{Bundle: *applied, Held: x.hold.Held, InGit: inGit, Waiting: x.waitingForRemoval()})
	res.Changes.Changes = append(res.Changes.Changes, changes...)
	if err != nil {
		res.Err = err
	}
	return ok && err == nil
}

// heirsLocked are the bundles that declare objects of one that has left Git.
func (r *Reconciler) heirsLocked(b *bundle) []*bundle {
	var heirs []*bundle
	for _, id := range r.objects.IDs(b.name) { // some of what it owned may have moved
		if heir := r.bundles[r.wantedByLocked(b, id)]; heir != nil && !slices.Contains(heirs, heir) {
			heirs = append(heirs, heir)
		}
	}
	return heirs
}

// brokenLocked names a bundle of the adopted revision that cannot be rendered, and that objects of a tenant may have moved into:
// one of the same tenant or of the platform. It is empty if there is none.
// What it holds is not known, so nothing is known to have left Git either.
func (r *Reconciler) brokenLocked(tenant string) string {
	if r.rendering == nil {
		return ""
	}
	for i := range r.rendering.Bundles {
		rb := &r.rendering.Bundles[i]
		if of := rb.TenantName(); rb.Err != nil && (of == "" || of == tenant) {
			return rb.Name
		}
	}
	return ""
}

// remove deletes what a bundle that left Git still owns, and then forgets the bundle.
func (x *run) remove(ctx context.Context, inventory []api.InventoryEntry) {
	r, b := x.r, x.b
	r.mu.Lock()
	var spec api.BundleSpec
	if b.applied != nil {
		spec = b.applied.Spec
	} else {
		spec.ServiceAccount = b.status.ServiceAccount
	}
	if b.status.Keep {
		// Known even where nothing that was applied is, because the store was lost.
		spec.Prune = new(bool)
	}
	r.mu.Unlock()
	res := apply.Result{Changes: api.ChangeSet{Bundle: b.name}, Inventory: inventory}
	if spec.PruneEnabled() {
		res = x.prune(ctx, spec, res)
	} else {
		res.Inventory = nil
	}
	if res.Err == nil && len(res.Inventory) == 0 && (!spec.PruneEnabled() || x.removalHooks(ctx, &res, r.Applier.RunPostDelete)) {
		told := res
		if res.Err = x.forget(ctx, &res); res.Err == nil {
			r.announce(ctx, b.name, told)
			return
		}
	}
	x.finish(ctx, res)
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.gone() && len(r.takersLocked(b)) > 0 {
		r.onLocked(b, lifecycle.Unsettled{}) // a revision that came meanwhile has moved some of it
	}
}

// forget drops a bundle of which nothing is left, here and on the cluster.
func (x *run) forget(ctx context.Context, res *apply.Result) error {
	r, b := x.r, x.b
	// What is being published just now would bring it back.
	r.publish.removal.Lock()
	defer r.publish.removal.Unlock()
	// What was deleted last is told before the bundle is no more. Nothing of it is applied from here on: the BundleDeployment
	// takes along which of its hooks ran, and whoever tries this again runs none.
	r.mu.Lock()
	r.noteChangesLocked(b, res.Changes)
	r.offerLocked(res.Changes)
	pruned := res.Changes.Count(api.Pruned)
	res.Changes.Changes = nil // it is told once
	b.applied, b.status.Digest, b.status.AppliedRevision, b.renamed = nil, "", "", false
	r.objects.SetBaseline(b.name, nil, nil)
	r.shareLocked(b)
	last := r.recorder.Note(b.name)
	r.mu.Unlock()
	if err := r.recorder.Wait(last); err != nil {
		return err
	}
	if err := r.Applier.DeleteStatus(ctx, b.name); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.desired != nil {
		return cameBack() // it begins anew
	}
	r.Health.Remove(b.name)
	delete(r.bundles, b.name)
	r.names = nil
	episodes := r.drift.Resolved(r.objects.Remove(b.name), "the bundle left Git")
	r.recorder.Removed(b.name, episodes...)
	r.publish.forget(b.name)
	r.Log.Info("bundle removed", "bundle", b.name, "pruned", pruned)
	x.doneLocked()
	r.onLocked(b, lifecycle.Succeeded{})
	r.advanceLocked()
	wake(r.kick)
	return nil
}
