package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// Deletion is one object that a pass is about to delete.
type Deletion struct {
	Bundle string
	Object api.ObjectRef
}

// ReasonProtected is the reason of GuardProtected's error.
const ReasonProtected = "ProtectedKind"

// maxNamed bounds how many objects a guard's error names.
const maxNamed = 5

// Protected are the kinds whose deletion takes other things with it that Git cannot bring back.
func Protected(ref api.ObjectRef) bool {
	switch ref.Kind {
	case "Namespace", "PersistentVolumeClaim":
		return ref.Group == ""
	case "CustomResourceDefinition":
		return ref.Group == "apiextensions.k8s.io"
	}
	return false
}

// builtIn are the namespaces that a cluster, or the agent on it, does not live without.
// Whoever takes one out of Git gives it up, and nothing that anybody says there deletes it.
func builtIn(ref api.ObjectRef) bool {
	if ref.Kind != "Namespace" || ref.Group != "" {
		return false
	}
	switch ref.Name {
	case "default", "kube-system", "kube-public", "kube-node-lease", api.SystemNamespace:
		return true
	}
	return false
}

// Outlook is what a whole pass is about to meet: all that the cluster holds, and all that Git says.
type Outlook struct {
	Cluster, Revision string
	// Rendered counts the objects that Git says there are.
	Rendered int
	// Tenant returns a bundle's tenant; empty for the platform's. Nil means that all are the platform's.
	Tenant func(bundle string) string
	// Broken are the tenants with a bundle that cannot be rendered: nothing of these is deleted, and nothing at all
	// if the platform is one of them.
	Broken map[string]bool
	// Owned: bundle -> what it owns. Those that left Git are among them.
	Owned map[string][]api.ObjectRef
	// MayBeEmpty are the bundles of Git that may render nothing.
	MayBeEmpty map[string]bool
	// Keeps reports whether a bundle deletes nothing, Claimed whether a bundle of Git declares an object.
	Keeps   func(bundle string) bool
	Claimed func(api.ObjectRef) bool
	// Leaves reports whether a bundle would not delete an object that left it; nil means that it would delete all.
	Leaves func(bundle string, ref api.ObjectRef) bool
	Guards api.Guards
}

// Gate refuses a pass that would empty the cluster or delete too much of it, before anything is touched.
// Where tenants alone would delete too much, they alone are stopped, each with its error. The errors' kind is Forbidden.
func Gate(o Outlook) (stopped map[string]error, err error) {
	if o.Broken[""] {
		return nil, nil
	}
	owned, released := 0, true
	gone := map[string][]Deletion{} // by tenant
	for bundle, refs := range o.Owned {
		owned += len(refs)
		released = released && (len(refs) == 0 || o.MayBeEmpty[bundle] || allows(o.Guards, bundle))
		tenant := ""
		if o.Tenant != nil {
			tenant = o.Tenant(bundle)
		}
		if o.Keeps(bundle) || o.Broken[tenant] {
			continue
		}
		for _, ref := range refs {
			if !o.Claimed(ref) && (o.Leaves == nil || !o.Leaves(bundle, ref)) {
				gone[tenant] = append(gone[tenant], Deletion{Bundle: bundle, Object: ref})
			}
		}
	}
	if o.Rendered == 0 && owned > 0 && !released && len(o.Broken) == 0 {
		return nil, &api.Error{
			Kind: api.Forbidden, Reason: "EmptyRendering",
			Err: fmt.Errorf("revision %s renders no object at all for cluster %q, which holds %d: nothing is deleted",
				o.Revision[:min(len(o.Revision), 10)], o.Cluster, owned),
			Hint: `to empty the cluster on purpose, set spec.guards.allowDelete: ["*"] in fleet.yaml or cluster.yaml`,
		}
	}
	return gateShare(owned, gone, o.Guards)
}

