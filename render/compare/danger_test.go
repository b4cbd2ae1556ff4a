package compare_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

func object(apiVersion, kind, rest string) string {
	return "{apiVersion: " + apiVersion + ", kind: " + kind + ", metadata: {name: o, namespace: x}" + rest + "}"
}

// Each reason has a change that raises it, and its neighbors that do not.
func TestDanger_reasons(t *testing.T) {
	role := func(rules string) string {
		return object("rbac.authorization.k8s.io/v1", "Role", ", rules: ["+rules+"]")
	}
	binding := func(ref, subjects string) string {
		return object("rbac.authorization.k8s.io/v1", "RoleBinding", ", roleRef: {kind: Role, name: "+ref+"}, subjects: ["+subjects+"]")
	}
	deployment := func(spec, pod, container string) string {
		return object("apps/v1", "Deployment", ", spec: {"+spec+"template: {spec: {"+pod+"containers: [{name: a, image: 'r/a:1.2.3'"+container+"}]}}}")
	}
	crd := func(versions string) string {
		return "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.e.com}, spec: {group: e.com, scope: Namespaced, names: {kind: Thing, plural: things}, versions: [" + versions + "]}}"
	}
	image := func(tag string) string {
		return object("apps/v1", "Deployment", ", spec: {template: {spec: {containers: [{name: a, image: 'r/a:"+tag+"'}]}}}")
	}
	const get, all = "{apiGroups: [''], resources: [pods], verbs: [get]}", "{apiGroups: ['*'], resources: ['*'], verbs: ['*']}"
	for _, tt := range []struct {
		name, before, after string
		want                string // reason: detail; empty for none
	}{
		{"a namespace goes", object("v1", "Namespace", ""), "", "DeletesData: is deleted, and what it holds with it"},
		{"a claim goes", object("v1", "PersistentVolumeClaim", ""), "", "DeletesData: is deleted, and what it holds with it"},
		{"a set with data goes", object("apps/v1", "StatefulSet", ""), "", "DeletesData: is deleted, and what it holds with it"},
		{"a definition goes", crd(""), "", "DeletesData: is deleted, and what it holds with it"},
		{"a settings map goes", object("v1", "ConfigMap", ""), "", "Prunes: deletes ConfigMap/x/o"},
		{"a settings map comes", "", object("v1", "ConfigMap", ""), ""},

		{"a verb more", role(get), role("{apiGroups: [''], resources: [pods], verbs: [get, delete]}"), "WidensRights: allows delete of pods"},
		{"a verb less", role("{apiGroups: [''], resources: [pods], verbs: [get, delete]}"), role(get), ""},
		{"rules in other words", role("{apiGroups: [''], resources: [pods, secrets], verbs: [get]}"), role(get + ", {apiGroups: [''], resources: [secrets], verbs: [get]}"), ""},
		{"less than everything", role(all), role(get), ""},
		{"everything", role(get), role(all), "WidensRights: allows * of *.*"},
		{"all names", role("{apiGroups: [''], resources: [secrets], verbs: [get], resourceNames: [a]}"), role("{apiGroups: [''], resources: [secrets], verbs: [get]}"), "WidensRights: allows get of secrets"},
		{"a subject more", binding("r", "{kind: User, name: a}"), binding("r", "{kind: User, name: a}, {kind: Group, name: b}"), "WidensRights: gives Role r to Group b"},
		{"a subject less", binding("r", "{kind: User, name: a}, {kind: Group, name: b}"), binding("r", "{kind: User, name: a}"), ""},
		{"a new binding", "", binding("r", "{kind: User, name: a}"), "WidensRights: gives Role r to User a"},

		{"privileged", deployment("", "", ""), deployment("", "", ", securityContext: {privileged: true}"), "WidensHostAccess: runs container a privileged"},
		{"not privileged any more", deployment("", "", ", securityContext: {privileged: true}"), deployment("", "", ""), ""},
		{"the host's network", deployment("", "", ""), deployment("", "hostNetwork: true, ", ""), "WidensHostAccess: sets hostNetwork"},
		{"a path of the host", "", deployment("", "volumes: [{name: v, hostPath: {path: /var/run}}], ", ""), "WidensHostAccess: mounts the node's /var/run"},
		{"an empty volume", "", deployment("", "volumes: [{name: v, emptyDir: {}}], ", ""), ""},
		{"a capability", deployment("", "", ""), deployment("", "", ", securityContext: {capabilities: {add: [NET_ADMIN]}}"), "WidensHostAccess: gives container a the capability NET_ADMIN"},
		{"a port of the host", deployment("", "", ""), deployment("", "", ", ports: [{containerPort: 80, hostPort: 8080}]"), "WidensHostAccess: opens port 8080 of the node"},

		{"a selector", deployment("selector: {matchLabels: {a: b}}, ", "", ""), deployment("selector: {matchLabels: {a: c}}, ", "", ""), "ChangesImmutable: the API server refuses to change /spec/selector/matchLabels/a"},
		{"a service name of a set", object("apps/v1", "StatefulSet", ", spec: {serviceName: a, replicas: 1}"), object("apps/v1", "StatefulSet", ", spec: {serviceName: b, replicas: 1}"), "ChangesImmutable: the API server refuses to change /spec/serviceName"},
		{"replicas of a set", object("apps/v1", "StatefulSet", ", spec: {serviceName: a, replicas: 1}"), object("apps/v1", "StatefulSet", ", spec: {serviceName: a, replicas: 2}"), ""},
		{"a job's template", object("batch/v1", "Job", ", spec: {template: {spec: {a: b}}}"), object("batch/v1", "Job", ", spec: {template: {spec: {a: c}}}"), "ChangesImmutable: the API server refuses to change /spec/template/spec/a"},
		{"immutable settings", object("v1", "ConfigMap", ", immutable: true, data: {a: b}"), object("v1", "ConfigMap", ", immutable: true, data: {a: c}"), "ChangesImmutable: the API server refuses to change /data/a"},
		{"settings", object("v1", "ConfigMap", ", data: {a: b}"), object("v1", "ConfigMap", ", data: {a: c}"), ""},
		{"a claim grows", object("v1", "PersistentVolumeClaim", ", spec: {resources: {requests: {storage: 1Gi}}}"), object("v1", "PersistentVolumeClaim", ", spec: {resources: {requests: {storage: 2Gi}}}"), ""},

		{"a version goes", crd("{name: v1, served: true}, {name: v2, served: true}"), crd("{name: v1, served: false}, {name: v2, served: true}"), "StopsServing: stops serving e.com/v1/Thing"},
		{"a version comes", crd("{name: v1, served: true}"), crd("{name: v1, served: true}, {name: v2, served: true}"), ""},

		{"to zero", deployment("replicas: 3, ", "", ""), deployment("replicas: 0, ", "", ""), "ScalesToZero: from 3 replicas"},
		{"to zero from nothing said", deployment("", "", ""), deployment("replicas: 0, ", "", ""), "ScalesToZero: from 1 replicas"},
		{"to one", deployment("replicas: 3, ", "", ""), deployment("replicas: 1, ", "", ""), ""},

		{"a major version", image("1.2.3"), image("v2.0.0"), "MajorVersion: container a: r/a:1.2.3 to r/a:v2.0.0"},
		{"a minor version", image("1.2.3"), image("1.3.0"), ""},
		{"a build", image("17"), image("18"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			of := func(text string) api.RenderedBundle {
				if text == "" {
					return bundleOf(t, "web", configMap("other", "x"))
				}
				return bundleOf(t, "web", configMap("other", "x"), text)
			}
			got := compare.Diff([]compare.On{on("c", of(tt.before))}, []compare.On{on("c", of(tt.after))})
			var said []string
			for _, d := range got.Dangers {
				said = append(said, fmt.Sprintf("%s: %s", d.Reason, d.Detail))
				if d.Bundle != "web" || !slices.Equal(d.Clusters, []string{"c"}) {
					t.Errorf("got %+v", d)
				}
			}
			if strings.Join(said, "; ") != tt.want {
				t.Errorf("got %q, want %q", said, tt.want)
			}
		})
	}
}

