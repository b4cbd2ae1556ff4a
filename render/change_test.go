package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// withChart is a repository whose bundle "c" is a chart of a Deployment, a ConfigMap with text that looks like a variable, and a hook.
func withChart(spec string) rendertest.Files {
	return fleet().With(
		"c/bundle.yaml", head+"kind: Bundle\nmetadata: {name: c}\nspec:\n"+spec,
		"c/chart/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n",
		"c/chart/values.yaml", "image: nginx:1\n",
		"c/chart/templates/cm.yaml", configMap("{{ .Release.Name }}", `run: "echo ${HOME} \u0085\u0090$${x}", "${KEY}": v, num: "1"`),
		"c/chart/templates/d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  template: {spec: {containers: [{name: app, image: {{ .Values.image }}, args: [a]}]}}\n",
		"c/chart/templates/hook.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate, annotations: {helm.sh/hook: pre-install}}\nspec: {template: {spec: {containers: [{name: app, image: {{ .Values.image }}}]}}}\n",
	)
}

func object(t *testing.T, b api.RenderedBundle, kind string) map[string]any {
	t.Helper()
	if b.Err != nil {
		t.Fatal(b.Err)
	}
	for _, o := range b.Objects {
		if o.GetKind() == kind {
			return o.Object
		}
	}
	t.Fatalf("there is no %s among %v", kind, refs(b))
	return nil
}

const patchesOfChart = `  substitute: true
  variables: {replicas: "3", mirror: registry.example.com}
  helm: {chart: ./chart}
  components: [mirror]
  patches:
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: ${replicas}
  - target: {kind: ConfigMap, name: c}
    patch: |
      - op: replace
        path: /data/num
        value: "2"
  - path: patches/label.yaml
    target: {kind: Deployment}
`

// Components and patches change what a chart renders, with the bundle's variables; what the chart wrote stays as it is.
func TestPatches_chart(t *testing.T) {
	files := withChart(patchesOfChart).With(
		"c/mirror/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nimages: [{name: nginx, newName: mirror.example.com/nginx}]\nresources: [extra.yaml]\n",
		"c/mirror/extra.yaml", configMap("extra", `from: "${mirror}", home: "$${HOME}"`),
		"c/patches/label.yaml", "- {op: add, path: /metadata/labels, value: {team: web}}\n",
	)
	r := newRenderer(t, render.Config{})
	b := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "c")
	d := object(t, b, "Deployment")
	if got := d["spec"].(map[string]any)["replicas"]; got != int64(3) {
		t.Errorf("replicas are %#v, want the number 3", got)
	}
	want := []any{map[string]any{"name": "app", "image": "mirror.example.com/nginx:1", "args": []any{"a"}}}
	for _, o := range b.Objects {
		switch o.GetKind() + "/" + o.GetName() {
		case "Deployment/web":
			if diff := cmp.Diff(want, field(t, o, "spec", "template", "spec", "containers")); diff != "" {
				t.Error(diff)
			}
			if o.GetLabels()["team"] != "web" {
				t.Errorf("labels are %v", o.GetLabels())
			}
		case "ConfigMap/c":
			if diff := cmp.Diff(map[string]any{"run": "echo ${HOME} \u0085\u0090$${x}", "${KEY}": "v", "num": "2"}, field(t, o, "data")); diff != "" {
				t.Error(diff)
			}
		case "ConfigMap/extra":
			if diff := cmp.Diff(map[string]any{"from": "registry.example.com", "home": "${HOME}"}, field(t, o, "data")); diff != "" {
				t.Error(diff)
			}
		}
	}
	origins := map[string]string{}
	for _, o := range b.Objects {
		origins[o.GetName()] = b.Origin[api.RefOf(o).ID()]
	}
	if diff := cmp.Diff(map[string]string{"web": "c/chart/templates/d.yaml", "c": "c/chart/templates/cm.yaml", "extra": "c/mirror/extra.yaml"}, origins); diff != "" {
		t.Error(diff)
	}
	if image := field(t, b.Hooks[0].Object, "spec", "template", "spec", "containers").([]any)[0].(map[string]any)["image"]; image != "nginx:1" {
		t.Errorf("the hook's image is %v", image)
	}
	// Each of the files counts for the cache.
	for file, text := range map[string]string{
		"c/mirror/extra.yaml": configMap("extra", "k: w"), "c/patches/label.yaml": "- {op: add, path: /metadata/labels, value: {team: ops}}\n",
		"c/bundle.yaml": head + "kind: Bundle\nmetadata: {name: c}\nspec:\n" + strings.Replace(patchesOfChart, `"3"`, `"4"`, 1),
	} {
		other := bundle(t, mustRender(t, r, files.With(file, text).Snapshot(), "one"), "c")
		if other.Err != nil || other.Digest == b.Digest {
			t.Errorf("with another %s the bundle is the same, %v", file, other.Err)
		}
	}
}

