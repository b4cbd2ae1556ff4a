package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// shared is a bundle whose kustomization reads a base outside the bundle.
func shared() rendertest.Files {
	return fleet().With(
		"base/kustomization.yaml", "resources: [deployment.yaml]\n",
		"base/deployment.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: ${replicas:-1}\n  template: {spec: {containers: [{name: c, image: x}]}}\n",
		"k/bundle.yaml", bundleYAML("k", "{kustomize: {path: overlay}, substitute: true}"),
		"k/overlay/kustomization.yaml", "namespace: team\nresources: [../../base]\nimages: [{name: x, newTag: v1}]\nconfigMapGenerator: [{name: g, literals: [a=b, url=https://example.com]}]\n",
	)
}

func TestKustomize_build(t *testing.T) {
	out, err := renderFiles(t, shared(), "one")
	if err != nil {
		t.Fatal(err)
	}
	k := bundle(t, out, "k")
	if k.Err != nil {
		t.Fatal(k.Err)
	}
	want := []string{"ConfigMap/team/g-bhdg9hc42h", "Deployment.apps/team/d"}
	if got := refs(k); len(got) != 2 || !strings.HasPrefix(got[0], "ConfigMap/team/g-") || got[1] != want[1] {
		t.Errorf("got %v", got)
	}
	d := k.Objects[1]
	if got := field(t, d, "spec", "replicas"); got != int64(1) {
		t.Errorf("got replicas %#v, want a number", got)
	}
	containers := field(t, d, "spec", "template", "spec", "containers").([]any)
	if got := containers[0].(map[string]any)["image"]; got != "x:v1" {
		t.Errorf("got image %v", got)
	}
	if d.GetAnnotations() != nil {
		t.Errorf("annotations are left: %v", d.GetAnnotations())
	}
	if got := k.Origin["apps/Deployment/team/d"]; got != "base/deployment.yaml" {
		t.Errorf("got origin %q", got)
	}
}

// What only looks like the name of a file is none.
func TestKustomize_isNoFile(t *testing.T) {
	out, err := renderFiles(t, shared().With("k/overlay/kustomization.yaml", `resources: [../../base]
configMapGenerator:
- name: g
  literals: [a=b]
  env: null
  options: {labels: {env: prod, path: x}, annotations: {files: text}}
patches:
- target: {kind: Deployment}
  options: {allowNameChange: true}
  patch: |
    - {op: add, path: /metadata/labels, value: {env: prod, path: z}}
`), "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle(t, out, "k").Err; err != nil {
		t.Error(err)
	}
}

