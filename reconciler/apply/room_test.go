package apply_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// podOf is a Deployment with one container; spec, container and pod are YAML inside of those.
func podOf(annotations, spec, pod, container string) string {
	return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS, annotations: {` + annotations + `}}, spec: {replicas: 0, ` + spec +
		`selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {` + pod + `containers: [{name: web, image: "web:1", ` + container + `}, {name: other, image: "o:1"}]}}}}`
}

func budget(annotations, spec string) string {
	return `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web, namespace: NS, annotations: {` + annotations + `}}, spec: {selector: {matchLabels: {a: b}}, ` + spec + `}}`
}

// exclusive are fields of which the API server takes one only, and how somebody puts the other in the place of Git's.
var exclusive = map[string]struct {
	kind  string
	doc   func(annotations string) string
	patch string
	// at is where Git's value is; it is "want" when all is well.
	at   []string
	want string
}{
	"the strategy": {
		"Deployment", func(a string) string { return podOf(a, "strategy: {type: Recreate}, ", "", "") },
		`{"spec":{"strategy":{"type":"RollingUpdate"}}}`,
		[]string{"spec", "strategy"},
		"map[type:Recreate]",
	},
	"a probe": {
		"Deployment", func(a string) string { return podOf(a, "", "", "livenessProbe: {httpGet: {path: /, port: 80}}") },
		`[{"op":"replace","path":"/spec/template/spec/containers/0/livenessProbe","value":{"tcpSocket":{"port":81}}}]`,
		[]string{"spec", "template", "spec", "containers", "0", "livenessProbe", "httpGet", "path"},
		"/",
	},
	"a variable's source": {
		"Deployment", func(a string) string { return podOf(a, "", "", `env: [{name: Z, value: z}, {name: A, value: "1"}]`) },
		`[{"op":"replace","path":"/spec/template/spec/containers/0/env/1","value":{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}}]`,
		[]string{"spec", "template", "spec", "containers", "0", "env", "1"},
		"map[name:A value:1]",
	},
	"a variable's value": {
		"Deployment", func(a string) string {
			return podOf(a, "", "", `env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name, apiVersion: v1}}}]`)
		},
		`[{"op":"replace","path":"/spec/template/spec/containers/0/env/0","value":{"name":"A","value":"hello"}}]`,
		[]string{"spec", "template", "spec", "containers", "0", "env", "0"},
		"map[name:A valueFrom:map[fieldRef:map[apiVersion:v1 fieldPath:metadata.name]]]",
	},
	"a volume's source": {
		"Deployment", func(a string) string {
			return podOf(a, "", "volumes: [{name: v, configMap: {name: c, defaultMode: 420}}], ", "")
		},
		`[{"op":"replace","path":"/spec/template/spec/volumes/0","value":{"name":"v","emptyDir":{}}}]`,
		[]string{"spec", "template", "spec", "volumes", "0"},
		"map[configMap:map[defaultMode:420 name:c] name:v]",
	},
	"a budget": {
		"PodDisruptionBudget", func(a string) string { return budget(a, "minAvailable: 1") },
		`{"spec":{"minAvailable":null,"maxUnavailable":1}}`,
		[]string{"spec"},
		"map[minAvailable:1 selector:map[matchLabels:map[a:b]]]",
	},
	"an Ingress's backend": {
		"Ingress", func(a string) string {
			return `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: NS, annotations: {` + a + `}}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}`
		},
		`{"spec":{"defaultBackend":{"service":null,"resource":{"kind":"Bucket","name":"b"}}}}`,
		[]string{"spec", "defaultBackend"},
		"map[service:map[name:s port:map[number:80]]]",
	},
}

// Fields of which only one can be set, the other of them set by hand: with force room is made, by a correction, a commit and
// a full pass alike, and nothing else of what others added goes; without it the ways out are named, and nothing goes.
func TestExclusiveFields(t *testing.T) {
	t.Parallel()
	for name, tt := range exclusive {
		for _, manager := range []string{"kubectl-edit", "Lens"} {
			t.Run(name+" by "+manager, func(t *testing.T) {
				r := newRig(t)
				force := "flotilla.dev/force: enabled"
				inv := r.apply(nil, tt.doc(force)).Inventory
				spoil := func() { r.patch(manager, tt.kind, "web", tt.patch) }
				right := func(how string) {
					t.Helper()
					live := r.get(tt.kind, "web")
					if got := fmt.Sprint(valueAt(live.Object, tt.at...)); got != tt.want {
						t.Errorf("%s: %s, want %s", how, got, tt.want)
					}
					if live.GetLabels()["mine"] != "yes" {
						t.Errorf("%s: what somebody added elsewhere is gone", how)
					}
				}
				r.patch(manager, tt.kind, "web", `{"metadata":{"labels":{"mine":"yes"}}}`)
				b := r.rendered(tt.doc(force))
				spoil()
				eventually(t, "the object holds still", func() bool {
					_, err := r.Correct(t.Context(), b, b.Objects[0], r.get(tt.kind, "web"))
					if err != nil && apiError(t, err).Reason != "Conflict" {
						t.Error(err)
					}
					return err == nil
				})
				right("a correction")
				spoil()
				if res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inv, Compare: apply.CompareAll}); res.Err != nil {
					t.Error(res.Err)
				}
				right("a full pass")
				spoil()
				if res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(tt.doc(force + ", note: two")), Inventory: inv}); res.Err != nil {
					t.Error(res.Err)
				}
				right("a commit")

				b = r.rendered(tt.doc("a: b"))
				if res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inv, Compare: apply.CompareAll}); res.Err != nil {
					t.Fatal(res.Err)
				}
				spoil()
				var err error
				eventually(t, "the object holds still", func() bool {
					_, err = r.Correct(t.Context(), b, b.Objects[0], r.get(tt.kind, "web"))
					return err == nil || apiError(t, err).Reason != "Conflict"
				})
				if err == nil || !strings.Contains(apiError(t, err).Hint, "what "+manager+" added is in its place: the annotation "+api.AnnotationForce) {
					t.Errorf("not forced: %v", err)
				}
			})
		}
	}
}

// A default that the API server wrote is nobody's: it is no reason to refuse the other one of two fields, force or not.
func TestDefaultsOfExclusiveFields(t *testing.T) {
	t.Parallel()
	set := func(strategy string) string {
		return `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web, namespace: NS}, spec: {replicas: 0, serviceName: web, ` + strategy +
			`selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`
	}
	daemons := func(strategy string) string {
		return strings.NewReplacer("StatefulSet", "DaemonSet", "replicas: 0, serviceName: web, ", "").Replace(set(strategy))
	}
	for name, tt := range map[string]struct{ kind, before, after string }{
		"a Deployment's strategy": {"Deployment", podOf("", "", "", ""), podOf("", "strategy: {type: Recreate}, ", "", "")},
		"a strategy that is null": {"Deployment", podOf("", "", "", ""), podOf("", "strategy: {type: Recreate, rollingUpdate: null}, ", "", "")},
		"a StatefulSet's":         {"StatefulSet", set(""), set("updateStrategy: {type: OnDelete}, ")},
		"a DaemonSet's":           {"DaemonSet", daemons(""), daemons("updateStrategy: {type: OnDelete}, ")},
		"a volume's source":       {"Deployment", podOf("", "", "volumes: [{name: v}], ", ""), podOf("", "", "volumes: [{name: v, configMap: {name: c}}], ", "")},
		"a budget":                {"PodDisruptionBudget", budget("", "unhealthyPodEvictionPolicy: AlwaysAllow"), budget("", "unhealthyPodEvictionPolicy: AlwaysAllow, maxUnavailable: 1")},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			res := r.apply(nil, tt.before)
			if res = r.Apply(t.Context(), apply.Request{Bundle: r.rendered(tt.after), Inventory: res.Inventory}); res.Err != nil {
				t.Fatal(res.Err)
			}
			fresh := r.Inspect(t.Context(), r.rendered(tt.after), r.rendered(tt.after).Objects[0])
			if fresh.Err != nil || fresh.Refused != nil {
				t.Fatal(fresh.Err, fresh.Refused)
			}
			if d, l := fmt.Sprint(fresh.DryRun.Object["spec"]), fmt.Sprint(fresh.Live.Object["spec"]); d != l {
				t.Errorf("%s\nlive %s", d, l)
			}
		})
	}
}

// valueAt reads a value by the names and places on the way.
func valueAt(v any, path ...string) any {
	for _, part := range path {
		switch x := v.(type) {
		case map[string]any:
			v = x[part]
		case []any:
			i := int(part[0] - '0')
			if i >= len(x) {
				return nil
			}
			v = x[i]
		}
	}
	return v
}
