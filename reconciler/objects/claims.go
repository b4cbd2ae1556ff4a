package objects

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Claims says which bundles declare each object, by its ID. The first of them has it.
type Claims map[string][]string

// ClaimsOf returns what the bundles of a rendering declare. Where several declare one object, the bundle that owns it has it.
// tenant names the tenant of a bundle; a nil owner means that owners are unknown.
func ClaimsOf(bundles []api.RenderedBundle, owner, tenant func(string) string) Claims {
	c := Claims{}
	for i := range bundles {
		rb := &bundles[i]
		alone := []string{rb.Name} // one for all that it alone declares
		for _, o := range rb.Objects {
			c.add(api.RefOf(o).ID(), rb.Name, alone, owner, tenant)
		}
	}
	return c
}

// add notes that a bundle declares an object.
func (c Claims) add(id, bundle string, alone []string, owner, tenant func(string) string) {
	all := c[id]
	switch {
	case len(all) == 0:
		c[id] = alone
	case !slices.Contains(all, bundle):
		has := ""
		if owner != nil {
			has = owner(id)
		}
		c[id] = plan.Claimants(append(slices.Clone(all), bundle), has, tenant)
	}
}

// Of names the bundle that has an object; empty if none declares it.
func (c Claims) Of(id string) string {
	if all := c[id]; len(all) > 0 {
		return all[0]
	}
	return ""
}

// Claims returns what is declared now. It is never changed afterwards.
func (h *Home) Claims() Claims {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claims
}

// Adopt replaces what is declared by what the bundles of a rendering declare.
func (h *Home) Adopt(bundles []api.RenderedBundle, tenant func(string) string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claims = ClaimsOf(bundles, func(id string) string { return h.owners[id] }, tenant)
}

// Rename replaces what a bundle declares by the same objects, some of which have another ID: their namespace was not known.
func (h *Home) Rename(bundle string, before, after []*unstructured.Unstructured, tenant func(string) string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	claims := maps.Clone(h.claims)
	defer func() { h.claims = claims }()
	for i, o := range after {
		if o != before[i] {
			delete(claims, api.RefOf(before[i]).ID())
			claims.add(api.RefOf(o).ID(), bundle, []string{bundle}, func(id string) string { return h.owners[id] }, tenant)
		}
	}
}

// Owner names the bundle whose inventory holds an object; empty for none.
func (h *Home) Owner(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.owners[id]
}

// DesiredBy names the bundle whose rendering holds an object; empty for none.
// A bundle that cannot be rendered still claims all that it owns: nothing of it is deleted.
func (h *Home) DesiredBy(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.desiredByLocked(id)
}

func (h *Home) desiredByLocked(id string) string {
	if name := h.claims.Of(id); name != "" {
		return name
	}
	// An object whose kind nobody knew at the time is claimed without its namespace.
	if ref, ok := api.ParseID(id); ok && ref.Namespace != "" {
		ref.Namespace = ""
		if name := h.claims.Of(ref.ID()); name != "" {
			return name
		}
	}
	if b := h.bundles[h.owners[id]]; b != nil && b.Desired != nil && b.Desired.Err != nil {
		return b.Name
	}
	return ""
}
