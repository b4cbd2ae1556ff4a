package render_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

const head = "apiVersion: flotilla.dev/v1alpha1\n"

func clusterYAML(name, env, vars string) string {
	return head + "kind: Cluster\nmetadata: {name: " + name + ", labels: {env: " + env + "}}\nspec:\n  variables: {" + vars + "}\n"
}

func bundleYAML(name, spec string) string {
	if spec == "" {
		spec = "{}"
	}
	return head + "kind: Bundle\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func configMap(name, data string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: default}\ndata: {" + data + "}\n"
}

// fleet is a small repository to start from: two clusters, one bundle.
func fleet() rendertest.Files {
	return rendertest.Files{
		"clusters/one/cluster.yaml": clusterYAML("one", "prod", "color: blue"),
		"clusters/two/cluster.yaml": clusterYAML("two", "staging", "color: red"),
		"a/bundle.yaml":             bundleYAML("a", ""),
		"a/cm.yaml":                 configMap("a", "k: v"),
	}
}

func renderFiles(t *testing.T, files rendertest.Files, cluster string) (api.Rendering, error) {
	t.Helper()
	return newRenderer(t, render.Config{}).Render(t.Context(), files.Snapshot(), cluster, api.ClusterFacts{})
}

func mustRender(t testing.TB, r *render.Renderer, snap api.Snapshot, cluster string) api.Rendering {
	t.Helper()
	out, err := r.Render(t.Context(), snap, cluster, api.ClusterFacts{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func bundle(t testing.TB, out api.Rendering, name string) api.RenderedBundle {
	t.Helper()
	for _, b := range out.Bundles {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("bundle %q is not in the rendering", name)
	return api.RenderedBundle{}
}

func names(out api.Rendering) string {
	var s []string
	for _, b := range out.Bundles {
		s = append(s, b.Name)
	}
	return strings.Join(s, " ")
}

func refs(b api.RenderedBundle) []string {
	var s []string
	for _, o := range b.Objects {
		s = append(s, api.RefOf(o).String())
	}
	return s
}

func field(t *testing.T, o *unstructured.Unstructured, keys ...string) any {
	t.Helper()
	v, found, err := unstructured.NestedFieldNoCopy(o.Object, keys...)
	if err != nil || !found {
		t.Fatalf("%s has no %v (%v)", api.RefOf(o), keys, err)
	}
	return v
}

// wantError checks the parts of an *api.Error.
func wantError(t *testing.T, err error, want api.Error, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *api.Error with %q", err, text)
	}
	got := api.Error{Kind: e.Kind, Reason: e.Reason, File: e.File, Line: e.Line, Field: e.Field}
	if want.Kind == "" {
		want.Kind = api.Stalled
	}
	if want.Reason == "" {
		got.Reason = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v\n(-want +got):\n%s", err, diff)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("got error %q, want one that says %q", err, text)
	}
}

func TestRender_targets(t *testing.T) {
	for _, tt := range []struct {
		name, targets, one, two string
	}{
		{"absent is every cluster", `{}`, "a", "a"},
		{"empty list is none", `{targets: []}`, "", ""},
		{"by name", `{targets: [{clusters: [two]}]}`, "", "a"},
		{"by label", `{targets: [{clusterSelector: {matchLabels: {env: prod}}}]}`, "a", ""},
		{"by expression", `{targets: [{clusterSelector: {matchExpressions: [{key: env, operator: NotIn, values: [prod]}]}}]}`, "", "a"},
		{"by both, and only one fits", `{targets: [{clusters: [two], clusterSelector: {matchLabels: {env: prod}}}]}`, "", ""},
		{"by both", `{targets: [{clusters: [one, two], clusterSelector: {matchLabels: {env: prod}}}]}`, "a", ""},
		{"neither is every cluster", `{targets: [{}]}`, "a", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fleet().With("a/bundle.yaml", bundleYAML("a", tt.targets))
			for cluster, want := range map[string]string{"one": tt.one, "two": tt.two} {
				out, err := renderFiles(t, files, cluster)
				if err != nil {
					t.Fatal(err)
				}
				if got := names(out); got != want {
					t.Errorf("on cluster %s: got %q, want %q", cluster, got, want)
				}
			}
		})
	}
}

func TestRender_firstTargetWins(t *testing.T) {
	files := fleet().With(
		"a/bundle.yaml", bundleYAML("a", `{targets: [{clusters: [one], overlay: first}, {overlay: second}]}`),
		"a/first/kustomization.yaml", "resources: [cm.yaml]\n", "a/first/cm.yaml", configMap("first", ""),
		"a/second/kustomization.yaml", "resources: [cm.yaml]\n", "a/second/cm.yaml", configMap("second", ""),
	)
	for cluster, want := range map[string]string{"one": "ConfigMap/default/first", "two": "ConfigMap/default/second"} {
		out, err := renderFiles(t, files, cluster)
		if err != nil {
			t.Fatal(err)
		}
		if got := refs(bundle(t, out, "a")); !cmp.Equal(got, []string{want}) {
			t.Errorf("on cluster %s: got %v, want %s (%v)", cluster, got, want, out.Bundles[0].Err)
		}
	}
}

func TestRender_defaults(t *testing.T) {
	files := fleet().With(
		"fleet.yaml", head+"kind: Fleet\nspec:\n  defaults: {prune: false, timeout: 9m, drift: {mode: report, ignore: [{paths: [/a]}]}}\n",
		"a/bundle.yaml", bundleYAML("a", `{timeout: 1m, drift: {ignore: [{paths: [/b]}]}}`),
	)
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	spec := bundle(t, out, "a").Spec
	if spec.PruneEnabled() || !spec.WaitEnabled() || spec.WaitTimeout().String() != "1m0s" {
		t.Errorf("got %+v", spec)
	}
	if spec.Drift.Mode != api.DriftReport || spec.Drift.Extra != api.ExtraIgnore || len(spec.Drift.Ignore) != 2 {
		t.Errorf("got drift %+v", spec.Drift)
	}
}

// What concerns all bundles fails the rendering.
func TestRender_errorsOfAll(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   rendertest.Files
		cluster string
		want    api.Error
		text    string
	}{
		{"unknown cluster", fleet(), "three", api.Error{Reason: "UnknownCluster", File: "clusters/three/cluster.yaml"}, `no cluster "three" (it has one, two)`},
		{"a name that leads elsewhere", fleet(), "../a", api.Error{Reason: "UnknownCluster", File: "a/cluster.yaml"}, "no cluster"},
		{
			"cluster in another directory", fleet().With("clusters/one/cluster.yaml", clusterYAML("uno", "prod", "")), "one",
			api.Error{File: "clusters/one/cluster.yaml", Line: 3, Field: "metadata.name"},
			`"uno" is not the directory's name "one"`,
		},
		{
			"bad fleet file", fleet().With("fleet.yaml", head+"kind: Fleet\nspec:\n  variabels: {}\n"), "one",
			api.Error{File: "fleet.yaml", Line: 4, Field: "spec.variabels"},
			"unknown field",
		},
		{
			"two bundles of one name", fleet().With("b/bundle.yaml", bundleYAML("a", "")), "one",
			api.Error{Reason: "DuplicateBundle", File: "b/bundle.yaml", Line: 3, Field: "metadata.name"},
			`bundle "a" is also in a/bundle.yaml`,
		},
		{
			"cycle", fleet().With(
				"a/bundle.yaml", bundleYAML("a", "\n  dependsOn:\n  - b\n"),
				"b/bundle.yaml", bundleYAML("b", "{dependsOn: [c]}"), "b/cm.yaml", configMap("b", ""),
				"c/bundle.yaml", bundleYAML("c", "{dependsOn: [a]}"), "c/cm.yaml", configMap("c", "")), "one",
			api.Error{Reason: "DependencyCycle", File: "a/bundle.yaml", Line: 5, Field: "spec.dependsOn"},
			"a -> b -> c -> a",
		},
		{
			"bundle file without a name", fleet().With("b/bundle.yaml", head+"kind: Bundle\nmetadata: {nam: b}\n"), "one",
			api.Error{File: "b/bundle.yaml", Line: 3, Field: "metadata.nam"},
			"unknown field",
		},
		{
			"bundle file that is no YAML", fleet().With("b/bundle.yaml", "metadata: {name: b\n"), "one",
			api.Error{File: "b/bundle.yaml", Line: 1},
			"did not find expected",
		},
		{
			"bundle file with a name nobody reads", fleet().With("b/bundle.yml", bundleYAML("b", "")), "one",
			api.Error{File: "b/bundle.yml"},
			"only as bundle.yaml: rename it",
		},
		{
			"a rollout, which nothing obeys yet", fleet().With("b/rollout.yaml", head+"kind: Rollout\nmetadata: {name: b}\n"), "one",
			api.Error{File: "b/rollout.yaml", Line: 2, Field: "kind"},
			"does not obey a Rollout yet",
		},
		{
			"a rollout of another ending, behind another document", fleet().With("b/rollout.yml", "{}\n---\n"+head+"kind: Rollout\n"), "one",
			api.Error{File: "b/rollout.yml", Line: 4, Field: "kind"},
			"does not obey a Rollout yet",
		},
		{
			"implicit bundle beside one of its name", fleet().With(
				"b/bundle.yaml", bundleYAML("cluster", ""), "clusters/one/kustomization.yaml", "resources: []\n"), "one",
			api.Error{Reason: "DuplicateBundle", File: "b/bundle.yaml", Line: 3, Field: "metadata.name"},
			"is also made by clusters/one/kustomization.yaml",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := renderFiles(t, tt.files, tt.cluster)
			wantError(t, err, tt.want, tt.text)
		})
	}
}