// What is rendered is what Kustomize makes of the same objects, patches and components.
func TestPatches_asKustomize(t *testing.T) {
	const patch = "\n      apiVersion: apps/v1\n      kind: Deployment\n      metadata: {name: web}\n      spec: {template: {spec: {containers: [{name: app, env: [{name: A, value: \"yes\"}]}]}}}\n"
	const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, annotations: {a: \"off\"}}\nspec:\n  replicas: 1\n  paused: true\n  template: {spec: {containers: [{name: app, image: x, args: [\"1e3\", \"null\", \"~\"]}]}}\n"
	component := []string{"cmp/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: p-\nlabels: [{pairs: {x: \"1\"}, includeSelectors: true}]\nconfigMapGenerator: [{name: g, literals: [a=b]}]\n"}
	files := fleet().With("a/cm.yaml", "", "a/d.yaml", deployment,
		"a/bundle.yaml", bundleYAML("a", "\n  components: [../cmp]\n  patches:\n  - patch: |"+strings.ReplaceAll(patch, "name: web", "name: web")),
		"b/bundle.yaml", bundleYAML("b", "{namespace: b}"), "b/base/d.yaml", deployment,
		"b/kustomization.yaml", "resources: [base/d.yaml]\ncomponents: [../cmp]\npatches:\n- patch: |"+strings.ReplaceAll(patch, "\n    ", "\n  "),
	).With(component...)
	out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
	a, b := bundle(t, out, "a"), bundle(t, out, "b")
	if a.Err != nil || b.Err != nil {
		t.Fatal(a.Err, b.Err)
	}
	if len(a.Objects) != 2 || len(b.Objects) != 2 {
		t.Fatalf("got %v and %v", refs(a), refs(b))
	}
	for i := range a.Objects {
		x, y := a.Objects[i].DeepCopy(), b.Objects[i].DeepCopy()
		x.SetNamespace("")
		y.SetNamespace("")
		if diff := cmp.Diff(y.Object, x.Object); diff != "" {
			t.Error(diff)
		}
	}
}

// Errors name the field of bundle.yaml, and the line of a patch's text.
func TestPatches_errors(t *testing.T) {
	for name, tt := range map[string]struct {
		spec string
		want api.Error
		text string
	}{
		"no file":      {"  patches:\n  - path: nothere.yaml\n", api.Error{Reason: "BadBundle", Line: 5, Field: "spec.patches.0.path"}, "there is no"},
		"no component": {"  components:\n  - chart\n", api.Error{Reason: "BadBundle", Line: 5, Field: "spec.components.0"}, "kustomization.yaml in it"},
		"out of it":    {"  components:\n  - ../../x\n", api.Error{Reason: "BadBundle", Line: 5, Field: "spec.components.0"}, "leads out of"},
		"no path":      {"  patches:\n  - target: {kind: Deployment}\n    patch: |\n      - op: test\n        path: /kind\n        value: Deployment\n      - op: remove\n        path: /spec/x/y\n", api.Error{Reason: "KustomizeFailed", Line: 11, Field: "spec.patches.0.patch"}, "the patch cannot"},
		"no object":    {"  patches:\n  - patch: |\n      apiVersion: v1\n      kind: Service\n      metadata: {name: nothere}\n", api.Error{Reason: "KustomizeFailed", Line: 8, Field: "spec.patches.0.patch"}, "matches no resource"},
		"no YAML":      {"  patches:\n  - patch: |\n      a: [\n", api.Error{Reason: "BadManifest", Line: 6, Field: "spec.patches.0.patch"}, ""},
		"unset":        {"  substitute: true\n  patches:\n  - patch: |\n      apiVersion: apps/v1\n      kind: Deployment\n      metadata: {name: web}\n      spec: {replicas: \"${nope}\"}\n", api.Error{Reason: "Substitution", Line: 10, Field: "spec/replicas"}, `"nope" is not set`},
		"neither kind": {"  patches:\n  - target: {kind: Deployment}\n    patch: '[{op: replace}]'\n", api.Error{Reason: "KustomizeFailed", Line: 6, Field: "spec.patches.0.patch"}, "unable to parse"},
		"neither":      {"  patches:\n  - target: {kind: Deployment}\n", api.Error{Reason: "BadFleetFile", Line: 5, Field: "spec.patches.0"}, "either"},
		"no regexp":    {"  patches:\n  - path: a\n    target: {name: \"(\"}\n", api.Error{Reason: "BadFleetFile", Line: 6, Field: "spec.patches.0.target.name"}, "regular expression"},
		"all objects":  {"  patches:\n  - path: a\n    target: {}\n", api.Error{Reason: "BadFleetFile", Line: 6, Field: "spec.patches.0.target"}, "is empty"},
		"commented":    {"  patches:\n  # - path: a\n", api.Error{Reason: "BadFleetFile", Line: 4, Field: "spec.patches"}, "nothing is below it"},
	} {
		t.Run(name, func(t *testing.T) {
			files := withChart(tt.spec + "  helm: {chart: ./chart}\n")
			tt.want.File = "c/bundle.yaml"
			tt.want.Line++ // of the heading
			out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
			wantError(t, bundle(t, out, "c").Err, tt.want, tt.text)
		})
	}
}

// A tenant's patches and components are the tenant's own files, and what they make is bound as everything else.
func TestPatches_tenant(t *testing.T) {
	const tenants = "tenants: [{name: t, path: c, serviceAccount: {namespace: t, name: d}, namespaces: [default], images: [docker.io/library/nginx]}]"
	spec := "  helm: {chart: ./chart}\n"
	files := func(more string) rendertest.Files {
		return withChart(more+spec).With("fleet.yaml", head+"kind: Fleet\nspec: {"+tenants+"}\n",
			"platform/kustomization.yaml", "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n", "platform/p.yaml", "[]\n",
			"c/link/kustomization.yaml", "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nresources: [../../platform/p.yaml]\n")
	}
	for more, text := range map[string]string{
		"  components: [../platform]\n":             "cannot read",
		"  components: [link]\n":                    "cannot read",
		"  patches: [{path: ../platform/p.yaml}]\n": "cannot read",
		`  patches: [{target: {kind: Deployment}, patch: "- {op: add, path: /metadata/namespace, value: kube-system}"}]` + "\n":                   "namespace",
		`  patches: [{target: {kind: Deployment}, patch: "- {op: replace, path: /spec/template/spec/containers/0/image, value: evil/x}"}]` + "\n": "may not run the image",
	} {
		out := mustRender(t, newRenderer(t, render.Config{}), files(more).Snapshot(), "one")
		err := bundle(t, out, "c").Err
		if api.KindOf(err) != api.Forbidden || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v", more, err)
		}
	}
	if err := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files(`  patches: [{target: {kind: Deployment}, patch: "- {op: replace, path: /spec/replicas, value: 2}"}]`+"\n").Snapshot(), "one"), "c").Err; err != nil {
		t.Error(err)
	}
}

