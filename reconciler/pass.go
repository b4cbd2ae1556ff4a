package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// load takes up what the store and the cluster know, before the first pass.
// Suspensions are read first of all: nothing is written before they are known.
func (r *Reconciler) load(ctx context.Context) error {
	status, err := r.Store.Status()
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	if err := r.loadSuspensions(ctx, status.Suspensions); err != nil {
		return err
	}
	err = r.insist(ctx, func() (err error) {
		r.facts, err = r.Applier.Facts(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("look at the cluster: %w", err)
	}
	records, err := r.Store.Bundles()
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	open, err := r.Store.OpenEpisodes()
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	kept := len(records)
	err = r.insist(ctx, func() error {
		found, err := r.unrecorded(ctx, records[:kept])
		records = append(records[:kept:kept], found...)
		return err
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.AppliedRevision, r.status.DesiredRevision = status.AppliedRevision, status.DesiredRevision
	r.status.Subject, r.status.SignedBy, r.status.Fetched = status.Subject, status.SignedBy, status.Fetched
	r.status.KubeVersion = r.facts.KubeVersion
	for i, rec := range records {
		b := r.bundleLocked(rec.Status.Name)
		b.status = rec.Status
		b.revision = rec.Status.AppliedRevision
		r.shareLocked(b)
		r.publish.phase(b.name, b.status.Phase)
		r.takeInventoryLocked(b, rec.Inventory)
		r.objects.Restore(b.name, rec.Status)
		if i >= kept {
			r.recorder.Note(b.name) // all of them at once: a store that holds some is not rebuilt again
		}
	}
	for _, e := range open {
		r.objects.Change(e.Bundle, e.Object.ID(), func(o *objects.Object) { o.SetEpisode(e) })
	}
	r.watchLocked()
	return nil
}

// insist asks the cluster until it answers. Only an error that a human must end, and the end of ctx, end it sooner.
func (r *Reconciler) insist(ctx context.Context, ask func() error) error {
	for attempt := 1; ; attempt++ {
		err := ask()
		if k := api.KindOf(err); err == nil || k == api.Stalled || k == api.Forbidden {
			return err
		}
		d, _ := retryDelay(err, attempt)
		d = min(d, startRetry)
		if ctx.Err() == nil {
			r.Log.Warn("the cluster does not answer", "error", err, "retry", d)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
		}
	}
}

// startRetry bounds how long a start waits before it asks the cluster again.
const startRetry = 15 * time.Second

// unrecorded makes records from the ApplySets on the cluster, of the bundles that the store does not hold:
// a lost store costs nothing but history, and one that is put back from a copy knows what an agent made meanwhile.
func (r *Reconciler) unrecorded(ctx context.Context, records []api.BundleRecord) ([]api.BundleRecord, error) {
	told, err := r.Applier.BundleStatuses(ctx)
	if err != nil {
		return nil, fmt.Errorf("rebuild the inventory from the cluster: %w", err)
	}
	recorded := map[string]bool{}
	for _, rec := range records {
		recorded[rec.Status.Name] = true
	}
	known := map[string]api.BundleStatus{}
	for _, s := range told {
		if !recorded[s.Name] {
			known[s.Name] = s
		}
	}
	if len(known) == 0 && len(records) > 0 {
		return nil, nil
	}
	owned, err := r.Applier.Inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("rebuild the inventory from the cluster: %w", err)
	}
	maps.DeleteFunc(owned, func(name string, _ []api.InventoryEntry) bool { return recorded[name] })
	var out []api.BundleRecord
	for _, name := range slices.Sorted(maps.Keys(owned)) {
		// A copy that somebody made of an object, labels included, is not what we applied.
		ours := slices.DeleteFunc(owned[name], func(e api.InventoryEntry) bool { return e.Claimed == 0 })
		st, told := known[name]
		if !told && len(ours) == 0 {
			continue
		}
		out = append(out, api.BundleRecord{
			Status: api.BundleStatus{
				Name: name, Phase: api.PhasePending, Objects: len(ours),
				// A bundle whose BundleDeployment is gone has left Git, and left this behind.
				Keep: st.Keep || !told, ServiceAccount: st.ServiceAccount, Tenant: st.Tenant,
				AppliedRevision: st.AppliedRevision,
			},
			Inventory: ours,
		})
	}
	if len(out) > 0 {
		r.Log.Info("inventory rebuilt from the cluster", "bundles", len(out))
	}
	return out, nil
}

// pass brings the desired state up to date and sets the scheduler to work on it.
// Whatever fails here leaves the last good state applied, watched and corrected.
func (r *Reconciler) pass(ctx context.Context) error {
	snap, fetchErr := r.Source.Fetch(ctx)
	if fetchErr != nil {
		r.fetchFailed(fetchErr)
	}
	if snap.Tree == nil {
		return errors.Join(fetchErr, ctx.Err())
	}
	if fetchErr == nil {
		r.fetched(snap)
	}
	defer r.markRendered()()
	rendering, err := r.renderUnlessOld(ctx, snap, r.currentFacts(ctx))
	r.tried = nil
	if errors.Is(err, errOld) {
		return nil
	}
	if err == nil {
		keys := rendering.Keys // and not a pointer into all that was rendered
		r.tried = &keys
		rendering, err = r.gate(rendering)
	}
	if err != nil {
		r.refuse(err)
		r.baselines(ctx, nil)
		r.begin()
		return errors.Join(fetchErr, err)
	}
	r.baselines(ctx, &rendering)
	r.adopt(rendering)
	r.begin()
	return errors.Join(fetchErr, passing(rendering))
}

// passing is an error of a bundle's rendering that may go away by itself, such as a registry that does not answer:
// then the pass is repeated. What only a human can end waits for a new commit.
func passing(rendering api.Rendering) error {
	var out error
	for _, rb := range rendering.Bundles {
		switch api.KindOf(rb.Err) {
		case api.Transient, api.Waiting, api.Internal:
			return fmt.Errorf("bundle %s: %w", rb.Name, rb.Err)
		case api.Forbidden:
			if e, ok := errors.AsType[*api.Error](rb.Err); ok && e.Reason == api.ReasonTenantDenied {
				continue // by Git, and so until the next commit
			}
			out = fmt.Errorf("bundle %s: %w", rb.Name, rb.Err)
		case api.Stalled, "":
		}
	}
	return out
}

// render renders a snapshot for this cluster, with the namespaces that its objects will have there.
func (r *Reconciler) render(ctx context.Context, snap api.Snapshot, facts api.ClusterFacts) (api.Rendering, error) {
	facts.Holders = r.holders()
	rendering, err := r.Renderer.Render(ctx, snap, r.Cluster, facts)
	if err != nil {
		return api.Rendering{}, err
	}
	return r.Applier.Resolve(ctx, rendering), nil
}

// currentFacts asks the cluster again what it offers: a CRD may have come or gone.
// When it does not answer, what was known serves.
func (r *Reconciler) currentFacts(ctx context.Context) api.ClusterFacts {
	facts, err := r.Applier.Facts(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.facts = facts
		r.status.KubeVersion = facts.KubeVersion
	}
	return r.facts
}

// gate refuses a rendering that would empty the cluster, before anything is touched.
// It returns the rendering, in which tenants that would delete too much are stopped.
func (r *Reconciler) gate(rendering api.Rendering) (api.Rendering, error) {
	tenants := tenantsOf(rendering)
	claims := objects.ClaimsOf(rendering.Bundles, nil, func(bundle string) string { return tenants[bundle] })
	r.mu.Lock()
	defer r.mu.Unlock()
	o := plan.Outlook{
		Cluster: r.Cluster, Revision: rendering.Revision, Broken: brokenIn(rendering), Guards: rendering.Guards(),
		Tenant: func(bundle string) string { return r.bundles[bundle].status.Tenant },
		Owned:  map[string][]api.ObjectRef{}, MayBeEmpty: map[string]bool{},
		Claimed: func(ref api.ObjectRef) bool {
			id := ref.ID()
			to := claims.Of(id)
			return to != "" && plan.MayTake(tenants[to], r.tenantLocked(r.objects.Owner(id)))
		},
	}
	keep := map[string]bool{}
	for _, b := range r.bundles {
		keep[b.name] = b.status.Keep
		for _, e := range r.objects.Inventory(b.name) {
			o.Owned[b.name] = append(o.Owned[b.name], e.Object)
		}
	}
	for _, rb := range rendering.Bundles {
		o.Rendered += len(rb.Objects)
		keep[rb.Name], o.MayBeEmpty[rb.Name] = !rb.Spec.PruneEnabled(), rb.Spec.Empty == api.EmptyAllowed
	}
	o.Keeps = func(bundle string) bool { return keep[bundle] }
	o.Leaves = func(bundle string, ref api.ObjectRef) bool {
		e, _ := r.objects.Entry(bundle, ref.ID())
		return r.leaves(bundle, e)
	}
	stopped, err := plan.Gate(o)
	return r.stopLocked(rendering, stopped), err
}

// leaves reports whether a prune is known, from the watch, not to delete something that the bundle owns:
// also what is not there (with our label) is not deleted.
func (r *Reconciler) leaves(bundle string, e api.InventoryEntry) bool {
	seen, there := r.Watch.Get(e.Object)
	if !there {
		return e.HandsOff || r.Watch.Synced(e.Object.GVK())
	}
	return plan.Leaves(bundle, e, seen.PartOf, seen.Orders)
}

// brokenIn are the tenants that have bundles which could not be rendered: the platform is the empty one.
func brokenIn(rendering api.Rendering) map[string]bool {
	broken := map[string]bool{}
	for i := range rendering.Bundles {
		if rb := &rendering.Bundles[i]; rb.Err != nil {
			broken[rb.TenantName()] = true
		}
	}
	return broken
}

// guardLocked refuses to delete protected kinds that the repository did not release.
func (r *Reconciler) guardLocked(bundle string, stale []api.InventoryEntry) error {
	if r.rendering == nil {
		return &api.Error{Kind: api.Waiting, Reason: "NoRendering", Err: errors.New("nothing is pruned before a revision was rendered")}
	}
	gone := make([]plan.Deletion, 0, len(stale))
	for _, e := range stale {
		if !r.leaves(bundle, e) {
			gone = append(gone, plan.Deletion{Bundle: bundle, Object: e.Object})
		}
	}
	return plan.GuardProtected(gone, r.rendering.Guards())
}

// adopt swaps in a new desired state: everything that could fail has been done.
func (r *Reconciler) adopt(rendering api.Rendering) {
	r.mu.Lock()
	defer r.mu.Unlock()
	commit := r.rendering == nil || r.rendering.Revision != rendering.Revision
	if commit {
		for _, w := range rendering.Warnings {
			r.Log.Warn("a bundle is not on this cluster", "warning", w, "revision", rendering.Revision)
		}
		for _, tenant := range slices.Sorted(maps.Keys(rendering.Stopped)) {
			r.Log.Error("a tenant is stopped", "tenant", tenant, "error", rendering.Stopped[tenant], "revision", rendering.Revision)
		}
	}
	r.rendering = &rendering
	tenants := tenantsOf(rendering)
	r.objects.Adopt(rendering.Bundles, func(bundle string) string { return tenants[bundle] })
	r.status.DesiredRevision = rendering.Revision
	r.status.Labels = rendering.Cluster.Metadata.Labels
	r.git = gitSuspension(rendering.Cluster)
	r.scopeLocked()
	r.Adopted(rendering.Fleet.Spec)
	if e := r.status.Error; e != nil && e.Reason != reasonFetch {
		r.status.Error = nil
	}
	there, liftable := map[string]bool{}, map[string]bool{}
	r.inGit = there
	for i := range rendering.Bundles {
		rb := &rendering.Bundles[i]
		there[rb.Name] = true
		b := r.bundleLocked(rb.Name)
		liftable[b.name] = b.liftable()
		fresh := b.desired == nil
		if !r.declareLocked(b, rb, rendering.Revision) && !fresh {
			continue
		}
		r.drift.LookAtDrift(b.name) // Git may say by now what the object is
		r.phaseLocked(b, b.status.Phase, b.status.Message)
		b.status.Warnings = rb.Warnings
		if rb.Err != nil {
			b.status.Phase, b.status.Error, b.status.Message = api.PhaseFailed, api.StatusErrorOf(rb.Err), ""
			r.Log.Error("bundle", "bundle", b.name, "error", rb.Err, "kind", api.KindOf(rb.Err))
			r.publish.add(b.name, api.PhaseFailed)
			r.publish.failed(b.name, rb.Err)
		} else if !b.synced() {
			b.status.Phase, b.status.Error = api.PhasePending, nil
		}
		r.recorder.Note(b.name)
	}
	for name, b := range r.bundles {
		if !there[name] {
			liftable[name] = b.liftable()
			r.leaveLocked(b, commit)
			r.drift.LookAtDrift(name)
			for _, heir := range r.heirsLocked(b) {
				heir.renamed = heir.renamed || b.renamed || b.ever()
			}
		}
		r.onLocked(b, lifecycle.Adopted{Commit: commit, Allowed: liftable[name], Whole: r.brokenLocked(b.status.Tenant) == ""})
	}
	r.watchLocked()
	r.recorder.Note("")
	r.advanceLocked()
}

// leaveLocked takes a bundle out of the desired state: it is to be removed.
func (r *Reconciler) leaveLocked(b *bundle, commit bool) {
	if !b.gone() || commit {
		b.status.Error = nil // it was of another revision
	}
	b.desired = nil
	r.onLocked(b, lifecycle.RemovedFromGit{}) // shares it
	b.run.superseded()
	b.status.Message = "left Git"
}

// begin lets bundles run from now on.
func (r *Reconciler) begin() {
	r.mu.Lock()
	first := !r.started
	r.started = true
	r.mu.Unlock()
	if first {
		r.drift.Start()
		r.follow()
		r.drift.ScalersChanged("") // what the watch of autoscalers told before the inventory was known
		r.drift.LookAtEverything()
		r.publishAll()
	}
	wake(r.kick)
}

// publishAll has what the cluster says of every bundle that was there before this start compared with what is known,
// and written where it differs: what was stored may not have been published any more.
func (r *Reconciler) publishAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.bundles {
		if r.objects.Count(b.name) > 0 {
			r.publish.add(b.name, b.status.Phase)
		}
	}
}

// follow has the health of what was applied before this start followed again.
func (r *Reconciler) follow() {
	type set struct {
		name    string
		entries []api.InventoryEntry
		checks  []api.HealthCheck
	}
	var sets []set
	var empty []string
	r.mu.Lock()
	for name, b := range r.bundles {
		owned := r.objects.Count(name)
		if owned == 0 {
			empty = append(empty, name)
		}
		if b.applied == nil || owned == 0 {
			continue
		}
		sets = append(sets, set{name, r.objects.Awaited(name), b.applied.Spec.Health})
		if b.synced() && b.status.Phase == api.PhaseProgressing {
			r.onLocked(b, lifecycle.Unhealthy{Timeout: b.applied.Spec.WaitTimeout()})
		}
	}
	r.mu.Unlock()
	for _, s := range sets {
		r.Health.Set(s.name, s.entries, s.checks)
	}
	for _, name := range empty {
		r.HealthChanged(name) // of nothing, nobody else tells how it is
	}
}

// refuse notes an error that concerns the whole cluster.
func (r *Reconciler) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := api.StatusErrorOf(err)
	if old := r.status.Error; old == nil || *old != *next {
		r.publish.failed("", err)
	}
	r.status.Error = next
	r.recorder.Note("")
}

// baselines finds out, once after a start, what each bundle was last applied from,
// so that what drifted meanwhile is told from what Git changed.
// A bundle whose rendering is what was applied needs nothing;
// for the others the revision that was applied is rendered once more.
func (r *Reconciler) baselines(ctx context.Context, rendering *api.Rendering) {
	r.mu.Lock()
	if r.started {
		r.mu.Unlock()
		return
	}
	now := map[string]*api.RenderedBundle{}
	if rendering != nil {
		for i := range rendering.Bundles {
			now[rendering.Bundles[i].Name] = &rendering.Bundles[i]
		}
	}
	missing := map[string][]*bundle{} // revision -> bundles
	for name, b := range r.bundles {
		switch rb := now[name]; {
		case b.status.Digest == "" && b.status.AppliedRevision == "":
		case rb != nil && rb.Err == nil && rb.Digest == b.status.Digest:
			r.setAppliedLocked(b, rb, nil)
			if b.status.Error == nil && !b.status.Removing {
				r.onLocked(b, lifecycle.Recalled{Digest: rb.Digest, Undeclared: rb.Spec.PruneEnabled() && r.objects.OwnsUndeclared(name)})
			}
		default:
			missing[b.status.AppliedRevision] = append(missing[b.status.AppliedRevision], b)
		}
	}
	facts := r.facts
	r.mu.Unlock()
	for revision, bundles := range missing {
		if err := r.baseline(ctx, revision, bundles, facts); err != nil {
			r.Log.Warn("what was applied cannot be rendered again: drift since then is not told from the new commit",
				"revision", revision, "error", err)
		}
	}
}

// baseline renders bundles as they were applied. The errors of single ones are joined.
func (r *Reconciler) baseline(ctx context.Context, revision string, bundles []*bundle, facts api.ClusterFacts) error {
	snap, err := r.Source.At(ctx, revision)
	var old api.Rendering
	if err == nil {
		old, err = r.render(ctx, snap, facts)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, b := range bundles {
		for i := range old.Bundles {
			switch rb := &old.Bundles[i]; {
			case rb.Name != b.name:
			case rb.Err != nil:
				errs = append(errs, rb.Err)
			default:
				r.setAppliedLocked(b, rb, nil)
				b.dependOn(rb.Spec.DependsOn)
				if b.status.Digest == "" {
					b.status.Digest = rb.Digest
					r.objects.Remember(b.name, rb.Origin)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (r *Reconciler) bundleLocked(name string) *bundle {
	b := r.bundles[name]
	if b == nil {
		b = newBundle(name)
		r.bundles[name], r.names = b, nil
		r.shareLocked(b)
	}
	return b
}

// fetched notes a successful fetch.
func (r *Reconciler) fetched(snap api.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Fetched = r.Now()
	r.status.DesiredRevision, r.status.Subject, r.status.SignedBy = snap.Revision, snap.Subject, snap.SignedBy
	r.clearFetchErrorLocked()
	r.recorder.Note("")
}

// reasonFetch marks a cluster-wide error that a successful fetch ends.
const reasonFetch = "FetchFailed"

// fetchFailed notes that the repository could not be reached; what is applied stays.
func (r *Reconciler) fetchFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := api.StatusErrorOf(err)
	next.Reason = reasonFetch
	if old := r.status.Error; old != nil && (*old == *next || old.Reason != reasonFetch) {
		return
	}
	r.status.Error = next
	r.publish.failed("", err)
	r.Log.Warn("fetch", "error", err, "applied", r.status.AppliedRevision)
	r.recorder.Note("")
}

// fetchWorks notes that the repository answers, with nothing new. That alone is not worth a write.
func (r *Reconciler) fetchWorks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Fetched = r.Now()
	if r.clearFetchErrorLocked() {
		r.recorder.Note("")
	}
}

// Reached is when the repository last answered; zero if it never has.
func (r *Reconciler) Reached() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Fetched
}

func (r *Reconciler) clearFetchErrorLocked() bool {
	if r.status.Error != nil && r.status.Error.Reason == reasonFetch {
		r.status.Error = nil
		return true
	}
	return false
}
