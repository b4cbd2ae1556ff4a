package compare_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

// bundleOf makes a rendered bundle of objects in YAML. Its digest is that of their text.
func bundleOf(t testing.TB, name string, objects ...string) api.RenderedBundle {
	t.Helper()
	b := api.RenderedBundle{Name: name, Origin: map[string]string{}, Inputs: &api.Inputs{}, Digest: name + strings.Join(objects, "---")}
	for _, text := range objects {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		b.Objects = append(b.Objects, o)
		b.Origin[api.RefOf(o).ID()] = name + "/file.yaml"
	}
	return b
}

func configMap(name, data string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: x}, data: {k: %q}}", name, data)
}

// lines tells a result in short.
func lines(r compare.Result) []string {
	var out []string
	for _, b := range r.Bundles {
		for _, v := range b.Variants {
			head := fmt.Sprintf("%s %s on %s", b.Bundle, v.Kind, strings.Join(v.Clusters, ","))
			if v.Outlier {
				head += " outlier"
			}
			if v.Routine {
				head += " routine"
			}
			out = append(out, head)
			for _, o := range v.Objects {
				line := fmt.Sprintf("  %s %s", o.Kind, o.Object)
				if o.Other != "" {
					line += " " + o.Other
				}
				for _, f := range o.Fields {
					line += fmt.Sprintf(" %s %s>%s", f.Path, f.Before, f.After)
				}
				out = append(out, line)
			}
		}
	}
	return out
}

func TestDiff_groupsClustersByWhatChanges(t *testing.T) {
	var from, to []compare.On
	for i := range 8 {
		name := fmt.Sprintf("c%d", i)
		// Each cluster has something of its own, which does not change.
		own := configMap("own", name)
		was, is := configMap("a", "1"), configMap("a", "2")
		if i == 5 {
			is = configMap("a", "3")
		}
		from = append(from, on(name, bundleOf(t, "web", own, was), bundleOf(t, "same", own)))
		to = append(to, on(name, bundleOf(t, "web", own, is), bundleOf(t, "same", own)))
	}
	got := compare.Diff(from, to)
	want := []string{
		"web changed on c0,c1,c2,c3,c4,c6,c7",
		`  changed ConfigMap/x/a /data/k "1">"2"`,
		"web changed on c5 outlier",
		`  changed ConfigMap/x/a /data/k "1">"3"`,
	}
	if !slices.Equal(lines(got), want) {
		t.Errorf("got %q", lines(got))
	}
	if s := (compare.Summary{Clusters: 8, Affected: 8, Bundles: 1, Changed: 1}); got.Summary != s {
		t.Errorf("got %+v", got.Summary)
	}
}

func TestDiff_objects(t *testing.T) {
	a, b := configMap("a", "1"), configMap("b", "1")
	keep := "{apiVersion: v1, kind: ConfigMap, metadata: {name: k, namespace: x, annotations: {flotilla.dev/prune: disabled}}}"
	noPrune := bundleOf(t, "web", a)
	noPrune.Spec.Prune = new(bool)
	noPrune.Digest += "no prune"
	broken := api.RenderedBundle{Name: "web", Err: errors.New("no such file")}
	for _, tt := range []struct {
		name     string
		from, to []api.RenderedBundle
		want     []string
	}{
		{"nothing", []api.RenderedBundle{bundleOf(t, "web", a)}, []api.RenderedBundle{bundleOf(t, "web", a)}, nil},
		{
			"created and deleted",
			[]api.RenderedBundle{bundleOf(t, "web", a)},
			[]api.RenderedBundle{bundleOf(t, "web", b)},
			[]string{"web changed on c", "  deleted ConfigMap/x/a", "  created ConfigMap/x/b"},
		},
		{"a new bundle", nil, []api.RenderedBundle{bundleOf(t, "web", a)}, []string{"web created on c", "  created ConfigMap/x/a"}},
		{"a bundle goes", []api.RenderedBundle{bundleOf(t, "web", a)}, nil, []string{"web deleted on c", "  deleted ConfigMap/x/a"}},
		{
			"what may not be pruned stays",
			[]api.RenderedBundle{bundleOf(t, "web", a, keep)},
			[]api.RenderedBundle{bundleOf(t, "web", a)},
			[]string{"web changed on c", "  released ConfigMap/x/k"},
		},
		{"a bundle that does not prune", []api.RenderedBundle{noPrune}, nil, []string{"web deleted on c", "  released ConfigMap/x/a"}},
		{
			"an object moves",
			[]api.RenderedBundle{bundleOf(t, "web", a, b)},
			[]api.RenderedBundle{bundleOf(t, "db", b), bundleOf(t, "web", a)},
			[]string{"db created on c", "  moved ConfigMap/x/b web", "web changed on c", "  moved ConfigMap/x/b db"},
		},
		{"it cannot be rendered any more", []api.RenderedBundle{bundleOf(t, "web", a)}, []api.RenderedBundle{broken}, []string{"web broken on c"}},
		{"it still cannot be rendered", []api.RenderedBundle{broken}, []api.RenderedBundle{broken}, nil},
		{"it can be again", []api.RenderedBundle{broken}, []api.RenderedBundle{bundleOf(t, "web", a)}, []string{"web mended on c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Diff([]compare.On{on("c", tt.from...)}, []compare.On{on("c", tt.to...)})
			if !slices.Equal(lines(got), tt.want) {
				t.Errorf("got %q, want %q", lines(got), tt.want)
			}
			if tt.name == "an object moves" && (got.Summary.Moved != 1 || got.Summary.Deleted+got.Summary.Created != 0) {
				t.Errorf("got %+v", got.Summary)
			}
		})
	}
}

