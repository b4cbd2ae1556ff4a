package reconciler

import (
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// tenantsOf returns the tenant of each bundle of a rendering.
func tenantsOf(rendering api.Rendering) map[string]string {
	out := make(map[string]string, len(rendering.Bundles))
	for i := range rendering.Bundles {
		out[rendering.Bundles[i].Name] = rendering.Bundles[i].TenantName()
	}
	return out
}

// tenantLocked names the tenant of a bundle: by Git, or else as it was last applied. It is empty for the platform's,
// and for one that nobody knows.
func (r *Reconciler) tenantLocked(bundle string) string {
	b := r.bundles[bundle]
	switch {
	case b == nil:
		return ""
	case b.desired != nil:
		return b.desired.TenantName()
	}
	return b.status.Tenant
}

// mayTake says from which other bundles a bundle may take objects over: one of a tenant, from those of the same alone.
func (r *Reconciler) mayTake(b *bundle) func(from string) bool {
	return func(from string) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return plan.MayTake(r.tenantLocked(b.name), r.tenantLocked(from))
	}
}

// wantedByLocked names the bundle that is to have an object of b: the one that declares it, if it may take it from b.
func (r *Reconciler) wantedByLocked(b *bundle, id string) string {
	name := r.objects.DesiredBy(id)
	if name == "" || name == b.name || plan.MayTake(r.tenantLocked(name), r.tenantLocked(b.name)) {
		return name
	}
	return ""
}

// holders are the tenants of the bundles that the cluster has.
func (r *Reconciler) holders() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]string, len(r.bundles))
	for name, b := range r.bundles {
		if b.ever() || r.objects.Count(name) > 0 {
			out[name] = b.status.Tenant
		}
	}
	return out
}

// stopLocked returns the rendering in which some tenants are stopped: nothing of theirs is applied or deleted,
// and what the cluster has of them stays as it is.
func (r *Reconciler) stopLocked(rendering api.Rendering, stopped map[string]error) api.Rendering {
	if len(stopped) == 0 {
		return rendering
	}
	all := maps.Clone(rendering.Stopped)
	if all == nil {
		all = map[string]error{}
	}
	maps.Copy(all, stopped)
	rendering.Stopped = all
	rendering.Bundles = slices.Clone(rendering.Bundles)
	there := map[string]bool{}
	for i, rb := range rendering.Bundles {
		there[rb.Name] = true
		if err := stopped[rb.TenantName()]; err != nil {
			rendering.Bundles[i] = api.RenderedBundle{Name: rb.Name, Dir: rb.Dir, Spec: rb.Spec, Tenant: rb.Tenant, Warnings: rb.Warnings, Err: err}
		}
	}
	for name, b := range r.bundles {
		if err := stopped[b.status.Tenant]; err != nil && !there[name] {
			rb := api.RenderedBundle{Name: name, Tenant: &api.Tenant{Name: b.status.Tenant}, Err: err}
			rb.Spec.ServiceAccount = b.status.ServiceAccount
			if b.applied != nil {
				rb.Dir, rb.Spec, rb.Tenant = b.applied.Dir, b.applied.Spec, b.applied.Tenant
			}
			rendering.Bundles = append(rendering.Bundles, rb)
		}
	}
	slices.SortFunc(rendering.Bundles, func(a, b api.RenderedBundle) int { return strings.Compare(a.Name, b.Name) })
	return rendering
}
