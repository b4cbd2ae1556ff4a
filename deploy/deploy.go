// Package deploy holds the one chart that installs flotilla, and renders it as the product renders any chart.
//
// It promises that what `flotilla install` applies, what `--print` prints and what Helm renders from the chart
// are the same objects. It never talks to a cluster.
package deploy

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources/directory"
)

//go:embed all:chart
var files embed.FS

// Bundle is the name of the bundle that the chart is, here and in a fleet repository that manages flotilla itself.
const Bundle = "flotilla"

// Chart returns the chart's files, with Chart.yaml at the root.
func Chart() (fs.FS, error) { return fs.Sub(files, "chart") }

// Renderer renders a snapshot for one cluster.
type Renderer interface {
	Render(ctx context.Context, snap api.Snapshot, cluster string, facts api.ClusterFacts) (api.Rendering, error)
}

// Render returns the objects of the chart for some values, in the order in which they are applied.
// An error names the value, and "values" as its file.
func Render(ctx context.Context, r Renderer, values map[string]any, facts api.ClusterFacts) ([]*unstructured.Unstructured, error) {
	dir, err := os.MkdirTemp("", "flotilla-install-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := repository(dir, values); err != nil {
		return nil, fmt.Errorf("cannot lay out the chart: %w", err)
	}
	snap, err := directory.Open(dir)
	if err != nil {
		return nil, err
	}
	rendering, err := r.Render(ctx, snap, cluster, facts)
	if err != nil {
		return nil, err
	}
	for _, b := range rendering.Bundles {
		if b.Name == Bundle {
			return b.Objects, b.Err
		}
	}
	return nil, errors.New("the chart rendered no bundle")
}

// cluster is the name of the only cluster in the repository that Render lays out.
const cluster = "here"

// repository writes a fleet repository that holds nothing but the chart.
func repository(dir string, values map[string]any) error {
	chart, err := Chart()
	if err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(dir, Bundle, "chart"), chart); err != nil {
		return err
	}
	object := func(kind, name string, spec map[string]any) map[string]any {
		return map[string]any{
			"apiVersion": api.APIVersion, "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
		}
	}
	for name, o := range map[string]map[string]any{
		filepath.Join("clusters", cluster, "cluster.yaml"): object(api.KindCluster, cluster, map[string]any{}),
		filepath.Join(Bundle, "bundle.yaml"): object(api.KindBundle, Bundle, map[string]any{
			"namespace": api.SystemNamespace,
			"helm":      map[string]any{"chart": "./chart", "releaseName": Bundle, "values": values},
		}),
	} {
		data, err := json.Marshal(o) // JSON is YAML
		if err != nil {
			return err
		}
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Everything returns each object that some values make the chart render, so that all of an installation can be found.
func Everything(ctx context.Context, r Renderer, component string) ([]*unstructured.Unstructured, error) {
	secret := map[string]any{"data": map[string]any{"a": ""}}
	common := map[string]any{"enabled": true, "secret": secret, "networkPolicy": map[string]any{"enabled": true}}
	var all []map[string]any
	switch component {
	case "agent":
		for _, rbac := range []string{"cluster-admin", "impersonate-only"} {
			all = append(all, map[string]any{
				"cluster": "any", "repo": "any", "rbac": rbac,
				"persistence": map[string]any{"enabled": true}, "serviceMonitor": map[string]any{"enabled": true},
			})
		}
	case "hub":
		all = append(all, map[string]any{"hosts": []any{"any"}})
	}
	seen := map[string]bool{}
	var out []*unstructured.Unstructured
	for _, values := range all {
		maps.Copy(values, common)
		objs, err := Render(ctx, r, map[string]any{component: values}, api.ClusterFacts{})
		if err != nil {
			return nil, err
		}
		for _, o := range objs {
			if id := api.RefOf(o).ID(); !seen[id] {
				seen[id] = true
				out = append(out, o)
			}
		}
	}
	return out, nil
}