func TestKustomize_refuses(t *testing.T) {
	const kustomization = "k/overlay/kustomization.yaml"
	for _, tt := range []struct {
		name  string
		files []string
		want  api.Error
		text  string
	}{
		{"remote resource", []string{kustomization, "resources:\n- https://example.com/x.yaml\n"}, api.Error{File: kustomization, Line: 2, Field: "resources"}, "is remote"},
		{"remote base", []string{kustomization, "resources:\n- ../../base\n- github.com/org/repo//dir?ref=main\n"}, api.Error{File: kustomization, Line: 3, Field: "resources"}, "is remote"},
		{"remote base by ssh", []string{kustomization, "bases:\n- git@example.com:org/repo\n"}, api.Error{File: kustomization, Line: 2, Field: "bases"}, "is remote"},
		{"remote patch", []string{kustomization, "resources: [../../base]\npatches:\n- path: http:example.com/p\n"}, api.Error{File: kustomization, Line: 3, Field: "patches.path"}, "is remote"},
		{
			"remote file of a generator",
			[]string{kustomization, "configMapGenerator:\n- name: g\n  files: [a=https://u:p@example.com/x]\n"},
			api.Error{File: kustomization, Line: 3, Field: "configMapGenerator.files"},
			"https://…@example.com",
		},
		{
			"remote file of a builtin plugin",
			[]string{kustomization, "generators: [gen.yaml]\n", "k/overlay/gen.yaml", "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: g}\nfiles:\n- https://example.com/x\n"},
			api.Error{File: "k/overlay/gen.yaml", Line: 5, Field: ".files"},
			"is remote",
		},
		{"helm inflation", []string{kustomization, "helmCharts:\n- name: x\n"}, api.Error{File: kustomization, Line: 2, Field: "helmCharts"}, "a bundle of its own"},
		{
			"function",
			[]string{kustomization, "resources: [../../base]\ntransformers: [fn.yaml]\n", "k/overlay/fn.yaml", "apiVersion: x/v1\nkind: Fn\nmetadata:\n  name: f\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: /bin/sh}\n"},
			api.Error{File: "k/overlay/fn.yaml", Line: 6, Field: "metadata.annotations.config.kubernetes.io/function"},
			"functions are not run",
		},
		{"missing resource", []string{kustomization, "resources:\n- ../../base\n- nope.yaml\n"}, api.Error{File: kustomization, Line: 3, Field: "resources"}, `"nope.yaml" does not exist`},
		{"outside the repository", []string{kustomization, "resources:\n- ../../../../etc/passwd\n"}, api.Error{File: kustomization, Line: 2, Field: "resources"}, "does not exist"},
		{"base of itself", []string{kustomization, "resources:\n- ../overlay\n"}, api.Error{File: kustomization}, "cycle"},
		{"unknown field", []string{kustomization, "resource: [../../base]\n"}, api.Error{File: kustomization, Line: 1, Field: "resource"}, "unknown field"},
		{"unknown field further down", []string{kustomization, "resources: [../../base]\nimages:\n- nam: x\n"}, api.Error{File: kustomization, Line: 3, Field: "nam"}, "unknown field"},
		{"missing patch", []string{kustomization, "resources: [../../base]\npatches:\n- path: nope.yaml\n"}, api.Error{File: kustomization, Line: 3, Field: "patches.path"}, `"nope.yaml" does not exist`},
		{"missing file of a generator", []string{kustomization, "configMapGenerator:\n- name: g\n  files:\n  - a=nope.txt\n"}, api.Error{File: kustomization, Line: 4, Field: "configMapGenerator.files"}, `"nope.txt" does not exist`},
		{"resource that does not parse", []string{"base/deployment.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n y: z\n"}, api.Error{File: "base/deployment.yaml", Line: 4}, "did not find expected key"},
		{
			"patch that does not parse",
			[]string{kustomization, "resources: [../../base]\npatches:\n- path: p.yaml\n", "k/overlay/p.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  replicas: 1\n x: 2\n"},
			api.Error{File: "k/overlay/p.yaml", Line: 5},
			"did not find expected key",
		},
		{"a key twice in a resource", []string{"base/deployment.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n  name: y\n"}, api.Error{File: "base/deployment.yaml", Line: 5}, `"name" occurs twice`},
		{"resource without name", []string{"base/deployment.yaml", "apiVersion: v1\nkind: ConfigMap\n"}, api.Error{File: "base/deployment.yaml", Line: 1, Field: "metadata.name"}, "has no metadata.name"},
		{
			"patch of nothing",
			[]string{kustomization, "resources: [../../base]\npatches:\n- path: p.yaml\n", "k/overlay/p.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: other\nspec: {replicas: 1}\n"},
			api.Error{File: "k/overlay/p.yaml", Line: 4, Field: "metadata.name"},
			"the patch of Deployment/other matches no resource",
		},
		{
			"patch of nothing, in the kustomization",
			[]string{kustomization, "resources: [../../base]\npatches:\n- patch: |\n    apiVersion: apps/v1\n    kind: Deployment\n    metadata: {name: other}\n"},
			api.Error{File: kustomization, Line: 3, Field: "metadata.name"},
			"the patch of Deployment/other matches no resource",
		},
		{
			"resource twice",
			[]string{"base/kustomization.yaml", "resources: [deployment.yaml, again.yaml]\n", "base/again.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"},
			api.Error{File: "base/again.yaml", Line: 3, Field: "metadata.name"},
			"Deployment/d is also in base/deployment.yaml:3",
		},
		{"a key twice", []string{kustomization, "resources: [../../base]\nresources: []\n"}, api.Error{File: kustomization, Line: 2}, `"resources" occurs twice`},
		{"resource without kind", []string{"base/deployment.yaml", "apiVersion: v1\nmetadata: {name: x}\n"}, api.Error{File: "base/deployment.yaml", Line: 1, Field: "kind"}, "object x has no kind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := renderFiles(t, shared().With(tt.files...), "one")
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, bundle(t, out, "k").Err, tt.want, tt.text)
			if a := bundle(t, out, "a"); a.Err != nil {
				t.Errorf("the other bundle suffers: %v", a.Err)
			}
		})
	}
}