// A chart, the directory beside it and a kustomization are one bundle.
func TestSources(t *testing.T) {
	const spec = `  substitute: true
  targets:
  - clusters: [one]
    values: {image: "nginx:3"}
  - {}
  sources:
  - helm: {chart: ./chart, valuesFiles: [values.yaml], releaseName: rel}
  - path: .
  - path: kust
  components: [comp]
  patches:
  - path: patch.yaml
    target: {kind: ConfigMap}
`
	files := withChart(spec).With("c/values.yaml", "image: nginx:2\n", "c/more/cm.yaml", configMap("more", `color: "${color}"`),
		"c/kust/kustomization.yaml", "configMapGenerator: [{name: k, namespace: default, literals: [\"a=${color}\"], options: {disableNameSuffixHash: true}}]\n",
		"c/comp/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncommonAnnotations: {a: b}\n", "c/patch.yaml", "- {op: add, path: /data/p, value: q}\n")
	for cluster, image := range map[string]string{"one": "nginx:3", "two": "nginx:2"} {
		b := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), cluster), "c")
		if got := object(t, b, "Deployment")["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["image"]; got != image {
			t.Errorf("on %s the image is %v", cluster, got)
		}
		if diff := cmp.Diff([]string{"ConfigMap/default/k", "ConfigMap/default/more", "ConfigMap/default/rel", "Deployment.apps/default/web"}, refs(b)); diff != "" {
			t.Error(diff)
		}
		if len(b.Hooks) != 1 {
			t.Errorf("got %d hooks", len(b.Hooks))
		}
		for _, o := range b.Objects {
			if o.GetKind() == "ConfigMap" && field(t, o, "data", "p") != "q" {
				t.Errorf("%s is not patched", o.GetName())
			}
		}
	}
	out := mustRender(t, newRenderer(t, render.Config{}), files.With("c/more/again.yaml", configMap("rel", "k: v")).Snapshot(), "one")
	wantError(t, bundle(t, out, "c").Err, api.Error{Reason: "DuplicateObject", File: "c/more/again.yaml", Line: 1}, "is also in c/chart/templates/cm.yaml")
}

