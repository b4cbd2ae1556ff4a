package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// marked is the labels of an object that claims to be the bundle's.
func (r *rig) marked() string {
	return fmt.Sprintf("labels: {%s: %s, %s: %s, %s: %s}",
		api.LabelManagedBy, api.ManagedBy, api.LabelPartOf, plan.ApplySetID(r.bundle), api.LabelBundle, r.bundle)
}

func TestRemoveExtraIsGuarded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bundle := r.rendered()
	extra := func(name, more string) *unstructured.Unstructured {
		return r.create("kubectl-create", `{apiVersion: v1, kind: ConfigMap, metadata: {name: `+name+`, namespace: NS, `+r.marked()+more+`}}`)
	}
	refused := func(live *unstructured.Unstructured, kind api.ErrorKind, words ...string) {
		t.Helper()
		e := apiError(t, r.RemoveExtra(t.Context(), bundle, live))
		if e.Kind != kind {
			t.Errorf("%s: %s error %v, want %s", live.GetName(), e.Kind, e, kind)
		}
		for _, w := range words {
			if !strings.Contains(e.Error()+" "+e.Hint, w) {
				t.Errorf("%s: error %q, hint %q: no word of %q", live.GetName(), e, e.Hint, w)
			}
		}
		now := r.get(live.GetKind(), live.GetName())
		if now == nil || now.GetDeletionTimestamp() != nil {
			t.Errorf("%s was deleted", live.GetName())
		}
	}
	claim := r.create("kubectl-create", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: precious, namespace: NS, `+r.marked()+`}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`)
	refused(claim, api.Forbidden, "PersistentVolumeClaim", "by hand", api.LabelPartOf)
	refused(extra("kept", ", annotations: {flotilla.dev/prune: disabled}"), api.Forbidden, "prune: disabled")
	refused(extra("paused", ", annotations: {flotilla.dev/reconcile: disabled}"), api.Forbidden, "reconcile: disabled")
	// The owner is there: what has an owner that is not is deleted by the garbage collector.
	owner := r.create("kubectl-create", configMap("owner", "1")).GetUID()
	refused(extra("made", ", ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: "+string(owner)+", controller: true}]"), api.Forbidden, "controller")
	refused(r.create("kubectl-create", configMap("stranger", "1")), api.Forbidden, api.LabelPartOf)

	// What changed since it was looked at stays, and so does another object of the name.
	old := extra("moving", "")
	r.patch("kubectl-edit", "ConfigMap", "moving", `{"metadata":{"annotations":{"flotilla.dev/prune":"disabled"}}}`)
	refused(old, api.Transient)
	if e := apiError(t, r.RemoveExtra(t.Context(), bundle, old)); e.Reason != "Conflict" {
		t.Errorf("reason %s, want Conflict", e.Reason)
	}
	now := r.patch("kubectl-edit", "ConfigMap", "moving", `{"metadata":{"annotations":{"flotilla.dev/prune":null}}}`)

	// It is the bundle's identity that deletes.
	limited := bundle
	limited.Spec.ServiceAccount = &api.ServiceAccount{Namespace: r.ns, Name: "nobody"}
	if e := apiError(t, r.RemoveExtra(t.Context(), limited, now)); e.Kind != api.Forbidden || !strings.Contains(e.Error(), "system:serviceaccount:"+r.ns+":nobody") {
		t.Errorf("as the bundle's service account: %v", e)
	}
	r.calls.reset()
	if err := r.RemoveExtra(t.Context(), bundle, now); err != nil || r.get("ConfigMap", "moving") != nil {
		t.Errorf("not removed: %v", err)
	}
	if diff := cmp.Diff(map[string]int{"DELETE": 1}, r.calls.verbs()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if err := r.RemoveExtra(t.Context(), bundle, now); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
}

// inventory is the whole inventory. It is asked for again like the agent does: it goes through the kinds of all bundles,
// and one of a parallel test may not be served yet.
func inventory(t *testing.T, a *target) map[string][]api.InventoryEntry {
	t.Helper()
	var all map[string][]api.InventoryEntry
	var err error
	defer func() {
		if err != nil {
			t.Log(err)
		}
	}()
	eventually(t, "the inventory is read", func() bool {
		all, err = a.Inventory(t.Context())
		return err == nil
	})
	return all
}

// What controllers make from our objects carries our labels, too, and is not ours.
func TestInventoryLeavesOutWhatControllersMade(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil,
		`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: NS}, spec: {selector: {app: web}, ports: [{port: 80}]}}`,
		`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: declared, namespace: NS}, addressType: IPv4, endpoints: [{addresses: [10.1.2.3]}], ports: []}`,
		`{apiVersion: v1, kind: Endpoints, metadata: {name: declared, namespace: NS}, subsets: [{addresses: [{ip: 10.1.2.3}], ports: [{port: 80}]}]}`).Inventory
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady}, inv); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.DeleteStatus(context.WithoutCancel(t.Context()), r.bundle) })
	for _, res := range []schema.GroupVersionResource{{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, {Version: "v1", Resource: "endpoints"}} {
		eventually(t, "a controller makes one of "+res.Resource+" with our labels", func() bool {
			list, err := r.dyn.Resource(res).Namespace(r.ns).List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelPartOf})
			return err == nil && len(list.Items) == 2
		})
	}
	all := inventory(t, newApplier(t, r.calls.wrap))
	if diff := cmp.Diff(names(inv), names(all[r.bundle])); diff != "" {
		t.Errorf("rebuilt inventory (-want +got):\n%s", diff)
	}
}

// operated is a bundle with an operator: a CRD, instances of it that have a finalizer, and the Deployment that removes it.
func (r *rig) operated(instances int) []string {
	group := r.ns + ".example.com"
	docs := []string{
		`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.` + group + `}
