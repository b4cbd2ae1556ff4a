package apply

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
func (a *Applier) User(ctx context.Context) (string, error) {
	if name := a.whoAmI(ctx); name != "" {
		return name, nil
	}
	return "", &api.Error{Kind: api.Transient, Reason: "WhoAmI", Err: errors.New("the API server does not tell who we are")}
}

// EnsureOwn applies objects that are the agent's own and no bundle's, in order.
// What is there already is not written again.
func (a *Applier) EnsureOwn(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, o := range objs {
		if err := a.own.ensure(ctx, a.kinds, o); err != nil {
			return Classify(api.RefOf(o), "", err)
		}
	}
	return nil
}

// RemoveOwn deletes objects that EnsureOwn applied, the last one first.
// What is not there, or is of a kind that the cluster does not have, needs no deleting.
func (a *Applier) RemoveOwn(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, obj := range slices.Backward(objs) {
		ref := api.RefOf(obj)
		at, err := a.kinds.place(ref)
		if reasonOf(err) == "KindMissing" {
			continue
		}
		if err == nil {
			_, err = a.own.get(ctx, at, metadataOnly)
		}
		if err == nil {
			err = a.own.delete(ctx, at, "")
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return Classify(ref, "", err)
		}
	}
	return nil
}

// reasonOf is the reason of an error, and empty for none.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	_, reason := kindOf(err)
	return reason
}

// scalerKinds are the kinds that set other objects' replicas.
var scalerKinds = []struct{ group, version, kind, resource string }{
	{"autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"},
	{"keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"},
}

// Autoscalers reads what scales objects in a namespace, whoever made it.
// A cluster that does not have such a kind has none of them.
func (a *Applier) Autoscalers(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, k := range scalerKinds {
		in, err := kube.Address{Group: k.group, Version: k.version, Resource: k.resource, Namespace: namespace}.Collection()
		if err != nil {
			return nil, err
		}
		err = a.own.list(ctx, in, kube.Selector{}, "", func(o *unstructured.Unstructured) {
			o.SetAPIVersion(k.group + "/" + k.version) // items of a list leave it out
			o.SetKind(k.kind)
			out = append(out, o)
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, Classify(api.ObjectRef{Kind: k.kind, Namespace: namespace, Name: "*"}, "", err)
		}
	}
	return out, nil
}