// The name of the file alone makes no rollout of flotilla's.
func TestRender_rolloutsOfOthers(t *testing.T) {
	for _, text := range []string{
		"apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: b, namespace: b, annotations: {flotilla.dev/prune: disabled}}\n",
		"# flotilla.dev/v1alpha1, kind: Rollout\n",
		"flotilla.dev/: {{ a template }\n",
	} {
		if _, err := renderFiles(t, fleet().With("docs/rollout.yaml", text), "one"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What concerns one bundle stays in it: the others are rendered, and it does not look removed.
func TestRender_errorsOfOneBundle(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  api.Error
		text  string
	}{
		{
			"unknown field",
			[]string{"b/bundle.yaml", head + "kind: Bundle\nmetadata: {name: b}\nspec:\n  kustomise: {}\n"},
			api.Error{File: "b/bundle.yaml", Line: 5, Field: "spec.kustomise"},
			"unknown field",
		},
		{
			"a name that is a path",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ../secrets/foo\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 4, Field: "metadata.name"},
			`"../secrets/foo" cannot be a name: may not contain '/'`,
		},
		{
			"a name with a terminal's escape",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"a\\e[2Jb\"\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 4, Field: "metadata.name"},
			"cannot be printed",
		},
		{
			"a namespace that is a path",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: foo\n  namespace: ../../../api\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 5, Field: "metadata.namespace"},
			`"../../../api" cannot be a namespace`,
		},
		{
			"an apiVersion that is a path",
			[]string{"b/cm.yaml", "apiVersion: ../v1\nkind: ConfigMap\nmetadata: {name: foo}\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 1, Field: "apiVersion"},
			`".." cannot be a group`,
		},
		{
			"an apiVersion of three parts",
			[]string{"b/cm.yaml", "apiVersion: a/b/v1\nkind: ConfigMap\nmetadata: {name: foo}\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 1, Field: "apiVersion"},
			"unexpected GroupVersion string: a/b/v1",
		},
		{
			"a kind that is a path",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: Config/Map\nmetadata: {name: foo}\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Line: 2, Field: "kind"},
			`"Config/Map" cannot be a kind`,
		},
		{
			"a namespace that Kustomize puts in",
			[]string{
				"b/kustomization.yaml", "namespace: One_Apps\nresources: [cm.yaml]\n",
				"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foo}\n",
			},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/cm.yaml", Field: "metadata.namespace"},
			`"One_Apps" cannot be a namespace`,
		},
		{
			"the bundle's namespace, which is not what variables are for",
			[]string{"b/bundle.yaml", head + "kind: Bundle\nmetadata: {name: b}\nspec:\n  substitute: true\n  namespace: ${CLUSTER_NAME}_Apps\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/bundle.yaml", Line: 6, Field: "spec.namespace"},
			"variables are put into manifests only",
		},
		{
			"a namespace of a service account with a colon",
			[]string{"b/bundle.yaml", head + "kind: Bundle\nmetadata: {name: b}\nspec:\n  serviceAccount: {namespace: \"a:b\", name: c}\n"},
			api.Error{Reason: api.ReasonImpossibleName, File: "b/bundle.yaml", Line: 5, Field: "spec.serviceAccount.namespace"},
			`"a:b" cannot be a namespace`,
		},
		{
			"bad value, and targets that would exclude the cluster",
			[]string{"b/bundle.yaml", bundleYAML("b", "{targets: [{clusters: [two]}], timeout: soon}")},
			api.Error{File: "b/bundle.yaml", Line: 4},
			`"soon" is not a duration`,
		},
		{
			"another kind of bundle",
			[]string{"b/bundle.yaml", "apiVersion: trust.example.com/v1\nkind: Bundle\nmetadata: {name: b}\n"},
			api.Error{File: "b/bundle.yaml", Line: 1, Field: "apiVersion"},
			`is not "flotilla.dev/v1alpha1"`,
		},
		{
			"unknown dependency",
			[]string{"b/bundle.yaml", bundleYAML("b", "{dependsOn: [nope]}")},
			api.Error{Reason: "UnknownDependency", File: "b/bundle.yaml", Line: 4, Field: "spec.dependsOn.0"},
			`no bundle "nope"`,
		},
		{
			"dependency on another cluster",
			[]string{
				"b/bundle.yaml", bundleYAML("b", "\n  dependsOn:\n  - a\n  - c\n"),
				"c/bundle.yaml", bundleYAML("c", "{targets: [{clusters: [two]}]}"),
			},
			api.Error{Reason: "UnknownDependency", File: "b/bundle.yaml", Line: 7, Field: "spec.dependsOn.1"},
			`bundle "c" (c/bundle.yaml) is not on this cluster`,
		},
		{
			"no objects",
			[]string{"b/cm.yaml", "# nothing here\n"},
			api.Error{Reason: "EmptyBundle", File: "b/bundle.yaml"},
			`bundle "b" renders to no object`,
		},
		{
			"an annotation that there is not",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: {flotilla.dev/frce: enabled}}\n"},
			api.Error{Reason: "UnknownAnnotation", File: "b/cm.yaml", Line: 1, Field: "metadata.annotations.flotilla.dev/frce"},
			`there is no annotation "frce" (there are flotilla.dev/check-ignore, flotilla.dev/drift, flotilla.dev/force,`,
		},
		{
			"an annotation that means nothing",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: {flotilla.dev/prune: \"false\"}}\n"},
			api.Error{Reason: "UnknownAnnotation", File: "b/cm.yaml", Line: 1, Field: "metadata.annotations.flotilla.dev/prune"},
			`"false" is not one of disabled, enabled`,
		},
		{
			"a rule whose path is not closed",
			[]string{"b/bundle.yaml", bundleYAML("b", "\n  drift:\n    ignore:\n    - paths: ['/spec/containers/[name=']\n")},
			api.Error{Reason: "BadFleetFile", File: "b/bundle.yaml", Line: 7, Field: "spec.drift.ignore.0.paths.0"},
			`has a [ without its ]`,
		},
		{
			"overlay without kustomization",
			[]string{"b/bundle.yaml", bundleYAML("b", "\n  targets:\n  - overlay: overlays/nope\n")},
			api.Error{Reason: "BadBundle", File: "b/bundle.yaml", Line: 6, Field: "spec.targets.0.overlay"},
			`no kustomization.yaml in "b/overlays/nope"`,
		},
		{
			"overlay outside the repository",
			[]string{"b/bundle.yaml", bundleYAML("b", "\n  targets:\n  - overlay: ../../etc\n")},
			api.Error{Reason: "BadBundle", File: "b/bundle.yaml", Line: 6, Field: "spec.targets.0.overlay"},
			"leads out of the fleet repository",
		},
		{
			"document without kind",
			[]string{"b/cm.yaml", configMap("b", "") + "---\n\napiVersion: v1\nmetadata: {name: x}\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 7, Field: "kind"},
			"object x has no kind",
		},
		{
			"document without apiVersion",
			[]string{"b/cm.yaml", "piVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 1, Field: "apiVersion"},
			"ConfigMap/x has no apiVersion",
		},
		{
			"document without name",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x}\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 1, Field: "metadata.name"},
			"give it a name",
		},
		{
			"item of a list without name",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 4, Field: "metadata.name"},
			"has no metadata.name",
		},
		{
			"a text",
			[]string{"b/cm.yaml", "hello\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 1},
			"not an object",
		},
		{
			"no YAML",
			[]string{"b/cm.yaml", "a: [d\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 1},
			"did not find expected",
		},
		{
			"a key twice",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  k: v\n  k: w\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 6},
			`key "k" occurs twice`,
		},
		{
			"a label that is no string",
			[]string{"b/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, labels: {a: 1}}\n"},
			api.Error{Reason: "BadManifest", File: "b/cm.yaml", Line: 3, Field: "metadata.labels.a"},
			"write it in quotes",
		},
		{
			"one of flotilla's own objects",
			[]string{"b/other.yaml", bundleYAML("c", "")},
			api.Error{Reason: "BadManifest", File: "b/other.yaml", Line: 1, Field: "kind"},
			"by their names",
		},
		{
			"one object twice",
			[]string{"b/cm.yaml", configMap("b", ""), "b/zz.yaml", configMap("b", "")},
			api.Error{Reason: "DuplicateObject", File: "b/zz.yaml", Line: 1},
			"ConfigMap/default/b is also in b/cm.yaml",
		},
		{
			"a kustomization below plain YAML",
			[]string{"b/sub/kustomization.yaml", "resources: []\n"},
			api.Error{Reason: "BadBundle", File: "b/sub/kustomization.yaml"},
			"is not built",
		},
		{
			"a chart below plain YAML",
			[]string{"b/sub/Chart.yaml", "name: x\n"},
			api.Error{Reason: "BadBundle", File: "b/sub/Chart.yaml"},
			"is not rendered",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fleet().With("b/bundle.yaml", bundleYAML("b", "")).With(tt.files...)
			out, err := renderFiles(t, files, "one")
			if err != nil {
				t.Fatal(err)
			}
			if names(out) != "a b" {
				t.Fatalf("got bundles %q, want a and b", names(out))
			}
			if a := bundle(t, out, "a"); a.Err != nil || len(a.Objects) != 1 {
				t.Errorf("the other bundle suffers: %v", a.Err)
			}
			b := bundle(t, out, "b")
			wantError(t, b.Err, tt.want, tt.text)
			if b.Objects != nil || b.Digest != "" {
				t.Errorf("a bundle with an error has objects or a digest: %+v", b)
			}
		})
	}
}