func TestSources_errors(t *testing.T) {
	for name, tt := range map[string]struct {
		spec string
		want api.Error
		text string
	}{
		"both":       {"  sources: [{path: x}]\n  helm: {chart: ./chart}\n", api.Error{Reason: "BadFleetFile", Line: 5, Field: "spec.sources"}, "takes the place"},
		"empty":      {"  sources: []\n", api.Error{Reason: "BadFleetFile", Line: 5, Field: "spec.sources"}, "empty list"},
		"two in one": {"  sources:\n  - path: x\n    helm: {chart: ./chart}\n", api.Error{Reason: "BadFleetFile", Line: 6, Field: "spec.sources.0"}, "either helm or a path"},
		"overlay":    {"  targets: [{overlay: x}]\n  sources: [{path: x}]\n", api.Error{Reason: "BadFleetFile", Line: 5, Field: "spec.targets.0.overlay"}, "a list of them"},
		"values":     {"  targets: [{values: {a: b}}]\n  sources: [{helm: {chart: ./chart}}, {helm: {chart: ./chart}}]\n", api.Error{Reason: "BadFleetFile", Line: 5, Field: "spec.targets.0.values"}, "has 2"},
		"nothere":    {"  sources:\n  - path: nothere\n", api.Error{Reason: "BadBundle", Line: 6, Field: "spec.sources.0.path"}, "no directory"},
		"out of it":  {"  sources:\n  - path: ../../x\n", api.Error{Reason: "BadBundle", Line: 6, Field: "spec.sources.0.path"}, "leads out of"},
		"no chart":   {"  sources:\n  - helm: {chart: ./nothere}\n", api.Error{Reason: "BadBundle", Line: 6, Field: "spec.sources.0.helm.chart"}, "no directory"},
		"no values":  {"  sources:\n  - helm:\n      chart: ./chart\n      valuesFiles:\n      - v.yaml\n", api.Error{Reason: "BadBundle", Line: 9, Field: "spec.sources.0.helm.valuesFiles.0"}, "no values file"},
		"unset":      {"  substitute: true\n  sources:\n  - helm:\n      chart: ./chart\n      values: {image: \"${nope}\"}\n", api.Error{Reason: "Substitution", Line: 9, Field: "image"}, `"nope" is not set`},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.File = "c/bundle.yaml"
			out := mustRender(t, newRenderer(t, render.Config{}), withChart(tt.spec).Snapshot(), "one")
			wantError(t, bundle(t, out, "c").Err, tt.want, tt.text)
		})
	}
}