spec:
  group: ` + group + `
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: operator, namespace: NS}, spec: {replicas: 0, selector: {matchLabels: {app: o}}, template: {metadata: {labels: {app: o}}, spec: {containers: [{name: c, image: c}]}}}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: operator, namespace: NS}}`,
	}
	for i := range instances {
		docs = append(docs, fmt.Sprintf(`{apiVersion: %s/v1, kind: Widget, metadata: {name: w%d, namespace: NS, finalizers: [example.com/tidy]}}`, group, i))
	}
	return docs
}

func (r *rig) widgets() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.ns + ".example.com", Version: "v1", Resource: "widgets"}
}

// tidy does the operator's work for an instance.
func (r *rig) tidy(name string) {
	r.t.Helper()
	_, err := r.dyn.Resource(r.widgets()).Namespace(r.ns).Patch(r.t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		r.t.Error(err)
	}
}

// terminating counts the instances that are being deleted.
func (r *rig) terminating() int {
	list, err := r.dyn.Resource(r.widgets()).Namespace(r.ns).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		return 0
	}
	n := 0
	for _, w := range list.Items {
		if w.GetDeletionTimestamp() != nil {
			n++
		}
	}
	return n
}

// What somebody has to finalize goes before the one who does that, and the order waits for it.
func TestPruneWaitsForFinalizers(t *testing.T) {
	t.Parallel()
	const instances = 5
	r := newRig(t)
	inv := r.apply(nil, r.operated(instances)...).Inventory
	var wg sync.WaitGroup
	wg.Go(func() {
		eventually(t, "all instances are being deleted", func() bool { return r.terminating() == instances })
		time.Sleep(500 * time.Millisecond)
		if o := r.get("Deployment", "operator"); o == nil || o.GetDeletionTimestamp() != nil {
			t.Error("the operator was deleted before its instances were gone")
		}
		for i := range instances {
			r.tidy(fmt.Sprint("w", i))
		}
	})
	r.calls.reset()
	waits := 0
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv, Waiting: pauses(&waits)})
	wg.Wait()
	if res.Err != nil || len(res.Inventory) != 0 || res.Changes.Count(api.Pruned) != len(inv) {
		t.Errorf("error %v, left %v, %+v", res.Err, names(res.Inventory), res.Changes.Changes)
	}
	if waits == 0 {
		t.Error("nobody was told of the wait")
	}
	// One GET and one DELETE per object, and one list and one watch for all that wait.
	n := len(inv)
	got := r.calls.verbs()
	if got["DELETE"] != n || got["GET"] > n+4 {
		t.Errorf("requests %v for %d objects", got, n)
	}
}

// What is not gone in time stays ours, holds back what it may need, and is told with its finalizers.
func TestPruneTellsWhatIsNotGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, r.operated(1)...).Inventory
	req := apply.PruneRequest{Bundle: r.bundle, Entries: inv, Spec: api.BundleSpec{Timeout: api.Duration(time.Second)}}
	for range 2 { // the second time it is being deleted already
		begun := time.Now()
		res := r.Prune(t.Context(), req)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("waited for %s", took)
		}
		e := apiError(t, res.Err)
		if e.Kind != api.Waiting || e.Reason != "Terminating" || !strings.Contains(e.Error(), "Widget."+r.ns+".example.com/"+r.ns+"/w0") || !strings.Contains(e.Error(), "example.com/tidy") {
			t.Errorf("error %s %s: %v", e.Kind, e.Reason, e)
		}
		if diff := cmp.Diff(names(inv), names(res.Inventory)); diff != "" {
			t.Errorf("survivors (-want +got):\n%s", diff)
		}
		if r.get("Deployment", "operator") == nil {
			t.Error("the operator was deleted")
		}
		req.Entries = res.Inventory
	}
	r.tidy("w0")
	if res := r.Prune(t.Context(), req); res.Err != nil || len(res.Inventory) != 0 {
		t.Errorf("afterwards: %v, left %v", res.Err, names(res.Inventory))
	}
}

// An instance that cannot be deleted holds back the one who would have to finalize it; a plain object holds back nothing.
func TestPruneKeepsTheOperatorOfWhatStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, append(r.operated(1), configMap("stuck", "1"))...).Inventory
	refuse := ""
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodDelete && strings.HasSuffix(req.URL.Path, refuse) {
			return answer(403, "Forbidden", "not you")
		}
		return nil
	})
	refuse = "/w0"
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv})
	if e := apiError(t, res.Err); e.Kind != api.Forbidden || r.get("Deployment", "operator") == nil || len(res.Inventory) != len(inv) {
		t.Errorf("error %v, left %v", res.Err, names(res.Inventory))
	}
	refuse = "/stuck"
	r.tidy("w0")
	res = r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv})
	if diff := cmp.Diff([]string{"ConfigMap/stuck"}, names(res.Inventory)); diff != "" {
		t.Errorf("survivors (-want +got):\n%s", diff)
	}
}

// A newer revision ends the wait.
func TestPruneIsSuperseded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, r.operated(1)...).Inventory
	begun, resumed := time.Now(), false
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv, Waiting: superseded(&resumed)})
	if e := apiError(t, res.Err); e.Reason != "Superseded" || e.Kind != api.Waiting || !resumed || time.Since(begun) > 10*time.Second {
		t.Errorf("after %s, resumed %v: %v", time.Since(begun), resumed, res.Err)
	}
	if diff := cmp.Diff(names(inv), names(res.Inventory)); diff != "" {
		t.Errorf("survivors (-want +got):\n%s", diff)
	}
	r.tidy("w0")
}

// Prunes as the bundle's identity, waits included.
func TestPruneIsImpersonated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	res := r.apply(nil, append(r.deployer(), r.operated(1)...)...)
	inv := res.Inventory[:0:0]
	for _, e := range res.Inventory {
		if e.Object.Kind == "Widget" {
			inv = append(inv, e)
		}
	}
	strangers := r.strangers(func(path string) bool { return strings.Contains(path, "/widgets") })
	var wg sync.WaitGroup
	wg.Go(func() {
		eventually(t, "the instance is being deleted", func() bool { return r.terminating() == 1 })
		r.tidy("w0")
	})
	spec := api.BundleSpec{ServiceAccount: &api.ServiceAccount{Namespace: r.ns, Name: "deployer"}}
	eventually(t, "the role takes effect", func() bool {
		res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv, Spec: spec})
		return res.Err == nil && len(res.Inventory) == 0
	})
	wg.Wait()
	if s := strangers(); len(s) > 0 {
		t.Errorf("not as the bundle's service account: %v", s)
	}
}

// deployer is a service account that may do anything in the namespace.
func (r *rig) deployer() []string {
	return []string{
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: deployer, namespace: NS}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deployer, namespace: NS}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deployer, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}, subjects: [{kind: ServiceAccount, name: deployer, namespace: NS}]}`,
	}
}