// An object may be in two bundles: who has it on the cluster goes on.
func TestRender_objectInTwoBundles(t *testing.T) {
	files := fleet().With("b/bundle.yaml", bundleYAML("b", ""), "b/x.yaml", configMap("a", ""))
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if b := bundle(t, out, name); b.Err != nil || len(b.Objects) != 1 {
			t.Errorf("bundle %s: %v, %v", name, refs(b), b.Err)
		}
	}
}

// A mistake in another cluster's file does not matter here.
func TestRender_otherClustersFile(t *testing.T) {
	files := fleet().With("clusters/two/cluster.yaml", "nonsense: [")
	if _, err := renderFiles(t, files, "one"); err != nil {
		t.Error(err)
	}
	got, err := render.Clusters(files.Snapshot().Tree)
	if err == nil || !strings.Contains(err.Error(), "clusters/two/cluster.yaml") {
		t.Errorf("got %v, want an error that names the file", err)
	}
	if len(got) != 1 || got[0].Metadata.Name != "one" {
		t.Errorf("got %v, want the good cluster", got)
	}
}

func TestRender_implicitBundle(t *testing.T) {
	files := fleet().With("clusters/one/kustomization.yaml", "resources: [cm.yaml]\n", "clusters/one/cm.yaml", configMap("x", ""))
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	if got := refs(bundle(t, out, "cluster")); !cmp.Equal(got, []string{"ConfigMap/default/x"}) {
		t.Errorf("got %v", got)
	}
	if out, err = renderFiles(t, files, "two"); err != nil || names(out) != "a" {
		t.Errorf("on the other cluster: got %q, %v", names(out), err)
	}
}

