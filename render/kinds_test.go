package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// A schema is checked as far as it stands in the chart, and nothing of it is fetched or read from elsewhere.
func TestHelm_schemaReferences(t *testing.T) {
	const head, old = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",`, `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object",`
	for _, tt := range []struct {
		name, schema, values string
		refused              string // part of the error
		unchecked            []string
	}{
		{"a document within", head + `"properties":{"res":{"$ref":"https://example.com/schemas/res.json"}},"$defs":{"res.json":{"$id":"https://example.com/schemas/res.json","type":"object","properties":{"cpu":{"type":"string"}}}}}`, "{res: {cpu: '1'}}", "", nil},
		{"a document within, and a bad value", head + `"properties":{"res":{"$ref":"https://example.com/schemas/res.json"}},"$defs":{"res.json":{"$id":"https://example.com/schemas/res.json","type":"object","properties":{"cpu":{"type":"string"}}}}}`, "{res: {cpu: 1}}", "values.res.cpu", nil},
		{"relative to an $id", `{"$id":"https://example.com/s/root.json","properties":{"res":{"$ref":"res.json"}},"$defs":{"r":{"$id":"res.json","type":"string"}}}`, "{res: 1}", "values.res", nil},
		{"within the file", head + `"properties":{"res":{"$ref":"#/$defs/r"}},"$defs":{"r":{"type":"string"}}}`, "{res: 1}", "values.res", nil},
		{"data", old + `"properties":{"schema":{"type":"object","default":{"$ref":"openapi.json"},"examples":[{"$ref":"other.json"}],"enum":[{"$ref":"x.json"}]}}}`, "{schema: {$ref: x.json}}", "", nil},
		{"a property of that name", old + `"properties":{"$ref":{"type":"string"},"default":{"type":"object","properties":{"$id":{"type":"string"}}}}}`, "{$ref: 1}", "values.$ref", nil},
		{"elsewhere", old + `"properties":{"a":{"$ref":"https://schemas.example.com/defs.json#/definitions/A"},"b":{"type":"string"}}}`, "{a: 1}", "", []string{"https://schemas.example.com/defs.json#/definitions/A"}},
		{"elsewhere, and a bad value", old + `"properties":{"a":{"$ref":"https://schemas.example.com/defs.json#/definitions/A"},"b":{"type":"string"}}}`, "{b: 1}", "values.b", nil},
		{"elsewhere, with more beside it that does not count", old + `"properties":{"a":{"$ref":"https://schemas.example.com/defs.json","type":"string"}}}`, "{a: 1}", "", []string{"https://schemas.example.com/defs.json"}},
		{"elsewhere, with more beside it that counts", head + `"properties":{"a":{"$ref":"https://schemas.example.com/defs.json","type":"string"}}}`, "{a: 1}", "values.a", nil},
		{"the disk", head + `"properties":{"a":{"$ref":"etc/x.json"},"b":{"$ref":"file:///etc/passwd"}}}`, "{a: 1}", "", []string{"etc/x.json", "file:///etc/passwd"}},
		{"another language", `{"$schema":"https://example.com/meta","type":"object"}`, "{a: 1}", "", []string{"https://example.com/meta"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := chart("{helm: {chart: ./chart, values: "+tt.values+"}}", "h/chart/values.schema.json", tt.schema, "h/chart/values.yaml", "{}")
			out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
			h := bundle(t, out, "h")
			if tt.refused != "" {
				wantError(t, h.Err, api.Error{Reason: "BadValues", File: "h/bundle.yaml", Line: 4, Field: tt.refused}, "the schema is h/chart/values.schema.json")
			} else if h.Err != nil {
				t.Fatal(h.Err)
			}
			var want []string
			for _, ref := range tt.unchecked {
				want = append(want, "h/chart/values.schema.json: what \""+ref+"\" would check is not checked, for nothing is fetched (spec.helm.schema: skip checks nothing at all)")
			}
			if diff := cmp.Diff(want, h.Warnings); diff != "" {
				t.Error(diff)
			}
			skip := files.With("h/bundle.yaml", strings.Replace(files["h/bundle.yaml"], "chart: ./chart,", "chart: ./chart, schema: skip,", 1))
			h = bundle(t, mustRender(t, newRenderer(t, render.Config{}), skip.Snapshot(), "one"), "h")
			if h.Err != nil || len(h.Warnings) > 0 {
				t.Errorf("with schema: skip: %v, %q", h.Err, h.Warnings)
			}
		})
	}
}

// A value that a schema refuses is told with the layer that says it.
func TestHelm_schemaErrorsNameTheLayer(t *testing.T) {
	const schema = `{"type":"object","additionalProperties":false,"required":["must"],"properties":{"must":{},"global":{},"sub":{},"deployment":{"type":"object","additionalProperties":false,"properties":{"replicas":{"type":"integer"}}}}}`
	files := func(spec string, extra ...string) rendertest.Files {
		return chart(spec, "h/chart/values.schema.json", schema, "h/chart/values.yaml", "must: true\n").With(extra...)
	}
	for _, tt := range []struct {
		name  string
		files rendertest.Files
		want  api.Error
	}{
		{
			"a values file", files("{helm: {chart: ./chart, valuesFiles: [values.yaml]}}", "h/values.yaml", "# my values\ndeployment:\n  replicas: \"three\"\n"),
			api.Error{File: "h/values.yaml", Line: 3, Field: "values.deployment.replicas"},
		},
		{
			"the last of two", files("{helm: {chart: ./chart, valuesFiles: [a.yaml, b.yaml]}}", "h/a.yaml", "deployment: {replicas: 1}\n", "h/b.yaml", "\n\ndeployment: {replicas: x}\n"),
			api.Error{File: "h/b.yaml", Line: 3, Field: "values.deployment.replicas"},
		},
		{
			"inline", files("\n  helm:\n    chart: ./chart\n    values:\n      deployment:\n        replicas: x\n"),
			api.Error{File: "h/bundle.yaml", Line: 9, Field: "values.deployment.replicas"},
		},
		{
			"a target", files("\n  helm: {chart: ./chart}\n  targets:\n  - values:\n      deployment:\n        replicas: x\n"),
			api.Error{File: "h/bundle.yaml", Line: 9, Field: "values.deployment.replicas"},
		},
		{
			"a key too many", files("{helm: {chart: ./chart, valuesFiles: [values.yaml]}}", "h/values.yaml", "deployment:\n  replica: 3\n"),
			api.Error{File: "h/values.yaml", Line: 2, Field: "values.deployment.replica"},
		},
		{
			"one that is missing", files("{helm: {chart: ./chart}}", "h/chart/values.yaml", "{}"),
			api.Error{File: "h/chart/values.schema.json", Field: "values.must"},
		},
		{
			"a subchart's", files("{helm: {chart: ./chart, valuesFiles: [values.yaml]}}", "h/values.yaml", "sub:\n  port: x\n",
				"h/chart/charts/sub/Chart.yaml", "{apiVersion: v2, name: sub, version: 1.0.0}", "h/chart/charts/sub/values.schema.json", `{"properties":{"port":{"type":"integer"}}}`),
			api.Error{File: "h/values.yaml", Line: 2, Field: "values.sub.port"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Reason = "BadValues"
			out := mustRender(t, newRenderer(t, render.Config{}), tt.files.Snapshot(), "one")
			wantError(t, bundle(t, out, "h").Err, tt.want, "")
		})
	}
}

// A subchart may be a symbolic link to a directory of the repository, as Helm follows it; one that leads back is an error.
func TestHelm_linkedSubchart(t *testing.T) {
	files := chart("{helm: {chart: ./chart}}",
		"h/lib/Chart.yaml", "{apiVersion: v2, name: lib, version: 1.0.0, type: library}", "h/lib/templates/_n.tpl", "{{- define \"lib.n\" -}}one{{- end -}}",
		"h/chart/templates/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ include \"lib.n\" . }}}\n")
	r := newRenderer(t, render.Config{})
	h := bundle(t, mustRender(t, r, inGit(t, files, "h/chart/charts/lib", "../../lib"), "one"), "h")
	if diff := cmp.Diff([]string{"ConfigMap/default/h", "ConfigMap/default/one"}, refs(h)); diff != "" || h.Err != nil {
		t.Errorf("%v %s", h.Err, diff)
	}
	// What it leads to counts for the cache.
	h = bundle(t, mustRender(t, r, inGit(t, files.With("h/lib/templates/_n.tpl", "{{- define \"lib.n\" -}}two{{- end -}}"), "h/chart/charts/lib", "../../lib"), "one"), "h")
	if diff := cmp.Diff([]string{"ConfigMap/default/h", "ConfigMap/default/two"}, refs(h)); diff != "" || h.Err != nil {
		t.Errorf("%v %s", h.Err, diff)
	}
	for link, says := range map[string]string{"..": "symbolic links", "../../..": "symbolic links", "../../../..": "leads out of the repository"} {
		h = bundle(t, mustRender(t, r, inGit(t, files, "h/chart/charts/lib", link), "one"), "h")
		if h.Err == nil || !strings.Contains(h.Err.Error(), says) {
			t.Errorf("%s: %v", link, h.Err)
		}
	}
}

// What Git LFS leaves in place of a file is no content.
func TestRender_lfsPointers(t *testing.T) {
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000000000000000000000000000000000000000000000000000000000000001\nsize 12345\n"
	for name, tt := range map[string]struct {
		files  rendertest.Files
		bundle string
		file   string
	}{
		"generator": {fleet().With("a/cm.yaml", "", "a/kustomization.yaml", "configMapGenerator: [{name: dash, files: [dash.json]}]\n", "a/dash.json", pointer), "a", "a/dash.json"},
		"resource":  {fleet().With("a/cm.yaml", pointer, "a/kustomization.yaml", "resources: [cm.yaml]\n"), "a", "a/cm.yaml"},
		"manifest":  {fleet().With("a/cm.yaml", pointer), "a", "a/cm.yaml"},
		"values":    {chart("{helm: {chart: ./chart, valuesFiles: [v.yaml]}}", "h/v.yaml", pointer), "h", "h/v.yaml"},
		"chart":     {chart("{helm: {chart: ./chart}}", "h/chart/files/dash.json", pointer), "h", "h/chart/files/dash.json"},
		"subchart":  {chart("{helm: {chart: ./chart}}", "h/chart/charts/sub-1.0.0.tgz", pointer), "h", "h/chart/charts/sub-1.0.0.tgz"},
	} {
		t.Run(name, func(t *testing.T) {
			out := mustRender(t, newRenderer(t, render.Config{}), tt.files.Snapshot(), "one")
			wantError(t, bundle(t, out, tt.bundle).Err, api.Error{Reason: "LFSPointer", File: tt.file, Line: 1}, "pointer of Git LFS")
		})
	}
	out := mustRender(t, newRenderer(t, render.Config{}), fleet().With("a/cm.yaml", configMap("a", "k: 'version https://git-lfs.github.com/spec/v1'")).Snapshot(), "one")
	if err := bundle(t, out, "a").Err; err != nil {
		t.Error(err)
	}
}

// A name with an @ that is there is local, and what could be a remote address is refused all the same.
func TestKustomize_atSign(t *testing.T) {
	files := fleet().With(
		"a/cm.yaml", "", "a/kustomization.yaml", "resources: [grafana@11, db@v1.yaml]\nconfigMapGenerator:\n- name: units\n  files: [getty@tty1.service, unit=getty@tty1.service]\n",
		"a/getty@tty1.service", "x\n", "a/grafana@11/kustomization.yaml", "resources: [a.yaml]\n", "a/grafana@11/a.yaml", configMap("g", "k: v"), "a/db@v1.yaml", configMap("db", "k: v"),
	)
	a := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "a")
	if a.Err != nil || len(a.Objects) != 3 {
		t.Errorf("%v, %v", a.Err, refs(a))
	}
	for _, name := range []string{"git@example.com:org/repo", "me@example.com/org/repo", "nobody@nowhere"} {
		out := mustRender(t, newRenderer(t, render.Config{}), files.With("a/kustomization.yaml", "resources:\n- "+name+"\n", "a/git@example.com:org/repo/kustomization.yaml", "resources: []\n", "a/me@example.com/org/repo/kustomization.yaml", "resources: []\n").Snapshot(), "one")
		wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "KustomizeFailed", File: "a/kustomization.yaml", Line: 2, Field: "resources"}, "is remote")
	}
}

// A JSON patch on a path that is not there is told with its own file and line.
func TestKustomize_patchWithoutItsPath(t *testing.T) {
	const bad = "- op: replace\n  path: /data/nothere/x\n  value: c\n"
	base := fleet().With("a/cm.yaml", "", "a/kustomization.yaml", "resources: [base]\n", "a/base/cm.yaml", configMap("a", "k: v"))
	for name, tt := range map[string]struct {
		files rendertest.Files
		file  string
		line  int
	}{
		"inline":        {base.With("a/base/kustomization.yaml", "resources: [cm.yaml]\npatches:\n- target: {kind: ConfigMap}\n  patch: |\n    - op: replace\n      path: /data/nothere/x\n      value: c\n"), "a/base/kustomization.yaml", 6},
		"a file":        {base.With("a/base/kustomization.yaml", "resources: [cm.yaml]\npatches:\n- target: {kind: ConfigMap}\n  path: p.yaml\n", "a/base/p.yaml", bad), "a/base/p.yaml", 2},
		"the old way":   {base.With("a/base/kustomization.yaml", "resources: [cm.yaml]\npatchesJson6902:\n- target: {kind: ConfigMap, name: a, version: v1}\n  path: p.yaml\n", "a/base/p.yaml", bad), "a/base/p.yaml", 2},
		"remove":        {base.With("a/base/kustomization.yaml", "resources: [cm.yaml]\npatches:\n- target: {kind: ConfigMap}\n  path: p.yaml\n", "a/base/p.yaml", "- op: remove\n  path: /spec/x\n"), "a/base/p.yaml", 2},
		"a failed test": {base.With("a/base/kustomization.yaml", "resources: [cm.yaml]\npatches:\n- target: {kind: ConfigMap}\n  path: p.yaml\n", "a/base/p.yaml", "- op: add\n  path: /nothere/deep/x\n  value: c\n"), "a/base/p.yaml", 2},
	} {
		t.Run(name, func(t *testing.T) {
			out := mustRender(t, newRenderer(t, render.Config{}), tt.files.Snapshot(), "one")
			wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "KustomizeFailed", File: tt.file, Line: tt.line, Field: "path"}, "the patch cannot")
		})
	}
}

// A folded text is what YAML says. Kustomize's own output has one empty line more before lines that are indented deeper.
func TestKustomize_foldedText(t *testing.T) {
	files := fleet().With("a/cm.yaml", "", "a/kustomization.yaml", "resources: [base.yaml]\n",
		"a/base.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\ndata:\n  k: >-\n    list.exists(c,\n      c > 1\n    )\n")
	b := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "a")
	if b.Err != nil || len(b.Objects) != 1 {
		t.Fatalf("%d objects, %v", len(b.Objects), b.Err)
	}
	if got, _, _ := unstructured.NestedString(b.Objects[0].Object, "data", "k"); got != "list.exists(c,\n  c > 1\n)" {
		t.Errorf("got %q", got)
	}
}

// A ${…} that nobody can read is told with its file and line, also where it is in a generator's file.
func TestKustomize_malformedVariable(t *testing.T) {
	for name, body := range map[string]string{"of an array": "echo \"${x[@]}\"", "not closed": "echo ${x", "unset": "echo ${x%.*}", "unset in a default": "echo ${x:-${y}}"} {
		t.Run(name, func(t *testing.T) {
			files := fleet().With("a/bundle.yaml", bundleYAML("a", "{substitute: true}"), "a/cm.yaml", "", "a/run.sh", "#!/bin/sh\n\n"+body+"\n",
				"a/kustomization.yaml", "configMapGenerator: [{name: s, files: [run.sh]}]\n")
			out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
			wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "Substitution", File: "a/run.sh", Line: 3, Field: "data/run.sh"}, "${")
		})
	}
}

// A schema of its own serves the build that names it, and no other.
func TestKustomize_openAPI(t *testing.T) {
	const schema = `{"definitions":{"io.argoproj.v1alpha1.Rollout":{"properties":{"spec":{"properties":{"template":{"properties":{"spec":{"properties":{"containers":{"type":"array","items":{"type":"object"},"x-kubernetes-patch-merge-key":"name","x-kubernetes-patch-strategy":"merge"}}}}}}}},"x-kubernetes-group-version-kind":[{"group":"argoproj.io","kind":"Rollout","version":"v1alpha1"}]}}}`
	rollout := func(image, more string) string {
		return "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: r}\nspec: {template: {spec: {containers: [{name: c, image: " + image + more + "}]}}}\n"
	}
	deployment := func(image, more string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: c, image: " + image + more + "}]}}}\n"
	}
	const kustomization = "namespace: team\nresources: [r.yaml]\npatches: [{path: p.yaml}]\n"
	files := fleet().With(
		"a/cm.yaml", "", "a/kustomization.yaml", kustomization+"openapi: {path: schema.json}\n", "a/schema.json", schema, "a/r.yaml", rollout("x", ", args: [a]"), "a/p.yaml", rollout("y", ""),
		"b/bundle.yaml", bundleYAML("b", ""), "b/kustomization.yaml", kustomization, "b/r.yaml", strings.Replace(rollout("x", ", args: [a]"), "name: r}", "name: r, namespace: b}", 1), "b/p.yaml", strings.Replace(rollout("y", ""), "name: r}", "name: r, namespace: b}", 1),
		"c/bundle.yaml", bundleYAML("c", ""), "c/kustomization.yaml", kustomization, "c/r.yaml", deployment("x", ", args: [a]"), "c/p.yaml", deployment("y", ""),
	)
	files["b/kustomization.yaml"] = strings.Replace(kustomization, "team", "other", 1)
	containers := func(b api.RenderedBundle) any {
		t.Helper()
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		return field(t, b.Objects[0], "spec", "template", "spec", "containers")
	}
	with, without := []any{map[string]any{"name": "c", "image": "y", "args": []any{"a"}}}, []any{map[string]any{"name": "c", "image": "y"}}
	for range 3 {
		out := mustRender(t, newRenderer(t, render.Config{Concurrency: 1}), files.Snapshot(), "one")
		for name, want := range map[string]any{"a": with, "b": without, "c": with} {
			if diff := cmp.Diff(want, containers(bundle(t, out, name))); diff != "" {
				t.Errorf("bundle %s: %s", name, diff)
			}
		}
	}
	out := mustRender(t, newRenderer(t, render.Config{}), files.With("a/kustomization.yaml", "resources: [r.yaml]\nopenapi:\n  path: https://example.com/x.json\n").Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "KustomizeFailed", File: "a/kustomization.yaml", Line: 3, Field: "openapi.path"}, "is remote")
	out = mustRender(t, newRenderer(t, render.Config{}), files.With("a/schema.json", "").Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "KustomizeFailed", File: "a/kustomization.yaml", Line: 4, Field: "openapi.path"}, "does not exist")
}
