package render_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/render/sops"
	"github.com/flotilla-fleet/flotilla/render/sops/sopstest"
)

// town is a fleet with a platform team and two tenants, each with a key and a Secret of its own.
type town struct {
	files rendertest.Files
	keys  *sops.Keyring
	// secret: "a", "b" or "platform" -> a Secret in its file, encrypted for that one
	secret map[string]string
}

const townFleet = head + `kind: Fleet
spec:
  tenants:
  - name: a
    path: teams/a
    keys: [a]
    serviceAccount: {namespace: a, name: deployer}
    namespaces: [a, a-*]
    kinds: {deny: [ResourceQuota]}
    clusterSelector: {matchLabels: {env: prod}}
    charts: [oci://registry.example.com/a/*, https://charts.example.com/a/*]
    images: [registry.example.com/a/*, docker.io/library/*]
    rights: {drift: [correct, report], annotations: [flotilla.dev/prune, flotilla.dev/drift], suspend: true}
  - name: b
    path: teams/b
    keys: [b]
    serviceAccount: {namespace: b, name: deployer}
    namespaces: ["*"]
    kinds: {allow: [ConfigMap, Secret, "*.apps", "*.example.com", Widget.widgets.example.com, Namespace]}
`

func newTown(t *testing.T) town {
	t.Helper()
	dir := t.TempDir()
	var files []string
	out := town{secret: map[string]string{}}
	for _, who := range []string{"a", "b", "platform"} {
		identity, recipient, err := sopstest.Key()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, who+".txt")
		if err := os.WriteFile(file, []byte(identity), 0o600); err != nil {
			t.Fatal(err)
		}
		name := who + "="
		if who == "platform" {
			name = ""
		}
		files = append(files, name+file)
		out.secret[who] = encrypt(t, recipient, "s.yaml", "^(data|stringData)$", strings.Replace(secretYAML, "namespace: x", "namespace: "+who, 1))
	}
	var err error
	if out.keys, err = sops.Open(sops.Config{Files: files}); err != nil {
		t.Fatal(err)
	}
	out.files = rendertest.Files{
		"fleet.yaml":                townFleet,
		"clusters/one/cluster.yaml": clusterYAML("one", "prod", "color: blue"),
		"clusters/two/cluster.yaml": clusterYAML("two", "staging", "color: red"),
		"platform/bundle.yaml":      bundleYAML("platform", ""),
		"platform/s.yaml":           out.secret["platform"],
		"teams/a/app/bundle.yaml":   bundleYAML("a-app", ""),
		"teams/a/app/cm.yaml":       configMapIn("a", "cm"),
		"teams/a/app/s.yaml":        out.secret["a"],
		"teams/b/app/bundle.yaml":   bundleYAML("b-app", ""),
		"teams/b/app/s.yaml":        out.secret["b"],
		"teams/b/values.yaml":       "password: " + password + "\n",
		"base/kustomization.yaml":   "resources: [cm.yaml]\n",
		"base/cm.yaml":              configMapIn("a", "base"),
	}
	return out
}

func configMapIn(namespace, name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: " + namespace + "}\n"
}

// An escape is something that a tenant commits, and what comes of it.
type escape struct {
	name   string
	change []string // pairs of file and text
	links  []string // pairs of link and target
	bundle string   // the bundle that fails; "" is a-app
	want   api.Error
	text   string
}

// Nobody else is disturbed by what tenant a tries.
func (e escape) run(t *testing.T, in town) {
	t.Helper()
	out := mustRender(t, newRenderer(t, render.Config{Keys: in.keys}), in.files.With(e.change...).Snapshot(e.links...), "one")
	if e.bundle == "" {
		e.bundle = "a-app"
	}
	for _, b := range out.Bundles {
		if b.Name != e.bundle {
			if b.Err != nil {
				t.Errorf("bundle %s fails, too: %v", b.Name, b.Err)
			}
			continue
		}
		wantError(t, b.Err, e.want, e.text)
		if b.Err != nil && strings.Contains(b.Err.Error(), password) {
			t.Errorf("the error shows a secret: %v", b.Err)
		}
	}
	bundle(t, out, e.bundle)
}

// denied is an error about what a tenant may not do.
func denied(file string, line int, field string) api.Error {
	return api.Error{Kind: api.Forbidden, Reason: api.ReasonTenantDenied, File: file, Line: line, Field: field}
}

func noKey(file string) api.Error {
	return api.Error{Reason: "NoKey", File: file, Line: 1, Field: "stringData.password"}
}

