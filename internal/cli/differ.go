package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/sources"
)

// differ knows what a pass knows before it decides.
type differ struct {
	applier *agent.Target
	talk    *terminal.Printer
	r       api.Rendering
	// claims: object ID -> bundles that declare it
	claims map[string][]string
	// owned: bundle -> what it owns; told: bundle -> what the cluster tells of it.
	owned map[string][]api.InventoryEntry
	told  map[string]api.BundleStatus
	// applied: bundle -> what it was last applied from, where that is known
	applied map[string]*api.RenderedBundle
	// extra: ID of an object that carries a bundle's label, and was never in Git
	extra map[string]bool
	// history renders the repository at another commit, which past reads.
	past    *commits
	history func(ctx context.Context, revision string) (api.Rendering, error)
	held    api.Suspensions
	scalers []*unstructured.Unstructured // those in Git
	coming  []*unstructured.Unstructured // CRDs and namespaces
	// immutable: bundle -> whether one of its objects cannot be changed into what Git says
	immutable map[string]bool
	// broken: tenant -> its first bundle that cannot be rendered; the platform is the empty one
	broken map[string]string
	// failures are what the command ends with.
	failures []error
}

// lookAhead reads all that does not depend on a bundle. The renderer serves for as long as the differ does.
func lookAhead(cmd *cobra.Command, k kube, repo repository, cluster string, renderer agent.Checked) (*differ, error) {
	ctx := cmd.Context()
	applier, err := k.applier(quiet(cmd))
	if err != nil {
		return nil, err
	}
	snap, done, err := repo.snapshot(cmd, quiet(cmd))
	if err != nil {
		return nil, err
	}
	defer done()
	facts, err := applier.Facts(ctx)
	if err != nil {
		return nil, err
	}
	told, err := applier.BundleStatuses(ctx)
	if err != nil {
		return nil, err
	}
	facts.Holders = map[string]string{}
	for _, s := range told {
		facts.Holders[s.Name] = s.Tenant
	}
	rendering, err := renderer.Render(ctx, snap, cluster, facts)
	if err != nil {
		return nil, err
	}
	d := &differ{
		applier: applier, talk: errOf(cmd), r: applier.Resolve(ctx, rendering),
		claims: map[string][]string{}, owned: map[string][]api.InventoryEntry{},
		told: map[string]api.BundleStatus{}, applied: map[string]*api.RenderedBundle{}, extra: map[string]bool{}, immutable: map[string]bool{},
		past: &commits{repo: repo, cmd: cmd}, broken: map[string]string{},
	}
	for _, s := range told {
		d.told[s.Name] = s
	}
	d.history = func(ctx context.Context, revision string) (api.Rendering, error) {
		if revision == snap.Revision {
			return d.r, nil
		}
		old, err := d.past.at(ctx, revision)
		if err != nil {
			return api.Rendering{}, err
		}
		r, err := renderer.Render(ctx, old, cluster, facts)
		return applier.Resolve(ctx, r), err
	}
	d.index()
	if err := d.suspensions(ctx); err != nil {
		return nil, err
	}
	return d, d.inventory(ctx)
}

// commits reads a repository at other commits; it is opened when first asked for.
type commits struct {
	repo repository
	cmd  *cobra.Command

	src   sources.Source
	close func()
	err   error
}

// at returns the snapshot of a commit. A directory has commits only if it is a Git checkout.
func (c *commits) at(ctx context.Context, revision string) (api.Snapshot, error) {
	if c.close == nil {
		if c.src, c.close, c.err = c.repo.open(c.cmd, quiet(c.cmd)); c.err == nil {
			_, c.err = c.src.Fetch(ctx)
		}
	}
	if c.err != nil {
		return api.Snapshot{}, c.err
	}
	return c.src.At(ctx, revision)
}

func (c *commits) end() {
	if c.close != nil {
		c.close()
	}
}

// index notes what the revision holds.
func (d *differ) index() {
	for _, rb := range d.r.Bundles {
		if rb.Err != nil {
			d.broken[tenantOf(rb)] = cmp.Or(d.broken[tenantOf(rb)], rb.Name)
		}
		for _, o := range rb.Objects {
			ref := api.RefOf(o)
			d.claims[ref.ID()] = append(d.claims[ref.ID()], rb.Name)
			switch ref.Kind {
			case "HorizontalPodAutoscaler", "ScaledObject":
				d.scalers = append(d.scalers, o)
			case "CustomResourceDefinition", "Namespace":
				d.coming = append(d.coming, o)
			}
		}
	}
}

