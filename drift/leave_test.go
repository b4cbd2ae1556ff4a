package drift_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

func TestLeave(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		if n, ok, _ := unstructured.NestedFloat64(o.Object, "spec", "replicas"); ok { // integers, as from the API server
			_ = unstructured.SetNestedField(o.Object, int64(n), "spec", "replicas")
		}
		return o
	}
	scalers := []drift.Autoscaler{{Target: api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "a", Name: "web"}, Min: 2, Max: 5}}
	deploy := func(name, n string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: " + name + ", namespace: a}, spec: {replicas: " + n + "}}"
	}
	hooks := func(items string) string {
		return "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: h}, webhooks: [" + items + "]}"
	}
	for _, tt := range []struct {
		name, desired, live string
		want                []string
	}{
		{"scaled", deploy("web", "1"), deploy("web", "4"), []string{"/spec/replicas"}},
		{"the same", deploy("web", "4"), deploy("web", "4"), nil},
		{"above the bounds", deploy("web", "1"), deploy("web", "6"), nil},
		{"nobody scales it", deploy("db", "1"), deploy("db", "4"), nil},
		{
			"placeholders by name", hooks("{name: x, clientConfig: {caBundle: Cg==}}, {name: y, clientConfig: {caBundle: b3Vycw==}}, {name: z, clientConfig: {caBundle: ''}}"),
			hooks("{name: z, clientConfig: {caBundle: aW4=}}, {name: y, clientConfig: {caBundle: aW4=}}, {name: x, clientConfig: {caBundle: aW4=}}"),
			[]string{"/webhooks/0/clientConfig/caBundle", "/webhooks/2/clientConfig/caBundle"},
		},
		{"not yet injected", hooks("{name: x, clientConfig: {caBundle: Cg==}}"), hooks("{name: x, clientConfig: {caBundle: Cg==}}"), nil},
		{
			"aggregated", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}, aggregationRule: {clusterRoleSelectors: [{}]}, rules: []}",
			"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}, rules: [{verbs: [get]}]}",
			[]string{"/rules"},
		},
		{"not aggregated", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}, rules: []}", "{}", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, drift.Leave(object(tt.desired), object(tt.live), scalers)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
