package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// Inventory finds all objects that carry the ApplySet label of one of our bundles.
// It looks through the kinds that the BundleDeployments name.
// The entries have no digest: what was applied is not known from the cluster alone.
// Where Claimed is zero, somebody else made the object and gave it the label.
// A kind that cannot be listed is an error, for an inventory with holes would be taken for the whole.
func (a *Applier) Inventory(ctx context.Context) (map[string][]api.InventoryEntry, error) {
	a.status.mu.Lock()
	a.status.loaded = false
	err := a.status.loadLocked(ctx, a)
	gks := slices.Collect(maps.Keys(a.status.kinds))
	out := make(map[string][]api.InventoryEntry, len(a.status.known))
	bundles := map[string]string{}
	handsOff := map[string]bool{}
	for name, d := range a.status.known {
		out[name] = nil
		bundles[ApplySetID(name)] = name
		for id := range strings.SplitSeq(d.Metadata.Annotations[annotationHandsOff], ",") {
			handsOff[id] = true
		}
	}
	a.status.mu.Unlock()
	if err != nil {
		return nil, Classify(bundleRef("*"), "", err)
	}
	var errs []error
	for _, gk := range gks {
		if err := a.members(ctx, schema.ParseGroupKind(gk), bundles, out); err != nil {
			errs = append(errs, Classify(api.ObjectRef{Kind: gk, Name: "*"}, "", err))
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
func (a *Applier) members(ctx context.Context, gk schema.GroupKind, bundles map[string]string, out map[string][]api.InventoryEntry) error {
	gvk, m, err := a.kinds.preferred(gk)
	if err != nil {
		return a.kindGone(ctx, api.ObjectRef{Group: gk.Group, Kind: gk.Kind}, err)
	}
	in, err := m.everywhere(gvk.GroupVersion())
	if err != nil {
		return err
	}
	selector, err := kube.ByLabels(map[string]string{api.LabelManagedBy: api.ManagedBy}, api.LabelPartOf)
	if err != nil {
		return err
	}
	err = a.own.list(ctx, in, selector, metadataListOnly, func(o *unstructured.Unstructured) {
		labels := o.GetLabels()
		set := labels[api.LabelPartOf]
		bundle, ok := bundles[set]
		if name := labels[api.LabelBundle]; !ok && name != "" && ApplySetID(name) == set {
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
	if apierrors.IsNotFound(err) && strings.Contains(err.Error(), "could not find the requested resource") {
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

// kindGone returns nil if the server really does not have a kind that discovery did not find (cause).
// Discovery leaves out a group whose API server is down; its objects are still there.
func (a *Applier) kindGone(ctx context.Context, ref api.ObjectRef, cause error) error {
	if _, reason := kindOf(cause); reason != "KindMissing" {
		return cause
	}
	if ref.Group == "" {
		return nil
	}
	var group metav1.APIGroup
	if err := a.ask(ctx, ref.Group, "", &group); err != nil {
		return ignoreNotFound(err)
	}
	for _, v := range group.Versions {
		var list metav1.APIResourceList
		if err := ignoreNotFound(a.ask(ctx, ref.Group, v.Version, &list)); err != nil {
			return err
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == ref.Kind }) {
			return unserved(ref)
		}
	}
	return nil
}

// unserved is the error about an object whose kind is served, and not where it was looked for. It is no "not found".
func unserved(ref api.ObjectRef) error {
	return &api.Error{
		Kind: api.Waiting, Reason: "KindMissing", After: waitAgain,
		Err: fmt.Errorf("%s is not served in version %s, and in which one it is is not known yet", ref.Kind, ref.Version),
	}
}

// ask reads what discovery tells of a group, or of one version of it.
func (a *Applier) ask(ctx context.Context, group, version string, into any) error {
	req, err := kube.Discovery(a.own.rest.Get(), group, version)
	if err != nil {
		return err
	}
	raw, _, err := send(ctx, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// identity reads the object of an identity, in whatever version the server has of its kind: what was applied in one
// that its CRD has dropped is still there. The error is NotFound if there is no such object, or no such kind any more.
func (a *Applier) identity(ctx context.Context, c *client, ref api.ObjectRef, accept string) (place, *unstructured.Unstructured, error) {
	at, err := a.kinds.place(ref)
	if err == nil {
		var live *unstructured.Unstructured
		if live, err = c.get(ctx, at, accept); err == nil {
			return at, live, nil
		}
	}
	switch _, reason := kindOf(err); {
	case isImpossible(err):
		return at, nil, apierrors.NewNotFound(groupResource(ref), ref.Name) // no API server has it
	case reason != "KindMissing":
		return at, nil, err
	}
	gk := ref.GVK().GroupKind()
	a.kinds.forget(gk)
	a.kinds.refresh()
	gvk, _, perr := a.kinds.preferred(gk)
	if perr != nil || gvk.Version == ref.Version {
		// One whose API server does not answer may have objects.
		if err := a.kindGone(ctx, ref, err); err != nil {
			return at, nil, err
		}
		return at, nil, apierrors.NewNotFound(groupResource(ref), ref.Name)
	}
	ref.Version = gvk.Version
	if at, err = a.kinds.place(ref); err != nil {
		return at, nil, err
	}
	live, err := c.get(ctx, at, accept)
	if err != nil {
		if _, reason := kindOf(err); reason == "KindMissing" {
			err = unserved(ref)
		}
	}
	return at, live, err
}

func isImpossible(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Reason == api.ReasonImpossibleName
}

// preferred returns the version of a kind that the server prefers, and its address.
func (k *kinds) preferred(gk schema.GroupKind) (schema.GroupVersionKind, mapping, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.mapper.RESTMapping(gk)
	if err != nil {
		k.mapper.Reset()
		if m, err = k.mapper.RESTMapping(gk); err != nil {
			return schema.GroupVersionKind{}, mapping{}, err
		}
	}
	return m.GroupVersionKind, mapping{m.Resource.Resource, m.Scope.Name() == "namespace"}, nil
}
