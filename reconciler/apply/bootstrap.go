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
// What is there already is not written again.
func (a *Applier) Bootstrap(ctx context.Context) error {
	ns := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": api.SystemNamespace},
	}}
	objs := []*unstructured.Unstructured{ns}
	for _, src := range CRDs() {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(src, &crd.Object); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		objs = append(objs, crd)
	}
	for _, o := range objs {
		ref := api.RefOf(o)
		if err := a.own.ensure(ctx, a.kinds, o); err != nil {
			return Classify(ref, "", fmt.Errorf("bootstrap: %w", err))
		}
		if isCRD(ref) {
			a.kinds.learn(o)
		}
	}
	// The API server establishes them at the same time.
	for _, crd := range objs[1:] {
		ref := api.RefOf(crd)
		if err := a.awaitEstablished(ctx, ref); err != nil {
			return Classify(ref, "", fmt.Errorf("bootstrap: wait until it is established: %w", err))
		}
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
