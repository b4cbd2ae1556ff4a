package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Inventory finds all objects that carry the ApplySet label of one of our bundles.
// It looks through the kinds that the BundleDeployments name.
// The entries have no digest: what was applied is not known from the cluster alone.
// Where Claimed is zero, somebody else made the object and gave it the label.
// A kind that cannot be listed is an error, for an inventory with holes would be taken for the whole.
func (c *Client) Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error) {
	c.status.mu.Lock()
	c.status.loaded = false
	err := c.status.loadLocked(ctx, c.server)
	gks := slices.Collect(maps.Keys(c.status.kinds))
	out := make(map[string][]api.InventoryEntry, len(c.status.known))
	bundles := map[string]string{}
	handsOff := map[string]bool{}
	for name, d := range c.status.known {
		out[name] = nil
		bundles[plan.ApplySetID(name)] = name
		for id := range strings.SplitSeq(d.Metadata.Annotations[annotationHandsOff], ",") {
			handsOff[id] = true
		}
	}
	c.status.mu.Unlock()
	if err != nil {
		return nil, kube.Classify(bundleRef("*"), "", err)
	}
	var errs []error
	for _, gk := range gks {
		if err := c.members(ctx, schema.ParseGroupKind(gk), bundles, out); err != nil {
			errs = append(errs, kube.Classify(api.ObjectRef{Kind: gk, Name: "*"}, "", err))
		}
	}
	for _, entries := range out {
		for i := range entries {
			entries[i].HandsOff = handsOff[entries[i].Object.ID()]
		}
		slices.SortFunc(entries, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	}
	return out, errors.Join(errs...)
}

// members lists the objects of one kind that belong to our ApplySets.
func (c *Client) members(ctx context.Context, gk schema.GroupKind, bundles map[string]string, out map[string][]api.InventoryEntry) error {
	gvk, m, err := c.server.Kinds.Preferred(gk)
	if err != nil {
		return c.server.KindGone(ctx, api.ObjectRef{Group: gk.Group, Kind: gk.Kind}, err)
	}
	in, err := m.Everywhere(gvk.GroupVersion())
	if err != nil {
		return err
	}
	selector, err := kube.ByLabels(map[string]string{api.LabelManagedBy: api.ManagedBy}, api.LabelPartOf)
	if err != nil {
		return err
	}
	err = c.server.Own.List(ctx, in, selector, kube.MetadataListOnly, func(o *unstructured.Unstructured) {
		labels := o.GetLabels()
		set := labels[api.LabelPartOf]
		bundle, ok := bundles[set]
		if name := labels[api.LabelBundle]; !ok && name != "" && plan.ApplySetID(name) == set {
			bundle, ok = name, true
		}
		if !ok || madeByController(gk, o) {
			return
		}
		out[bundle] = append(out[bundle], api.InventoryEntry{
			Object: api.ObjectRef{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()},
			UID:    string(o.GetUID()), ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(),
			MetaDigest: api.MetaDigest(o), Claimed: api.ClaimedAt(o),
		})
	})
	if kube.ReasonOf(err) == kube.ReasonKindMissing {
		return nil
	}
	return err
}

// madeByController reports whether an object has our labels only because a controller copied them
// from the object of ours that it made it for. It is not in Git, and must not be pruned for that.
func madeByController(gk schema.GroupKind, o *unstructured.Unstructured) bool {
	if metav1.GetControllerOf(o) != nil {
		return true
	}
	// Those that are made for a Service name no owner.
	return gk == schema.GroupKind{Kind: "Endpoints"} && o.GetLabels()["endpoints.kubernetes.io/managed-by"] == "endpoint-controller"
}