// suspensions reads those that hold now, as the agent takes them.
func (d *differ) suspensions(ctx context.Context) error {
	set, err := d.applier.Suspensions(ctx)
	if err != nil {
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Reason != "BadSuspension" {
			return err
		}
		d.talk.Printf("warning: %v\n", err)
	}
	limit := cmp.Or(time.Duration(d.r.Fleet.Spec.SuspendMax), api.DefaultSuspendMax)
	for _, s := range set {
		// Its creation is in the API server's time, its end in ours.
		if last := s.Created.Add(limit - d.applier.ClockSkew()); !s.Created.IsZero() && s.Until.After(last) {
			s.Until = last
		}
		d.held = append(d.held, s)
	}
	if s := d.r.Cluster.Spec.Suspend; s != nil {
		d.held = append(d.held, api.Suspension{
			Name: api.GitSuspension, Scope: api.Scope{All: true}, Reason: s.Reason, Until: s.Until, Actor: "git",
		})
	}
	return nil
}

// inventory finds out what the bundles own. A cluster that never had an agent holds nothing of ours.
func (d *differ) inventory(ctx context.Context) error {
	if len(d.told) == 0 {
		for id, names := range d.claims {
			d.claims[id] = plan.Claimants(names, "", d.tenant)
		}
		return nil
	}
	var err error
	if d.owned, err = d.applier.Inventory(ctx); err != nil {
		return err
	}
	owners := map[string]string{}
	for name, entries := range d.owned {
		for _, e := range entries {
			owners[e.Object.ID()] = name
		}
	}
	for id, names := range d.claims {
		d.claims[id] = plan.Claimants(names, owners[id], d.tenant)
	}
	return nil
}

// otherCluster warns where the cluster's agent has another name for it than the diff.
func (d *differ) otherCluster(ctx context.Context) {
	if len(d.told) == 0 {
		return
	}
	report, err := d.applier.Report(ctx)
	if name := report.Status.Cluster; err == nil && name != "" && name != d.r.Cluster.Metadata.Name {
		d.talk.Printf("warning: the agent of the cluster that --kubeconfig leads to calls it %q, and this is what %q should be\n", name, d.r.Cluster.Metadata.Name)
	}
}

