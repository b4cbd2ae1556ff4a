package drift_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app
  creationTimestamp: null
  labels: {app.kubernetes.io/managed-by: flotilla, applyset.kubernetes.io/part-of: set}
  annotations: {example.com/note: hello, example.com/other: world}
status: {replicas: 99}
spec:
  replicas: 0
  revisionHistoryLimit: 5
  selector: {matchLabels: {app: app}}
  template:
    metadata: {creationTimestamp: null, labels: {app: app}}
    spec:
      initContainers:
      - {name: first, image: busybox}
      - {name: second, image: busybox}
      containers:
      - name: app
        image: nginx:1
        args: [--level=2, --port=80]
        env: [{name: A, value: a}, {name: B, value: $(A)}]
        ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP}]
        resources: {limits: {cpu: 0.1, memory: 1024Mi}}
        volumeMounts: [{name: tmp, mountPath: /tmp}]
      - {name: sidecar, image: envoy:1}
      volumes: [{name: tmp, emptyDir: {}}]
`

const (
	container = "/spec/template/spec/containers/[name=app]"
	edit      = "kubectl-edit"
)

// What may happen to an object, and what Compare must say about it: nothing, or exactly these fields.
func TestRealObjects(t *testing.T) {
	tests := []struct {
		name    string
		object  string
		spec    api.Drift
		scalers []drift.Autoscaler
		manager string // empty is kubectl-edit
		patch   string
		sub     []string
		want    []string
		some    string // in place of want: how one of the lines begins
	}{
		{name: "as applied, with quantities, null times and a status in the manifest", object: deployment, patch: `{}`},
		{
			name: "ports of which one leaves its protocol out",
			object: "{apiVersion: v1, kind: Service, metadata: {name: ports}, spec: {selector: {a: b}, " +
				"ports: [{name: dns, port: 53}, {name: dns-udp, port: 53, protocol: UDP}, {name: dns-sctp, port: 53, protocol: SCTP}]}}",
			patch: `[{"op":"replace","path":"/spec/ports/1/name","value":"udp"}]`,
			want:  []string{`changed /spec/ports/[port=53,protocol=UDP]/name "dns-udp" -> "udp" by kubectl-edit`},
		},
		{
			name: "image", object: deployment,
			patch: `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`,
			want:  []string{`changed ` + container + `/image "nginx:1" -> "nginx:2" by kubectl-edit`},
		},
		{
			name: "one value of an atomic list", object: deployment,
			patch: `[{"op":"replace","path":"/spec/template/spec/containers/0/args/0","value":"--level=4"}]`,
			want:  []string{`changed ` + container + `/args/0 "--level=2" -> "--level=4" by kubectl-edit`},
		},
		{
			name: "longer atomic list", object: deployment,
			patch: `[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"-v"}]`,
			want:  []string{`changed ` + container + `/args ["--level=2","--port=80"] -> ["--level=2","--port=80","-v"] by kubectl-edit`},
		},
		{
			name: "the same quantity", object: deployment,
			patch: `[{"op":"replace","path":"/spec/template/spec/containers/0/resources/limits","value":{"cpu":"100m","memory":"1Gi"}}]`,
		},
		{
			name: "another quantity", object: deployment,
			patch: `[{"op":"replace","path":"/spec/template/spec/containers/0/resources/limits/cpu","value":"200m"}]`,
			want:  []string{`changed ` + container + `/resources/limits/cpu "100m" -> "200m" by kubectl-edit`},
		},
		{
			name: "a container that we declared is gone", object: deployment,
			patch: `[{"op":"remove","path":"/spec/template/spec/containers/1"}]`,
			want: []string{`removed /spec/template/spec/containers/[name=sidecar] {"image":"envoy:1","imagePullPolicy":"IfNotPresent",` +
				`"name":"sidecar","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"} ->  by unknown`},
		},
		{
			name: "ports that share a number", object: deployment,
			patch: `[{"op":"remove","path":"/spec/template/spec/containers/0/ports/1"}]`,
			want:  []string{`removed ` + container + `/ports/[containerPort=53,protocol=UDP] {"containerPort":53,"protocol":"UDP"} ->  by unknown`},
		},
		{
			name: "a declared field removed, for which there is a default", object: deployment,
			patch: `{"spec":{"revisionHistoryLimit":null}}`,
			want:  []string{`changed /spec/revisionHistoryLimit 5 -> 10 by kubectl-edit`},
		},
		{
			name: "a declared annotation removed", object: deployment,
			patch: `{"metadata":{"annotations":{"example.com/note":null}}}`,
			want:  []string{`removed /metadata/annotations/example.com~1note "hello" ->  by unknown`},
		},
		{
			name: "all annotations removed", object: deployment,
			patch: `{"metadata":{"annotations":null}}`,
			want: []string{
				`removed /metadata/annotations/example.com~1note "hello" ->  by unknown`,
				`removed /metadata/annotations/example.com~1other "world" ->  by unknown`,
			},
		},
		{
			name: "our label removed", object: deployment,
			patch: `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`,
			want:  []string{`removed /metadata/labels/applyset.kubernetes.io~1part-of "set" ->  by unknown`},
		},
		{name: "a label added", object: deployment, patch: `{"metadata":{"labels":{"theirs":"x"}}}`},
		{
			name: "a label added, and we were told to report it", object: deployment, spec: api.Drift{Extra: api.ExtraReport},
			patch: `{"metadata":{"labels":{"theirs":"x"}}}`,
			want:  []string{`added /metadata/labels/theirs  -> "x" by kubectl-edit`},
		},
		{
			name: "a label added by a controller", object: deployment, spec: api.Drift{Extra: api.ExtraReport},
			manager: "kube-controller-manager", patch: `{"metadata":{"labels":{"theirs":"x"}}}`,
		},
		{
			name: "orders to us and notes of tools are nothing added", object: deployment, spec: api.Drift{Extra: api.ExtraReport},
			patch: `{"metadata":{"annotations":{"flotilla.dev/prune":"disabled","kubectl.kubernetes.io/last-applied-configuration":"{}","flotilla.dev/last-editor":"bob"}}}`,
		},
		{name: "a variable added", object: deployment, patch: `[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"DEBUG","value":"1"}}]`},
		{
			name: "a variable added, and we were told to report it", object: deployment, spec: api.Drift{Extra: api.ExtraReport},
			patch: `[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"DEBUG","value":"1"}}]`,
			want:  []string{`added ` + container + `/env/[name=DEBUG]  -> {"name":"DEBUG","value":"1"} by kubectl-edit`},
		},
		{
			name: "a container injected, and we were told to report it", object: deployment, spec: api.Drift{Extra: api.ExtraReport},
			manager: "mesh", patch: `[{"op":"add","path":"/spec/template/spec/containers/0","value":{"name":"proxy","image":"envoy"}}]`,
			want: []string{`added /spec/template/spec/containers/[name=proxy]  -> {"image":"envoy","imagePullPolicy":"Always",` +
				`"name":"proxy","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"} by mesh`},
		},
		{
			name: "containers in another order", object: deployment,
			patch: `[{"op":"move","from":"/spec/template/spec/containers/1","path":"/spec/template/spec/containers/0"}]`,
		},
		{
			name: "init containers in another order", object: deployment,
			patch: `[{"op":"move","from":"/spec/template/spec/initContainers/1","path":"/spec/template/spec/initContainers/0"}]`,
			want:  []string{`changed /spec/template/spec/initContainers ["[name=first]","[name=second]"] -> ["[name=second]","[name=first]"] by unknown`},
		},
		{name: "status", object: deployment, manager: "kube-controller-manager", patch: `{"status":{"replicas":3,"conditions":[{"type":"X","status":"True"}]}}`, sub: []string{"status"}},
		{
			name: "scaled by hand", object: deployment, manager: "kubectl", patch: `{"spec":{"replicas":4}}`, sub: []string{"scale"},
			want: []string{`changed /spec/replicas 0 -> 4 by kubectl/scale`},
		},
		{
			name: "scaled within an autoscaler's bounds", object: deployment, manager: "kube-controller-manager", patch: `{"spec":{"replicas":4}}`, sub: []string{"scale"},
			scalers: []drift.Autoscaler{{Target: api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "$NS", Name: "app"}, Min: 2, Max: 4}},
		},
		{
			name: "scaled beyond an autoscaler's bounds", object: deployment, manager: "kubectl", patch: `{"spec":{"replicas":5}}`, sub: []string{"scale"},
			scalers: []drift.Autoscaler{{Target: api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "$NS", Name: "app"}, Min: 2, Max: 4}},
			want:    []string{`changed /spec/replicas 0 -> 5 by kubectl/scale`},
		},
		{
			name: "scaled, with an autoscaler for another object", object: deployment, manager: "kubectl", patch: `{"spec":{"replicas":4}}`, sub: []string{"scale"},
			scalers: []drift.Autoscaler{{Target: api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "$NS", Name: "other"}, Min: 2, Max: 4}},
			want:    []string{`changed /spec/replicas 0 -> 4 by kubectl/scale`},
		},
		{
			name: "an ignored path", object: deployment, patch: `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`,
			spec: api.Drift{Ignore: []api.IgnoreRule{{Target: api.IgnoreTarget{Kind: "Deploy*"}, Paths: []string{"/spec/template/spec/containers/[name=app]/image"}}}},
		},
		{
			name: "an ignored manager", object: deployment, patch: `{"spec":{"paused":true,"revisionHistoryLimit":6}}`,
			spec: api.Drift{Ignore: []api.IgnoreRule{{Managers: []string{edit}}}},
		},
		{
			name: "a rule for something else", object: deployment, patch: `{"spec":{"revisionHistoryLimit":6}}`,
			spec: api.Drift{Ignore: []api.IgnoreRule{{Target: api.IgnoreTarget{Name: "other"}, Paths: []string{"/spec"}}, {Managers: []string{"helm"}}, {Paths: []string{"/spec/replicas"}}}},
			want: []string{`changed /spec/revisionHistoryLimit 5 -> 6 by kubectl-edit`},
		},
		{
			name: "managedFields cleared", object: deployment, patch: `{"metadata":{"managedFields":[{}]},"spec":{"revisionHistoryLimit":6}}`,
			want: []string{`changed /spec/revisionHistoryLimit 5 -> 6 by unknown`},
		},

		{
			name: "ConfigMap key", object: configMap, patch: `{"data":{"a":"2","theirs":"x"}}`,
			want: []string{`changed /data/a "1" -> "2" by kubectl-edit`},
		},
		{
			name: "ConfigMap key removed, one added", object: configMap, patch: `{"data":{"a":null,"theirs":"x"}}`, spec: api.Drift{Extra: api.ExtraReport},
			want: []string{`removed /data/a "1" ->  by unknown`, `added /data/theirs  -> "x" by kubectl-edit`},
		},
		{name: "Secret as applied, with stringData", object: secret, patch: `{}`},
		{name: "Secret, the same value written otherwise", object: secret, patch: `{"stringData":{"password":"hunter2"}}`},
		{
			name: "Secret changed", object: secret, patch: `{"data":{"password":"aHVudGVyMw==","token":null,"theirs":"eA=="}}`, spec: api.Drift{Extra: api.ExtraReport},
			want: []string{
				`changed /data/password "(value A)" -> "(value B)" by kubectl-edit`,
				`removed /data/token "(value A)" ->  by unknown`,
				`added /data/theirs  -> "(value B)" by kubectl-edit`,
			},
		},

		{name: "Service as applied: clusterIP and nodePort are given by the server", object: service, patch: `{}`},
		{name: "Service: another node port, which Git does not name", object: service, patch: `[{"op":"replace","path":"/spec/ports/0/nodePort","value":30999}]`},
		{
			name: "Service: another port", object: service, patch: `[{"op":"replace","path":"/spec/ports/0/targetPort","value":81}]`,
			want: []string{`changed /spec/ports/[port=80,protocol=TCP]/targetPort 8080 -> 81 by kubectl-edit`},
		},
		{
			name: "Service: another node port, which Git does name", object: strings.Replace(service, "name: http", "name: http, nodePort: 30998", 1),
			patch: `[{"op":"replace","path":"/spec/ports/0/nodePort","value":30997}]`,
			want:  []string{`changed /spec/ports/[port=80,protocol=TCP]/nodePort 30998 -> 30997 by kubectl-edit`},
		},
		{name: "Endpoints: the same in another order", object: endpoints, patch: `{}`},
		{
			name: "Endpoints: another address", object: endpoints, patch: `{"subsets":[{"addresses":[{"ip":"192.0.2.11"},{"ip":"192.0.2.3"}],"ports":[{"port":5432}]}]}`,
			some: "changed /subsets",
		},
		{name: "CRD: preserveUnknownFields: false, which the API server drops", object: dropsFields, patch: `{}`},
		{
			name: "CRD: a short name removed", object: dropsFields, patch: `{"spec":{"names":{"shortNames":null}}}`,
			some: "removed /spec/names/shortNames",
		},
		{
			name: "Service: another type", object: service, patch: `{"spec":{"type":"ClusterIP"}}`,
			want: []string{`changed /spec/type "NodePort" -> "ClusterIP" by kubectl-edit`},
		},

		{name: "aggregated ClusterRole: rules are filled in", object: aggregated, patch: `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`, manager: "clusterrole-aggregation-controller"},
		{
			name: "aggregated ClusterRole: what it aggregates", object: aggregated, patch: `{"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"x":"other"}}]}}`,
			want: []string{`changed /aggregationRule/clusterRoleSelectors/0/matchLabels/x "$NS" -> "other" by kubectl-edit`},
		},
		{name: "ClusterRole: verbs in another order", object: clusterRole, patch: `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["list","get"]}]}`},
		{
			name: "ClusterRole: another verb", object: clusterRole, patch: `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get","*"]}]}`,
			want: []string{`changed /rules/0/verbs ["get","list"] -> ["get","*"] by kubectl-edit`},
		},

		{name: "webhook: a CA is injected", object: webhook(""), patch: `[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "cert-manager-cainjector"},
		{name: "webhook: a CA is injected in place of nothing", object: webhook(`caBundle: ""`), patch: `[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "cert-manager-cainjector"},
		{
			name: "webhook: a CA that Git sets is replaced", object: webhook("caBundle: " + otherCA), patch: `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "mallory",
			want: []string{`changed /webhooks/[name=a.example.com]/clientConfig/caBundle "` + otherCA + `" -> "` + ca + `" by mallory`},
		},
		{
			name: "webhook: another path", object: webhook(""), patch: `[{"op":"replace","path":"/webhooks/0/clientConfig/service/path","value":"/b"}]`,
			want: []string{`changed /webhooks/[name=a.example.com]/clientConfig/service/path "/a" -> "/b" by kubectl-edit`},
		},

		{name: "APIService: a CA is injected", object: apiService(""), patch: `{"spec":{"caBundle":"` + ca + `"}}`, manager: "cert-manager-cainjector"},
		{name: "APIService: a CA is injected in place of nothing", object: apiService(`caBundle: ""`), patch: `{"spec":{"caBundle":"` + ca + `"}}`, manager: "cert-manager-cainjector"},
		{
			name: "APIService: a CA that Git sets is replaced", object: apiService("caBundle: " + otherCA), patch: `{"spec":{"caBundle":"` + ca + `"}}`, manager: "mallory",
			want: []string{`changed /spec/caBundle "` + otherCA + `" -> "` + ca + `" by mallory`},
		},
		{name: "CRD: a CA is injected for the conversion", object: converted(""), patch: `[{"op":"add","path":"/spec/conversion/webhook/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "cert-manager-cainjector"},
		{name: "CRD: a CA is injected in place of a placeholder", object: converted(`caBundle: ""`), patch: `[{"op":"add","path":"/spec/conversion/webhook/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "cert-manager-cainjector"},
		{
			name: "CRD: a CA that Git sets is replaced", object: converted("caBundle: " + otherCA), patch: `[{"op":"replace","path":"/spec/conversion/webhook/clientConfig/caBundle","value":"` + ca + `"}]`, manager: "mallory",
			want: []string{`changed /spec/conversion/webhook/clientConfig/caBundle "` + otherCA + `" -> "` + ca + `" by mallory`},
		},

		{name: "custom resource: defaults, a status in Git", object: ship, patch: `{}`},
		{name: "custom resource: a set in another order", object: ship, patch: `{"spec":{"flags":["red","blue"]}}`},
		{
			name: "custom resource: an item less in a set", object: ship, patch: `{"spec":{"flags":["red"]}}`,
			want: []string{`removed /spec/flags/[=blue] "blue" ->  by unknown`},
		},
		{name: "custom resource: the same quantity", object: ship, patch: `{"spec":{"resources":{"limits":{"cpu":"100m"}}}}`},
		{
			name: "custom resource: another quantity", object: ship, patch: `{"spec":{"resources":{"limits":{"cpu":"101m"}}}}`,
			want: []string{`changed /spec/resources/limits/cpu "0.1" -> "101m" by kubectl-edit`},
		},
		{name: "custom resource: a defaulted field that Git leaves out", object: ship, patch: `{"spec":{"speed":12}}`},
		{
			name: "custom resource: a plain list", object: ship, patch: `{"spec":{"stops":[{"port":"b"},{"port":"a"}]}}`,
			want: []string{`changed /spec/stops/0/port "a" -> "b" by kubectl-edit`, `changed /spec/stops/1/port "b" -> "a" by kubectl-edit`},
		},
	}
	c := newCluster(t)
	c.ships()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &cluster{t: t, rc: c.rc, ns: c.ns, dyn: c.dyn}
			desired := c.parse(tt.object)
			c.fresh(desired)
			for _, e := range drift.Explain(c.input(desired, tt.spec)) {
				if strings.Contains(e.Reason, "admission") { // there is none here
					t.Errorf("as applied: %s %s %s -> %s: %s", e.Class, e.Path, e.Desired, e.Live, e.Reason)
				}
			}
			manager := tt.manager
			if manager == "" {
				manager = edit
			}
			c.edit(desired, manager, tt.patch, tt.sub...)
			in := c.input(desired, tt.spec)
			for _, a := range tt.scalers {
				a.Target.Namespace = c.ns
				in.Autoscalers = append(in.Autoscalers, a)
			}
			r := drift.Compare(in)
			var want []string
			for _, w := range tt.want {
				want = append(want, c.fill(w))
			}
			switch d := cmp.Diff(want, lines(r)); {
			case tt.some != "":
				if got := lines(r); !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, tt.some) }) {
					t.Errorf("got %q, and nothing that begins with %q", got, tt.some)
				}
			case d != "":
				t.Error(d)
			}
			if (r.Class == "") != (len(r.Fields) == 0) || (r.Class == "") != (r.Evidence == nil) {
				t.Errorf("class %q with %d fields and evidence %v", r.Class, len(r.Fields), r.Evidence)
			}
			c.converges(desired, in, r)
		})
	}
}

// converges checks that what is done about a result ends it, and leaves alone what it ignores.
func (c *cluster) converges(desired *unstructured.Unstructured, in drift.Input, r drift.Result) {
	c.t.Helper()
	if r.Action == drift.Correct {
		c.apply(r.Keep(desired))
	}
	spec := in.Spec
	if spec.Extra == api.ExtraReport && r.Class != "" {
		eventually(c.t, "stripped", func() bool {
			again, err := c.tryInput(desired, spec)
			if err != nil {
				return false
			}
			again.Autoscalers = in.Autoscalers
			patch := drift.Compare(again).StripPatch()
			// It fits no later version of the object: a controller may have been quicker.
			return patch == nil || c.tryEdit(desired, "flotilla", string(patch)) == nil
		})
	}
	after := c.input(desired, spec)
	after.Autoscalers = in.Autoscalers
	if left := lines(drift.Compare(after)); left != nil {
		c.t.Errorf("left after the correction: %q", left)
	}
}
