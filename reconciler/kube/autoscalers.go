package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// scalerKinds are the kinds that set other objects' replicas.
var scalerKinds = []struct{ group, version, kind, resource string }{
	{"autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"},
	{"keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"},
}

// IsAutoscaler reports whether objects of a kind set other objects' replicas.
func IsAutoscaler(kind string) bool {
	for _, k := range scalerKinds {
		if k.kind == kind {
			return true
		}
	}
	return false
}

// Autoscalers reads what scales objects in a namespace, whoever made it.
// A cluster that does not have such a kind has none of them.
func (s *Server) Autoscalers(ctx context.Context, namespace string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, k := range scalerKinds {
		in, err := Address{Group: k.group, Version: k.version, Resource: k.resource, Namespace: namespace}.Collection()
		if err != nil {
			return nil, err
		}
		err = s.Own.List(ctx, in, Selector{}, "", func(o *unstructured.Unstructured) {
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