func reasons(r compare.Result) []string {
	var out []string
	for _, d := range r.Dangers {
		out = append(out, string(d.Reason))
	}
	return out
}

func TestDanger_hooks(t *testing.T) {
	hook := func(phases ...api.HookPhase) api.Hook {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": "migrate", "namespace": "x"}}}
		return api.Hook{Phases: phases, Object: o}
	}
	with := func(data string, hooks ...api.Hook) api.RenderedBundle {
		b := bundleOf(t, "web", configMap("a", data))
		b.Hooks = hooks
		return b
	}
	for _, tt := range []struct {
		name     string
		from, to []api.RenderedBundle
		want     []string
	}{
		{"an upgrade", []api.RenderedBundle{with("1", hook(api.HookPreUpgrade))}, []api.RenderedBundle{with("2", hook(api.HookPreUpgrade))}, []string{"RunsHook"}},
		{"no change", []api.RenderedBundle{with("1", hook(api.HookPreUpgrade))}, []api.RenderedBundle{with("1", hook(api.HookPreUpgrade))}, nil},
		{"another moment", []api.RenderedBundle{with("1")}, []api.RenderedBundle{with("2", hook(api.HookPreDelete))}, nil},
		{"an install", nil, []api.RenderedBundle{with("1", hook(api.HookPostInstall))}, []string{"RunsHook"}},
		{"a removal", []api.RenderedBundle{with("1", hook(api.HookPreDelete))}, nil, []string{"Prunes", "RunsHook"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Diff([]compare.On{on("c", tt.from...)}, []compare.On{on("c", tt.to...)})
			if !slices.Equal(reasons(got), tt.want) {
				t.Errorf("got %v, want %v", reasons(got), tt.want)
			}
		})
	}
}

