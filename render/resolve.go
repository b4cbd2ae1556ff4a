package render

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
)

// resolved is a bundle on the cluster, with everything decided that does not need rendering.
type resolved struct {
	name, dir string
	// file is the bundle.yaml, or the kustomization of the implicit bundle.
	file string
	// data is the bundle.yaml's text.
	data []byte
	spec api.BundleSpec
	// tenant is nil for the platform's. siblings are the names of all its bundles, on whatever clusters.
	tenant   *api.Tenant
	siblings []string
	// held says that the cluster has the bundle, and has it as that tenant's.
	held bool
	// target is the index of the target that matched, -1 for none; overlays are those of all targets.
	target   int
	overlay  string
	values   map[string]any
	overlays []string
	warnings []string
	err      error
}

// resolve decides which bundles are on the cluster, sorted by name. Warnings are about the others.
func resolve(
	tree api.Tree, fleet api.Fleet, cluster api.Cluster, all []*found, holders map[string]string,
) (here []resolved, stopped map[string]error, warnings []string, err error) {
	names, err := ClusterNames(tree)
	if err != nil {
		return nil, nil, nil, err
	}
	if all, stopped, err = named(fleet, all, holders); err != nil {
		return nil, nil, nil, err
	}
	siblings := siblingsOf(fleet, all)
	for _, f := range all {
		b, on := onCluster(f, fleet, cluster, names)
		if on {
			if b.tenant != nil {
				b.siblings = siblings[b.tenant.Name]
				b.err = cmp.Or(stopped[b.tenant.Name], b.err)
			}
			here = append(here, b)
			continue
		}
		for _, w := range b.warnings {
			warnings = append(warnings, fmt.Sprintf("%s: %s; the bundle is not on cluster %q", f.file, w, cluster.Metadata.Name))
		}
	}
	if b, ok := implicit(tree, fleet, cluster, all); ok {
		for _, f := range all {
			if f.bundle.Metadata.Name == b.name {
				return nil, nil, nil, &api.Error{
					Kind: api.Stalled, Reason: "DuplicateBundle", File: f.file, Line: LineOf(f.data, "metadata", "name"), Field: "metadata.name",
					Err: fmt.Errorf("bundle %q is also made by %s", b.name, b.file),
				}
			}
		}
		here = append(here, b)
	}
	here = append(here, left(fleet, stopped, here, holders)...)
	slices.SortFunc(here, func(a, b resolved) int { return strings.Compare(a.name, b.name) })
	limitBundles(here, holders)
	checkDependencies(here, all)
	if err := refuseCycles(here); err != nil {
		return nil, nil, nil, err
	}
	return here, stopped, warnings, nil
}

// left are the bundles that the cluster has of tenants that are stopped, and that are not in Git any more as far as can be told:
// one of them may be what cannot be read.
func left(fleet api.Fleet, stopped map[string]error, here []resolved, holders map[string]string) []resolved {
	var out []resolved
	for i, t := range fleet.Spec.Tenants {
		for name, tenant := range holders {
			if tenant != t.Name || stopped[tenant] == nil || slices.ContainsFunc(here, func(b resolved) bool { return b.name == name }) {
				continue
			}
			account := t.ServiceAccount
			out = append(out, resolved{
				name: name, dir: t.Path, target: -1, tenant: &fleet.Spec.Tenants[i], err: stopped[tenant],
				spec: withDefaults(api.BundleSpec{ServiceAccount: &account}, fleet.Spec.Defaults),
			})
		}
	}
	return out
}

// siblingsOf returns the names of each tenant's bundles.
func siblingsOf(fleet api.Fleet, all []*found) map[string][]string {
	out := map[string][]string{}
	for _, f := range all {
		if t := fleet.Spec.TenantAt(f.dir); t != nil {
			out[t.Name] = append(out[t.Name], f.bundle.Metadata.Name)
		}
	}
	return out
}

func onCluster(f *found, fleet api.Fleet, cluster api.Cluster, names []string) (resolved, bool) {
	b := resolved{name: f.bundle.Metadata.Name, dir: f.dir, file: f.file, data: f.data, target: -1, err: f.err, tenant: fleet.Spec.TenantAt(f.dir)}
	away := b.tenant != nil && !b.tenant.OnCluster(cluster.Metadata.Labels)
	if f.err != nil {
		return b, !away
	}
	b.spec = withDefaults(f.bundle.Spec, fleet.Spec.Defaults)
	b.spec.Targets = nil
	b.err = b.bind(f.bundle.Spec)
	if f.bundle.Spec.Targets == nil {
		return b, !away
	}
	for i, t := range f.bundle.Spec.Targets {
		if t.Overlay != "" {
			b.overlays = append(b.overlays, path.Join(f.dir, t.Overlay))
		}
		for _, c := range t.Clusters {
			if !slices.Contains(names, c) {
				b.warnings = append(b.warnings, fmt.Sprintf("spec.targets.%d names cluster %q, which does not exist", i, c))
			}
		}
		if b.target < 0 && matches(t, cluster) {
			b.target, b.overlay, b.values = i, t.Overlay, t.Values
		}
	}
	if away && b.target >= 0 {
		b.warnings = append(b.warnings, fmt.Sprintf("spec.targets.%d chooses a cluster where tenant %q is not", b.target, b.tenant.Name))
	}
	return b, b.target >= 0 && !away
}

