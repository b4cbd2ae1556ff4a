package reconciler

import (
	"cmp"
	"context"
	"slices"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// bundle is what is known of one bundle, but for its objects: those are in Reconciler.objects.
// Its fields are guarded by Reconciler.mu.
type bundle struct {
	name string

	// desired is what Git says; nil until that is known, and once the bundle has left Git.
	desired  *api.RenderedBundle
	revision string
	// applied is what was last applied: the baseline that drift is measured against.
	// It is nil until that is known, and stays when Git breaks.
	applied *api.RenderedBundle
	// status is what is told of the bundle, but for the tally of its objects.
	status api.BundleStatus

	// life says whether the bundle is to run, and when. onLocked alone changes it.
	life lifecycle.State
	// run is the run under way; nil if there is none.
	run *run
	// renamed says that it has objects of one that was applied and has left Git.
	renamed bool
}

func newBundle(name string) *bundle {
	return &bundle{name: name, status: api.BundleStatus{Name: name, Phase: api.PhasePending}}
}

// ever reports whether it was ever applied to its end.
func (b *bundle) ever() bool { return b.status.Digest != "" || b.status.AppliedRevision != "" }

// gone reports whether the bundle has left Git.
func (b *bundle) gone() bool { return b.life.Git == lifecycle.Removed }

// synced reports whether the bundle was applied, pruned and recorded without error from what Git says.
func (b *bundle) synced() bool { return b.life.Phase == lifecycle.Synced }

// running reports whether the bundle has a worker's place, or is being applied.
func (b *bundle) running() bool { return b.life.Phase == lifecycle.Running }

// onLocked has an event happen to a bundle, and the scheduler look at the bundle if that is to run now.
func (r *Reconciler) onLocked(b *bundle, e lifecycle.Event) {
	now := r.Now()
	next, wait := lifecycle.Next(b.life, now, e)
	if wait == 0 && b.life.Wait(now) != 0 {
		wake(r.kick)
	}
	b.life = next
	r.shareLocked(b)
}

// shareLocked makes known to the home of objects what Git says of a bundle, and how far that is applied.
// It follows every change of what it shares.
func (r *Reconciler) shareLocked(b *bundle) {
	if r.bundles[b.name] != b {
		return // it was all that it had
	}
	r.objects.Publish(objects.Bundle{
		Name: b.name, Desired: b.desired, Revision: b.revision, Applied: b.applied, AppliedRevision: b.status.AppliedRevision,
		Gone: b.gone(), Synced: b.synced(),
	})
}

// liftable reports whether the last error of a bundle is the refusal of a guard, or of another bundle that declares an object:
// a new revision may lift it.
func (b *bundle) liftable() bool {
	e := b.status.Error
	return e != nil && (e.Reason == plan.ReasonProtected || e.Reason == plan.ReasonDeclaredTwice || e.Reason == api.ReasonTenantDenied)
}

// declareLocked takes a new rendering. It reports whether there is anything to apply.
func (r *Reconciler) declareLocked(b *bundle, rb *api.RenderedBundle, revision string) bool {
	same := rb.Err == nil && b.life.Wants(rb.Digest)
	b.desired = rb
	if !same {
		b.revision = revision
	}
	if rb.Err != nil {
		r.onLocked(b, lifecycle.Unrenderable{})
	} else {
		r.onLocked(b, lifecycle.Rendered{Digest: rb.Digest})
	}
	if same {
		return false
	}
	b.run.superseded()
	b.run.cameBack()
	r.objects.Untried(b.name)
	return true
}

// setAppliedLocked makes a rendering the baseline for drift. Objects in held, which a suspension kept from being written, keep theirs.
func (r *Reconciler) setAppliedLocked(b *bundle, rb *api.RenderedBundle, held map[string]string) {
	b.applied = rb
	r.objects.SetBaseline(b.name, rb.Objects, held)
	r.shareLocked(b)
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

// read is what the store keeps of the bundles that choose names. What is noted to be stored is noted under mu,
// or under the lock of the home of objects: nothing comes between the choice and what is read.
func (r *Reconciler) read(choose func() []string) (api.ClusterStatus, []api.BundleRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []api.BundleRecord
	for name, c := range r.objects.Contents(choose) {
		if b := r.bundles[name]; b != nil {
			out = append(out, api.BundleRecord{Status: c.In(b.status), Inventory: c.Inventory})
		}
	}
	slices.SortFunc(out, func(x, y api.BundleRecord) int { return cmp.Compare(x.Status.Name, y.Status.Name) })
	return r.status, out
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
	r.objects.Rename(b.name, desired.Objects, out.Objects, r.tenantLocked)
	b.desired = &out
	r.shareLocked(b)
	return b.desired
}

// takeInventoryLocked replaces what the bundle owns. It returns the bundles whose objects it has taken over.
func (r *Reconciler) takeInventoryLocked(b *bundle, inventory []api.InventoryEntry) (from []string) {
	taken := r.objects.SetInventory(b.name, inventory)
	for _, name := range taken.Overwritten {
		if other := r.bundles[name]; other != nil {
			r.onLocked(other, lifecycle.Overwritten{})
		}
	}
	return taken.From
}

// movedOut has it known that objects of these bundles belong to another one now.
func (r *Reconciler) movedOut(from []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range from {
		b := r.bundles[name]
		if b == nil {
			continue // it was all that it had
		}
		var checks []api.HealthCheck
		if b.applied != nil {
			checks = b.applied.Spec.Health
		}
		b.status.Objects = r.objects.Count(name)
		r.recorder.Note(name)
		r.Health.Set(name, r.objects.Awaited(name), checks)
		r.publish.add(b.name, b.status.Phase)
	}
}

// noteChangesLocked keeps what was done, if anything was.
func (r *Reconciler) noteChangesLocked(b *bundle, cs api.ChangeSet) {
	var changed []api.Change
	for _, c := range cs.Changes {
		if c.Action != api.Unchanged {
			changed = append(changed, c)
		}
	}
	b.status.Objects = r.objects.Count(b.name)
	b.status.Updated = r.Now()
	if len(changed) == 0 {
		return
	}
	b.status.ChangesOmitted = max(0, len(changed)-api.MaxChanges)
	b.status.Changes = changed[:min(len(changed), api.MaxChanges)]
	b.status.Changed, b.status.ChangedRevision = b.status.Updated, b.revision
	if b.gone() {
		b.status.ChangedRevision = r.status.DesiredRevision // which does not have it
	}
	r.Log.Info("bundle applied", "bundle", b.name, "revision", b.status.ChangedRevision,
		"created", cs.Count(api.Created), "updated", cs.Count(api.Updated, api.Recreated),
		"pruned", cs.Count(api.Pruned), "failed", cs.Count(api.Failed, api.Denied), "skipped", cs.Count(api.Skipped))
}