// What only the cluster tells: a suspension, and who uses a version that goes.
func TestDanger_ofTheCluster(t *testing.T) {
	crd := func(served bool) string {
		return fmt.Sprintf("{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.e.com}, spec: {group: e.com, scope: Namespaced, names: {kind: Thing, plural: things}, versions: [{name: v1, served: %v}, {name: v2, served: true}]}}", served)
	}
	user := bundleOf(t, "user", "{apiVersion: e.com/v1, kind: Thing, metadata: {name: t, namespace: x}}")
	other := bundleOf(t, "user", "{apiVersion: e.com/v2, kind: Thing, metadata: {name: t, namespace: x}}")
	from := []compare.On{on("a", bundleOf(t, "crds", crd(true)), user), on("b", bundleOf(t, "crds", crd(true)), other)}
	to := []compare.On{on("a", bundleOf(t, "crds", crd(false)), user), on("b", bundleOf(t, "crds", crd(false)), other)}
	to[1].Rendering.Cluster.Spec.Suspend = &api.SuspendOrder{Reason: "INC-1", Until: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	var got []string
	for _, d := range compare.Diff(from, to).Dangers {
		got = append(got, fmt.Sprintf("%s %s %s %v", d.Reason, d.Bundle, d.Detail, d.Clusters))
	}
	want := []string{
		"StopsServing crds stops serving e.com/v1/Thing [a b]",
		"StopsServing user uses e.com/v1/Thing, which bundle crds stops serving [a]",
		"Suspended  until 2027-01-02T03:04:05Z: INC-1 [b]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestDanger_majorChart(t *testing.T) {
	chart := func(version string) api.RenderedBundle {
		b := bundleOf(t, "web", configMap("a", version))
		b.Spec.Helm = &api.HelmSource{Chart: "c", Version: version}
		return b
	}
	for version, want := range map[string][]string{"2.0.0": {"MajorVersion"}, "1.9.0": nil, "~1": nil} {
		got := compare.Diff([]compare.On{on("c", chart("1.2.3"))}, []compare.On{on("c", chart(version))})
		if !slices.Equal(reasons(got), want) {
			t.Errorf("to %s: got %v, want %v", version, reasons(got), want)
		}
	}
}

// Each reason is explained to those who read it.
func TestReasons_areDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/review.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range compare.Reasons() {
		if !strings.Contains(string(page), fmt.Sprintf("| `%s` |", reason)) {
			t.Errorf("docs/review.md does not explain %s", reason)
		}
	}
}