func TestTenancy_files(t *testing.T) {
	in := newTown(t)
	app := func(spec string) []string { return []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", spec)} }
	kustomized := func(text string, more ...string) []string {
		return append([]string{"teams/a/app/kustomization.yaml", "namespace: a\n" + text}, more...)
	}
	chart := []string{"teams/a/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}", "teams/a/c/templates/cm.yaml", configMapIn("a", "c")}
	for _, e := range []escape{
		{
			name: "a copy of another tenant's encrypted file", change: kustomized("resources: [theirs.yaml]\n", "teams/a/app/theirs.yaml", in.secret["b"]),
			want: noKey("teams/a/app/theirs.yaml"), text: `none of the 1 age keys of tenant "a"`,
		},
		{
			name: "a copy of the platform's encrypted file", change: kustomized("resources: [theirs.yaml]\n", "teams/a/app/theirs.yaml", in.secret["platform"]),
			want: noKey("teams/a/app/theirs.yaml"), text: `none of the 1 age keys of tenant "a"`,
		},
		{
			name: "a copy in plain YAML", change: []string{"teams/a/app/theirs.yaml", in.secret["b"]},
			want: noKey("teams/a/app/theirs.yaml"), text: "--age-key NAME=FILE",
		},
		{
			name: "a copy among the values of a chart", change: append(app("{helm: {chart: ../c, valuesFiles: [v.yaml]}}"), append(chart, "teams/a/app/v.yaml", in.secret["b"])...),
			want: noKey("teams/a/app/v.yaml"), text: `tenant "a"`,
		},
		{
			name: "a link to another tenant's file", links: []string{"teams/a/app/l.yaml", "../../b/app/s.yaml"},
			want: denied("teams/a/app/l.yaml", 0, ""), text: `tenant "a" cannot read "teams/a/app/l.yaml": it is a symbolic link to "teams/b/app/s.yaml", which belongs to tenant "b"`,
		},
		{
			name: "a link to the platform's file", links: []string{"teams/a/app/l.yaml", "../../../platform/s.yaml"},
			want: denied("teams/a/app/l.yaml", 0, ""), text: "is not below teams/a",
		},
		{
			name: "a link over links", links: []string{"teams/a/app/l.yaml", "../x/app/s.yaml", "teams/a/x", "../b"},
			want: denied("teams/a/app/l.yaml", 0, ""), text: `belongs to tenant "b"`,
		},
		{
			name: "a link through a directory that comes back", change: kustomized("resources: [l.yaml]\n", "teams/b/deep/x.yaml", "x: y"),
			links: []string{"teams/a/app/l.yaml", "d/../app/s.yaml", "teams/a/app/d", "../../b/deep"},
			want:  denied("teams/a/app/kustomization.yaml", 2, "resources"), text: `belongs to tenant "b"`,
		},
		{
			name: "a link of another tenant back to one's own", change: kustomized("resources: [l.yaml]\n"),
			links: []string{"teams/a/app/l.yaml", "../../b/back.yaml", "teams/b/back.yaml", "../a/app/cm.yaml"},
			want:  denied("teams/a/app/kustomization.yaml", 2, "resources"), text: `belongs to tenant "b"`,
		},
		{
			name: "a linked directory as a resource", change: kustomized("resources: [d]\n"), links: []string{"teams/a/app/d", "../../../base"},
			want: denied("teams/a/app/kustomization.yaml", 2, "resources"), text: "is not below teams/a",
		},
		{
			name: "a resource of another tenant", change: kustomized("resources: [cm.yaml, ../../b/app/s.yaml]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "resources"), text: `belongs to tenant "b"`,
		},
		{
			name: "a base of the platform", change: kustomized("resources: [../../../base]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "resources"), text: `tenant "a" cannot read "base": it is not below teams/a`,
		},
		{
			name: "a component", change: kustomized("components: [../../../base]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "components"), text: "is not below teams/a",
		},
		{
			name: "the file of a generator", change: kustomized("secretGenerator: [{name: g, files: [x=../../b/values.yaml]}]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "secretGenerator.files"), text: `belongs to tenant "b"`,
		},
		{
			name: "the env file of a generator", change: kustomized("configMapGenerator: [{name: g, envs: [../../b/values.yaml]}]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "configMapGenerator.envs"), text: `belongs to tenant "b"`,
		},
		{
			name: "a patch", change: kustomized("resources: [cm.yaml]\npatches: [{path: ../../b/values.yaml}]\n"),
			want: denied("teams/a/app/kustomization.yaml", 3, "patches.path"), text: `belongs to tenant "b"`,
		},
		{
			name: "the replacements of others", change: kustomized("resources: [cm.yaml]\nreplacements: [{path: ../../../base/cm.yaml}]\n"),
			want: denied("teams/a/app/kustomization.yaml", 3, "replacements.path"), text: "is not below teams/a",
		},
		{
			name: "a transformer", change: kustomized("resources: [cm.yaml]\ntransformers: [../../../base/cm.yaml]\n"),
			want: denied("base/cm.yaml", 0, ""), text: "is not below teams/a",
		},
		{
			name: "the path of the kustomization", change: app("{kustomize: {path: ../../../base}}"),
			want: denied("teams/a/app/bundle.yaml", 4, "spec.kustomize.path"), text: "is not below teams/a",
		},
		{
			name: "an overlay", change: app("{targets: [{overlay: ../../b/app}]}"),
			want: denied("teams/a/app/bundle.yaml", 4, "spec.targets.0.overlay"), text: `belongs to tenant "b"`,
		},
		{
			name: "a values file", change: append(app("{helm: {chart: ../c, valuesFiles: [../../b/values.yaml]}}"), chart...),
			want: denied("teams/a/app/bundle.yaml", 4, "spec.helm.valuesFiles.0"), text: `belongs to tenant "b"`,
		},
		{
			name: "an overlay of values", change: append(app("{helm: {chart: ../c}, targets: [{overlay: ../../b}]}"), chart...),
			want: denied("teams/a/app/bundle.yaml", 4, "spec.targets.0.overlay"), text: `belongs to tenant "b"`,
		},
		{
			name: "another tenant's chart", change: append(app("{helm: {chart: ../../b/c}}"), "teams/b/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}"),
			want: denied("teams/a/app/bundle.yaml", 4, "spec.helm.chart"), text: `belongs to tenant "b"`,
		},
		{
			name: "a link in a chart", change: append(app("{helm: {chart: ../c}}"), chart...), links: []string{"teams/a/c/values.yaml", "../../b/values.yaml"},
			want: denied("teams/a/c/values.yaml", 0, ""), text: `belongs to tenant "b"`,
		},
		{
			name: "the fleet's own file", change: kustomized("configMapGenerator: [{name: g, files: [../../../fleet.yaml]}]\n"),
			want: denied("teams/a/app/kustomization.yaml", 2, "configMapGenerator.files"), text: "is not below teams/a",
		},
		{
			// A tenant's files would be rendered with the platform's rights.
			name: "being the platform's base", change: []string{"platform/kustomization.yaml", "resources: [s.yaml, ../teams/a/app/cm.yaml]\n"}, bundle: "platform",
			want: denied("platform/kustomization.yaml", 1, "resources"), text: `belongs to tenant "a", and only bundles below teams/a read that (give it a bundle.yaml there)`,
		},
		{
			name: "being part of a cluster's own bundle", bundle: "cluster",
			change: []string{"clusters/one/kustomization.yaml", "resources: [../../teams/a/x.yaml]\n", "teams/a/x.yaml", configMapIn("kube-system", "x")},
			want:   denied("clusters/one/kustomization.yaml", 1, "resources"), text: "only bundles below teams/a read that",
		},
		{
			name: "being below a bundle of plain YAML", bundle: "teams", change: []string{"teams/bundle.yaml", bundleYAML("teams", ""), "teams/a/x.yaml", configMapIn("kube-system", "x")},
			want: denied("teams/a", 0, ""), text: "only bundles below teams/a read that",
		},
	} {
		t.Run(e.name, func(t *testing.T) { e.run(t, in) })
	}
}

// What is the tenants' own works, with their keys, and the platform's with the others.
func TestTenancy_own(t *testing.T) {
	in := newTown(t)
	r := newRenderer(t, render.Config{Keys: in.keys})
	files := in.files.With(
		"teams/a/app/kustomization.yaml", "resources: [../base, s.yaml, d/cm.yaml]\n", "teams/a/base/kustomization.yaml", "resources: [l.yaml]\n", "teams/a/x.yaml", configMapIn("a", "x"),
	)
	out := mustRender(t, r, files.Snapshot("teams/a/base/l.yaml", "../x.yaml", "teams/a/app/d", "../app"), "one")
	for _, name := range []string{"a-app", "b-app", "platform"} {
		if got := secretValue(t, bundle(t, out, name), "s", "password"); got != password {
			t.Errorf("%s: got %q", name, got)
		}
	}
	// A key that becomes a tenant's is not the platform's any more, whatever was rendered before.
	bound := strings.Replace(townFleet, "keys: [a]", "keys: [a, p]", 1)
	keys := in.keys
	if err := bundle(t, mustRender(t, r, in.files.With("fleet.yaml", bound).Snapshot(), "one"), "platform").Err; err != nil {
		t.Errorf("a name that no key has changes something: %v", err)
	}
	taken := strings.Replace(townFleet, "keys: [b]", "keys: [c]", 1)
	out = mustRender(t, newRenderer(t, render.Config{Keys: keys}), in.files.With("fleet.yaml", taken, "platform/more.yaml", in.secret["b"]).Snapshot(), "one")
	wantError(t, bundle(t, out, "b-app").Err, noKey("teams/b/app/s.yaml"), `none of the 0 age keys of tenant "b"`)
	if err := bundle(t, out, "platform").Err; err != nil && !strings.Contains(err.Error(), "is also") {
		t.Errorf("a key that no tenant has is not the platform's: %v", err)
	}
}

// What was rendered before a path or a key was bound is not kept after.
func TestTenancy_begins(t *testing.T) {
	in := newTown(t)
	r := newRenderer(t, render.Config{Keys: in.keys})
	files := in.files.With("fleet.yaml", "", "platform/kustomization.yaml", "resources: [s.yaml, ../teams/a/x.yaml]\n", "teams/a/x.yaml", configMapIn("a", "x"))
	before := mustRender(t, r, files.Snapshot(), "one")
	for _, b := range before.Bundles {
		if b.Err != nil {
			t.Errorf("without tenants: %v", b.Err)
		}
	}
	after := mustRender(t, r, files.With("fleet.yaml", townFleet).Snapshot(), "one")
	if e := bundle(t, after, "platform").Err; !errors.As(e, new(*api.Error)) {
		t.Errorf("the platform still reads what is a tenant's: %v", e)
	}
	unbound := strings.ReplaceAll(townFleet, "keys: [a]", "keys: [b]")
	wantError(t, bundle(t, mustRender(t, r, in.files.With("fleet.yaml", unbound).Snapshot(), "one"), "a-app").Err, noKey("teams/a/app/s.yaml"), "")
}

// What tenant a declares, and may not have. Most of it stands in a file of its own.
func TestTenancy_objects(t *testing.T) {
	in := newTown(t)
	const x = "teams/a/app/x.yaml"
	file := func(text string) []string { return []string{x, text} }
	pod := func(spec string) []string {
		return file("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: a}\nspec: {template: {spec: " + spec + "}}\n")
	}
	app := func(spec string) []string { return []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", spec)} }
	annotated := func(annotation string) []string {
		return file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: a, annotations: {" + annotation + "}}\n")
	}
	clusterRole := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: x, namespace: a}\n"
	suspension := func(scope string) []string {
		return file("apiVersion: flotilla.dev/v1alpha1\nkind: Suspension\nmetadata: {name: x}\nspec: {reason: r, until: 2030-01-31T10:00:00Z, scope: " + scope + "}\n")
	}
	const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: clusterrolebindings.rbac.authorization.k8s.io}
spec:
  group: rbac.authorization.k8s.io
  names: {kind: ClusterRoleBinding, plural: clusterrolebindings}
  scope: Namespaced
`
	at := denied(x, 1, "")
	for _, e := range []escape{
		{name: "another tenant's namespace", change: file(configMapIn("b", "x")), want: at, text: `tenant "a" may not have ConfigMap/b/x: the namespace "b" is not one of a, a-*`},
		{name: "the agent's namespace", change: file(configMapIn("flotilla-system", "x")), want: at, text: `the namespace "flotilla-system"`},
		{name: "the default namespace", change: file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"), want: at, text: `the namespace "default"`},
		{
			name: "a namespace of the bundle", change: append(app("{namespace: kube-system}"), file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")...),
			want: at, text: `the namespace "kube-system"`,
		},
		{
			name: "a namespace of a kustomization", change: []string{"teams/a/app/kustomization.yaml", "namespace: b\nresources: [cm.yaml]\n"},
			want: denied("teams/a/app/cm.yaml", 1, ""), text: `the namespace "b"`,
		},
		{
			name: "a kind that is denied, among many and with a prefix", change: []string{
				"teams/a/app/kustomization.yaml", "namespace: a\nnamePrefix: x-\nresources: [many.yaml]\n",
				"teams/a/app/many.yaml", "# maps\n" + configMapIn("a", "cm") + "---\n# the one\napiVersion: v1\nkind: ResourceQuota\nmetadata: {name: cm}\n",
			},
			want: denied("teams/a/app/many.yaml", 7, ""), text: "ResourceQuota/a/x-cm: the kind is denied",
		},
		{
			name: "a namespace of a generator", change: []string{"teams/a/app/kustomization.yaml", "resources: [cm.yaml]\nconfigMapGenerator:\n- name: ours\n  namespace: a\n  literals: [a=b]\n- name: theirs\n  namespace: b\n  literals: [a=b]\n"},
			want: denied("teams/a/app/kustomization.yaml", 6, ""), text: `the namespace "b"`,
		},
		{
			name: "a kind of a kustomization, that only another bundle's CRD knows the scope of", change: []string{
				"platform/crd.yaml", crdOf("Cluster"), "teams/a/app/kustomization.yaml", "resources: [x.yaml]\n",
				"teams/a/app/x.yaml", "# a thing\napiVersion: things.example.com/v1\nkind: Thing\nmetadata: {name: x, namespace: b}\n",
			},
			want: denied(x, 2, ""), text: "Thing.things.example.com/x: the kind has no namespace",
		},
		{
			name: "an image that a patch brings", change: []string{
				"teams/a/app/kustomization.yaml", "resources: [x.yaml]\nimages: [{name: nginx, newName: registry.example.com/b/x}]\n",
				x, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: a}\nspec: {template: {spec: {containers: [{name: c, image: nginx}]}}}\n",
			},
			want: at, text: `may not run the image "registry.example.com/b/x"`,
		},
		{
			name: "a namespace of a variable", change: append(app("{substitute: true}"), file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: \"${color}\"}\n")...),
			want: at, text: `the namespace "blue"`,
		},
		{
			name: "a namespace of a chart", change: append(app("{helm: {chart: ../c, values: {ns: b}}}"), "teams/a/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
				"teams/a/c/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: {{ .Values.ns }} }\n"),
			want: denied("teams/a/c/templates/cm.yaml", 1, ""), text: `the namespace "b"`,
		},
		{
			name: "a hook elsewhere", change: append(app("{helm: {chart: ../c}}"), "teams/a/c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
				"teams/a/c/templates/job.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, namespace: b, annotations: {helm.sh/hook: pre-install}}\n"),
			want: denied("teams/a/c/templates/job.yaml", 1, ""), text: `Job.batch/b/x: the namespace "b"`,
		},
		{name: "an item of a List", change: file("apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(configMapIn("b", "x")), "\n", "\n  ") + "\n"), want: denied(x, 4, ""), text: `the namespace "b"`},
		{name: "a binding of the cluster's roles", change: file(clusterRole), want: at, text: "ClusterRoleBinding.rbac.authorization.k8s.io/x: the kind has no namespace, and kinds.allow does not name it"},
		{name: "a Namespace", change: file("apiVersion: v1\nkind: Namespace\nmetadata: {name: a-2}\n"), want: at, text: "the kind has no namespace"},
		{name: "a CRD that gives a kind another scope", change: file(clusterRole + "---\n" + crd), want: at, text: "the kind has no namespace"},
		{name: "a CRD", change: file(crd), want: at, text: "CustomResourceDefinition"},
		{name: "a webhook", change: file("apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingWebhookConfiguration\nmetadata: {name: x}\n"), want: at, text: "the kind has no namespace"},
		{name: "an APIService", change: file("apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.x}\n"), want: at, text: "the kind has no namespace"},
		{name: "a kind that is denied", change: file("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: x, namespace: a}\n"), want: at, text: "the kind is denied"},
		{
			name: "a kind that is not among those allowed", bundle: "b-app", change: []string{"teams/b/app/x.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, namespace: b}\n"},
			want: denied("teams/b/app/x.yaml", 1, ""), text: "not among those of kinds.allow",
		},
		{
			name: "a namespace of Kubernetes through a star", bundle: "b-app", change: []string{"teams/b/app/x.yaml", configMapIn("kube-system", "x")},
			want: denied("teams/b/app/x.yaml", 1, ""), text: `the namespace "kube-system"`,
		},
		{
			name: "a cluster-scoped kind through a star", bundle: "b-app",
			change: []string{"platform/crd.yaml", crdOf("Cluster"), "teams/b/app/x.yaml", "apiVersion: things.example.com/v1\nkind: Thing\nmetadata: {name: x, namespace: b}\n"},
			want:   denied("teams/b/app/x.yaml", 1, ""), text: "Thing.things.example.com/x: the kind has no namespace",
		},
		{name: "a BundleDeployment", change: file("apiVersion: flotilla.dev/v1alpha1\nkind: BundleDeployment\nmetadata: {name: b-app, namespace: flotilla-system}\n"), want: api.Error{Reason: "BadManifest", File: x, Line: 1, Field: "kind"}, text: "written by the agent only"},
		{name: "a suspension of everything", change: suspension("{all: true}"), want: denied(x, 1, "spec.scope"), text: "may suspend its own bundles"},
		{name: "a suspension of another's bundle", change: suspension("{bundles: [a-app, platform]}"), want: denied(x, 1, "spec.scope"), text: `may not suspend bundle "platform"`},
		{name: "a suspension of an object", change: suspension("{objects: [{kind: Secret, namespace: b, name: s}]}"), want: denied(x, 1, "spec.scope"), text: "may suspend its own bundles"},
		{name: "a suspension that cannot be read", change: suspension("{bundle: [a-app]}"), want: denied(x, 1, "spec.scope"), text: "cannot be read"},
		{name: "a suspension without the right", bundle: "b-app", change: []string{"teams/b/app/x.yaml", suspension("{bundles: [b-app]}")[1]}, want: denied("teams/b/app/x.yaml", 1, ""), text: "no right to suspend"},
		{name: "another service account", change: app("{serviceAccount: {namespace: b, name: deployer}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.serviceAccount"), text: `tenant "a" is applied as the service account a/deployer, and not as b/deployer`},
		{name: "an image of others", change: pod("{containers: [{name: c, image: registry.example.com/b/x:1}]}"), want: at, text: `tenant "a" may not run the image "registry.example.com/b/x:1" in Deployment.apps/a/d`},
		{name: "an image in an init container", change: pod("{initContainers: [{name: c, image: evil/x}], containers: [{name: c, image: nginx}]}"), want: at, text: `the image "evil/x"`},
		{name: "an image that reads like another", change: pod("{containers: [{name: c, image: registry.example.com/a/../b/x}]}"), want: at, text: "may not run the image"},
		{name: "an image as a volume", change: pod("{volumes: [{name: v, image: {reference: registry.example.com/b/x}}]}"), want: at, text: "may not run the image"},
		{name: "the label of another's ApplySet", change: file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: a, labels: {applyset.kubernetes.io/part-of: x}}\n"), want: at, text: "may not set the label applyset.kubernetes.io/part-of in ConfigMap/a/x"},
		{name: "the label of another's bundle on Pods", change: file("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: a}\nspec: {template: {metadata: {labels: {flotilla.dev/bundle: platform}}}}\n"), want: at, text: "may not set the label flotilla.dev/bundle"},
		{name: "an ApplySet", change: annotated("applyset.kubernetes.io/tooling: flotilla"), want: denied(x, 1, "metadata.annotations.applyset.kubernetes.io/tooling"), text: "only flotilla writes it"},
		{name: "another person's name", change: annotated("flotilla.dev/last-editor: alice"), want: denied(x, 1, "metadata.annotations.flotilla.dev/last-editor"), text: "only flotilla writes it"},
		{name: "what is not corrected", change: annotated("flotilla.dev/reconcile: disabled"), want: denied(x, 1, "metadata.annotations.flotilla.dev/reconcile"), text: "has no right"},
		{name: "what is deleted and created anew", change: annotated("flotilla.dev/force: enabled"), want: denied(x, 1, "metadata.annotations.flotilla.dev/force"), text: "has no right"},
		{name: "drift that nobody sees", change: annotated("flotilla.dev/drift: ignore"), want: denied(x, 1, "metadata.annotations.flotilla.dev/drift"), text: "has no right"},
		{name: "a drift mode", change: app("{drift: {mode: ignore}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.drift.mode"), text: `may not choose the drift mode "ignore"`},
		{name: "a rule that ignores", change: app("{drift: {ignore: [{paths: [/]}]}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.drift.ignore"), text: "may not have drift ignored"},
		{name: "a chart from elsewhere", change: app("{helm: {chart: c, repo: https://evil.example.com, version: 1.0.0}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.helm.chart"), text: `tenant "a" may not have the chart https://evil.example.com/c`},
		{name: "a chart that reads like another", change: app("{helm: {chart: oci://registry.example.com/a/../b/c, version: 1.0.0}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.helm.chart"), text: "may not have the chart"},
		{name: "a chart of another machine", change: app("{helm: {chart: c, repo: \"https://charts.example.com@evil.example.com/a\", version: 1.0.0}}"), want: denied("teams/a/app/bundle.yaml", 4, "spec.helm.chart"), text: "may not have the chart"},
		{name: "a chart where none may be from elsewhere", bundle: "b-app", change: []string{"teams/b/app/bundle.yaml", bundleYAML("b-app", "{helm: {chart: oci://registry.example.com/a/c, version: 1.0.0}}")}, want: denied("teams/b/app/bundle.yaml", 4, "spec.helm.chart"), text: "its charts come from its own path alone"},
	} {
		t.Run(e.name, func(t *testing.T) { e.run(t, in) })
	}
}

func crdOf(scope string) string {
	return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.things.example.com}\n" +
		"spec: {group: things.example.com, names: {kind: Thing, plural: things}, scope: " + scope + "}\n"
}

// A CRD that a tenant may not have gives nobody's objects another scope.
func TestTenancy_refusedCRD(t *testing.T) {
	in := newTown(t)
	files := in.files.With("teams/a/app/crd.yaml", crdOf("Cluster"), "platform/thing.yaml", "apiVersion: things.example.com/v1\nkind: Thing\nmetadata: {name: x, namespace: p}\n")
	out := mustRender(t, newRenderer(t, render.Config{Keys: in.keys}), files.Snapshot(), "one")
	wantError(t, bundle(t, out, "a-app").Err, denied("teams/a/app/crd.yaml", 1, ""), "CustomResourceDefinition")
	if got := strings.Join(refs(bundle(t, out, "platform")), " "); !strings.Contains(got, "Thing.things.example.com/p/x") {
		t.Errorf("the platform has %s", got)
	}
}

func TestTenancy_allowed(t *testing.T) {
	in := newTown(t)
	files := in.files.With(
		"teams/a/app/bundle.yaml", bundleYAML("a-app", "{serviceAccount: {namespace: a, name: deployer}, drift: {mode: report}}"),
		"teams/a/app/x.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: a-2, annotations: {flotilla.dev/prune: disabled, flotilla.dev/drift: report}}\n"+
			"spec: {template: {metadata: {labels: {app: d}}, spec: {containers: [{name: c, image: \"registry.example.com/a/x:1@sha256:0\"}, {name: d, image: nginx}]}}}\n",
		"teams/a/app/y.yaml", "apiVersion: flotilla.dev/v1alpha1\nkind: Suspension\nmetadata: {name: x}\nspec: {reason: r, until: 2030-01-31T10:00:00Z, scope: {bundles: [a-app]}}\n",
		"teams/b/app/x.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n",
		"platform/x.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
	)
	r := newRenderer(t, render.Config{Keys: in.keys})
	out := mustRender(t, r, files.Snapshot(), "one")
	for _, b := range out.Bundles {
		if b.Err != nil {
			t.Error(b.Err)
		}
	}
	if a := bundle(t, out, "a-app"); a.Spec.ServiceAccount == nil || *a.Spec.ServiceAccount != (api.ServiceAccount{Namespace: "a", Name: "deployer"}) || a.Tenant == nil || a.Tenant.Name != "a" {
		t.Errorf("a-app is applied as %v for %v", a.Spec.ServiceAccount, a.Tenant)
	}
	if p := bundle(t, out, "platform"); p.Spec.ServiceAccount != nil || p.Tenant != nil {
		t.Errorf("the platform is applied as %v for %v", p.Spec.ServiceAccount, p.Tenant)
	}
	// What a tenant may have can change without its files.
	less := strings.Replace(townFleet, "namespaces: [a, a-*]", "namespaces: [a]", 1)
	wantError(t, bundle(t, mustRender(t, r, files.With("fleet.yaml", less).Snapshot(), "one"), "a-app").Err, denied("teams/a/app/x.yaml", 1, ""), `the namespace "a-2"`)
}

// Where a tenant is not, its bundles are not; who asks for such a cluster is told.
func TestTenancy_clusters(t *testing.T) {
	in := newTown(t)
	r := newRenderer(t, render.Config{Keys: in.keys})
	for _, tt := range []struct{ spec, warning string }{
		{"{}", ""},
		{"{targets: [{clusters: [one]}, {clusters: [two]}]}", `teams/a/app/bundle.yaml: spec.targets.1 chooses a cluster where tenant "a" is not; the bundle is not on cluster "two"`},
		{"{targets: [{clusterSelector: {matchLabels: {env: staging}}}, {}]}", `spec.targets.0 chooses a cluster where tenant "a" is not`},
		{"{nonsense: true}", ""},
	} {
		files := in.files.With("teams/a/app/bundle.yaml", bundleYAML("a-app", tt.spec))
		out := mustRender(t, r, files.Snapshot(), "two")
		if got := names(out); got != "b-app platform" {
			t.Errorf("%s: cluster two has %s", tt.spec, got)
		}
		if got := strings.Join(out.Warnings, "\n"); !strings.Contains(got, tt.warning) || (tt.warning == "") != (got == "") {
			t.Errorf("%s: the warning is %q, want %q", tt.spec, got, tt.warning)
		}
		if got := names(mustRender(t, r, files.Snapshot(), "one")); got != "a-app b-app platform" {
			t.Errorf("%s: cluster one has %s", tt.spec, got)
		}
	}
}

func TestTenancy_quotas(t *testing.T) {
	in := newTown(t)
	more := in.files.With(
		"teams/b/more/bundle.yaml", bundleYAML("b-more", ""), "teams/b/more/x.yaml", configMapIn("b", "x"),
		"teams/b/last/bundle.yaml", bundleYAML("b-zoo", ""), "teams/b/last/x.yaml", configMapIn("b", "z"),
	)
	limited := func(quotas string) string {
		return strings.Replace(townFleet, `namespaces: ["*"]`, `namespaces: ["*"]`+"\n    quotas: {"+quotas+"}", 1)
	}
	for _, tt := range []struct{ quotas, fails, text string }{
		{"bundles: 3, objects: 3", "", ""},
		{"bundles: 2", "b-zoo", `teams/b/last/bundle.yaml:3: metadata.name: tenant "b" may have 2 bundles on a cluster, and this is one more`},
		{"objects: 2", "b-zoo", `tenant "b" may have 2 objects on a cluster: it has 2 in bundles before this one, and 1 here`},
	} {
		for _, b := range mustRender(t, newRenderer(t, render.Config{Keys: in.keys}), more.With("fleet.yaml", limited(tt.quotas)).Snapshot(), "one").Bundles {
			switch {
			case b.Name != tt.fails && b.Err != nil:
				t.Errorf("%s: %v", tt.quotas, b.Err)
			case b.Name == tt.fails && (b.Err == nil || !strings.Contains(b.Err.Error(), tt.text) || api.KindOf(b.Err) != api.Forbidden):
				t.Errorf("%s: got %v, want %q", tt.quotas, b.Err, tt.text)
			}
		}
	}
}

// A bundle.yaml that nobody can place stops its own tenant, and nobody else.
func TestTenancy_stopped(t *testing.T) {
	in := newTown(t)
	holders := map[string]string{"a-app": "a", "a-old": "a", "b-app": "b", "platform": "", "gone": ""}
	for _, tt := range []struct {
		name   string
		change []string
		links  []string
		text   string
	}{
		{"no YAML", []string{"teams/a/x/bundle.yaml", "{{{"}, nil, "teams/a/x/bundle.yaml:1"},
		{"no name", []string{"teams/a/x/bundle.yaml", head + "kind: Bundle\nspec: {}\n"}, nil, "teams/a/x/bundle.yaml"},
		{"a name that no bundle can have", []string{"teams/a/x/bundle.yaml", bundleYAML("../b", "")}, nil, "teams/a/x/bundle.yaml:3: metadata.name"},
		{"another kind", []string{"teams/a/x/bundle.yaml", head + "kind: Fleet\n"}, nil, "teams/a/x/bundle.yaml:2: kind"},
		{"another ending", []string{"teams/a/x/bundle.yml", bundleYAML("x", "")}, nil, "teams/a/x/bundle.yml: flotilla reads this only as bundle.yaml"},
		{"a link", nil, []string{"teams/a/x/bundle.yaml", "../../b/app/bundle.yaml"}, "teams/a/x/bundle.yaml: is a symbolic link"},
		{"the name of the platform's bundle", []string{"teams/a/x/bundle.yaml", bundleYAML("platform", "")}, nil, `teams/a/x/bundle.yaml:3: metadata.name: bundle "platform" is also in platform/bundle.yaml`},
		{"the name of another tenant's bundle", []string{"teams/a/x/bundle.yaml", bundleYAML("b-app", "")}, nil, `bundle "b-app" is also in teams/b/app/bundle.yaml`},
		{"the name of one's own bundle", []string{"teams/a/x/bundle.yaml", bundleYAML("a-app", "")}, nil, `bundle "a-app" is also in teams/a/app/bundle.yaml`},
		{"the name of a cluster's own bundle", []string{"teams/a/x/bundle.yaml", bundleYAML("cluster", "")}, nil, `the name "cluster" is that of the bundle in clusters/<name>`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRenderer(t, render.Config{Keys: in.keys})
			snap := in.files.With(tt.change...).Snapshot(tt.links...)
			for range 2 { // what was found before is remembered
				out, err := r.Render(t.Context(), snap, "one", api.ClusterFacts{Holders: holders})
				if err != nil {
					t.Fatal(err)
				}
				// What the cluster has of the tenant, and Git has not, may be what cannot be read.
				if got := names(out); got != "a-app a-old b-app platform" {
					t.Errorf("the cluster has %s", got)
				}
				for _, b := range out.Bundles {
					switch mine := b.Tenant != nil && b.Tenant.Name == "a"; {
					case !mine && b.Err != nil:
						t.Errorf("bundle %s fails, too: %v", b.Name, b.Err)
					case mine && (b.Err == nil || !strings.Contains(b.Err.Error(), tt.text)):
						t.Errorf("bundle %s: got %v, want %q", b.Name, b.Err, tt.text)
					case mine && (b.Spec.ServiceAccount == nil || b.Spec.ServiceAccount.Namespace != "a"):
						t.Errorf("bundle %s is the service account %v", b.Name, b.Spec.ServiceAccount)
					}
				}
				if err := out.Stopped["a"]; len(out.Stopped) != 1 || err == nil {
					t.Errorf("stopped are %v", out.Stopped)
				}
			}
		})
	}
	for _, change := range [][]string{{"x/bundle.yaml", "{{{"}, {"x/bundle.yaml", bundleYAML("platform", "")}} {
		if _, err := newRenderer(t, render.Config{}).Render(t.Context(), in.files.With(change...).Snapshot(), "one", api.ClusterFacts{}); err == nil {
			t.Errorf("%v outside of all tenants stops nothing", change)
		}
	}
}

// A name stays with who has it on the cluster; else it is the platform's, and then the first tenant's.
func TestTenancy_names(t *testing.T) {
	in := newTown(t)
	claim := []string{"teams/a/x/bundle.yaml", bundleYAML("x", ""), "teams/a/x/x.yaml", configMapIn("a", "x"), "teams/b/x/bundle.yaml", bundleYAML("x", ""), "teams/b/x/x.yaml", configMapIn("b", "x")}
	platforms := []string{"x/bundle.yaml", bundleYAML("x", ""), "x/x.yaml", configMapIn("p", "x")}
	for _, tt := range []struct {
		name    string
		change  []string
		holders map[string]string
		dir     string // of the bundle x
		stopped string
	}{
		{"nobody had it", claim, nil, "teams/a/x", "b"},
		{"the second tenant had it", claim, map[string]string{"x": "b"}, "teams/b/x", "a"},
		{"a tenant had it that is no more", claim, map[string]string{"x": "c"}, "teams/a/x", "b"},
		{"the platform wants it", append(claim, platforms...), nil, "x", "a b"},
		{"the platform had it", append(claim, platforms...), map[string]string{"x": ""}, "x", "a b"},
	} {
		out, err := newRenderer(t, render.Config{Keys: in.keys}).Render(t.Context(), in.files.With(tt.change...).Snapshot(), "one", api.ClusterFacts{Holders: tt.holders})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		x := bundle(t, out, "x")
		if x.Dir != tt.dir || x.Err != nil {
			t.Errorf("%s: x is that of %s (%v)", tt.name, x.Dir, x.Err)
		}
		for _, tenant := range []string{"a", "b"} {
			if want := strings.Contains(tt.stopped, tenant); (out.Stopped[tenant] != nil) != want {
				t.Errorf("%s: tenant %s: %v", tt.name, tenant, out.Stopped[tenant])
			}
		}
	}
	// The platform cannot take what a tenant has: its commit is refused, and says why.
	_, err := newRenderer(t, render.Config{Keys: in.keys}).Render(t.Context(), in.files.With(append(claim, platforms...)...).Snapshot(), "one", api.ClusterFacts{Holders: map[string]string{"x": "b"}})
	if err == nil || !strings.Contains(err.Error(), `x/bundle.yaml:3: metadata.name: bundle "x" is also in teams/b/x/bundle.yaml`) {
		t.Errorf("got %v", err)
	}
}

// Who makes a circle of dependencies fails alone.
func TestTenancy_cycles(t *testing.T) {
	in := newTown(t)
	for _, tt := range []struct {
		name   string
		change []string
		fails  string
	}{
		{"of one tenant", []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", "{dependsOn: [a-x]}"), "teams/a/x/bundle.yaml", bundleYAML("a-x", "{dependsOn: [a-app]}"), "teams/a/x/x.yaml", configMapIn("a", "x")}, "a-app a-x"},
		{"through the platform", []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", "{dependsOn: [platform]}"), "platform/bundle.yaml", bundleYAML("platform", "{dependsOn: [a-app]}")}, "a-app"},
		{"of two tenants", []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", "{dependsOn: [b-app]}"), "teams/b/app/bundle.yaml", bundleYAML("b-app", "{dependsOn: [a-app]}")}, "a-app b-app"},
		{"on others alone", []string{"teams/a/app/bundle.yaml", bundleYAML("a-app", "{dependsOn: [platform, b-app]}")}, ""},
	} {
		for _, b := range mustRender(t, newRenderer(t, render.Config{Keys: in.keys}), in.files.With(tt.change...).Snapshot(), "one").Bundles {
			if want := strings.Contains(tt.fails, b.Name); (b.Err != nil) != want {
				t.Errorf("%s: %s: %v", tt.name, b.Name, b.Err)
			} else if want {
				wantError(t, b.Err, api.Error{Reason: "DependencyCycle", File: b.Dir + "/bundle.yaml", Line: 4, Field: "spec.dependsOn"}, "depend on each other: ")
			}
		}
	}
}