// Every chart of a tenant's bundle comes from where the tenant may have charts.
func TestSources_tenant(t *testing.T) {
	files := withChart("  sources: [{path: .}, {helm: {chart: x, repo: https://charts.example.com, version: 1.0.0}}]\n").With("fleet.yaml",
		head+"kind: Fleet\nspec: {tenants: [{name: t, path: c, serviceAccount: {namespace: t, name: d}, namespaces: [default]}]}\n")
	out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
	err := bundle(t, out, "c").Err
	wantError(t, err, api.Error{Reason: api.ReasonTenantDenied, Kind: api.Forbidden, File: "c/bundle.yaml", Line: 5, Field: "spec.sources.1.helm.chart"}, "may not have the chart")
}

// The field managers of a bundle are added to those of the fleet; they are no matter of drift.
func TestTakeOver(t *testing.T) {
	files := fleet().With("fleet.yaml", head+"kind: Fleet\nspec: {defaults: {takeOver: [HashiCorp]}}\n", "a/bundle.yaml", bundleYAML("a", "{takeOver: [mine]}"))
	out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
	if diff := cmp.Diff([]string{"HashiCorp", "mine"}, bundle(t, out, "a").Spec.Drift.TakeOver); diff != "" {
		t.Error(diff)
	}
	for spec, want := range map[string]api.Error{
		"{takeOver: [flotilla]}":      {Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.takeOver.0"},
		"{drift: {takeOver: [mine]}}": {Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.drift.takeOver"},
	} {
		out := mustRender(t, newRenderer(t, render.Config{}), files.With("a/bundle.yaml", bundleYAML("a", spec)).Snapshot(), "one")
		wantError(t, bundle(t, out, "a").Err, want, "")
	}
}

// A bundle brings its namespace as one of its objects, with labels; a tenant only where it may have Namespaces.
func TestCreateNamespace(t *testing.T) {
	const spec = "{namespace: shop, createNamespace: {labels: {team: web}}}"
	plain := strings.Replace(configMap("a", "k: v"), ", namespace: default", "", 1)
	files := fleet().With("a/bundle.yaml", bundleYAML("a", spec), "a/cm.yaml", plain)
	r := newRenderer(t, render.Config{})
	b := bundle(t, mustRender(t, r, files.Snapshot(), "one"), "a")
	want := map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "shop", "labels": map[string]any{"team": "web"}}}
	if diff := cmp.Diff(want, object(t, b, "Namespace")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/shop/a", "Namespace/shop"}, refs(b)); diff != "" {
		t.Error(diff)
	}
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
	tenant := func(kinds string) string {
		return head + "kind: Fleet\nspec: {tenants: [{name: t, path: a, serviceAccount: {namespace: t, name: d}, namespaces: [shop], kinds: {allow: [" + kinds + "]}}]}\n"
	}
	for name, tt := range map[string]struct {
		files rendertest.Files
		want  api.Error
		text  string
	}{
		"no name":   {files.With("a/bundle.yaml", bundleYAML("a", "{createNamespace: {}}")), api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.createNamespace"}, "needs spec.namespace"},
		"null":      {files.With("a/bundle.yaml", bundleYAML("a", "{namespace: shop, createNamespace: ~}")), api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.createNamespace"}, "nothing is below it"},
		"bad label": {files.With("a/bundle.yaml", bundleYAML("a", "{namespace: shop, createNamespace: {labels: {a: b c}}}")), api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.createNamespace.labels"}, "no label"},
		"twice":     {files.With("a/ns.yaml", namespace), api.Error{Reason: "DuplicateObject", File: "a/bundle.yaml", Line: 4}, "is also in a/ns.yaml"},
		"empty":     {files.With("a/cm.yaml", ""), api.Error{Reason: "EmptyBundle", File: "a/bundle.yaml"}, "no object at all"},
		"tenant":    {files.With("fleet.yaml", tenant("ConfigMap")), api.Error{Kind: api.Forbidden, Reason: api.ReasonTenantDenied, File: "a/bundle.yaml", Line: 4}, "has no namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, bundle(t, mustRender(t, r, tt.files.Snapshot(), "one"), "a").Err, tt.want, tt.text)
		})
	}
	if err := bundle(t, mustRender(t, r, files.With("fleet.yaml", tenant("ConfigMap, Namespace")).Snapshot(), "one"), "a").Err; err != nil {
		t.Error(err)
	}
}