func TestDiff_clustersThatJoinLeaveOrFail(t *testing.T) {
	web := bundleOf(t, "web", configMap("a", "1"))
	got := compare.Diff([]compare.On{on("a", web), on("left", web), on("bad", web)},
		[]compare.On{on("a", web), on("new", web), {Cluster: "bad", Err: errors.New("clusters/bad/cluster.yaml: no")}})
	if !slices.Equal(got.Joined, []string{"new"}) || !slices.Equal(got.Left, []string{"left"}) || len(got.Failed) != 1 || got.Failed[0].Cluster != "bad" {
		t.Errorf("got %+v", got)
	}
}

func TestDiff_fields(t *testing.T) {
	pod := func(containers, more string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: x" + more + "}, spec: {containers: [" + containers + "]}}"
	}
	for _, tt := range []struct{ name, before, after, want string }{
		{
			"items by name, in whatever order", pod("{name: a, image: i:1}, {name: b, image: j:1}", ""), pod("{name: b, image: j:2}, {name: a, image: i:1}", ""),
			`/spec/containers/[name=b]/image "j:1">"j:2"`,
		},
		{"an item more", pod("{name: a, image: i}", ""), pod("{name: a, image: i}, {name: b, image: j}", ""), `/spec/containers/[name=b] >{"image":"j","name":"b"}`},
		{"a list of texts", pod("{name: a, args: [x, v]}", ""), pod("{name: a, args: [x, z]}", ""), `/spec/containers/[name=a]/args ["x","v"]>["x","z"]`},
		{
			"ports", pod("{name: a, ports: [{containerPort: 80}]}", ""), pod("{name: a, ports: [{containerPort: 80, hostPort: 80}]}", ""),
			`/spec/containers/[name=a]/ports/[containerPort=80]/hostPort >80`,
		},
		{"a key with a slash", pod("{name: a}", ""), pod("{name: a}", ", labels: {a/b: c}"), `/metadata/labels >{"a/b":"c"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := lines(compare.Diff([]compare.On{on("c", bundleOf(t, "w", tt.before))}, []compare.On{on("c", bundleOf(t, "w", tt.after))}))
			if want := "  changed Pod/x/p " + tt.want; len(got) != 2 || got[1] != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// No value of a Secret is in a result, nor a text that was decrypted, in whatever object and form it stands.
func TestDiff_showsNoSecret(t *testing.T) {
	const was, is = "old-hunter2", "new-hunter2\"x"
	before := bundleOf(t, "web", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: x}, stringData: {p: old-value}, data: {q: b2xk}}",
		configMap("c", "url=https://u:"+was+"@db"))
	after := bundleOf(t, "web", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: x}, stringData: {p: new-value}, data: {q: bmV3, r: bmV3}}",
		configMap("c", "url=https://u:"+is+"@db"), "{apiVersion: v1, kind: Service, metadata: {name: bmV3LWh1bnRlcjIieA==, namespace: x}}")
	before.Inputs.Secrets, after.Inputs.Secrets = []string{was}, []string{is}
	got := compare.Diff([]compare.On{on("c", before)}, []compare.On{on("c", after)})
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", "old-value", "new-value", "b2xk", "bmV3\""} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is in %s", secret, text)
		}
	}
	if !strings.Contains(string(text), `"path":"/stringData/p","before":"(hidden)","after":"(hidden)"`) {
		t.Errorf("that a key of a Secret changes is not told: %s", text)
	}
}

func TestDiff_routine(t *testing.T) {
	deployment := func(image, label, more string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: x, labels: {helm.sh/chart: " + label + "}}, spec: {template: {spec: {containers: [{name: a, image: '" + image + "'" + more + "}]}}}}"
	}
	for _, tt := range []struct {
		name, before, after string
		want                bool
	}{
		{"a patch", deployment("r/app:1.2.3", "a-1.0.0", ""), deployment("r/app:1.2.4", "a-1.0.1", ""), true},
		{"a digest", deployment("r/app:1.2.3@sha256:aa", "a", ""), deployment("r/app:1.2.3@sha256:bb", "a", ""), true},
		{"a registry with a port", deployment("r:5000/app:1.2.3", "a", ""), deployment("r:5000/app:1.3.0", "a", ""), true},
		{"another major version", deployment("r/app:1.2.3", "a", ""), deployment("r/app:2.0.0", "a", ""), false},
		{"another image", deployment("r/app:1.2.3", "a", ""), deployment("r/other:1.2.3", "a", ""), false},
		{"more than that", deployment("r/app:1.2.3", "a", ""), deployment("r/app:1.2.4", "a", ", args: [x]"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Diff([]compare.On{on("c", bundleOf(t, "w", tt.before))}, []compare.On{on("c", bundleOf(t, "w", tt.after))})
			if is := got.Bundles[0].Variants[0].Routine; is != tt.want {
				t.Errorf("routine: %v, want %v: %q", is, tt.want, lines(got))
			}
		})
	}
}