// all is what a pass would do to every bundle, or to one. What is unchanged is left out.
func (d *differ) all(ctx context.Context, only string) ([]planned, error) {
	bundles := slices.Clone(d.r.Bundles)
	there := map[string]bool{}
	for _, rb := range bundles {
		there[rb.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(d.owned)) {
		if !there[name] {
			bundles = append(bundles, d.left(name))
		}
	}
	if only != "" && !slices.ContainsFunc(bundles, func(rb api.RenderedBundle) bool { return rb.Name == only }) {
		return nil, &api.Error{Kind: api.Stalled, Reason: "NoSuchBundle", Err: fmt.Errorf("bundle %q is not on cluster %q", only, d.r.Cluster.Metadata.Name)}
	}
	d.lastApplied(ctx, bundles)
	out := []planned{}
	if err := d.gate(bundles); err != nil {
		out = append(out, planned{Action: api.Denied, Outcome: outcomeRefused, Error: err.Error()})
	}
	for _, rb := range bundles {
		if only != "" && rb.Name != only {
			continue
		}
		if rb.Err == nil {
			var rows []planned
			if rows, rb.Err = d.bundle(ctx, rb); rb.Err == nil {
				out = append(out, rows...)
				continue
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		d.failures = append(d.failures, fmt.Errorf("bundle %q: %w", rb.Name, rb.Err))
		out = append(out, planned{Bundle: rb.Name, Action: api.Failed, Outcome: outcomeFailed, Error: rb.Err.Error()})
	}
	return out, nil
}

// left is a bundle that left Git. Whether what it holds is kept, the cluster tells:
// one whose BundleDeployment is gone left it behind.
func (d *differ) left(name string) api.RenderedBundle {
	rb := api.RenderedBundle{Name: name}
	told, ok := d.told[name]
	if !ok || told.Keep {
		rb.Spec.Prune = new(bool)
	}
	if told.Tenant != "" {
		rb.Tenant = &api.Tenant{Name: told.Tenant}
	}
	return rb
}

// tenantOf names a bundle's tenant; empty for the platform's.
func tenantOf(rb api.RenderedBundle) string {
	if rb.Tenant == nil {
		return ""
	}
	return rb.Tenant.Name
}

// tenant names the tenant of a bundle: by Git, or else as the cluster tells.
func (d *differ) tenant(bundle string) string {
	for _, rb := range d.r.Bundles {
		if rb.Name == bundle {
			return tenantOf(rb)
		}
	}
	return d.told[bundle].Tenant
}

// declared names the bundles that declare an object, without those that may not take it from rb, if rb does not.
func (d *differ) declared(rb api.RenderedBundle, ref api.ObjectRef) []string {
	all := d.claims[ref.ID()]
	if slices.Contains(all, rb.Name) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !plan.MayTake(d.tenant(name), tenantOf(rb)) })
}

// brokenOf names a bundle that cannot be rendered, and that objects of rb may have moved into; empty if there is none.
func (d *differ) brokenOf(rb api.RenderedBundle) string {
	return cmp.Or(d.broken[""], d.broken[tenantOf(rb)])
}

// gate is what the agent asks before it touches anything. Tenants that it stops have its error in their bundles.
func (d *differ) gate(bundles []api.RenderedBundle) error {
	tenants, broken := map[string]string{}, map[string]bool{}
	for tenant := range d.broken {
		broken[tenant] = true
	}
	o := plan.Outlook{
		Cluster: d.r.Cluster.Metadata.Name, Revision: d.r.Revision, Broken: broken, Guards: d.r.Guards(),
		Tenant:  func(bundle string) string { return tenants[bundle] },
		Owned:   map[string][]api.ObjectRef{},
		Claimed: func(ref api.ObjectRef) bool { return len(d.claims[ref.ID()]) > 0 },
	}
	keep := map[string]bool{}
	for _, rb := range bundles {
		o.Rendered += len(rb.Objects)
		tenants[rb.Name] = tenantOf(rb)
		keep[rb.Name] = !rb.Spec.PruneEnabled()
		for _, e := range d.owned[rb.Name] {
			if !d.extra[e.Object.ID()] {
				o.Owned[rb.Name] = append(o.Owned[rb.Name], e.Object)
			}
		}
	}
	o.Keeps = func(bundle string) bool { return keep[bundle] }
	stopped, err := plan.Gate(o)
	for i, rb := range bundles {
		if why := stopped[tenantOf(rb)]; why != nil && rb.Err == nil {
			bundles[i].Err = why
		}
	}
	return err
}

// bundle is what a pass would do to one bundle.
func (d *differ) bundle(ctx context.Context, rb api.RenderedBundle) ([]planned, error) {
	removal := !d.inGit(rb.Name)
	if removal {
		rb.Hooks = d.removalHooks(rb)
		if old := d.applied[rb.Name]; old != nil {
			rb.Tenant = old.Tenant
		}
	}
	diffs, err := d.look(ctx, rb, removal)
	if err != nil {
		return nil, err
	}
	var out []planned
	var deletions []plan.Deletion
	failed := false
	for _, diff := range diffs {
		row, ok, err := d.object(ctx, rb, diff)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if row.Outcome == outcomeFailed {
			failed = true
			d.failures = append(d.failures, diff.Step.Err)
		}
		if row.Action == api.Pruned && row.Outcome == outcomeChange && !d.extra[row.Object.ID()] {
			switch {
			case d.brokenOf(rb) != "":
				row.Outcome, row.Reason = outcomeSkipped, fmt.Sprintf("left Git; nothing is pruned before bundle %q can be rendered", d.brokenOf(rb))
			case failed:
				row.Outcome, row.Reason = outcomeSkipped, "left Git; nothing is pruned while objects of the bundle fail"
			default:
				deletions = append(deletions, plan.Deletion{Bundle: rb.Name, Object: row.Object})
			}
		}
		out = append(out, row)
	}
	if err := plan.GuardProtected(deletions, d.r.Guards()); err != nil {
		for i := range out {
			if out[i].Action == api.Pruned && out[i].Outcome == outcomeChange && !d.extra[out[i].Object.ID()] {
				out[i].Outcome = outcomeRefused
			}
		}
		out = append(out, planned{Bundle: rb.Name, Action: api.Denied, Outcome: outcomeRefused, Error: err.Error()})
	}
	if removal {
		hooksToo(out)
	}
	return out, nil
}

// look asks for what a pass would do to one bundle, again where that depends on what the bundle was applied from.
func (d *differ) look(ctx context.Context, rb api.RenderedBundle, removal bool) ([]apply.Difference, error) {
	now := time.Now()
	diffs, err := d.applier.Diff(ctx, apply.DiffRequest{
		Removal: removal,
		Request: apply.Request{
			Bundle: rb, Revision: d.r.Revision, Inventory: d.owned[rb.Name], Renamed: d.renamed(rb), Left: d.leave,
			Held:     func(ref api.ObjectRef) (api.Suspension, bool) { return d.held.Find(now, rb.Name, ref) },
			Declared: func(ref api.ObjectRef) []string { return d.declared(rb, ref) },
			MayTake:  func(from string) bool { return plan.MayTake(tenantOf(rb), d.tenant(from)) },
		},
		Coming: d.coming,
	})
	if err != nil || d.applied[rb.Name] != nil || !slices.ContainsFunc(diffs, immutable) {
		return diffs, err
	}
	// An immutable field that Git did not change may well be as it was applied.
	d.immutable[rb.Name] = true
	if d.lastApplied(ctx, []api.RenderedBundle{rb}); d.applied[rb.Name] == nil {
		return diffs, nil
	}
	return d.look(ctx, rb, removal)
}

// immutable reports whether the API server would not apply Git's object to the live one for want of a field that can change.
func immutable(d apply.Difference) bool { return d.Refused != nil && plan.Immutable(d.Refused) != nil }

// hooksToo has the hooks of a removal that does not take place share its lot.
func hooksToo(rows []planned) {
	i := slices.IndexFunc(rows, func(p planned) bool {
		return p.Action == api.Pruned && p.Outcome != outcomeChange && p.Outcome != outcomeHeld
	})
	for j := range rows {
		if i >= 0 && rows[j].Hook != "" {
			rows[j].Outcome, rows[j].Reason = rows[i].Outcome, rows[i].Reason
		}
	}
}

func (d *differ) inGit(bundle string) bool {
	return slices.ContainsFunc(d.r.Bundles, func(rb api.RenderedBundle) bool { return rb.Name == bundle })
}

// renamed reports whether a bundle has objects of one that was applied and has left Git. Only its hooks want to know.
func (d *differ) renamed(rb api.RenderedBundle) bool {
	for name, entries := range d.owned {
		if len(rb.Hooks) > 0 && d.told[name].AppliedRevision != "" && !d.inGit(name) &&
			slices.ContainsFunc(entries, func(e api.InventoryEntry) bool { return slices.Contains(d.claims[e.Object.ID()], rb.Name) }) {
			return true
		}
	}
	return false
}

// removalHooks are the hooks of a bundle that left Git, as it was last applied. A bundle that keeps what it holds has none,
// nor has one of which another bundle has objects now: that is not removed, but renamed.
func (d *differ) removalHooks(rb api.RenderedBundle) []api.Hook {
	old := d.applied[rb.Name]
	if old == nil || !rb.Spec.PruneEnabled() ||
		slices.ContainsFunc(old.Objects, func(o *unstructured.Unstructured) bool { return len(d.claims[api.RefOf(o).ID()]) > 0 }) {
		return nil
	}
	return old.Hooks
}

// leave says which fields of a live object a pass leaves to others, beside those of ignore rules.
func (d *differ) leave(ctx context.Context, desired, live *unstructured.Unstructured) ([]string, error) {
	near, err := d.near(ctx, desired, live)
	if err != nil {
		return nil, err
	}
	return drift.Leave(desired, live, drift.AutoscalersIn(near)), nil
}

// near are the autoscalers in Git and, if the live object has other replicas than Git says, those of its namespace.
func (d *differ) near(ctx context.Context, desired, live *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	want, ok, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas")
	have, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "replicas")
	if live.GetNamespace() == "" || !ok || fmt.Sprint(want) == fmt.Sprint(have) {
		return d.scalers, nil
	}
	there, err := d.applier.Autoscalers(ctx, live.GetNamespace())
	return slices.Concat(d.scalers, there), err
}

