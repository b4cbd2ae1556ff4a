package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// scheduleLoop starts bundles when they may run, and ends when all that it started have ended.
func (r *Reconciler) scheduleLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	compare := time.NewTicker(r.Compare)
	defer compare.Stop()
	for {
		next := r.schedule(ctx)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
		case <-timer.C:
		case <-compare.C:
			r.Watch.Relist()
			r.drift.LookAtEverything()
		}
	}
}

// schedule starts what may run and says how long until time alone changes that.
func (r *Reconciler) schedule(ctx context.Context) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := time.Hour
	if !r.started || ctx.Err() != nil {
		return next
	}
	for _, w := range r.drift.Wishes() {
		if b := r.bundles[w.Bundle]; b != nil {
			r.onLocked(b, w.Event)
		}
	}
	now := r.Now()
	next = min(next, r.expireLocked(now))
	dependents := r.dependentsLocked()
	var ready []*bundle
	for _, name := range r.namesLocked() {
		b := r.bundles[name]
		next = min(next, r.timeoutLocked(ctx, b, now))
		wait, ok := r.runnableLocked(b, dependents[name], now)
		if ok {
			ready = append(ready, b)
		} else {
			next = min(next, wait)
		}
	}
	// Who has waited longest comes first, and before all of them what has not run since Git changed it:
	// however many fail slowly and are tried again, they hold up nothing new, and each has its turn.
	slices.SortStableFunc(ready, func(x, y *bundle) int { return x.life.Began.Compare(y.life.Began) })
	for _, b := range ready {
		if r.running >= r.Workers || r.applying >= slowFactor*r.Workers {
			break // the next one that finishes, or takes long, wakes us
		}
		x := r.placeLocked(b)
		r.wg.Go(func() { x.do(ctx) })
	}
	return max(next, time.Millisecond)
}

// namesLocked returns the names of the bundles in order: every run of the scheduler goes through them.
func (r *Reconciler) namesLocked() []string {
	if r.names == nil {
		r.names = slices.Sorted(maps.Keys(r.bundles))
	}
	return r.names
}

// runnableLocked reports whether a bundle is to run now; if not, when time alone would change that.
// Its dependents are those of dependentsLocked.
func (r *Reconciler) runnableLocked(b *bundle, dependents []*bundle, now time.Time) (time.Duration, bool) {
	const never = time.Hour
	if wait := b.life.Wait(now); wait > 0 {
		return wait, false
	}
	if s := r.suspendedLocked(b.name); s != "" && !b.life.Force {
		r.blockLocked(b, api.PhaseSuspended, "suspended by "+s)
		return never, false
	}
	if b.gone() {
		return never, r.mayGoLocked(b, dependents)
	}
	if b.desired.Spec.HasChart() && r.renderedGen != r.discoveryGen {
		return never, false // it is about to be rendered with what the cluster offers now
	}
	if missing := r.unreadyLocked(b.desired.Spec.DependsOn); len(missing) > 0 {
		r.blockLocked(b, api.PhaseBlocked, "waits for "+strings.Join(missing, ", "))
		return never, false
	}
	return 0, true
}

// unreadyLocked returns the dependencies that are not yet as Git says.
func (r *Reconciler) unreadyLocked(deps []string) []string {
	var out []string
	for _, d := range deps {
		b := r.bundles[d]
		switch {
		case b == nil:
			out = append(out, d+" (not on this cluster)")
		case !b.synced():
			out = append(out, fmt.Sprintf("%s (%s)", d, b.status.Phase))
		case b.desired != nil && b.desired.Spec.WaitEnabled() && b.status.Phase != api.PhaseReady:
			out = append(out, fmt.Sprintf("%s (%s)", d, cmp.Or(b.status.Message, string(b.status.Phase))))
		}
	}
	return out
}

// blockLocked notes why a bundle does not run.
func (r *Reconciler) blockLocked(b *bundle, phase api.BundlePhase, message string) {
	next := b.status
	next.Phase, next.Message = phase, message
	r.setStatusLocked(b, next)
}

// phaseLocked moves a bundle to a phase that is not worth a record of its own.
func (r *Reconciler) phaseLocked(b *bundle, phase api.BundlePhase, message string) {
	b.status.Phase, b.status.Message = phase, message
	r.publish.phase(b.name, phase)
	b.status.DesiredRevision = b.revision
	if b.desired != nil && b.desired.Err == nil {
		b.dependOn(b.desired.Spec.DependsOn)
		b.status.Keep = !b.desired.Spec.PruneEnabled()
		b.status.ServiceAccount, b.status.Tenant = b.desired.Spec.ServiceAccount, b.desired.TenantName()
	}
}

// watchLocked tells the watch which kinds we own or are about to own.
func (r *Reconciler) watchLocked() {
	kinds := map[schema.GroupVersionKind]bool{}
	seen := map[schema.GroupKind]bool{}
	add := func(ref api.ObjectRef) {
		gk := schema.GroupKind{Group: ref.Group, Kind: ref.Kind}
		if !seen[gk] && ref.Version != "" {
			seen[gk] = true
			kinds[ref.GVK()] = true
		}
	}
	for _, b := range r.bundles {
		if b.desired != nil {
			for _, o := range b.desired.Objects {
				add(api.RefOf(o))
			}
		}
	}
	for _, b := range r.bundles {
		for _, e := range r.objects.Inventory(b.name) {
			add(e.Object)
		}
	}
	add(cluster.ReportRef()) // orders are written there
	add(cluster.LeaseRef())  // and challenges there
	r.Watch.SetKinds(slices.SortedFunc(maps.Keys(kinds), func(a, b schema.GroupVersionKind) int {
		return cmp.Compare(a.String(), b.String())
	}))
}
