package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

func parse(t *testing.T, doc string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestYield(t *testing.T) {
	const desired = `{spec: {replicas: 2, paused: true, list: [{name: a, v: 1}, {name: b, v: 1}], deep: {x: {v: 1}, y: {v: 1}}}}`
	const live = `{spec: {replicas: 7, list: [{name: b, v: 8}, {name: a, v: 9}], deep: {x: {v: 5}, y: {v: 6}}, other: 1}}`
	tests := []struct {
		name string
		path string
		want string
	}{
		{"value", "/spec/replicas", `{spec: {replicas: 7, paused: true, list: [{name: a, v: 1}, {name: b, v: 1}], deep: {x: {v: 1}, y: {v: 1}}}}`},
		{"absent in live", "/spec/paused", `{spec: {replicas: 2, list: [{name: a, v: 1}, {name: b, v: 1}], deep: {x: {v: 1}, y: {v: 1}}}}`},
		{"absent in Git stays absent", "/spec/other", desired},
		{"item by name", "/spec/list/[name=a]/v", `{spec: {replicas: 2, paused: true, list: [{name: a, v: 9}, {name: b, v: 1}], deep: {x: {v: 1}, y: {v: 1}}}}`},
		{"any item", "/spec/list/*/v", `{spec: {replicas: 2, paused: true, list: [{name: a, v: 9}, {name: b, v: 8}], deep: {x: {v: 1}, y: {v: 1}}}}`},
		{"index", "/spec/list/0/v", `{spec: {replicas: 2, paused: true, list: [{name: a, v: 9}, {name: b, v: 1}], deep: {x: {v: 1}, y: {v: 1}}}}`},
		{"any key", "/spec/deep/*/v", `{spec: {replicas: 2, paused: true, list: [{name: a, v: 1}, {name: b, v: 1}], deep: {x: {v: 5}, y: {v: 6}}}}`},
		{"nowhere", "/status/x", desired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, l := parse(t, desired), parse(t, live)
			got := Yield(d, l, []api.IgnoreRule{{Paths: []string{tt.path}}})
			if diff := cmp.Diff(parse(t, tt.want).Object, got.Object); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(parse(t, desired).Object, d.Object); diff != "" {
				t.Errorf("the desired object was changed:\n%s", diff)
			}
		})
	}
}

func TestRulesFor(t *testing.T) {
	d := api.Drift{Ignore: []api.IgnoreRule{
		{Target: api.IgnoreTarget{Kind: "Deployment"}, Paths: []string{"/a"}},
		{Target: api.IgnoreTarget{Group: "apps", Name: "web-*"}, Paths: []string{"/b"}},
		{Paths: []string{"/c"}},
	}}
	got := ""
	for _, r := range RulesFor(api.ObjectRef{Group: "apps", Kind: "StatefulSet", Name: "web-1"}, d) {
		got += r.Paths[0]
	}
	if got != "/b/c" {
		t.Errorf("rules %s, want /b/c", got)
	}
}

// A pass leaves alone what a comparison ignores, and nothing else: both go by the same targets.
func TestRulesFor_asComparisonsDo(t *testing.T) {
	const (
		desired = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web-1, namespace: team-a}, spec: {replicas: 2}}`
		live    = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web-1, namespace: team-a}, spec: {replicas: 7}}`
	)
	for _, tt := range []struct {
		target api.IgnoreTarget
		want   bool
	}{
		{api.IgnoreTarget{}, true},
		{api.IgnoreTarget{Group: "apps", Kind: "Deployment", Namespace: "team-a", Name: "web-1"}, true},
		{api.IgnoreTarget{Group: "a*s"}, true},
		{api.IgnoreTarget{Group: "a"}, false},
		{api.IgnoreTarget{Kind: "*Deploy*"}, true},
		{api.IgnoreTarget{Kind: "Daemon*"}, false},
		{api.IgnoreTarget{Namespace: "team-*"}, true},
		{api.IgnoreTarget{Namespace: "*-b"}, false},
		{api.IgnoreTarget{Name: "*"}, true},
		{api.IgnoreTarget{Name: "w*b*1"}, true},
		{api.IgnoreTarget{Name: "web-?"}, false},
		{api.IgnoreTarget{Name: "web-[1]"}, false},
		{api.IgnoreTarget{Kind: "Deployment", Name: "other"}, false},
	} {
		d, l := parse(t, desired), parse(t, live)
		spec := api.Drift{Ignore: []api.IgnoreRule{{Target: tt.target, Paths: []string{"/spec/replicas"}}}}
		if got := len(RulesFor(api.RefOf(d), spec)) == 1; got != tt.want {
			t.Errorf("%+v: a pass goes by the rule: %v, want %v", tt.target, got, tt.want)
		}
		res := drift.Compare(drift.Input{Desired: d, Live: l, DryRun: d, Spec: spec})
		if got := res.Class == ""; got != tt.want {
			t.Errorf("%+v: a comparison goes by the rule: %v, want %v", tt.target, got, tt.want)
		}
	}
}
