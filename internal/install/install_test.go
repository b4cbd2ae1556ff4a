package install

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

func deployment(labels map[string]string, status map[string]any, args ...any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "flotilla-agent", "namespace": api.SystemNamespace, "generation": int64(2)},
		"spec":     map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"args": args}}}}},
		"status":   status,
	}}
	o.SetLabels(labels)
	return o
}

func TestOwner(t *testing.T) {
	for want, o := range map[string]*unstructured.Unstructured{
		"Helm":                        deployment(map[string]string{"app.kubernetes.io/managed-by": "Helm"}, nil),
		"Flux's helm-controller":      deployment(map[string]string{"helm.toolkit.fluxcd.io/name": "flotilla"}, nil),
		"Argo CD":                     deployment(map[string]string{"argocd.argoproj.io/instance": "flotilla"}, nil),
		"a fleet repository":          deployment(map[string]string{api.LabelPartOf: "applyset-x-v1"}, nil),
		"Flux's kustomize-controller": deployment(map[string]string{"kustomize.toolkit.fluxcd.io/name": "x"}, nil),
		"":                            deployment(map[string]string{"app.kubernetes.io/managed-by": "me"}, nil),
	} {
		if got := Owner(o); got != want {
			t.Errorf("%v is managed by %q, want %q", o.GetLabels(), got, want)
		}
	}
	annotated := deployment(nil, nil)
	annotated.SetAnnotations(map[string]string{"argocd.argoproj.io/tracking-id": "x"})
	if got := Owner(annotated); got != "Argo CD" {
		t.Errorf("an annotation tells %q", got)
	}
	if got := Owner(nil); got != "" {
		t.Errorf("nothing is managed by %q", got)
	}
}

func TestClusterOf(t *testing.T) {
	if got := ClusterOf(deployment(nil, nil, "agent", "--cluster=prod-eu", "--repo=x")); got != "prod-eu" {
		t.Errorf("got %q", got)
	}
	if got := ClusterOf(nil); got != "" {
		t.Errorf("no Deployment has cluster %q", got)
	}
}

func TestAgentProgress(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	up := deployment(nil, map[string]any{"observedGeneration": int64(2), "updatedReplicas": int64(1), "readyReplicas": int64(1)})
	refused := deployment(nil, map[string]any{"observedGeneration": int64(2), "conditions": []any{
		map[string]any{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
	}})
	old := api.ClusterStatus{Cluster: "one", Started: start, DesiredRevision: "1111111111a", AppliedRevision: "1111111111a"}
	fresh := old
	fresh.Started = start.Add(time.Hour)
	behind := fresh
	behind.DesiredRevision = "2222222222b"
	failed := fresh
	failed.Error = &api.StatusError{Message: "cannot fetch"}
	for _, tt := range []struct {
		name        string
		workload    *unstructured.Unstructured
		before, now api.ClusterStatus
		bundles     []api.BundleStatus
		unchanged   bool
		ready       bool
		says        string
	}{
		{name: "nothing yet", says: "not there"},
		{name: "the controller is behind", workload: deployment(nil, map[string]any{"observedGeneration": int64(1)}), says: "not seen the new template"},
		{name: "no Pod may be made", workload: refused, says: "exceeded quota"},
		{name: "the Pod runs", workload: up, says: "has not reported"},
		{name: "the report is of the old process", workload: up, before: old, now: old, says: "has not reported"},
		{name: "nothing changed", workload: up, before: old, now: old, unchanged: true, ready: true, says: "has applied 1111111111"},
		{name: "a new process", workload: up, before: old, now: fresh, ready: true, says: "has applied"},
		{name: "behind", workload: up, before: old, now: behind, says: "applies 2222222222"},
		{
			name: "a bundle fails", workload: up, before: old, now: behind, says: `bundle "app" fails: denied`,
			bundles: []api.BundleStatus{{Name: "ok"}, {Name: "app", Error: &api.StatusError{Message: "denied"}}},
		},
		{name: "no repository", workload: up, before: old, now: failed, says: "cannot fetch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := AgentProgress(tt.workload, tt.before, tt.now, tt.bundles, tt.unchanged)
			if p.Ready != tt.ready || !strings.Contains(p.Says, tt.says) {
				t.Errorf("got %+v, want ready %v and %q", p, tt.ready, tt.says)
			}
		})
	}
}

func TestFirstPass(t *testing.T) {
	applied := Progress{Ready: true, Says: "the agent has applied 2222222222"}
	now := api.ClusterStatus{AppliedRevision: "2222222222b"}
	for _, tt := range []struct {
		name    string
		p       Progress
		stale   string
		bundles []api.BundleStatus
		ready   bool
		says    string
	}{
		{name: "not applied", p: Progress{Says: "x"}, says: "x"},
		{name: "the revision from before", p: applied, stale: "2222222222b", says: "has not seen the new commit"},
		{name: "no bundle", p: applied, stale: "1", ready: true, says: "has applied"},
		{name: "healthy", p: applied, bundles: []api.BundleStatus{{Name: "a", Phase: api.PhaseReady}, {Name: "b", Phase: api.PhaseSuspended}}, ready: true},
		{name: "not healthy yet", p: applied, bundles: []api.BundleStatus{{Name: "a", Phase: api.PhaseProgressing, Message: "no Pod"}}, says: `bundle "a" is progressing: no Pod`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := FirstPass(tt.p, now, tt.bundles, tt.stale)
			if p.Ready != tt.ready || !strings.Contains(p.Says, tt.says) {
				t.Errorf("got %+v, want ready %v and %q", p, tt.ready, tt.says)
			}
		})
	}
}
