package apply

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// Strip removes what others added to an object of ours, with a JSON patch (RFC 6902) that holds for
// the object as it was compared and for no later one, and returns its new inventory entry.
func (a *Applier) Strip(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured, patch []byte) (api.InventoryEntry, error) {
	ref := api.RefOf(live)
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return api.InventoryEntry{}, kube.Classify(ref, "", err)
	}
	defer release()
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return api.InventoryEntry{}, kube.Classify(ref, bundle.Origin[ref.ID()], err)
	}
	now, err := c.Patch(ctx, at, types.JSONPatchType, patch)
	if err != nil {
		return api.InventoryEntry{}, kube.Classify(ref, bundle.Origin[ref.ID()], err)
	}
	return api.InventoryEntry{
		Object: ref, UID: string(now.UID), ResourceVersion: now.ResourceVersion, Generation: now.Generation,
		MetaDigest: api.MetaDigest(&now), Claimed: api.ClaimedAt(&now), Origin: bundle.Origin[ref.ID()],
	}, nil
}

// Without asks with a dry run what a JSON patch would leave of an inspected object that takes away what others added,
// where the API server refuses that, what Git says would be by itself. It is nil if neither can be known.
// An object that changed since it was inspected is a conflict.
func (a *Applier) Without(ctx context.Context, bundle api.RenderedBundle, in Inspection, patch []byte) (*unstructured.Unstructured, error) {
	ref := api.RefOf(in.Live)
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return nil, err
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return nil, kube.Classify(ref, "", err)
	}
	defer release()
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return nil, kube.Classify(ref, bundle.Origin[ref.ID()], err)
	}
	out, err := c.TryPatch(ctx, at, patch)
	if err == nil {
		return out, nil
	}
	if k, _ := kube.KindOf(err); k == api.Transient || k == api.Waiting {
		return nil, kube.Classify(ref, bundle.Origin[ref.ID()], err)
	}
	return asNew(ctx, c, at, in.Desired), nil
}