func TestRender_plainFiles(t *testing.T) {
	files := fleet().With(
		"a/bundle.yaml", bundleYAML("a", `{targets: [{clusters: [two], overlay: overlays/two}, {}]}`),
		"a/list.json", "{\n\t\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\t\t{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"json\"}}]}",
		"a/deep/er/x.yml", configMap("deep", ""),
		"a/.hidden.yaml", "not: an object\n",
		"a/.git/x.yaml", "not: an object\n",
		"a/notes.txt", "not: [yaml",
		"a/inner/bundle.yaml", bundleYAML("inner", ""), "a/inner/x.yaml", configMap("inner", ""),
		"a/overlays/two/kustomization.yaml", "resources: [../../cm.yaml]\n",
		"b/bundle.yaml", bundleYAML("b", "{helm: {chart: ./}}"),
		"b/Chart.yaml", "{apiVersion: v2, name: b, version: 1.0.0}",
		"b/templates/bundle.yaml", configMap("from-chart", ""),
	)
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	if names(out) != "a b inner" {
		t.Errorf("got bundles %q", names(out))
	}
	want := []string{"ConfigMap/default/a", "ConfigMap/default/deep", "ConfigMap/default/json"}
	a := bundle(t, out, "a")
	if diff := cmp.Diff(want, refs(a)); diff != "" {
		t.Errorf("bundle a (%v): %s", a.Err, diff)
	}
	if len(a.Warnings) != 1 || !strings.Contains(a.Warnings[0], "ConfigMap/default/json: no namespace is given") {
		t.Errorf("got warnings %q", a.Warnings)
	}
	if got := a.Origin["/ConfigMap/default/deep"]; got != "a/deep/er/x.yml" {
		t.Errorf("got origin %q", got)
	}
	if b := bundle(t, out, "b"); !cmp.Equal(refs(b), []string{"ConfigMap/default/from-chart"}) {
		t.Errorf("bundle b: %v, %v", refs(b), b.Err)
	}
}

