package cluster

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

//go:embed crds/suspensions.yaml
var suspensionCRD []byte

//go:embed crds/bundledeployments.yaml
var bundleDeploymentCRD []byte

// CRDs returns flotilla's own CRDs as YAML, for people who install them themselves.
func CRDs() [][]byte { return [][]byte{suspensionCRD, bundleDeploymentCRD} }

// Bootstrap makes sure that flotilla's namespace and CRDs are there and served.
// A namespace that is there is left as it is: its labels belong to whoever installed it.
func (c *Client) Bootstrap(ctx context.Context) error {
	if err := c.EnsureNamespace(ctx); err != nil {
		return err
	}
	return c.EnsureCRDs(ctx)
}

// EnsureCRDs makes sure that flotilla's CRDs are there and served.
func (c *Client) EnsureCRDs(ctx context.Context) error {
	var crds []*unstructured.Unstructured
	for _, src := range CRDs() {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(src, &crd.Object); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		crds = append(crds, crd)
	}
	for _, crd := range crds {
		if err := c.ensure(ctx, crd); err != nil {
			return kube.Classify(api.RefOf(crd), "", fmt.Errorf("bootstrap: %w", err))
		}
		c.server.Kinds.Learn(crd)
	}
	// The API server establishes them at the same time.
	for _, crd := range crds {
		ref := api.RefOf(crd)
		if err := c.server.AwaitEstablished(ctx, ref); err != nil {
			return kube.Classify(ref, "", fmt.Errorf("bootstrap: wait until it is established: %w", err))
		}
	}
	return nil
}

// EnsureNamespace makes flotilla's namespace where it is missing.
func (c *Client) EnsureNamespace(ctx context.Context) error {
	ns := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": api.SystemNamespace},
	}}
	live, err := c.server.Live(ctx, api.RefOf(ns))
	if err == nil && live == nil {
		err = kube.Classify(api.RefOf(ns), "", c.ensure(ctx, ns))
	}
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// ensure applies an object of flotilla's own. Server-side apply writes nothing if nothing changes.
func (c *Client) ensure(ctx context.Context, obj *unstructured.Unstructured) error {
	at, err := c.server.Kinds.Place(api.RefOf(obj))
	if err != nil {
		return err
	}
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return err
	}
	_, err = c.server.Own.Apply(ctx, at, body, kube.Mode{})
	return err
}
