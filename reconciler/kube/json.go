package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"
)

// unmarshal decodes as Kubernetes does: whole numbers become int64.
func unmarshal(raw []byte, into any) error { return kjson.Unmarshal(raw, into) }

// Decode reads one object as the API server writes it. Whole numbers become int64.
func Decode(raw []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := unmarshal(raw, &u.Object); err != nil {
		return nil, fmt.Errorf("decode the answer: %w", err)
	}
	return u, nil
}
