package apply

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
)

//go:embed crds/suspensions.yaml
var suspensionCRD []byte

//go:embed crds/bundledeployments.yaml
var bundleDeploymentCRD []byte

// CRDs returns flotilla's own CRDs as YAML, for people who install them themselves.
func CRDs() [][]byte { return [][]byte{suspensionCRD, bundleDeploymentCRD} }

// Bootstrap makes sure that flotilla's namespace and CRDs are there and served.
// A namespace that is there is left as it is: its labels belong to whoever installed it.
func (a *Applier) Bootstrap(ctx context.Context) error {
	if err := a.ensureNamespace(ctx); err != nil {
		return err
	}
	var crds []*unstructured.Unstructured
	for _, src := range CRDs() {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(src, &crd.Object); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		crds = append(crds, crd)
	}
	for _, crd := range crds {
		if err := a.own.ensure(ctx, a.kinds, crd); err != nil {
			return Classify(api.RefOf(crd), "", fmt.Errorf("bootstrap: %w", err))
		}
		a.kinds.learn(crd)
	}
	// The API server establishes them at the same time.
	for _, crd := range crds {
		ref := api.RefOf(crd)
		if err := a.awaitEstablished(ctx, ref); err != nil {
			return Classify(ref, "", fmt.Errorf("bootstrap: wait until it is established: %w", err))
		}
	}
	return nil
}

// ensureNamespace makes flotilla's namespace where it is missing.
func (a *Applier) ensureNamespace(ctx context.Context) error {
	ns := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": api.SystemNamespace},
	}}
	live, err := a.Live(ctx, api.RefOf(ns))
	if err == nil && live == nil {
		err = Classify(api.RefOf(ns), "", a.own.ensure(ctx, a.kinds, ns))
	}
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// ensure applies an object of flotilla's own. Server-side apply writes nothing if nothing changes.
func (c *client) ensure(ctx context.Context, k *kinds, obj *unstructured.Unstructured) error {
	at, err := k.place(api.RefOf(obj))
	if err != nil {
		return err
	}
	body, err := json.Marshal(obj.Object)
	if err != nil {
		return err
	}
	_, err = c.apply(ctx, at, body, patchMode{})
	return err
}
