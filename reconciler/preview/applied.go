package preview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// lastApplied finds out what bundles were applied from, where that matters: digests are in the agent's own store,
// and without them a change in Git looks like drift, and what somebody else labelled as ours like what left Git.
func (p *Preview) lastApplied(ctx context.Context, bundles []api.RenderedBundle) {
	wanted := map[string][]string{} // revision -> bundles
	for _, rb := range bundles {
		if s, ok := p.told[rb.Name]; ok && rb.Err == nil && p.needsHistory(rb) {
			wanted[s.AppliedRevision] = append(wanted[s.AppliedRevision], rb.Name)
		}
	}
	for _, revision := range slices.Sorted(maps.Keys(wanted)) {
		names := wanted[revision]
		old, err := api.Rendering{}, errors.New("no pass of it ever succeeded")
		if revision != "" {
			old, err = p.cfg.History(ctx, revision)
		}
		if err != nil {
			p.cfg.Note(fmt.Sprintf("note: what was last applied of %s cannot be read, so drift cannot be told from a change in Git: %s",
				strings.Join(names, ", "), redact.Text(err.Error())))
			continue
		}
		for i := range old.Bundles {
			if rb := &old.Bundles[i]; rb.Err == nil && slices.Contains(names, rb.Name) {
				p.applied[rb.Name] = rb
				p.owned[rb.Name] = p.known(rb, p.owned[rb.Name])
			}
		}
	}
}

// needsHistory reports whether it makes a difference what the bundle was applied from.
func (p *Preview) needsHistory(rb api.RenderedBundle) bool {
	if m := rb.Spec.Drift.Mode; m == api.DriftReport || m == api.DriftIgnore || len(p.told[rb.Name].Exempt) > 0 || p.immutable[rb.Name] {
		return true
	}
	want := map[string]bool{}
	for _, o := range rb.Objects {
		want[api.RefOf(o).ID()] = true
		if o.GetAnnotations()[api.AnnotationDrift] != "" {
			return true
		}
	}
	have := 0
	for _, e := range p.owned[rb.Name] {
		if !want[e.Object.ID()] {
			return true
		}
		have++
	}
	return have < len(want)
}

// known is an inventory with what the cluster cannot tell: the digests, and objects that are gone.
// What carries the bundle's label and was not applied is marked as extra: the agent does not own it.
func (p *Preview) known(old *api.RenderedBundle, entries []api.InventoryEntry) []api.InventoryEntry {
	applied := map[string]*unstructured.Unstructured{}
	for _, o := range old.Objects {
		applied[api.RefOf(o).ID()] = o
	}
	var out []api.InventoryEntry
	for _, e := range entries {
		id := e.Object.ID()
		o := applied[id]
		if o == nil && len(p.claims[id]) == 0 && e.Claimed == 0 {
			p.extra[id] = true
		}
		if o != nil {
			e.Digest = apply.Digest(o)
			delete(applied, id)
		}
		out = append(out, e)
	}
	for _, id := range slices.Sorted(maps.Keys(applied)) {
		if o := applied[id]; slices.Contains(p.claims[id], old.Name) {
			out = append(out, api.InventoryEntry{Object: api.RefOf(o), Digest: apply.Digest(o)})
		}
	}
	return out
}