// strangers collects the requests that are not made as the deployer, from now on.
func (r *rig) strangers(path func(string) bool) func() []string {
	var mu sync.Mutex
	var out []string
	r.calls.setFault(func(req *http.Request) *http.Response {
		if who := req.Header.Get("Impersonate-User"); path(req.URL.Path) && who != "system:serviceaccount:"+r.ns+":deployer" {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, req.Method+" "+req.URL.Path+" as "+who)
		}
		return nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return out
	}
}

func TestBuiltInNamespacesAreLetGo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	label := func(set string) {
		t.Helper()
		patch := `{"metadata":{"labels":{"` + api.LabelPartOf + `":` + set + `}}}`
		if _, err := r.dyn.Resource(resources["Namespace"]).Patch(t.Context(), "kube-node-lease", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label(`"` + plan.ApplySetID(r.bundle) + `"`)
	defer label("null")
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodDelete {
			return answer(500, "InternalError", "a test that fails must not break the cluster")
		}
		return nil
	})
	entry := api.InventoryEntry{Object: api.ObjectRef{Version: "v1", Kind: "Namespace", Name: "kube-node-lease"}}
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: []api.InventoryEntry{entry}})
	if res.Err != nil || len(res.Inventory) != 0 || res.Changes.Count(api.Skipped) != 1 || r.calls.verbs()["DELETE"] != 0 {
		t.Errorf("%v, %+v, requests %v", res.Err, res.Changes.Changes, r.calls.verbs())
	}
}

// A bundle's identity outlives the agent's store.
func TestServiceAccountIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	t.Cleanup(func() { _ = r.DeleteStatus(context.WithoutCancel(t.Context()), r.bundle) })
	kept := func() *api.ServiceAccount {
		t.Helper()
		all, err := r.BundleStatuses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if b.Name == r.bundle {
				return b.ServiceAccount
			}
		}
		return nil
	}
	sa := &api.ServiceAccount{Namespace: r.ns, Name: "deployer"}
	b := r.rendered(`{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: NS}, spec: {controller: example.com/` + r.ns + `}}`)
	b.Spec.ServiceAccount = sa
	r.Apply(t.Context(), apply.Request{Bundle: b}) // it is not allowed to, but the kind is announced
	if diff := cmp.Diff(sa, kept()); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady, ServiceAccount: sa}, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sa, kept()); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady}, nil); err != nil {
		t.Fatal(err)
	}
	if got := kept(); got != nil {
		t.Errorf("kept %v, which the bundle has no more", got)
	}
}
