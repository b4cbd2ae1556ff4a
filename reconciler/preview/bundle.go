package preview

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// All is what a pass would do to every bundle, or to one. What is unchanged is left out.
func (p *Preview) All(ctx context.Context, only string) ([]Change, error) {
	bundles := slices.Clone(p.r.Bundles)
	there := map[string]bool{}
	for _, rb := range bundles {
		there[rb.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.owned)) {
		if !there[name] {
			bundles = append(bundles, p.left(name))
		}
	}
	if only != "" && !slices.ContainsFunc(bundles, func(rb api.RenderedBundle) bool { return rb.Name == only }) {
		return nil, &api.Error{Kind: api.Stalled, Reason: api.ReasonNoSuchBundle, Err: fmt.Errorf("bundle %q is not on cluster %q", only, p.r.Cluster.Metadata.Name)}
	}
	p.lastApplied(ctx, bundles)
	out := []Change{}
	if err := p.gate(bundles); err != nil {
		out = append(out, Change{Action: api.Denied, Outcome: OutcomeRefused, Error: err.Error()})
	}
	for _, rb := range bundles {
		if only != "" && rb.Name != only {
			continue
		}
		if rb.Err == nil {
			var rows []Change
			if rows, rb.Err = p.bundle(ctx, rb); rb.Err == nil {
				out = append(out, rows...)
				continue
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p.Failures = append(p.Failures, fmt.Errorf("bundle %q: %w", rb.Name, rb.Err))
		out = append(out, Change{Bundle: rb.Name, Action: api.Failed, Outcome: OutcomeFailed, Error: rb.Err.Error()})
	}
	return out, nil
}

// maxLooks is how often a bundle is looked at whose objects change between two questions about one.
const maxLooks = 5

// bundle is what a pass would do to one bundle.
func (p *Preview) bundle(ctx context.Context, rb api.RenderedBundle) (rows []Change, err error) {
	failures := p.Failures
	for range maxLooks {
		p.Failures = failures
		rows, err = p.bundleOnce(ctx, rb)
		if !kube.IsConflict(err) {
			return rows, err
		}
	}
	return rows, err
}

func (p *Preview) bundleOnce(ctx context.Context, rb api.RenderedBundle) ([]Change, error) {
	removal := !p.inGit(rb.Name)
	if removal {
		rb.Hooks = p.removalHooks(rb)
		if old := p.applied[rb.Name]; old != nil {
			rb.Tenant = old.Tenant
		}
	}
	diffs, err := p.look(ctx, rb, removal)
	if err != nil {
		return nil, err
	}
	var out []Change
	var deletions []plan.Deletion
	failed := false
	for _, diff := range diffs {
		row, ok, err := p.object(ctx, rb, diff)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if row.Outcome == OutcomeFailed {
			failed = true
			p.Failures = append(p.Failures, diff.Step.Err)
		}
		if row.Action == api.Pruned && row.Outcome == OutcomeChange && !p.extra[row.Object.ID()] {
			switch {
			case p.brokenOf(rb) != "":
				row.Outcome, row.Reason = OutcomeSkipped, fmt.Sprintf("left Git; nothing is pruned before bundle %q can be rendered", p.brokenOf(rb))
			case failed:
				row.Outcome, row.Reason = OutcomeSkipped, "left Git; nothing is pruned while objects of the bundle fail"
			default:
				deletions = append(deletions, plan.Deletion{Bundle: rb.Name, Object: row.Object})
			}
		}
		out = append(out, row)
	}
	if err := plan.GuardProtected(deletions, p.r.Guards()); err != nil {
		for i := range out {
			if out[i].Action == api.Pruned && out[i].Outcome == OutcomeChange && !p.extra[out[i].Object.ID()] {
				out[i].Outcome = OutcomeRefused
			}
		}
		out = append(out, Change{Bundle: rb.Name, Action: api.Denied, Outcome: OutcomeRefused, Error: err.Error()})
	}
	if removal {
		hooksToo(out)
	}
	return out, nil
}

// look asks for what a pass would do to one bundle, again where that depends on what the bundle was applied from.
func (p *Preview) look(ctx context.Context, rb api.RenderedBundle, removal bool) ([]apply.Difference, error) {
	now := p.cfg.Now()
	diffs, err := p.cfg.Differ.Diff(ctx, apply.DiffRequest{
		Removal: removal,
		Request: apply.Request{
			Bundle: rb, Revision: p.r.Revision, Inventory: p.owned[rb.Name], Renamed: p.renamed(rb), Left: p.leave,
			Held:     func(ref api.ObjectRef) (api.Suspension, bool) { return p.held.Find(now, rb.Name, ref) },
			Declared: p.declared(rb),
			MayTake:  func(from string) bool { return plan.MayTake(rb.TenantName(), p.tenant(from)) },
		},
		Coming: p.coming,
	})
	if err != nil || p.applied[rb.Name] != nil || !slices.ContainsFunc(diffs, immutable) {
		return diffs, err
	}
	// An immutable field that Git did not change may well be as it was applied.
	p.immutable[rb.Name] = true
	if p.lastApplied(ctx, []api.RenderedBundle{rb}); p.applied[rb.Name] == nil {
		return diffs, nil
	}
	return p.look(ctx, rb, removal)
}

// immutable reports whether the API server would not apply Git's object to the live one for want of a field that can change.
func immutable(d apply.Difference) bool { return d.Refused != nil && plan.Immutable(d.Refused) != nil }

// hooksToo has the hooks of a removal that does not take place share its lot.
func hooksToo(rows []Change) {
	i := slices.IndexFunc(rows, func(c Change) bool {
		return c.Action == api.Pruned && c.Outcome != OutcomeChange && c.Outcome != OutcomeHeld
	})
	for j := range rows {
		if i >= 0 && rows[j].Hook != "" {
			rows[j].Outcome, rows[j].Reason = rows[i].Outcome, rows[i].Reason
		}
	}
}

func (p *Preview) inGit(bundle string) bool {
	return slices.ContainsFunc(p.r.Bundles, func(rb api.RenderedBundle) bool { return rb.Name == bundle })
}

// renamed reports whether a bundle has objects of one that was applied and has left Git. Only its hooks want to know.
func (p *Preview) renamed(rb api.RenderedBundle) bool {
	for name, entries := range p.owned {
		if len(rb.Hooks) > 0 && p.told[name].AppliedRevision != "" && !p.inGit(name) &&
			slices.ContainsFunc(entries, func(e api.InventoryEntry) bool { return slices.Contains(p.claims[e.Object.ID()], rb.Name) }) {
			return true
		}
	}
	return false
}

// removalHooks are the hooks of a bundle that left Git, as it was last applied. A bundle that keeps what it holds has none,
// nor has one of which another bundle has objects now: that is not removed, but renamed.
func (p *Preview) removalHooks(rb api.RenderedBundle) []api.Hook {
	old := p.applied[rb.Name]
	if old == nil || !rb.Spec.PruneEnabled() ||
		slices.ContainsFunc(old.Objects, func(o *unstructured.Unstructured) bool { return len(p.claims[api.RefOf(o).ID()]) > 0 }) {
		return nil
	}
	return old.Hooks
}