// object puts a difference in words. It reports false for what is as it should be.
func (d *differ) object(ctx context.Context, rb api.RenderedBundle, diff apply.Difference) (planned, bool, error) {
	s := diff.Step
	row := planned{Bundle: rb.Name, Object: s.Object, Action: s.Action, Outcome: outcomeChange, Reason: s.Reason, Hook: diff.Hook}
	res, err := d.compare(ctx, rb, diff)
	if err != nil {
		return row, false, err
	}
	if diff.DryRun != nil && immutable(diff) && len(res.Fields) == 0 {
		return row, false, nil // admission made something else of it as it was created
	}
	row.Fields = res.Fields
	if s.Action == api.Updated && (rb.Spec.Drift.Extra != api.ExtraRemove || res.Mode != api.DriftCorrect) {
		// What others added stays where it is.
		row.Fields = slices.DeleteFunc(slices.Clone(res.Fields), func(f api.FieldDiff) bool { return f.Class == api.ClassAdded })
	}
	switch s.Action {
	case api.Unchanged:
		switch {
		case res.Class == "":
			return row, false, nil
		case res.Action == drift.None:
			row.Outcome, row.Reason = outcomeReported, "differs from Git"
		default:
			row.Action, row.Reason = api.Updated, "others added to it"
		}
	case api.Updated:
		unknown := !d.knows(rb.Name, s.Object)
		if len(res.Fields) == 0 && (s.Next == plan.Verify || unknown) {
			return row, false, nil // the difference is no drift
		}
		if s.Reason == "not known as applied" {
			row.Reason = "differs from Git"
		}
		if unknown && res.Mode != api.DriftCorrect {
			row.Outcome = outcomeUnclear
			row.Reason = "it cannot be told whether Git changed, or this is drift that is only reported"
		}
	case api.Skipped:
		row.Outcome = outcomeSkipped
		if diff.Live == nil && len(d.claims[s.Object.ID()]) > 0 && s.Next == plan.Done && d.reportsMissing(rb, s.Object) {
			row.Outcome, row.Reason = outcomeReported, "missing on the cluster"
		}
	case api.Pruned:
		if s.Next != plan.Delete {
			return row, false, nil // it is gone already
		}
		if d.extra[s.Object.ID()] {
			live := diff.Live.DeepCopy()
			live.SetGroupVersionKind(s.Object.GVK()) // only its metadata was asked for
			switch res := drift.Compare(drift.Input{Live: live, Spec: rb.Spec.Drift}); {
			case res.Class == "":
				return row, false, nil
			case res.Action == drift.None:
				row.Outcome, row.Reason = outcomeReported, "carries the bundle's label, and is not in Git"
			default:
				row.Reason = "carries the bundle's label, and is not in Git"
			}
		}
	case api.Denied, api.Failed:
		row.Outcome = outcomeFailed
		row.Error = s.Err.Error()
	case api.Created, api.Recreated:
	}
	if diff.Held != nil && row.Outcome != outcomeReported && row.Outcome != outcomeSkipped {
		row.Outcome, row.HeldBy = outcomeHeld, diff.Held.Name
	}
	return row, true, nil
}

