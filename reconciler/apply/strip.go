package apply

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
)

// Strip removes what others added to an object of ours, with a JSON patch (RFC 6902) that holds for
// the object as it was compared and for no later one, and returns its new inventory entry.
func (a *Applier) Strip(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured, patch []byte) (api.InventoryEntry, error) {
	ref := api.RefOf(live)
	c, err := a.clientFor(bundle.Spec.ServiceAccount)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return api.InventoryEntry{}, Classify(ref, "", err)
	}
	defer release()
	at, err := a.kinds.place(ref)
	if err != nil {
		return api.InventoryEntry{}, Classify(ref, bundle.Origin[ref.ID()], err)
	}
	now, err := c.patch(ctx, at, types.JSONPatchType, patch)
	if err != nil {
		return api.InventoryEntry{}, Classify(ref, bundle.Origin[ref.ID()], err)
	}
	return api.InventoryEntry{
		Object: ref, UID: string(now.UID), ResourceVersion: now.ResourceVersion, Generation: now.Generation,
		MetaDigest: api.MetaDigest(&now), Claimed: api.ClaimedAt(&now), Origin: bundle.Origin[ref.ID()],
	}, nil
}