// matches reports whether a target chooses a cluster.
// Names and labels must both match where both are given; a target with neither chooses every cluster.
func matches(t api.Target, cluster api.Cluster) bool {
	if len(t.Clusters) > 0 && !slices.Contains(t.Clusters, cluster.Metadata.Name) {
		return false
	}
	return t.ClusterSelector == nil || t.ClusterSelector.Matches(cluster.Metadata.Labels)
}

// withDefaults fills in what the fleet says for every bundle.
func withDefaults(s api.BundleSpec, d api.BundleDefaults) api.BundleSpec {
	if s.Prune == nil {
		s.Prune = d.Prune
	}
	if s.Wait == nil {
		s.Wait = d.Wait
	}
	if s.Timeout == 0 {
		s.Timeout = d.Timeout
	}
	if s.Drift.Mode == "" {
		s.Drift.Mode = d.Drift.Mode
	}
	if s.Drift.Mode == "" {
		s.Drift.Mode = api.DriftCorrect
	}
	if s.Drift.Extra == "" {
		s.Drift.Extra = d.Drift.Extra
	}
	if s.Drift.Extra == "" {
		s.Drift.Extra = api.ExtraIgnore
	}
	s.Drift.Ignore = slices.Concat(d.Drift.Ignore, s.Drift.Ignore)
	s.Drift.TakeOver, s.TakeOver = slices.Concat(d.TakeOver, s.TakeOver), nil
	return s
}

// implicit is the bundle made of clusters/<name>/kustomization.yaml.
func implicit(tree api.Tree, fleet api.Fleet, cluster api.Cluster, all []*found) (resolved, bool) {
	dir := path.Join(clustersDir, cluster.Metadata.Name)
	file := kustomize.Find(tree, dir)
	if file == "" || slices.ContainsFunc(all, func(f *found) bool { return f.dir == dir }) {
		return resolved{}, false
	}
	return resolved{
		name: api.ClusterBundle, dir: dir, file: file, target: -1,
		spec: withDefaults(api.BundleSpec{Kustomize: &api.KustomizeSource{}}, fleet.Spec.Defaults),
	}, true
}

// checkDependencies gives an error to each bundle that depends on one that is not on the cluster.
func checkDependencies(here []resolved, all []*found) {
	on := make(map[string]bool, len(here))
	for _, b := range here {
		on[b.name] = true
	}
	for i := range here {
		b := &here[i]
		for j, d := range b.spec.DependsOn {
			if on[d] || b.err != nil {
				continue
			}
			e := &api.Error{
				Kind: api.Stalled, Reason: "UnknownDependency", File: b.file,
				Line: LineOf(b.data, "spec", "dependsOn", strconv.Itoa(j)), Field: fmt.Sprintf("spec.dependsOn.%d", j),
				Err: fmt.Errorf("there is no bundle %q", d),
			}
			if k := slices.IndexFunc(all, func(f *found) bool { return f.bundle.Metadata.Name == d }); k >= 0 {
				e.Err = fmt.Errorf("bundle %q (%s) is not on this cluster", d, all[k].file)
			}
			b.err = e
		}
	}
}

// refuseCycles gives an error to the tenants' bundles among those that depend on each other.
// Where only the platform's do, that is an error of all.
func refuseCycles(here []resolved) error {
	for {
		cycle := findCycle(here)
		if cycle == nil {
			return nil
		}
		names := make([]string, len(cycle))
		for i, b := range cycle {
			names[i] = b.name
		}
		fail := func(b *resolved) error {
			return &api.Error{
				Kind: api.Stalled, Reason: "DependencyCycle", File: b.file, Line: LineOf(b.data, "spec", "dependsOn"), Field: "spec.dependsOn",
				Err: fmt.Errorf("the bundles depend on each other: %s", strings.Join(append(names, names[0]), " -> ")),
			}
		}
		bound := false
		for _, b := range cycle {
			if b.tenant != nil {
				b.err, bound = fail(b), true
			}
		}
		if !bound {
			return fail(cycle[0])
		}
	}
}

// findCycle returns bundles each of which depends on the next, and the last on the first. Those with an error depend on nothing.
func findCycle(here []resolved) []*resolved {
	byName := make(map[string]*resolved, len(here))
	for i := range here {
		byName[here[i].name] = &here[i]
	}
	const (
		visiting = 1
		done     = 2
	)
	state := make(map[string]int, len(here))
	var trail []*resolved
	var visit func(name string) []*resolved
	visit = func(name string) []*resolved {
		b := byName[name]
		if b == nil || b.err != nil || state[name] == done {
			return nil
		}
		if state[name] == visiting {
			return trail[slices.Index(trail, b):]
		}
		state[name] = visiting
		trail = append(trail, b)
		for _, d := range b.spec.DependsOn {
			if cycle := visit(d); cycle != nil {
				return cycle
			}
		}
		trail = trail[:len(trail)-1]
		state[name] = done
		return nil
	}
	for _, b := range here {
		if cycle := visit(b.name); cycle != nil {
			return cycle
		}
	}
	return nil
}