// knows reports whether it is known what was last applied of an object.
func (d *differ) knows(bundle string, ref api.ObjectRef) bool {
	return slices.ContainsFunc(d.owned[bundle], func(e api.InventoryEntry) bool { return e.Object.ID() == ref.ID() && e.Digest != "" })
}

// reportsMissing reports whether the absence of an object is drift that is only reported.
func (d *differ) reportsMissing(rb api.RenderedBundle, ref api.ObjectRef) bool {
	i := slices.IndexFunc(rb.Objects, func(o *unstructured.Unstructured) bool { return api.RefOf(o).ID() == ref.ID() })
	if i < 0 || !d.knows(rb.Name, ref) {
		return false
	}
	annotations := rb.Objects[i].GetAnnotations()
	return annotations[api.AnnotationReconcile] != api.ValueDisabled && drift.Mode(rb.Spec.Drift, annotations, nil) == api.DriftReport
}

// compare says in which fields an object differs, by the bundle's policy.
func (d *differ) compare(ctx context.Context, rb api.RenderedBundle, diff apply.Difference) (drift.Result, error) {
	if diff.Live == nil || diff.DryRun == nil {
		return drift.Result{Mode: drift.Mode(rb.Spec.Drift, nil, nil)}, nil
	}
	near, err := d.near(ctx, diff.Desired, diff.Live)
	if err != nil {
		return drift.Result{}, err
	}
	in := drift.Input{Desired: diff.Desired, Live: diff.Live, DryRun: diff.DryRun, Spec: rb.Spec.Drift, Autoscalers: drift.AutoscalersIn(near)}
	if s := diff.Step; s.Action == api.Updated && s.Next != plan.Verify {
		// Git may have changed, so a value under our name that is not Git's is no proof of admission.
		in.Matched = &api.InventoryEntry{}
	}
	res := drift.Compare(in)
	if res.Mode != api.DriftIgnore || diff.Step.Action == api.Unchanged {
		return res, nil
	}
	// What Git changed is written whatever the policy says of drift.
	in.Spec.Mode = api.DriftReport
	for _, o := range []**unstructured.Unstructured{&in.Desired, &in.Live, &in.DryRun} {
		*o = (*o).DeepCopy()
		unstructured.RemoveNestedField((*o).Object, "metadata", "annotations", api.AnnotationDrift)
	}
	res.Fields = drift.Compare(in).Fields
	return res, nil
}
