package cluster

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// User is the name that the API server knows us by.
func (c *Client) User(ctx context.Context) (string, error) {
	if name := c.whoAmI(ctx); name != "" {
		return name, nil
	}
	return "", &api.Error{Kind: api.Transient, Reason: "WhoAmI", Err: errors.New("the API server does not tell who we are")}
}

// EnsureOwn applies objects that are the agent's own and no bundle's, in order.
// What is there already is not written again.
func (c *Client) EnsureOwn(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, o := range objs {
		if err := c.ensure(ctx, o); err != nil {
			return kube.Classify(api.RefOf(o), "", err)
		}
	}
	return nil
}

// RemoveOwn deletes objects that EnsureOwn applied, the last one first.
// What is not there, or is of a kind that the cluster does not have, needs no deleting.
func (c *Client) RemoveOwn(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, obj := range slices.Backward(objs) {
		ref := api.RefOf(obj)
		at, err := c.server.Kinds.Place(ref)
		if kube.ReasonOf(err) == kube.ReasonKindMissing {
			continue
		}
		if err == nil {
			_, err = c.server.Own.Get(ctx, at, kube.MetadataOnly)
		}
		if err == nil {
			err = c.server.Own.Delete(ctx, at, "")
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Classify(ref, "", err)
		}
	}
	return nil
}

func bundleRef(name string) api.ObjectRef {
	return api.ObjectRef{Group: api.Group, Version: api.Version, Kind: api.KindBundleDeployment, Namespace: api.SystemNamespace, Name: name}
}
