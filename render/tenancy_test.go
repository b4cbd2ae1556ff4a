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
  - name: b
    path: teams/b
    keys: [b]
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
	return api.Error{Kind: api.Forbidden, Reason: render.ReasonTenant, File: file, Line: line, Field: field}
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
