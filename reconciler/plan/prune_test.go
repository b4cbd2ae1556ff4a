package plan

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// No word in Git deletes a namespace that the cluster needs, and none in Git has to allow that it is let go.
func TestBuiltInNamespacesAreNeverDeleted(t *testing.T) {
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease", "flotilla-system"} {
		ref := api.ObjectRef{Version: "v1", Kind: "Namespace", Name: name}
		live := tLive("b")
		live.SetKind("Namespace")
		live.SetName(name)
		if s := Prune(PruneInput{Bundle: "b", Entry: api.InventoryEntry{Object: ref}, Sight: Present, Live: live}); s.Next != Done || s.Action != api.Skipped || !s.Forget {
			t.Errorf("%s: %+v", name, s)
		}
		if err := guard(1, []Deletion{{"b", ref}}, api.Guards{}); err != nil {
			t.Errorf("%s: the guard refuses what is not done: %v", name, err)
		}
		if s := RemoveExtra("b", live); s.Next != Done || api.KindOf(s.Err) != api.Forbidden {
			t.Errorf("%s as extra: %+v", name, s)
		}
	}
	ref := api.ObjectRef{Group: "x.io", Version: "v1", Kind: "Namespace", Name: "default"}
	if s := Prune(PruneInput{Bundle: "b", Entry: api.InventoryEntry{Object: ref}}); s.Next != Look {
		t.Errorf("a namesake of another group: %+v", s)
	}
}

func TestPruneStages(t *testing.T) {
	entry := func(group, kind string) api.InventoryEntry {
		return api.InventoryEntry{Object: api.ObjectRef{Group: group, Kind: kind, Namespace: "a", Name: "x"}}
	}
	got := Stale([]api.InventoryEntry{
		entry("apiextensions.k8s.io", "CustomResourceDefinition"), entry("", "ServiceAccount"), entry("", "ConfigMap"), entry("apps", "Deployment"),
		entry("serving.knative.dev", "Service"), entry("networking.k8s.io", "Ingress"), entry("gateway.networking.k8s.io", "GatewayClass"),
		entry("gateway.networking.k8s.io", "Gateway"), entry("apiregistration.k8s.io", "APIService"),
		entry("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
	}, nil, nil)
	var kinds []string
	last := -1
	for _, e := range got {
		stage := PruneStage(e.Object)
		if stage < last {
			t.Errorf("%s is in stage %d, after stage %d", e.Object, stage, last)
		}
		sep := " "
		if stage > last && last >= 0 {
			sep = " | "
		}
		last = stage
		kinds = append(kinds, sep+e.Object.Kind)
	}
	want := "ValidatingWebhookConfiguration | Gateway Service | GatewayClass | Ingress APIService | Deployment | ConfigMap | ServiceAccount | CustomResourceDefinition"
	if s := strings.TrimSpace(strings.Join(kinds, "")); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func TestRemoveExtra(t *testing.T) {
	kind := func(o *unstructured.Unstructured, apiVersion, kind string) *unstructured.Unstructured {
		o.SetAPIVersion(apiVersion)
		o.SetKind(kind)
		return o
	}
	made := tLive("b")
	yes := true
	made.SetOwnerReferences([]metav1.OwnerReference{{Kind: "Service", Name: "s", Controller: &yes}})
	tests := []struct {
		name   string
		live   *unstructured.Unstructured
		next   Next
		reason string // of the error
	}{
		{"plain", tLive("b"), Delete, ""},
		{"another bundle's", tLive("other"), Done, "NotCorrected"},
		{"nobody's", tLive(""), Done, "NotCorrected"},
		{"prune disabled", tLive("b", api.AnnotationPrune+"=disabled"), Done, "NotCorrected"},
		{"reconcile disabled", tLive("b", api.AnnotationReconcile+"=disabled"), Done, "NotCorrected"},
		{"made by a controller", made, Done, "NotCorrected"},
		{"going already", terminating(tLive("b")), Await, ""},
		{"namespace", kind(tLive("b"), "v1", "Namespace"), Done, ReasonProtected},
		{"claim", kind(tLive("b"), "v1", "PersistentVolumeClaim"), Done, ReasonProtected},
		{"crd", kind(tLive("b"), "apiextensions.k8s.io/v1", "CustomResourceDefinition"), Done, ReasonProtected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := RemoveExtra("b", tt.live)
			var e *api.Error
			if errors.As(s.Err, &e); s.Next != tt.next || (e == nil) != (tt.reason == "") || e != nil && (e.Reason != tt.reason || e.Kind != api.Forbidden) {
				t.Errorf("got %+v", s)
			}
		})
	}
}
