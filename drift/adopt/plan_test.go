package adopt_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/adopt"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/sources/directory"
)

const bundle = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: "

func cluster(name, env string) string {
	return "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: " + name + ", labels: {env: " + env + "}}\nspec: {variables: {level: info}}\n"
}

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  replicas: 2 # enough
  template:
    spec:
      containers:
      - name: app
        image: example.com/web:1.0
        env:
        - {name: LEVEL, value: info}
`

// fleet has a plain bundle, one with overlays, and a chart, on three clusters.
func fleet() rendertest.Files {
	return rendertest.Files{
		"clusters/one/cluster.yaml":   cluster("one", "prod"),
		"clusters/two/cluster.yaml":   cluster("two", "prod"),
		"clusters/three/cluster.yaml": cluster("three", "staging"),

		"plain/bundle.yaml": bundle + "plain}\nspec: {substitute: true, targets: [{clusters: [one]}]}\n",
		"plain/web.yaml":    "# kept\n" + strings.ReplaceAll(web, "web", "plain") + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain, namespace: plain}\ndata: {level: '${level}', colour: red}\n",

		"over/bundle.yaml":                  bundle + "over}\nspec: {targets: [{clusterSelector: {matchLabels: {env: prod}}, overlay: prod}, {overlay: staging}]}\n",
		"over/base/kustomization.yaml":      "resources: [web.yaml]\n",
		"over/base/web.yaml":                web,
		"over/prod/kustomization.yaml":      "resources:\n- ../base\n- own.yaml\nimages:\n- name: example.com/web\n  newTag: \"1.1\"\npatches:\n- path: level.yaml\n",
		"over/prod/own.yaml":                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own, namespace: web}\ndata:\n  a: b # ours\n",
		"over/prod/level.yaml":              "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: web}\nspec:\n  minReadySeconds: 5\n",
		"over/staging/kustomization.yaml":   "resources: [../base]\nreplicas:\n- name: web\n  count: 1\n",
		"chart/bundle.yaml":                 bundle + "chart}\nspec: {helm: {chart: ./chart}}\n",
		"chart/chart/Chart.yaml":            "apiVersion: v2\nname: c\nversion: 1.0.0\n",
		"chart/chart/templates/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: chart, namespace: default}\ndata: {a: b}\n",
	}
}

// drifted is an episode about one object, with fields as path, Git's value and live value.
func drifted(clusterName, bundleName, object string, fields ...string) api.Episode {
	parts := strings.Split(object, "/")
	ref := api.ObjectRef{Version: "v1", Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	if ref.Kind == "Deployment" {
		ref.Group = "apps"
	}
	e := api.Episode{ID: "x-1", Cluster: clusterName, Bundle: bundleName, Object: ref, Class: api.ClassChanged}
	for i := 0; i+2 < len(fields); i += 3 {
		class := api.ClassChanged
		switch {
		case fields[i+2] == "":
			class = api.ClassRemoved
		case fields[i+1] == "":
			class = api.ClassAdded
		}
		e.Fields = append(e.Fields, api.FieldDiff{Path: fields[i], Class: class, Desired: fields[i+1], Live: fields[i+2]})
	}
	return e
}

func plan(t *testing.T, files rendertest.Files, e api.Episode, on adopt.Clusters) (adopt.Plan, error) {
	t.Helper()
	r, err := render.New(render.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return adopt.New(t.Context(), adopt.Request{Episode: e, Snapshot: files.Snapshot(), Renderer: r, List: render.Clusters, Clusters: on})
}

const app = "/spec/template/spec/containers/[name=app]/"

func TestAdopt(t *testing.T) {
	for _, tt := range []struct {
		name    string
		episode api.Episode
		on      adopt.Clusters
		// file -> what it then says; "…" is the old text
		want     map[string][2]string
		clusters []string
	}{
		{
			"plain YAML, in place", drifted("one", "plain", "Deployment/plain/plain", "/spec/replicas", "2", "5", app+"image", `"example.com/plain:1.0"`, `"example.com/plain:dev"`),
			adopt.OnlyDrifted,
			map[string][2]string{"plain/web.yaml": {"replicas: 2 # enough|image: example.com/plain:1.0", "replicas: 5 # enough|image: example.com/plain:dev"}},
			[]string{"one"},
		},
		{
			"plain YAML, a field that was added", drifted("one", "plain", "Deployment/plain/plain", app+"env/[name=X]", "", `{"name":"X","value":"1"}`),
			adopt.OnlyDrifted,
			map[string][2]string{"plain/web.yaml": {"value: info}\n", "value: info}\n        - name: X\n          value: \"1\"\n"}},
			[]string{"one"},
		},
		{
			"plain YAML, a field that was removed", drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", `"red"`, ""),
			adopt.OnlyDrifted,
			map[string][2]string{"plain/web.yaml": {", colour: red", ""}},
			[]string{"one"},
		},
		{
			"plain YAML, a list of which Git leaves defaults out",
			drifted("one", "plain", "Deployment/plain/plain", app+"env", `[{"name":"LEVEL","value":"info","default":true}]`, `[{"name":"LEVEL","value":"debug"}]`),
			adopt.OnlyDrifted,
			map[string][2]string{"plain/web.yaml": {"- {name: LEVEL, value: info}", "- name: LEVEL\n          value: debug"}},
			[]string{"one"},
		},
		{
			"an entry of replicas", drifted("three", "over", "Deployment/web/web", "/spec/replicas", "1", "4"),
			adopt.OnlyDrifted,
			map[string][2]string{"over/staging/kustomization.yaml": {"count: 1", "count: 4"}},
			[]string{"three"},
		},
		{
			"an entry of images", drifted("two", "over", "Deployment/web/web", app+"image", `"example.com/web:1.1"`, `"example.com/fork:1.2"`),
			adopt.AllConcerned,
			map[string][2]string{"over/prod/kustomization.yaml": {"  newTag: \"1.1\"\n", "  newTag: \"1.2\"\n  newName: example.com/fork\n"}},
			[]string{"one", "two"},
		},
		{
			"a patch that says it already", drifted("one", "over", "Deployment/web/web", "/spec/minReadySeconds", "5", "9"),
			adopt.AllConcerned,
			map[string][2]string{"over/prod/level.yaml": {"minReadySeconds: 5", "minReadySeconds: 9"}},
			[]string{"one", "two"},
		},
		{
			"the overlay's own manifest", drifted("one", "over", "ConfigMap/web/own", "/data/a", `"b"`, `"c"`, "/data/d", "", `"e"`),
			adopt.AllConcerned,
			map[string][2]string{"over/prod/own.yaml": {"  a: b # ours\n", "  a: c # ours\n  d: e\n"}},
			[]string{"one", "two"},
		},
		{
			"a new patch in the overlay", drifted("three", "over", "Deployment/web/web", app+"env/[name=LEVEL]/value", `"info"`, `"debug"`),
			adopt.OnlyDrifted,
			map[string][2]string{
				"over/staging/kustomization.yaml":          {"  count: 1\n", "  count: 1\npatches:\n- path: adopted-deployment-web.yaml\n"},
				"over/staging/adopted-deployment-web.yaml": {"", "# Adopted from the live object by flotilla drift adopt.\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: web\nspec:\n  template:\n    spec:\n      containers:\n      - env:\n        - name: LEVEL\n          value: debug\n        name: app\n"},
			},
			[]string{"three"},
		},
		{
			"a new patch takes a field away", drifted("one", "over", "Deployment/web/web", app+"env/[name=LEVEL]", `{"name":"LEVEL","value":"info"}`, ""),
			adopt.AllConcerned,
			map[string][2]string{
				"over/prod/kustomization.yaml":          {"- path: level.yaml\n", "- path: level.yaml\n- path: adopted-deployment-web.yaml\n"},
				"over/prod/adopted-deployment-web.yaml": {"", "# Adopted from the live object by flotilla drift adopt.\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: web\nspec:\n  template:\n    spec:\n      containers:\n      - env:\n        - $patch: delete\n          name: LEVEL\n        name: app\n"},
			},
			[]string{"one", "two"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := fleet()
			p, err := plan(t, files, tt.episode, tt.on)
			if err != nil {
				t.Fatal(err)
			}
			want, got := map[string]string{}, map[string]string{}
			for name, change := range tt.want {
				want[name] = files[name]
				from, to := strings.Split(change[0], "|"), strings.Split(change[1], "|")
				for i := range from {
					if want[name] == "" {
						want[name] = to[i]
					} else if want[name] = strings.Replace(want[name], from[i], to[i], 1); want[name] == files[name] {
						t.Fatalf("the test itself is wrong: %q is not in %s", from[i], name)
					}
				}
			}
			for _, f := range p.Files {
				got[f.Name] = string(f.After)
				if string(f.Before) != files[f.Name] || (f.Before == nil) != (files[f.Name] == "") {
					t.Errorf("%s was %q before", f.Name, f.Before)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.clusters, p.Clusters); diff != "" {
				t.Errorf("clusters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAdoptRefuses(t *testing.T) {
	missing := drifted("one", "plain", "Deployment/plain/plain")
	missing.Class = api.ClassMissing
	many := drifted("one", "plain", "Deployment/plain/plain", "/spec/replicas", "2", "5")
	many.FieldsOmitted = 3
	broken := fleet()
	broken["clusters/two/cluster.yaml"] = "kind: Nonsense\n"
	encrypted := fleet()
	encrypted["plain/web.yaml"] += "# ENC[AES256_GCM,data:x]\n"
	displaced := drifted("one", "plain", "Deployment/plain/plain", app+"env/[name=LEVEL]", `{"name":"LEVEL","value":"info"}`, "")
	displaced.Evidence = &api.Evidence{Live: `{"spec":{"template":{"spec":{"containers":[{"name":"app","env":[{"name":"LEVEL2","value":"x"}]}]}}}}`}
	for _, tt := range []struct {
		name    string
		files   rendertest.Files
		episode api.Episode
		want    string
	}{
		{"an item with another in its place", nil, displaced, "something that the drift does not tell of"},
		{"a Secret", nil, drifted("one", "plain", "Secret/plain/plain", "/data/a", `"(value A)"`, `"(value B)"`), "never written"},
		{"a missing object", nil, missing, "was deleted"},
		{"more fields than are known", nil, many, "3 more fields"},
		{"a value that was cut", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", `"red"`, `…"blue`), "not recorded whole"},
		{"our own label", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/metadata/labels/app.kubernetes.io~1managed-by", `"flotilla"`, `"me"`), "flotilla's own"},
		{"an order", nil, drifted("one", "plain", "Deployment/plain/plain", "/spec/template/spec/containers", `["[name=a]","[name=b]"]`, `["[name=b]","[name=a]"]`), "order"},
		{"a variable", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/data/level", `"info"`, `"debug"`), "change the variable"},
		{"a chart", nil, drifted("one", "chart", "ConfigMap/default/chart", "/data/a", `"b"`, `"c"`), "chart/bundle.yaml"},
		{"another cluster that shares the overlay", nil, drifted("one", "over", "Deployment/web/web", app+"image", `"example.com/web:1.1"`, `"example.com/web:2"`), "other clusters would change too: two (give --all-clusters"},
		{"another fleet", nil, drifted("four", "plain", "ConfigMap/plain/plain", "/data/colour", `"red"`, `"blue"`), "no cluster"},
		{"another commit", nil, drifted("one", "plain", "ConfigMap/plain/gone", "/data/colour", `"red"`, `"blue"`), "does not hold it"},
		{"Git that has moved on", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", `"green"`, `"blue"`), "Git has moved on"},
		{"Git that has set what was added", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", "", `"blue"`), "Git has moved on"},
		{"Git that has dropped what was changed", nil, drifted("one", "plain", "ConfigMap/plain/plain", "/data/shape", `"round"`, `"square"`), "Git has moved on"},
		{"Git that has added an item of what was added", nil, drifted("one", "plain", "Deployment/plain/plain", app+"env/[name=LEVEL]", "", `{"name":"LEVEL","value":"debug"}`), "Git has moved on"},
		{"Git that has changed a list", nil, drifted("one", "plain", "Deployment/plain/plain", app+"env", `[{"name":"LEVEL","value":"warn"}]`, `[{"name":"LEVEL","value":"debug"}]`), "Git has moved on"},
		{"a fleet that does not render", broken, drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", `"red"`, `"blue"`), "two/cluster.yaml"},
		{"an encrypted file", encrypted, drifted("one", "plain", "ConfigMap/plain/plain", "/data/colour", `"red"`, `"blue"`), "encrypted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := tt.files
			if files == nil {
				files = fleet()
			}
			p, err := plan(t, files, tt.episode, adopt.OnlyDrifted)
			var e *api.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v and the error %v, want one that says %q", p, err, tt.want)
			}
		})
	}
}

// A change that would reach anything but the field is refused, however it comes about.
func TestAdoptRefusesWhatReachesMore(t *testing.T) {
	files := fleet()
	// Both containers have the image: the entry of images changes both.
	files["over/base/web.yaml"] += "      - name: other\n        image: example.com/web:1.0\n"
	e := drifted("one", "over", "Deployment/web/web", app+"image", `"example.com/web:1.1"`, `"example.com/web:2"`)
	if p, err := plan(t, files, e, adopt.AllConcerned); err == nil {
		t.Fatalf("got a plan: %s", p.Files[0].After)
	} else if !strings.Contains(err.Error(), "not be as wanted") {
		t.Errorf("the error is %v", err)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for name, text := range fleet() {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r, err := render.New(render.Config{})
	if err != nil {
		t.Fatal(err)
	}
	propose := func(e api.Episode) adopt.Plan {
		t.Helper()
		snap, err := directory.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		p, err := adopt.New(t.Context(), adopt.Request{Episode: e, Snapshot: snap, Renderer: r, List: render.Clusters, Clusters: adopt.OnlyDrifted})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	level := drifted("three", "over", "Deployment/web/web", app+"env/[name=LEVEL]/value", `"info"`, `"debug"`)
	p := propose(level)
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Files {
		got, err := os.ReadFile(filepath.Join(dir, f.Name))
		if err != nil || string(got) != string(f.After) {
			t.Errorf("%s holds %q (%v)", f.Name, got, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "over/staging/kustomization.yaml"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode became %v (%v)", info.Mode(), err)
	}

	// A second adoption of the same object goes into the same patch.
	second := propose(drifted("three", "over", "Deployment/web/web", "/spec/paused", "", "true"))
	if len(second.Files) != 1 || second.Files[0].Name != "over/staging/adopted-deployment-web.yaml" {
		t.Errorf("the second adoption changes %v", second.Files)
	}
	// A file that changed after the plan was made stops everything.
	name := filepath.Join(dir, second.Files[0].Name)
	if err := os.WriteFile(name, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := second.Write(dir); err == nil || !strings.Contains(err.Error(), "in the meantime") {
		t.Errorf("the error is %v", err)
	}
	if got, _ := os.ReadFile(name); string(got) != "# mine\n" {
		t.Errorf("it was overwritten: %s", got)
	}
}
