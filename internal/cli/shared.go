package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// taken are objects of a bundle that another bundle has: object ID -> what to say of it.
type taken map[string]string

// err says which the first of them is, and how many there are.
func (t taken) err() error {
	if len(t) == 0 {
		return nil
	}
	err := errors.New(t[slices.Sorted(maps.Keys(t))[0]])
	if len(t) > 1 {
		err = fmt.Errorf("%w, and %d more such objects", err, len(t)-1)
	}
	return &api.Error{Kind: api.Forbidden, Reason: plan.ReasonDeclaredTwice, Err: err, Hint: "leave it in one of them"}
}

// sharedIn returns, by bundle, the objects that another bundle declares and has, as far as that can be told without a cluster.
func sharedIn(r api.Rendering) map[string]taken {
	bundles := map[string]api.RenderedBundle{}
	declared := map[string][]string{}
	for _, b := range r.Bundles {
		bundles[b.Name] = b
		for _, o := range b.Objects {
			declared[api.RefOf(o).ID()] = append(declared[api.RefOf(o).ID()], b.Name)
		}
	}
	out := map[string]taken{}
	for id, names := range declared {
		if len(names) < 2 {
			continue
		}
		names = plan.Claimants(names, "", func(name string) string { return bundles[name].TenantName() })
		ref, _ := api.ParseID(id)
		for _, name := range names[1:] {
			if out[name] == nil {
				out[name] = taken{}
			}
			out[name][id] = fmt.Sprintf("%s: %s is also in bundle %q (%s), which has it, unless the cluster says otherwise",
				bundles[name].Origin[id], ref, names[0], bundles[names[0]].Origin[id])
		}
	}
	return out
}
