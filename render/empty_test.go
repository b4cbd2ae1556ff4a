package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
)

// A bundle that renders nothing is refused, unless it says that it may; then it is a bundle without objects.
func TestEmpty(t *testing.T) {
	const component = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n"
	chart := []string{
		"a/chart/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n", "a/chart/values.yaml", "enabled: false\n",
		"a/chart/templates/cm.yaml", "{{ if .Values.enabled }}\n" + configMap("c", "k: v") + "{{ end }}\n",
	}
	for name, tt := range map[string]struct {
		spec  string
		files []string
		want  []string
	}{
		"only the bundle's file": {"", nil, nil},
		"only comments":          {"", []string{"a/x.yaml", "# - a\n---\n"}, nil},
		"a chart":                {"  helm: {chart: ./chart}\n", chart, nil},
		"a chart, and a patch":   {"  helm: {chart: ./chart}\n  patches: [{target: {kind: ConfigMap}, patch: \"- {op: remove, path: /data}\"}]\n", chart, nil},
		"a chart, and a component": {
			"  helm: {chart: ./chart}\n  components: [comp]\n", append([]string{"a/comp/kustomization.yaml", component + "commonAnnotations: {a: b}\n"}, chart...), nil,
		},
		"a component with an object": {
			"  helm: {chart: ./chart}\n  components: [comp]\n",
			append([]string{"a/comp/kustomization.yaml", component + "resources: [x.yaml]\n", "a/comp/x.yaml", configMap("x", "")}, chart...),
			[]string{"ConfigMap/default/x"},
		},
		"a namespace of its own": {"  namespace: shop\n  createNamespace: {}\n", nil, []string{"Namespace/shop"}},
		"two sources":            {"  sources: [{helm: {chart: ./chart}}, {path: plain}]\n", append([]string{"a/plain/.keep", "x"}, chart...), nil},
		"an overlay":             {"  targets: [{overlay: prod}]\n", []string{"a/prod/kustomization.yaml", "resources: [x.yaml]\npatches: [{target: {kind: ConfigMap}, patch: \"$patch: delete\\nkind: ConfigMap\\napiVersion: v1\\nmetadata: {name: x}\"}]\n", "a/prod/x.yaml", configMap("x", "")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			in := func(spec string) api.RenderedBundle {
				files := fleet().With(append([]string{"a/cm.yaml", "", "a/bundle.yaml", head + "kind: Bundle\nmetadata: {name: a}\nspec:\n" + spec}, tt.files...)...)
				return bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "a")
			}
			b := in("  empty: allowed\n" + tt.spec)
			if b.Err != nil {
				t.Fatal(b.Err)
			}
			if diff := cmp.Diff(tt.want, refs(b)); diff != "" {
				t.Error(diff)
			}
			if b.Digest == "" {
				t.Error("there is no digest")
			}
			spec := tt.spec
			if spec == "" {
				spec = "  {}\n"
			}
			if b := in(spec); name != "a component with an object" && (b.Err == nil || !strings.Contains(b.Err.Error(), "renders to no object at all")) {
				t.Errorf("without that it is %v", b.Err)
			}
		})
	}
}
