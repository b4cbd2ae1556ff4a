package check

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/pod-security-admission/policy"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/render/schemas"
)

// Input is a fleet repository with its renderings.
type Input struct {
	// Clusters are the renderings of all clusters.
	Clusters []compare.On
	// Bundles are the bundle.yaml files that could be read.
	Bundles []Bundle
	Tree    api.Tree
	// KubeMinor is the minor version of Kubernetes, 1.KubeMinor, for which the fleet is checked. Zero means schemas.Version.
	KubeMinor int
}

// Bundle is a bundle.yaml.
type Bundle struct {
	File, Dir string
	Bundle    api.Bundle
}

// Run returns the findings, the worst first; those that are ignored are among them.
func Run(ctx context.Context, in Input) ([]Finding, error) {
	security, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("read the Pod Security Standards: %w", err)
	}
	if in.KubeMinor == 0 {
		in.KubeMinor = schemas.Version
	}
	builtin, err := schemas.NewBuiltin()
	if err != nil {
		return nil, fmt.Errorf("read the schemas of Kubernetes: %w", err)
	}
	r := &run{
		Input: in, out: newCollector(), builtin: builtin,
		bundles: map[string]*bundle{}, definitions: map[string]*definition{}, where: newPlaces(in.Tree), security: security,
	}
	r.fleet()
	for _, on := range in.Clusters {
		r.cluster(ctx, on)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	found, where := r.out.all(), r.where
	for i := range found {
		if found[i].Line == 0 {
			found[i].Line = where.line(found[i])
		}
	}
	found = ignore(found, r.annotations(), where)
	slices.SortFunc(found, compareFindings)
	return found, nil
}

// run is one check of a fleet.
type run struct {
	Input
	out     *collector
	builtin schemas.Builtin
	// bundles are the distinct renderings: name and digest -> what is known of them, on whatever cluster.
	bundles map[string]*bundle
	// definitions are the distinct CustomResourceDefinitions: the bundle's name and digest, and ID -> how it checks.
	definitions map[string]*definition
	where       *places
	security    policy.Evaluator
}

// cluster checks what is on one cluster.
func (r *run) cluster(ctx context.Context, on compare.On) {
	if on.Err != nil {
		r.out.add(fromError(on.Err, ""), on.Cluster)
		return
	}
	view := newView()
	for i := range on.Rendering.Bundles {
		b := &on.Rendering.Bundles[i]
		if b.Err != nil {
			r.out.add(fromError(b.Err, b.Name), on.Cluster)
			view.unknown = true
			continue
		}
		known := r.bundle(b)
		for _, f := range known.findings {
			r.out.add(f, on.Cluster)
		}
		view.add(known)
	}
	if len(on.Rendering.Bundles) == 0 {
		r.out.add(Finding{
			Reason: UnreachedCluster, File: "clusters/" + on.Cluster + "/cluster.yaml", Message: "no bundle is on this cluster",
		}, on.Cluster)
	}
	add := func(f Finding) { r.out.add(f, on.Cluster) }
	r.twice(view, add)
	r.customs(ctx, view, add)
	r.podSecurity(view, add)
	if !view.unknown { // what cannot be rendered may be what is missing
		view.references(add)
		view.selectors(add)
	}
}

// bundle returns what is known of a rendering, which clusters share.
func (r *run) bundle(b *api.RenderedBundle) *bundle {
	key := b.Name + "\x00" + b.Digest
	if r.bundles[key] == nil {
		r.bundles[key] = r.newBundle(b)
	}
	return r.bundles[key]
}