// gateShare measures what all would delete together. If that is too much it is the platform's own share that counts for all,
// and the tenants stop: first those whose own share is too much, then all that would delete anything.
func gateShare(owned int, gone map[string][]Deletion, guards api.Guards) (stopped map[string]error, err error) {
	together := func() []Deletion {
		var out []Deletion
		for _, tenant := range slices.Sorted(maps.Keys(gone)) {
			if stopped[tenant] == nil {
				out = append(out, gone[tenant]...)
			}
		}
		return out
	}
	if err := GuardShare(owned, together(), guards); err == nil {
		return nil, nil
	}
	if err := GuardShare(owned, gone[""], guards); err != nil {
		return nil, err
	}
	stopped = map[string]error{}
	for tenant, theirs := range gone {
		if err := GuardShare(owned, theirs, guards); err != nil {
			stopped[tenant] = err
		}
	}
	err = GuardShare(owned, together(), guards)
	if err == nil {
		return stopped, nil
	}
	for tenant, theirs := range gone {
		if tenant != "" && stopped[tenant] == nil && len(guarded(theirs, guards)) > 0 {
			stopped[tenant] = err
		}
	}
	return stopped, nil
}

// allows reports whether the repository releases all that a bundle owns.
func allows(g api.Guards, bundle string) bool {
	return slices.Contains(g.AllowDelete, "*") || slices.Contains(g.AllowDelete, bundle)
}

// GuardProtected refuses deletions of a protected kind that the guards do not explicitly allow.
// The error's kind is Forbidden.
func GuardProtected(deletions []Deletion, guards api.Guards) error {
	precious := slices.DeleteFunc(guarded(deletions, guards), func(d Deletion) bool { return !Protected(d.Object) })
	if len(precious) == 0 {
		return nil
	}
	return refusal(ReasonProtected, precious,
		fmt.Errorf("the pass would delete %s, and with such a kind goes what Git cannot bring back", named(precious)))
}

// GuardShare refuses deletions of more than the allowed share of an inventory of total objects.
// What the guards explicitly allow is not counted. The error's kind is Forbidden.
func GuardShare(total int, deletions []Deletion, guards api.Guards) error {
	counted := guarded(deletions, guards)
	percent := api.DefaultMaxDeletePercent
	if guards.MaxDeletePercent != nil {
		percent = *guards.MaxDeletePercent
	}
	if len(counted) <= api.MinGuardedDeletes || len(counted)*100 <= percent*total {
		return nil
	}
	return refusal("MassDeletion", counted, fmt.Errorf("the pass would delete %d of %d objects, and at most %d %% are allowed: %s",
		len(counted), total, percent, named(counted)))
}

// guarded returns the deletions that the guards do not explicitly allow.
// A built-in namespace is none, for Prune lets it go as it is.
func guarded(ds []Deletion, g api.Guards) []Deletion {
	return slices.DeleteFunc(slices.Clone(ds), func(d Deletion) bool { return allowed(d.Bundle, g) || builtIn(d.Object) })
}

func allowed(bundle string, g api.Guards) bool {
	return slices.Contains(g.AllowDelete, bundle) || slices.Contains(g.AllowDelete, "*")
}

func refusal(reason string, ds []Deletion, err error) error {
	var bundles []string
	for _, d := range ds {
		bundles = append(bundles, d.Bundle)
	}
	slices.Sort(bundles)
	bundles = slices.Compact(bundles)
	if len(bundles) > maxNamed {
		bundles = []string{`"*"`}
	}
	return &api.Error{
		Kind: api.Forbidden, Reason: reason, Err: err,
		Hint: fmt.Sprintf("if this is meant, commit spec.guards.allowDelete: [%s] in fleet.yaml or cluster.yaml", strings.Join(bundles, ", ")),
	}
}

func named(ds []Deletion) string {
	var out []string
	for i, d := range ds {
		if i == maxNamed {
			out = append(out, fmt.Sprintf("and %d more", len(ds)-maxNamed))
			break
		}
		out = append(out, fmt.Sprintf("%s of bundle %q", d.Object, d.Bundle))
	}
	return strings.Join(out, ", ")
}