// kustomize keeps no lines, but the file that a variable is used in is known.
func TestKustomize_unsetVariable(t *testing.T) {
	const deployment = "apiVersion: apps/v1\nkind: Deployment\n# not ${tag}\nmetadata: {name: d}\nspec:\n  template: {spec: {containers: [{name: c, image: 'y:%s'}]}}\n"
	const kustomization = "namespace: team\nresources: [../../base]\n"
	for _, tt := range []struct {
		name, uses string
		overlay    string
		want       api.Error
	}{
		{"in the base", "${tag}", kustomization, api.Error{File: "base/deployment.yaml", Line: 6, Field: "spec/template/spec/containers/0/image"}},
		{
			"in a generator", "v1", kustomization + "configMapGenerator:\n- name: g\n  literals:\n  - a=$${tag} ${tags:-x}\n  - b=${tag}\n",
			api.Error{File: "k/overlay/kustomization.yaml", Line: 7, Field: "data/b"},
		},
		{
			"in a file of a generator", "v1", kustomization + "configMapGenerator: [{name: g, files: [x.txt]}]\n",
			api.Error{File: "k/overlay/x.txt", Line: 2, Field: "data/x.txt"},
		},
		{
			"in a patch", "v1", kustomization + "patches: [{path: p.yaml}]\n",
			api.Error{File: "k/overlay/p.yaml", Line: 4, Field: "spec/minReadySeconds"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := shared().With("base/deployment.yaml", strings.Replace(deployment, "%s", tt.uses, 1), "k/overlay/kustomization.yaml", tt.overlay, "k/overlay/x.txt", "text\n${tag}",
				"k/overlay/p.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {minReadySeconds: '${tag}'}\n")
			out, err := renderFiles(t, files, "one")
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Reason = "Substitution"
			wantError(t, bundle(t, out, "k").Err, tt.want, `variable "tag" is not set`)
		})
	}
}

// An alias that expands without bound ends in an error, wherever it stands.
func TestKustomize_bomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nla: &la [x]\n")
	for i := range 12 {
		from, to := string(rune('a'+i)), string(rune('b'+i))
		b.WriteString("l" + to + ": &l" + to + " [" + strings.TrimSuffix(strings.Repeat("*l"+from+",", 10), ",") + "]\n")
	}
	for _, file := range []string{"a/cm.yaml", "base/deployment.yaml"} {
		out, err := renderFiles(t, shared().With(file, b.String()), "one")
		if err != nil {
			t.Fatal(err)
		}
		name := map[string]string{"a/cm.yaml": "a", "base/deployment.yaml": "k"}[file]
		if err := bundle(t, out, name).Err; err == nil || !strings.Contains(err.Error(), "expand to more than") {
			t.Errorf("%s: got %v", file, err)
		}
	}
}

func TestRender_symlinks(t *testing.T) {
	files := fleet().With("shared/x.yaml", configMap("x", "k: v"), "shared/dir/y.yaml", configMap("y", ""))
	r := newRenderer(t, render.Config{})
	first := bundle(t, mustRender(t, r, files.Snapshot("a/link.yaml", "../shared/x.yaml", "a/dir", "../shared/dir"), "one"), "a")
	if diff := cmp.Diff([]string{"ConfigMap/default/a", "ConfigMap/default/x"}, refs(first)); diff != "" {
		t.Fatalf("%v %s", first.Err, diff)
	}
	if len(first.Warnings) != 1 || !strings.Contains(first.Warnings[0], "a/dir is a symbolic link to a directory") {
		t.Errorf("got warnings %q", first.Warnings)
	}
	// The directory's digest is the same, but what the link leads to is not.
	files = files.With("shared/x.yaml", configMap("x", "k: w"))
	second := bundle(t, mustRender(t, r, files.Snapshot("a/link.yaml", "../shared/x.yaml", "a/dir", "../shared/dir"), "one"), "a")
	if got := field(t, second.Objects[1], "data", "k"); got != "w" {
		t.Errorf("got %v, want what the link leads to now", got)
	}

	out := mustRender(t, r, files.Snapshot("a/link.yaml", "../../outside.yaml"), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "BadManifest", File: "a/link.yaml"}, "outside the fleet repository")

	_, err := r.Render(t.Context(), files.Snapshot("b/bundle.yaml", "../a/bundle.yaml"), "one", api.ClusterFacts{})
	wantError(t, err, api.Error{File: "b/bundle.yaml"}, "is a symbolic link")
}

// Building concurrently must not mix up bundles, and is watched by the race detector.
func TestKustomize_concurrent(t *testing.T) {
	files := shared()
	for _, n := range []string{"p", "q", "r", "s"} {
		files = files.With(
			n+"/bundle.yaml", bundleYAML(n, ""),
			n+"/kustomization.yaml", "namespace: "+n+"\nresources: [../base]\n",
		)
	}
	out := mustRender(t, newRenderer(t, render.Config{Concurrency: 4}), files.Snapshot(), "one")
	for _, n := range []string{"p", "q", "r", "s"} {
		b := bundle(t, out, n)
		if b.Err != nil || b.Objects[0].GetNamespace() != n {
			t.Errorf("bundle %s: %v %v", n, refs(b), b.Err)
		}
	}
}
