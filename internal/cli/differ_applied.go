package cli

import (
	"context"
	"errors"
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
func (d *differ) lastApplied(ctx context.Context, bundles []api.RenderedBundle) {
	wanted := map[string][]string{} // revision -> bundles
	for _, rb := range bundles {
		if s, ok := d.told[rb.Name]; ok && rb.Err == nil && d.needsHistory(rb) {
			wanted[s.AppliedRevision] = append(wanted[s.AppliedRevision], rb.Name)
		}
	}
	for _, revision := range slices.Sorted(maps.Keys(wanted)) {
		names := wanted[revision]
		old, err := api.Rendering{}, errors.New("no pass of it ever succeeded")
		if revision != "" {
			old, err = d.history(ctx, revision)
		}
		if err != nil {
			d.talk.Printf("note: what was last applied of %s cannot be read, so drift cannot be told from a change in Git: %s\n",
				strings.Join(names, ", "), redact.Text(err.Error()))
			continue
		}
		for i := range old.Bundles {
			if rb := &old.Bundles[i]; rb.Err == nil && slices.Contains(names, rb.Name) {
				d.applied[rb.Name] = rb
			}
		}
	}
	for name, old := range d.applied {
		d.owned[name] = d.known(old, d.owned[name])
	}
}

// needsHistory reports whether it makes a difference what the bundle was applied from.
func (d *differ) needsHistory(rb api.RenderedBundle) bool {
	if m := rb.Spec.Drift.Mode; m == api.DriftReport || m == api.DriftIgnore || len(d.told[rb.Name].Exempt) > 0 || d.immutable[rb.Name] {
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
	for _, e := range d.owned[rb.Name] {
		if !want[e.Object.ID()] {
			return true
		}
		have++
	}
	return have < len(want)
}

// known is an inventory with what the cluster cannot tell: the digests, and objects that are gone.
// What carries the bundle's label and was not applied is marked as extra: the agent does not own it.
func (d *differ) known(old *api.RenderedBundle, entries []api.InventoryEntry) []api.InventoryEntry {
	applied := map[string]*unstructured.Unstructured{}
	for _, o := range old.Objects {
		applied[api.RefOf(o).ID()] = o
	}
	var out []api.InventoryEntry
	for _, e := range entries {
		id := e.Object.ID()
		o := applied[id]
		if o == nil && len(d.claims[id]) == 0 && e.Claimed == 0 {
			d.extra[id] = true
		}
		if o != nil {
			e.Digest = apply.Digest(o)
			delete(applied, id)
		}
		out = append(out, e)
	}
	for _, id := range slices.Sorted(maps.Keys(applied)) {
		if o := applied[id]; slices.Contains(d.claims[id], old.Name) {
			out = append(out, api.InventoryEntry{Object: api.RefOf(o), Digest: apply.Digest(o)})
		}
	}
	return out
}
