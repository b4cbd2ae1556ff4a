package drift_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

// object reads an object with numbers as the API server gives them.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal(b, o); err != nil {
		t.Fatal(err)
	}
	return o
}

// A number of replicas that an autoscaler may choose by its own rules is no drift, and an apply leaves it;
// any other number is drift, and an apply writes over it.
func TestReplicasThatAnAutoscalerMayChoose(t *testing.T) {
	scaledObject := func(annotations, spec string) string {
		return `{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: k, namespace: ns, annotations: {` + annotations + `}}, spec: {scaleTargetRef: {name: web}, ` + spec + `}}`
	}
	deployment := func(n string) string {
		return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: ns, managedFields: [` +
			`{manager: keda-operator, operation: Update, subresource: scale, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:replicas": {}}}}]}, spec: {replicas: ` + n + `}}`
	}
	const shipScaler = `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h, namespace: ns}, ` +
		`spec: {minReplicas: 2, maxReplicas: 6, scaleTargetRef: {apiVersion: sea.example.org/v1, kind: Ship, name: s}}}`
	ship := func(n, by string) string {
		return `{apiVersion: sea.example.org/v1, kind: Ship, metadata: {name: s, namespace: ns, managedFields: [` + by + `]}, spec: {size: ` + n + `}}`
	}
	const ours = `{manager: flotilla, operation: Apply, apiVersion: sea.example.org/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:size": {}}}}`
	const byScale = `{manager: kube-controller-manager, operation: Update, subresource: scale, apiVersion: sea.example.org/v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:size": {}}}}`
	byHand := strings.NewReplacer("kube-controller-manager", "kubectl-edit", "subresource: scale, ", "").Replace(byScale)
	for name, tt := range map[string]struct {
		scaler, git, live string
		left              []string
	}{
		"idle":                         {scaledObject("", "minReplicaCount: 2, idleReplicaCount: 0"), deployment("3"), deployment("0"), []string{"/spec/replicas"}},
		"below the minimum, not idle":  {scaledObject("", "minReplicaCount: 2, idleReplicaCount: 0"), deployment("3"), deployment("1"), nil},
		"not paused":                   {scaledObject(`autoscaling.keda.sh/paused: "false"`, "minReplicaCount: 0"), deployment("3"), deployment("0"), []string{"/spec/replicas"}},
		"paused where it was":          {scaledObject(`autoscaling.keda.sh/paused: "true"`, "minReplicaCount: 1, maxReplicaCount: 9"), deployment("3"), deployment("7"), []string{"/spec/replicas"}},
		"paused at a number":           {scaledObject(`autoscaling.keda.sh/paused-replicas: "7"`, "maxReplicaCount: 5"), deployment("3"), deployment("7"), []string{"/spec/replicas"}},
		"paused at another number":     {scaledObject(`autoscaling.keda.sh/paused-replicas: "7"`, "maxReplicaCount: 5"), deployment("3"), deployment("8"), nil},
		"another scale path":           {shipScaler, ship("2", ours), ship("4", byScale), []string{"/spec/size"}},
		"another scale path, too much": {shipScaler, ship("2", ours), ship("9", byScale), nil},
		"not through the subresource":  {shipScaler, ship("2", ours), ship("4", byHand), nil},
	} {
		t.Run(name, func(t *testing.T) {
			scalers := drift.AutoscalersIn([]*unstructured.Unstructured{object(t, tt.scaler)})
			git, live := object(t, tt.git), object(t, tt.live)
			if d := cmp.Diff(tt.left, drift.Leave(git, live, scalers)); d != "" {
				t.Errorf("an apply leaves (-want +got)\n%s", d)
			}
			r := drift.Compare(drift.Input{Desired: git, Live: live, DryRun: git, Autoscalers: scalers, Spec: api.Drift{}})
			if drifts := r.Class != ""; drifts == (len(tt.left) > 0) {
				t.Errorf("drift: %q", lines(r))
			}
		})
	}
}

// Where the API server refuses Git's object beside what somebody did, its own defaults are still nobody's additions.
func TestDefaultsWhereGitIsRefused(t *testing.T) {
	const entries = `{manager: flotilla, operation: Apply, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:selector": {}}}}, ` +
		`{manager: helm, operation: Update, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:spec": {"f:type": {}, "f:sessionAffinity": {}}}}`
	git := object(t, `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: ns}, spec: {selector: {a: b}}}`)
	fresh := object(t, `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: ns}, spec: {selector: {a: b}, type: ClusterIP, sessionAffinity: None}}`)
	live := object(t, `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: ns, managedFields: [`+entries+`]}, spec: {selector: {a: b}, type: ClusterIP, sessionAffinity: ClientIP}}`)
	in := drift.Input{Desired: git, Live: live, DryRun: fresh, Refused: true, Spec: api.Drift{Extra: api.ExtraReport}}
	want := []string{`added /spec/sessionAffinity  -> "ClientIP" by helm`}
	if d := cmp.Diff(want, lines(drift.Compare(in))); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
