package render_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// same reports whether two bundles are one and the same rendering, not just equal ones.
func same(a, b api.RenderedBundle) bool {
	return len(a.Objects) > 0 && len(b.Objects) > 0 && a.Objects[0] == b.Objects[0]
}

func TestCache_rendersOnlyWhatChanged(t *testing.T) {
	chart := []string{
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ../charts/c, valuesFiles: [../v.yaml]}}"), "v.yaml", "k: v\n",
		"charts/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"charts/c/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: h}\ndata: {k: {{ .Values.k }}, v: {{ .Capabilities.KubeVersion.Version }} }\n",
	}
	start := shared().With(chart...)
	for _, tt := range []struct {
		name    string
		change  []string
		changed string // the bundles that are rendered again
	}{
		{"nothing", nil, ""},
		{"an unrelated file", []string{"README.md", "x"}, ""},
		{"another bundle", []string{"z/bundle.yaml", bundleYAML("z", ""), "z/x.yaml", configMap("z", "")}, ""},
		{"a manifest", []string{"a/cm.yaml", configMap("a", "k: w")}, "a"},
		{"a new manifest", []string{"a/new.yaml", configMap("n", "")}, "a"},
		{"a bundle's settings", []string{"a/bundle.yaml", bundleYAML("a", "{prune: false}")}, "a"},
		{"a base outside the bundle", []string{"base/deployment.yaml", start["base/deployment.yaml"] + "# x\n"}, "k"},
		{"a file beside the base that nobody reads", []string{"base/README.md", "x"}, ""},
		{"a kustomization where there was none", []string{"a/kustomization.yaml", "resources: [cm.yaml]\n"}, "a"},
		{"the chart", []string{"charts/c/values.yaml", "x: y\n"}, "h"},
		{"the values", []string{"v.yaml", "k: w\n"}, "h"},
		{"a variable that a bundle uses", []string{"clusters/one/cluster.yaml", clusterYAML("one", "prod", "color: blue, replicas: '3'")}, "k"},
		{"a variable that no bundle uses", []string{"clusters/one/cluster.yaml", clusterYAML("one", "prod", "color: pink")}, ""},
		{"the fleet's defaults", []string{"fleet.yaml", head + "kind: Fleet\nspec: {defaults: {wait: false}}\n"}, "ahk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRenderer(t, render.Config{})
			before := mustRender(t, r, start.Snapshot(), "one")
			after := mustRender(t, r, start.With(tt.change...).Snapshot(), "one")
			got := ""
			for _, name := range []string{"a", "h", "k"} {
				old, now := bundle(t, before, name), bundle(t, after, name)
				if old.Err != nil || now.Err != nil {
					t.Fatal(old.Err, now.Err)
				}
				if !same(old, now) {
					got += name
				}
			}
			if got != tt.changed {
				t.Errorf("rendered again: %q, want %q", got, tt.changed)
			}
			fresh := mustRender(t, newRenderer(t, render.Config{}), start.With(tt.change...).Snapshot(), "one")
			if diff := cmp.Diff(texts(t, fresh), texts(t, after)); diff != "" {
				t.Errorf("the cache tells something else than a fresh rendering:\n%s", diff)
			}
		})
	}
}

func texts(t testing.TB, out api.Rendering) []string {
	t.Helper()
	var s []string
	for _, b := range out.Bundles {
		text, err := json.Marshal([]any{b.Name, b.Digest, b.Objects, b.Hooks, b.Spec, b.Origin})
		if err != nil {
			t.Fatal(err)
		}
		s = append(s, string(text))
	}
	return s
}

func TestCache_factsConcernChartsOnly(t *testing.T) {
	files := shared().With(
		"h/bundle.yaml", bundleYAML("h", "{helm: {chart: ./}}"), "h/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"h/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: h}\ndata: {v: {{ .Capabilities.KubeVersion.Version }} }\n",
	)
	r := newRenderer(t, render.Config{})
	old, err := r.Render(t.Context(), files.Snapshot(), "one", api.ClusterFacts{KubeVersion: "v1.36.0"})
	if err != nil {
		t.Fatal(err)
	}
	now, err := r.Render(t.Context(), files.Snapshot(), "one", api.ClusterFacts{KubeVersion: "v1.37.1"})
	if err != nil {
		t.Fatal(err)
	}
	if !same(bundle(t, old, "a"), bundle(t, now, "a")) || !same(bundle(t, old, "k"), bundle(t, now, "k")) {
		t.Error("a bundle that is no chart was rendered again for the cluster's version")
	}
	if got := field(t, bundle(t, now, "h").Objects[0], "data", "v"); got != "v1.37.1" {
		t.Errorf("got %v", got)
	}
}

// One renderer may serve several clusters; what it keeps is bounded.
func TestCache_clusters(t *testing.T) {
	r := newRenderer(t, render.Config{CacheBundles: 1})
	files := fleet().With("a/bundle.yaml", bundleYAML("a", "{substitute: true}"), "a/cm.yaml", configMap("a", "c: '${color}'"))
	for range 2 {
		for cluster, want := range map[string]string{"one": "blue", "two": "red"} {
			out := mustRender(t, r, files.Snapshot(), cluster)
			if got := field(t, bundle(t, out, "a").Objects[0], "data", "c"); got != want {
				t.Errorf("on %s: got %v, want %v", cluster, got, want)
			}
		}
	}
}

// Nobody who renders again may see objects change that were handed out before.
func TestCache_objectsAreStable(t *testing.T) {
	r := newRenderer(t, render.Config{})
	files := fleet().With("a/bundle.yaml", bundleYAML("a", "{namespace: n}"), "a/cm.yaml", "apiVersion: x.io/v1\nkind: W\nmetadata: {name: o}\n")
	before := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "a")
	copies := []*unstructured.Unstructured{before.Objects[0].DeepCopy()}
	mustRender(t, r, files.With("b/bundle.yaml", bundleYAML("b", ""), "b/crd.yaml",
		"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ws.x.io}\nspec: {group: x.io, scope: Cluster, names: {kind: W}}\n").Snapshot(), "one")
	if diff := cmp.Diff(copies, before.Objects); diff != "" {
		t.Error(diff)
	}
}

// An error is not kept: it goes when its cause does, and comes as long as it is there.
func TestCache_errors(t *testing.T) {
	r := newRenderer(t, render.Config{})
	bad := shared().With("base/deployment.yaml", "kind: [\n")
	for _, tt := range []struct {
		files rendertest.Files
		fails bool
	}{{shared(), false}, {bad, true}, {bad, true}, {shared(), false}} {
		if err := bundle(t, mustRender(t, r, tt.files.Snapshot(), "one"), "k").Err; (err != nil) != tt.fails {
			t.Errorf("got %v, want an error: %v", err, tt.fails)
		}
	}
}

// That a file was looked for and was not there is an input, too.
func TestCache_whatIsAbsent(t *testing.T) {
	files := shared().With("base/kustomization.yaml", "", "base/kustomization.yml", "resources: [deployment.yaml]\n")
	r := newRenderer(t, render.Config{})
	if err := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "k").Err; err != nil {
		t.Fatal(err)
	}
	both := files.With("base/kustomization.yaml", "resources: [deployment.yaml]\n")
	wantError(t, bundle(t, mustRender(t, r, both.Snapshot(), "one"), "k").Err,
		api.Error{Reason: "KustomizeFailed", File: "k/overlay/kustomization.yaml"}, "multiple kustomization files")
}
