package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/render/helm"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

const (
	kubeVersion = helm.DefaultKubeVersion
	namespace   = "fidelity"
)

// helmRenders renders a chart as "helm template --include-crds --no-hooks" does.
func helmRenders(dir, values string) (objects, error) {
	ch, err := loader.LoadDir(dir)
	if err != nil {
		return nil, err
	}
	if ch.Metadata.Type == "library" {
		return nil, fmt.Errorf("library charts are not installable")
	}
	vals := map[string]any{}
	if values != "" {
		text, err := os.ReadFile(filepath.Join(dir, values))
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(text, &vals); err != nil {
			return nil, err
		}
	}
	if err := complete(ch); err != nil {
		return nil, err
	}
	version, err := chartutil.ParseKubeVersion(kubeVersion)
	if err != nil {
		return nil, err
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = *version
	if want := ch.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, version.String()) {
		return nil, fmt.Errorf("chart requires kubeVersion: %s", want)
	}
	if err := chartutil.ProcessDependenciesWithMerge(ch, vals); err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(ch, vals, chartutil.ReleaseOptions{Name: namespace, Namespace: namespace, Revision: 1, IsInstall: true}, caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(ch, all)
	if err != nil {
		return nil, err
	}
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	_, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, err
	}
	out := objects{}
	for _, crd := range ch.CRDObjects() {
		for _, text := range releaseutil.SplitManifests(string(crd.File.Data)) {
			if err := out.add(text); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range manifests {
		if err := out.add(m.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return out, nil
}

// complete reports a dependency that is not in charts/.
func complete(ch *chart.Chart) error {
	have := map[string]bool{}
	for _, d := range ch.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range ch.Metadata.Dependencies {
		if !have[d.Name] {
			return fmt.Errorf("dependency %q is missing in charts/", d.Name)
		}
	}
	return nil
}

// add reads one document as Helm's client does, and cleans it as flotilla cleans its own.
func (o objects) add(text string) error {
	asJSON, err := yaml.YAMLToJSON([]byte(text + "\n"))
	if err != nil {
		return err
	}
	var v map[string]any
	if err := json.Unmarshal(asJSON, &v); err != nil || v == nil {
		return err
	}
	docs, err := manifest.Parse("", asJSON)
	if err != nil {
		return err
	}
	docs[0].Decoded = v
	cleaned, err := manifest.Objects(docs[:1], nil)
	if err != nil {
		return err
	}
	for _, c := range cleaned {
		o[keyOf(c.Unstructured)] = c.Object
	}
	return nil
}

// kustomizeRenders builds a kustomization as "kustomize build --load-restrictor LoadRestrictionsNone" does.
func kustomizeRenders(dir string) (objects, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	opts := krusty.MakeDefaultOptions()
	opts.LoadRestrictions = types.LoadRestrictionsNone
	resources, err := krusty.MakeKustomizer(opts).Run(filesys.MakeFsOnDisk(), abs)
	if err != nil {
		return nil, err
	}
	out := objects{}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		if err := out.add(string(text)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// keyOf names an object, and takes the namespace off that both sides put in.
func keyOf(o *unstructured.Unstructured) string {
	if o.GetNamespace() == namespace {
		unstructured.RemoveNestedField(o.Object, "metadata", "namespace")
	}
	return fmt.Sprintf("%s/%s/%s", o.GroupVersionKind(), o.GetNamespace(), o.GetName())
}
