package preview

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// index notes what the revision holds.
func (p *Preview) index() {
	for _, rb := range p.r.Bundles {
		if rb.Err != nil {
			p.broken[rb.TenantName()] = cmp.Or(p.broken[rb.TenantName()], rb.Name)
		}
		for _, o := range rb.Objects {
			ref := api.RefOf(o)
			p.claims[ref.ID()] = append(p.claims[ref.ID()], rb.Name)
			switch {
			case kube.IsAutoscaler(ref.Kind):
				p.scalers = append(p.scalers, o)
			case kube.IsCRD(ref), kube.IsNamespace(ref):
				p.coming = append(p.coming, o)
			}
		}
	}
}

// suspensions reads those that hold now, as the agent takes them.
func (p *Preview) suspensions(ctx context.Context) error {
	set, err := p.cfg.Cluster.Suspensions(ctx)
	if err != nil {
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Reason != api.ReasonBadSuspension {
			return err
		}
		p.cfg.Note("warning: " + err.Error())
	}
	limit := cmp.Or(time.Duration(p.r.Fleet.Spec.SuspendMax), api.DefaultSuspendMax)
	for _, s := range set {
		// Its creation is in the API server's time, its end in ours.
		if last := s.Created.Add(limit - p.cfg.Cluster.ClockSkew()); !s.Created.IsZero() && s.Until.After(last) {
			s.Until = last
		}
		p.held = append(p.held, s)
	}
	if s := p.r.Cluster.Spec.Suspend; s != nil {
		p.held = append(p.held, api.Suspension{
			Name: api.GitSuspension, Scope: api.Scope{All: true}, Reason: s.Reason, Until: s.Until, Actor: "git",
		})
	}
	return nil
}

// inventory finds out what the bundles own. A cluster that never had an agent holds nothing of ours.
func (p *Preview) inventory(ctx context.Context) error {
	if len(p.told) > 0 {
		var err error
		if p.owned, err = p.cfg.Cluster.Inventory(ctx); err != nil {
			return err
		}
	}
	owners := map[string]string{}
	for name, entries := range p.owned {
		for _, e := range entries {
			owners[e.Object.ID()] = name
		}
	}
	for id, names := range p.claims {
		p.claims[id] = plan.Claimants(names, owners[id], p.tenant)
	}
	return nil
}

// left is a bundle that left Git. Whether what it holds is kept, the cluster tells:
// one whose BundleDeployment is gone left it behind.
func (p *Preview) left(name string) api.RenderedBundle {
	rb := api.RenderedBundle{Name: name}
	told, ok := p.told[name]
	if !ok || told.Keep {
		rb.Spec.Prune = new(bool)
	}
	if told.Tenant != "" {
		rb.Tenant = &api.Tenant{Name: told.Tenant}
	}
	return rb
}

// tenant names the tenant of a bundle: by Git, or else as the cluster tells.
func (p *Preview) tenant(bundle string) string {
	for _, rb := range p.r.Bundles {
		if rb.Name == bundle {
			return rb.TenantName()
		}
	}
	return p.told[bundle].Tenant
}

// declared names, by object ID, the bundles that declare an object that rb declares or owns,
// without those that may not take it from rb, if rb does not declare it.
func (p *Preview) declared(rb api.RenderedBundle) map[string][]string {
	out := make(map[string][]string, len(rb.Objects))
	for _, e := range p.owned[rb.Name] {
		out[e.Object.ID()] = slices.DeleteFunc(slices.Clone(p.claims[e.Object.ID()]), func(name string) bool {
			return !plan.MayTake(p.tenant(name), rb.TenantName())
		})
	}
	for _, o := range rb.Objects {
		out[api.RefOf(o).ID()] = p.claims[api.RefOf(o).ID()]
	}
	return out
}

// brokenOf names a bundle that cannot be rendered, and that objects of rb may have moved into; empty if there is none.
func (p *Preview) brokenOf(rb api.RenderedBundle) string {
	return cmp.Or(p.broken[""], p.broken[rb.TenantName()])
}

// gate is what the agent asks before it touches anything. Tenants that it stops have its error in their bundles.
func (p *Preview) gate(bundles []api.RenderedBundle) error {
	tenants, broken := map[string]string{}, map[string]bool{}
	for tenant := range p.broken {
		broken[tenant] = true
	}
	o := plan.Outlook{
		Cluster: p.r.Cluster.Metadata.Name, Revision: p.r.Revision, Broken: broken, Guards: p.r.Guards(),
		Tenant: func(bundle string) string { return tenants[bundle] },
		Owned:  map[string][]api.ObjectRef{}, MayBeEmpty: map[string]bool{},
		Claimed: func(ref api.ObjectRef) bool { return len(p.claims[ref.ID()]) > 0 },
	}
	keep := map[string]bool{}
	for _, rb := range bundles {
		o.Rendered += len(rb.Objects)
		tenants[rb.Name] = rb.TenantName()
		keep[rb.Name], o.MayBeEmpty[rb.Name] = !rb.Spec.PruneEnabled(), rb.Spec.Empty == api.EmptyAllowed
		for _, e := range p.owned[rb.Name] {
			if !p.extra[e.Object.ID()] {
				o.Owned[rb.Name] = append(o.Owned[rb.Name], e.Object)
			}
		}
	}
	o.Keeps = func(bundle string) bool { return keep[bundle] }
	stopped, err := plan.Gate(o)
	for i, rb := range bundles {
		if why := stopped[rb.TenantName()]; why != nil && rb.Err == nil {
			bundles[i].Err = why
		}
	}
	return err
}
