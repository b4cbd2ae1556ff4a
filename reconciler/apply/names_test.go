package apply_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Whatever a name says, it never is a way to another object: a request is made for what the name belongs to, or none at all.
func TestNamesThatArePathsReachNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("somebody", configMap("victim", "1"))
	victim := "configmaps/victim"
	for _, name := range []string{
		"../../../../api/v1/namespaces/" + r.ns + "/" + victim,
		"../../../api/v1/namespaces/" + r.ns + "/configmaps",
		"../../../../api/v1/namespaces/" + r.ns,
		"../" + victim, "..", ".", "", "x/..", "%2e%2e", "..%2f" + victim, "x/../../" + victim,
	} {
		obj := func() *unstructured.Unstructured {
			o := r.object(configMap("x", "1"))
			o.SetName(name)
			return o
		}
		inNamespace := func() *unstructured.Unstructured {
			o := r.object(configMap("victim", "2"))
			o.SetNamespace(name)
			return o
		}
		sends := map[string]func(context.Context){
			"resume":        func(ctx context.Context) { _ = r.Resume(ctx, name) },
			"delete status": func(ctx context.Context) { _ = r.DeleteStatus(ctx, name) },
			"publish status": func(ctx context.Context) {
				_ = r.PublishStatus(ctx, api.BundleStatus{Name: name, Phase: api.PhaseReady}, nil)
			},
			"apply": func(ctx context.Context) {
				b := api.RenderedBundle{Name: r.bundle, Objects: []*unstructured.Unstructured{obj()}}
				_ = r.Apply(ctx, apply.Request{Bundle: b})
			},
			"apply in a namespace": func(ctx context.Context) {
				if name == "" {
					return // is none
				}
				b := api.RenderedBundle{Name: r.bundle, Objects: []*unstructured.Unstructured{inNamespace()}}
				_ = r.Apply(ctx, apply.Request{Bundle: b})
			},
			"prune": func(ctx context.Context) {
				e := api.InventoryEntry{Object: api.RefOf(obj())}
				_ = r.Prune(ctx, apply.PruneRequest{Bundle: r.bundle, Entries: []api.InventoryEntry{e}})
			},
			"remove extra": func(ctx context.Context) {
				o := obj()
				o.SetLabels(map[string]string{api.LabelPartOf: plan.ApplySetID(r.bundle)})
				_ = r.RemoveExtra(ctx, api.RenderedBundle{Name: r.bundle}, o)
			},
			"autoscalers": func(ctx context.Context) {
				if name != "" {
					_, _ = r.Autoscalers(ctx, name)
				}
			},
			"act as a service account": func(ctx context.Context) {
				b := api.RenderedBundle{Name: r.bundle, Objects: []*unstructured.Unstructured{r.object(configMap("z", "1"))}}
				b.Spec.ServiceAccount = &api.ServiceAccount{Namespace: "kube-system:" + name, Name: "default"}
				_ = r.Apply(ctx, apply.Request{Bundle: b})
			},
		}
		for what, send := range sends {
			r.calls.reset()
			send(t.Context())
			for _, c := range r.calls.all() {
				verb, path, _ := strings.Cut(c, " ")
				switch {
				case strings.Contains(path, "victim"), strings.Contains(path, ".."), strings.Contains(path, "%"),
					verb != http.MethodGet && !strings.HasPrefix(path, "/apis/flotilla.dev/v1alpha1/namespaces/flotilla-system/bundledeployments/"+r.bundle):
					t.Errorf("%s of %q sent %s", what, name, c)
				}
			}
		}
	}
	if r.get("ConfigMap", "victim") == nil {
		t.Error("the object of somebody else is gone")
	}
}

// An inventory that holds a name that nothing can have does not keep its bundle from being pruned.
func TestPruneForgetsWhatCannotBe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.apply(nil, configMap("a", "1"))
	e := api.InventoryEntry{Object: api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: r.ns, Name: "../x"}}
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: append(slices.Clone(first.Inventory), e)})
	if res.Err != nil || len(res.Inventory) != 0 || r.get("ConfigMap", "a") != nil {
		t.Errorf("pruned to %v, %v", res.Inventory, res.Err)
	}
}