func TestRender_cleans(t *testing.T) {
	files := fleet().With("a/cm.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: x, uid: u, resourceVersion: "1", generation: 3, creationTimestamp: null, managedFields: []}
spec: {replicas: 1, template: {metadata: {creationTimestamp: null, labels: {a: b}}}}
status: {replicas: 7}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: x}
data: {a: QQ==, b: Qg==}
stringData: {b: new}
`)
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	a := bundle(t, out, "a")
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	want := []map[string]any{
		{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s", "namespace": "x"},
			"data": map[string]any{"a": "QQ==", "b": "bmV3"},
		},
		{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d", "namespace": "x"},
			"spec": map[string]any{"replicas": int64(1), "template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}}},
		},
	}
	for i, o := range a.Objects {
		if diff := cmp.Diff(want[i], o.Object); diff != "" {
			t.Error(diff)
		}
	}
}

// Whether a kind has a namespace may stand in another bundle's CRD.
func TestRender_namespaces(t *testing.T) {
	crd := func(kind, scope string) string {
		return fmt.Sprintf("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %ss.x.io}\n"+
			"spec: {group: x.io, scope: %s, names: {kind: %s}}\n---\n", strings.ToLower(kind), scope, kind)
	}
	object := func(kind string) string { return "apiVersion: x.io/v1\nkind: " + kind + "\nmetadata: {name: o}\n---\n" }
	files := fleet().With(
		"a/bundle.yaml", bundleYAML("a", "{namespace: team}"),
		"a/cm.yaml", object("Wide")+object("Narrow")+object("Unknown")+
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
	)
	with := files.With("b/bundle.yaml", bundleYAML("b", ""), "b/crds.yaml", crd("Wide", "Cluster")+crd("Narrow", "Namespaced"))
	r := newRenderer(t, render.Config{})
	for _, tt := range []struct {
		files rendertest.Files
		wide  string
	}{{files, "Wide.x.io/team/o"}, {with, "Wide.x.io/o"}, {files, "Wide.x.io/team/o"}} {
		a := bundle(t, mustRender(t, r, tt.files.Snapshot(), "one"), "a")
		want := []string{"ConfigMap/team/c", "ClusterRole.rbac.authorization.k8s.io/r", "Narrow.x.io/team/o", "Unknown.x.io/team/o", tt.wide}
		if diff := cmp.Diff(want, refs(a)); diff != "" {
			t.Errorf("%v %s", a.Err, diff)
		}
	}
}

func TestRender_substitute(t *testing.T) {
	files := fleet().With(
		"fleet.yaml", head+"kind: Fleet\nspec:\n  variables: {color: green, size: 'XL', text: \"a: b\\n\\\"c\\\" # d\"}\n",
		"a/bundle.yaml", bundleYAML("a", "{substitute: true}"),
		"a/cm.yaml", configMap("a", `color: "${color}", size: "${size}", text: "${text}", name: "${CLUSTER_NAME}", d: "${nope:-x}", lit: "$${color}", "${color}": key`)+
			"---\n"+strings.Replace(configMap("b", `color: "${nope}"`), "metadata: {", "metadata: {annotations: {flotilla.dev/substitute: disabled}, ", 1),
	)
	out, err := renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	a := bundle(t, out, "a")
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	want := map[string]any{"color": "blue", "size": "XL", "text": "a: b\n\"c\" # d", "name": "one", "d": "x", "lit": "${color}", "blue": "key"}
	if diff := cmp.Diff(want, field(t, a.Objects[0], "data")); diff != "" {
		t.Error(diff)
	}
	if got := field(t, a.Objects[1], "data", "color"); got != "${nope}" {
		t.Errorf("got %q in the object that opted out", got)
	}

	files = files.With("a/cm.yaml", "# first\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\ndata:\n  x: ${nope}\n")
	out, err = renderFiles(t, files, "one")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "Substitution", File: "a/cm.yaml", Line: 6, Field: "data/x"},
		`ConfigMap/default/a: variable "nope" is not set`)
}

// A bundle's own variables go over the cluster's, for plain YAML, kustomizations and values alike, and stay in the bundle.
func TestRender_bundleVariables(t *testing.T) {
	chart := rendertest.Files{
		"c/chart/Chart.yaml":        "apiVersion: v2\nname: c\nversion: 1.0.0\n",
		"c/chart/templates/cm.yaml": configMap("a", "color: {{ .Values.color }}, app: {{ .Values.app }}"),
		"c/bundle.yaml":             bundleYAML("c", `{substitute: true, variables: {app: shop, color: green}, helm: {chart: ./chart, values: {color: "${color}", app: "${app}"}}}`),
		"d/bundle.yaml":             bundleYAML("d", "{substitute: true}"),
		"d/cm.yaml":                 configMap("a", `color: "${color}", app: "${app:-none}"`),
		"a/bundle.yaml":             bundleYAML("a", "{substitute: true, variables: {app: shop, color: green}}"),
		"a/cm.yaml":                 configMap("a", `color: "${color}", app: "${app}"`),
		"b/bundle.yaml":             bundleYAML("b", "{substitute: true, variables: {app: shop, color: green}, kustomize: {path: base}}"),
		"b/base/kustomization.yaml": "resources: [cm.yaml]\n",
		"b/base/cm.yaml":            configMap("a", `color: "${color}", app: "${app}"`),
	}
	files := fleet()
	maps.Copy(files, chart)
	r := newRenderer(t, render.Config{})
	want := func(files rendertest.Files, name, color, app string) {
		t.Helper()
		b := bundle(t, mustRender(t, r, files.Snapshot(), "one"), name)
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if diff := cmp.Diff(map[string]any{"color": color, "app": app}, field(t, b.Objects[0], "data")); diff != "" {
			t.Errorf("bundle %s: %s", name, diff)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		want(files, name, "green", "shop")
	}
	want(files, "d", "blue", "none")
	want(files.With("a/bundle.yaml", bundleYAML("a", "{substitute: true, variables: {app: other}}")), "a", "blue", "other")

	out := mustRender(t, r, files.With("a/bundle.yaml", bundleYAML("a", "{variables: {app: shop}}")).Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 4, Field: "spec.variables"}, "spec.substitute")
	out = mustRender(t, r, files.With("a/bundle.yaml", bundleYAML("a", "\n  substitute: true\n  variables:\n    a-b: c")).Snapshot(), "one")
	wantError(t, bundle(t, out, "a").Err, api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 7, Field: "spec.variables.a-b"}, "not a variable's name")
}

// Without substitute nothing is looked at.
func TestRender_noSubstitute(t *testing.T) {
	out, err := renderFiles(t, fleet().With("a/cm.yaml", configMap("a", `x: "${nope}"`)), "one")
	if err != nil {
		t.Fatal(err)
	}
	if got := field(t, bundle(t, out, "a").Objects[0], "data", "x"); got != "${nope}" {
		t.Errorf("got %q", got)
	}
}

func TestRender_warnsOfUnknownClusters(t *testing.T) {
	out, err := renderFiles(t, fleet().With("a/bundle.yaml", bundleYAML("a", "{targets: [{clusters: [one, thre]}]}")), "one")
	if err != nil {
		t.Fatal(err)
	}
	if w := bundle(t, out, "a").Warnings; len(w) != 1 || !strings.Contains(w[0], `spec.targets.0 names cluster "thre"`) {
		t.Errorf("got %q", w)
	}
	// Where the mistyped name is all there is, the bundle is nowhere.
	out, err = renderFiles(t, fleet().With("b/bundle.yaml", bundleYAML("b", "{targets: [{clusters: [onne]}]}")), "one")
	if err != nil {
		t.Fatal(err)
	}
	if w := out.Warnings; len(w) != 1 || !strings.Contains(w[0], `b/bundle.yaml: spec.targets.0 names cluster "onne", which does not exist; the bundle is not on cluster "one"`) {
		t.Errorf("got %q", w)
	}
}

func TestRender_noSnapshot(t *testing.T) {
	_, err := newRenderer(t, render.Config{}).Render(t.Context(), api.Snapshot{}, "one", api.ClusterFacts{})
	wantError(t, err, api.Error{Reason: "NoSnapshot"}, "no snapshot")
}
