package apply_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
)

// What kubectl and helm hold by server-side apply of their own goes the same way: nobody applies it any more.
func TestTakesOverFromServerSideApply(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for manager, data := range map[string]string{
		"kubectl": `{key: old, gone: kubectl}`, "helm": `{key: old, chart: helm}`, "some-controller": `{kept: controller}`,
	} {
		o := r.object(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: ` + data + `}`)
		_, err := r.dyn.Resource(resources["ConfigMap"]).Namespace(r.ns).Apply(t.Context(), "a", o, metav1.ApplyOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
	}
	uid := r.get("ConfigMap", "a").GetUID()
	r.apply(nil, configMap("a", "new"))
	live := r.get("ConfigMap", "a")
	if diff := cmp.Diff(map[string]string{"key": "new", "kept": "controller"}, data(live)); diff != "" || live.GetUID() != uid {
		t.Errorf("data after the takeover (-want +got):\n%s", diff)
	}
	managers := map[string]metav1.ManagedFieldsOperationType{}
	for _, e := range live.GetManagedFields() {
		managers[e.Manager] = e.Operation
	}
	want := map[string]metav1.ManagedFieldsOperationType{api.FieldManager: metav1.ManagedFieldsOperationApply, "some-controller": metav1.ManagedFieldsOperationApply}
	if diff := cmp.Diff(want, managers); diff != "" {
		t.Errorf("who holds fields (-want +got):\n%s", diff)
	}
}
