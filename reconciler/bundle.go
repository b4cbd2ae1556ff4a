package reconciler

import (
	"context"
	"slices"
	"sync"

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

	// desired is what Git says; nil until that is known, and once the bundle has left Git.
	desired  *api.RenderedBundle
	revision string
	// applied is what was last applied: the baseline that drift is measured against.
	// It is nil until that is known, and stays when Git breaks.
	applied        *api.RenderedBundle
	appliedObjects map[string]*unstructured.Unstructured // object ID -> object of applied

	entries map[string]api.InventoryEntry // object ID -> what we own
	status  api.BundleStatus
	// objects: object ID -> what drift knows of it
	objects objects
	// passed are the objects that were there before and are not ours for what an annotation on them says, each with that.
	passed []string

	// life says whether the bundle is to run, and when. onLocked alone changes it.
	life lifecycle.State
	// run is the run under way; nil if there is none.
	run *run
	// renamed says that it has objects of one that was applied and has left Git.
	renamed bool
}

func newBundle(name string) *bundle {
	return &bundle{
		name:    name,
		entries: map[string]api.InventoryEntry{},
		objects: objects{},
		status:  api.BundleStatus{Name: name, Phase: api.PhasePending},
	}
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
	if rb.Err != nil {
		r.onLocked(b, lifecycle.Unrenderable{})
	} else {
		r.onLocked(b, lifecycle.Rendered{Digest: rb.Digest})
	}
	if same {
		return false
	}
	b.revision = revision
	b.run.superseded()
	b.run.cameBack()
	b.objects.each(func(x *object) { x.tried = nil })
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
		b.objects.look(id)
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

// ownsUndeclared reports whether the bundle owns anything that it was not last applied with.
func (b *bundle) ownsUndeclared() bool {
	for id := range b.entries {
		if b.appliedObjects[id] == nil {
			return true
		}
	}
	return false
}

// record is what the store keeps of the bundle.
func (b *bundle) record() api.BundleRecord {
	return api.BundleRecord{Status: b.status, Inventory: b.inventory()}
}

// inGit reports whether a bundle is in Git.
func (r *Reconciler) inGit(bundle string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[bundle]
	return b != nil && !b.gone()
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
			r.onLocked(other, lifecycle.Overwritten{}) // it was there before, and is labelled as this one's now
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
				r.onLocked(b, lifecycle.Overwritten{}) // it was here before, and is labelled as the other's now
			default:
				delete(other.entries, id)
				b.noteOrders(id, other.objects[id].orders)
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
	if b.gone() {
		b.status.ChangedRevision = r.status.DesiredRevision // which does not have it
	}
	r.Log.Info("bundle applied", "bundle", b.name, "revision", b.status.ChangedRevision,
		"created", cs.Count(api.Created), "updated", cs.Count(api.Updated, api.Recreated),
		"pruned", cs.Count(api.Pruned), "failed", cs.Count(api.Failed, api.Denied), "skipped", cs.Count(api.Skipped))
}
