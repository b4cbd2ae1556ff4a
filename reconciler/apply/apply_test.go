package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

func TestNewObjectsCostOneRequestAndUnchangedOnesNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.apply(nil, configMap("a", "1"), configMap("b", "1"))
	if diff := cmp.Diff(map[string]api.Action{"ConfigMap/a": api.Created, "ConfigMap/b": api.Created}, actions(first.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	// The third is the BundleDeployment: the kind was new to all ApplySets, or not, if another test was faster.
	if got := r.calls.verbs(); got["GET"] != 0 || got["PATCH"] < 2 || got["PATCH"] > 3 {
		t.Errorf("requests of an install: %v, want one PATCH per object and nothing else", r.calls.made)
	}
	live := r.get("ConfigMap", "a")
	for k, want := range map[string]string{
		api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: plan.ApplySetID(r.bundle), api.LabelBundle: r.bundle,
	} {
		if got := live.GetLabels()[k]; got != want {
			t.Errorf("label %s = %q, want %q", k, got, want)
		}
	}
	want := api.InventoryEntry{
		Object: api.RefOf(live), UID: string(live.GetUID()), Digest: apply.Digest(r.object(configMap("a", "1"))),
		ResourceVersion: live.GetResourceVersion(), Generation: live.GetGeneration(),
		MetaDigest: api.MetaDigest(live), Claimed: api.ClaimedAt(live), Plain: true, Origin: "apps/configmap.yaml",
	}
	if diff := cmp.Diff(want, first.Inventory[0]); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}

	r.calls.reset()
	second := r.apply(first.Inventory, configMap("a", "1"), configMap("b", "1"))
	if got := r.calls.verbs(); len(got) != 0 {
		t.Errorf("requests of an unchanged bundle: %v, want none", r.calls.made)
	}
	if n := second.Changes.Count(api.Unchanged); n != 2 {
		t.Errorf("%d unchanged, want 2: %v", n, second.Changes.Changes)
	}

	r.calls.reset()
	third := r.apply(second.Inventory, configMap("a", "2"), configMap("b", "1"))
	if diff := cmp.Diff(map[string]int{"GET": 1, "PATCH": 1}, r.calls.verbs()); diff != "" {
		t.Errorf("requests of one change (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]api.Action{"ConfigMap/a": api.Updated, "ConfigMap/b": api.Unchanged}, actions(third.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := data(r.get("ConfigMap", "a"))["key"]; got != "2" {
		t.Errorf("live value %q, want 2", got)
	}
}

// What is known to be as it was left costs one request when Git changes it. The API server has the last word on whether it is,
// and what stood on the object then has it, too.
func TestChangedObjectsThatAreAsTheyWereLeftCostOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	scale := func(replicas int, image string) string {
		return fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: NS}, spec: {replicas: %d, selector: {matchLabels: {a: b}},
			template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "%s"}]}}}}`, replicas, image)
	}
	docs := func(value, image string, replicas int) []string {
		return []string{configMap("a", value), configMap("held", value), configMap("kept", value), scale(replicas, image)}
	}
	applied := r.rendered(docs("1", "i:1", 0)...)
	inv := r.apply(nil, docs("1", "i:1", 0)...).Inventory
	// What a watch would say: some of it is out of date.
	known := map[string]string{}
	look := func() {
		for _, e := range inv {
			known[e.Object.ID()] = r.get(e.Object.Kind, e.Object.Name).GetResourceVersion()
		}
	}
	pass := func(docs ...string) map[string]api.Action {
		t.Helper()
		r.calls.reset()
		b := r.rendered(docs...)
		res := r.Apply(t.Context(), apply.Request{
			Bundle: b, Inventory: inv, AsLeft: func(e api.InventoryEntry) string { return known[e.Object.ID()] },
			Witness: lastApplied{applied}, Left: func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
				return nil, nil
			},
		})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		inv, applied = res.Inventory, b
		return actions(res.Changes)
	}
	eventually(t, "the Deployment is at rest", func() bool {
		d, err := r.look("Deployment", "d")
		if err != nil {
			return false
		}
		n, _, _ := unstructured.NestedInt64(d.Object, "status", "observedGeneration")
		return n == 1
	})
	look()
	pass(docs("2", "i:2", 0)...)
	if diff := cmp.Diff(map[string]int{"PATCH": 4}, r.calls.verbs()); diff != "" {
		t.Errorf("requests of four changes (-want +got):\n%s", diff)
	}

	// Other replicas may be an autoscaler's: the object is looked at.
	eventually(t, "the Deployment is at rest", func() bool {
		return r.get("Deployment", "d").Object["status"].(map[string]any)["observedGeneration"] == int64(2)
	})
	look()
	pass(docs("2", "i:2", 1)...)
	if diff := cmp.Diff(map[string]int{"GET": 1, "PATCH": 1}, r.calls.verbs()); diff != "" {
		t.Errorf("requests of a change of replicas (-want +got):\n%s", diff)
	}

	// The watch has not told yet of an order on the live object.
	look()
	r.patch("kubectl-annotate", "ConfigMap", "held", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}}}`)
	got := pass(docs("3", "i:2", 1)...)
	if got["ConfigMap/held"] != api.Skipped || data(r.get("ConfigMap", "held"))["key"] != "2" {
		t.Errorf("an order on the live object was written over: %v", got)
	}
	// It stands there still, and now the watch tells of the object as it was left, too.
	look()
	if got = pass(docs("4", "i:2", 1)...); got["ConfigMap/held"] != api.Skipped || data(r.get("ConfigMap", "held"))["key"] != "2" {
		t.Errorf("an order on the live object was written over at the next commit: %v", got)
	}
	// A claim of kubectl on what Git says is taken over, as ever.
	r.patch("kubectl-edit", "ConfigMap", "kept", `{"data":{"key":"5"}}`)
	look()
	pass(docs("5", "i:2", 1)...)
	look()
	pass(configMap("a", "5"), configMap("held", "5"), strings.Replace(configMap("kept", "5"), "key:", "other:", 1), scale(1, "i:2"))
	if diff := cmp.Diff(map[string]string{"other": "5"}, data(r.get("ConfigMap", "kept"))); diff != "" {
		t.Errorf("what left Git (-want +got):\n%s", diff)
	}
	// One that was deleted and made anew, and one that is gone.
	r.delete("ConfigMap", "a")
	if got = pass(configMap("a", "6"), configMap("held", "6"), configMap("kept", "6"), scale(1, "i:2")); got["ConfigMap/a"] != api.Created {
		t.Errorf("an object that is gone: %v", got)
	}
	look()
	r.delete("ConfigMap", "a")
	r.create("somebody", configMap("a", "theirs"))
	pass(configMap("a", "7"), configMap("held", "7"), configMap("kept", "7"), scale(1, "i:2"))
	if live := r.get("ConfigMap", "a"); data(live)["key"] != "7" || live.GetLabels()[api.LabelBundle] != r.bundle {
		t.Errorf("an object that somebody made anew: %v", live)
	}
}

// lastApplied is a witness that knows what was applied and is told of nothing.
type lastApplied struct{ api.RenderedBundle }

func (w lastApplied) Applied(ref api.ObjectRef) *unstructured.Unstructured {
	for _, o := range w.Objects {
		if api.RefOf(o) == ref {
			return o
		}
	}
	return nil
}

func (lastApplied) Found(context.Context, api.ObjectRef, apply.Inspection) error { return nil }

// A failed read is never taken for "there is none": the break-glass annotation on the live object holds.
func TestFailedReadNeverBypassesLiveAnnotations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("a", "1")).Inventory
	r.patch("kubectl-edit", "ConfigMap", "a", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}},"data":{"key":"mine"}}`)

	for _, tt := range []struct {
		name string
		resp func() *http.Response
		kind api.ErrorKind
	}{
		{"server error", func() *http.Response { return answer(500, "InternalError", "etcd is unwell") }, api.Transient},
		{"forbidden", func() *http.Response { return answer(403, "Forbidden", "no get for you") }, api.Forbidden},
		{"timeout", func() *http.Response { return answer(504, "Timeout", "took too long") }, api.Transient},
	} {
		for _, compare := range []apply.Compare{apply.CompareChanged, apply.CompareAll} {
			r.calls.setFault(func(req *http.Request) *http.Response {
				if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/configmaps/a") {
					return tt.resp()
				}
				return nil
			})
			res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("a", "2")), Inventory: inv, Compare: compare})
			if got := actions(res.Changes)["ConfigMap/a"]; got != api.Failed {
				t.Errorf("%s: action %q, want failed", tt.name, got)
			}
			if got := api.KindOf(res.Err); got != tt.kind {
				t.Errorf("%s: kind %q, want %q: %v", tt.name, got, tt.kind, res.Err)
			}
			if got := data(r.get("ConfigMap", "a"))["key"]; got != "mine" {
				t.Fatalf("%s: the object was applied over: %q", tt.name, got)
			}
			if diff := cmp.Diff(inv, res.Inventory); diff != "" {
				t.Errorf("%s: inventory changed:\n%s", tt.name, diff)
			}
		}
	}
	r.calls.setFault(nil)
	res := r.apply(inv, configMap("a", "2"))
	if got := actions(res.Changes)["ConfigMap/a"]; got != api.Skipped {
		t.Errorf("action %q, want skipped: %+v", got, res.Changes)
	}
	if len(res.Inventory) != 1 {
		t.Errorf("inventory %v: a skipped object stays owned", res.Inventory)
	}
	// A store that was lost knows no entry: the object is found by the attempt to create it.
	res = r.apply(nil, configMap("a", "2"))
	if got := actions(res.Changes)["ConfigMap/a"]; got != api.Skipped {
		t.Errorf("without inventory: action %q, want skipped", got)
	}
	if got := data(r.get("ConfigMap", "a"))["key"]; got != "mine" {
		t.Errorf("without inventory: applied over: %q", got)
	}
}

func TestOneBadObjectFailsOnlyItself(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := `{apiVersion: v1, kind: Service, metadata: {name: bad, namespace: NS}, spec: {ports: [{port: 99999}]}}`
	undeclared := `{apiVersion: v1, kind: ConfigMap, metadata: {name: typo, namespace: NS}, dta: {a: b}}`
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("a", "1"), bad, undeclared, configMap("z", "1"))})
	want := map[string]api.Action{"ConfigMap/a": api.Created, "ConfigMap/z": api.Created, "Service/bad": api.Failed, "ConfigMap/typo": api.Failed}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/a", "ConfigMap/z"}, names(res.Inventory)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	for _, part := range []string{"Service/" + r.ns + "/bad", "spec.ports[0].port", "apps/service.yaml", "ConfigMap/" + r.ns + "/typo", "dta"} {
		if !strings.Contains(res.Err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, res.Err)
		}
	}
	if got := api.KindOf(res.Err); got != api.Stalled {
		t.Errorf("kind %q, want stalled", got)
	}
}

func TestImmutableFields(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := func(image, annotation string) string {
		return `{apiVersion: batch/v1, kind: Job, metadata: {name: j, namespace: NS, annotations: {` + annotation + `}},
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "` + image + `"}]}}}}`
	}
	inv := r.apply(nil, job("one", "")).Inventory
	uid := r.get("Job", "j").GetUID()

	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(job("two", "")), Inventory: inv})
	e := apiError(t, res.Err)
	if e.Kind != api.Stalled || e.Reason != "ImmutableField" || e.Field != "spec.template" || !strings.Contains(e.Error(), api.AnnotationForce) {
		t.Errorf("error %+v, want one that names the field and the annotation", e)
	}
	if got := r.get("Job", "j"); got == nil || got.GetUID() != uid {
		t.Fatal("the Job was touched without being asked to")
	}
	// A mere validation error never recreates, force or not; and neither does one beside an immutable field.
	res = r.Apply(t.Context(), apply.Request{Bundle: r.rendered(job("", `flotilla.dev/force: enabled`)), Inventory: inv})
	if res.Err == nil {
		t.Error("an empty image was accepted")
	}
	if got := r.get("Job", "j"); got == nil || got.GetUID() != uid {
		t.Fatal("the Job was deleted for a validation error")
	}
	// A look does not delete, whatever the annotations say.
	if in := r.Inspect(t.Context(), r.rendered(), r.object(job("two", `flotilla.dev/force: enabled`))); in.Err != nil || in.Refused == nil || in.DryRun == nil {
		t.Errorf("the dry run of an immutable change: %v, refused: %v, to compare with: %v", in.Err, in.Refused, in.DryRun != nil)
	}
	if got := r.get("Job", "j"); got == nil || got.GetUID() != uid {
		t.Fatal("a dry run deleted the Job")
	}

	res = r.apply(inv, job("two", `flotilla.dev/force: enabled`))
	if got := actions(res.Changes)["Job/j"]; got != api.Recreated {
		t.Errorf("action %q, want recreated", got)
	}
	live := r.get("Job", "j")
	if live == nil || live.GetUID() == uid || res.Inventory[0].UID != string(live.GetUID()) {
		t.Errorf("the Job was not recreated, or the inventory does not know: %v", res.Inventory)
	}
}

func TestTakesOverFromKubectlAndHelmOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("kubectl-client-side-apply", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: {key: old, gone: kubectl}}`)
	r.patch("helm", "ConfigMap", "a", `{"data":{"chart":"helm"}}`)
	r.patch("some-controller", "ConfigMap", "a", `{"data":{"kept":"controller"}}`)
	r.patch("kubectl-annotate", "ConfigMap", "a", `{"metadata":{"annotations":{"note":"mine"}}}`)
	inv := r.apply(nil, configMap("a", "new")).Inventory
	live := r.get("ConfigMap", "a")
	if diff := cmp.Diff(map[string]string{"key": "new", "kept": "controller"}, data(live)); diff != "" {
		t.Errorf("data after the takeover (-want +got):\n%s", diff)
	}
	if live.GetAnnotations()["note"] != "mine" {
		t.Error("an annotation that nobody declared was removed")
	}

	// Later, what kubectl edit shares with us is ours alone; what it added is not touched.
	r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"key":"edited","added":"by hand"}}`)
	inv = r.apply(inv, configMap("a", "edited")).Inventory
	r.apply(inv, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: {other: x}}`)
	if diff := cmp.Diff(map[string]string{"other": "x", "kept": "controller", "added": "by hand"}, data(r.get("ConfigMap", "a"))); diff != "" {
		t.Errorf("data after the field left Git (-want +got):\n%s", diff)
	}
}

func TestSSAModes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	doc := func(name, mode, value string) string {
		return `{apiVersion: v1, kind: ConfigMap, metadata: {name: ` + name + `, namespace: NS, annotations: {flotilla.dev/ssa: ` + mode + `}}, data: {key: ` + value + `}}`
	}
	r.create("kubectl-client-side-apply", `{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: NS}, data: {key: theirs}}`)
	r.create("kubectl-client-side-apply", `{apiVersion: v1, kind: ConfigMap, metadata: {name: merged, namespace: NS}, data: {key: theirs, own: kept}}`)
	res := r.apply(nil, doc("there", "IfNotPresent", "git"), doc("new", "IfNotPresent", "git"), doc("merged", "Merge", "git"))
	want := map[string]api.Action{"ConfigMap/there": api.Skipped, "ConfigMap/new": api.Created, "ConfigMap/merged": api.Updated}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/merged", "ConfigMap/new"}, names(res.Inventory)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"key": "git", "own": "kept"}, data(r.get("ConfigMap", "merged"))); diff != "" {
		t.Errorf("merged data (-want +got):\n%s", diff)
	}
	res = r.apply(res.Inventory, doc("there", "IfNotPresent", "two"), doc("new", "IfNotPresent", "two"), doc("merged", "Merge", "git"))
	if got := data(r.get("ConfigMap", "new"))["key"]; got != "git" || actions(res.Changes)["ConfigMap/new"] != api.Skipped {
		t.Errorf("IfNotPresent wrote again: %q, %v", got, actions(res.Changes))
	}
	if diff := cmp.Diff([]string{"ConfigMap/merged", "ConfigMap/new"}, names(res.Inventory)); diff != "" {
		t.Errorf("inventory of the second pass (-want +got):\n%s", diff)
	}
}

func TestCRDAndInstanceInOneCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	group := r.ns + ".example.com"
	crd := `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.` + group + `}
spec:
  group: ` + group + `
  scope: Cluster
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}}]`
	widget := `{apiVersion: ` + group + `/v1, kind: Widget, metadata: {name: w}, spec: {size: 3}}`
	inner := `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS-inner}}`
	ns := `{apiVersion: v1, kind: Namespace, metadata: {name: NS-inner}}`
	res := r.apply(nil, widget, inner, crd, ns)
	if n := res.Changes.Count(api.Created); n != 4 {
		t.Errorf("%d created, want 4: %+v", n, res.Changes.Changes)
	}
	if got := res.Changes.Changes[0].Object.Kind; got != "CustomResourceDefinition" {
		t.Errorf("the first is %s, want the CRD", got)
	}
	// A field that the schema does not have is told, and not dropped in silence.
	typo := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(crd, ns, strings.Replace(widget, "size", "sze", 1)), Inventory: res.Inventory})
	if typo.Err == nil || !strings.Contains(typo.Err.Error(), "sze") || api.KindOf(typo.Err) != api.Stalled {
		t.Errorf("a field that is not in the schema: %v", typo.Err)
	}
	// In reverse: the instance goes before its CRD, and all is gone in one pass.
	pruned := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: res.Inventory})
	if pruned.Err != nil || len(pruned.Inventory) != 0 || pruned.Changes.Count(api.Pruned) != 4 {
		t.Errorf("prune: %v, left %v, %+v", pruned.Err, names(pruned.Inventory), pruned.Changes.Changes)
	}
	if last := pruned.Changes.Changes[3].Object.Kind; last != "CustomResourceDefinition" {
		t.Errorf("the last to be pruned is %s, want the CRD", last)
	}

	// A CRD that is refused holds back its instances, and nothing else.
	broken := strings.Replace(crd, "plural: widgets", "plural: others", 1)
	res = r.Apply(t.Context(), apply.Request{Bundle: r.rendered(broken, widget, configMap("free", "1"))})
	want := map[string]api.Action{
		"CustomResourceDefinition/widgets." + group: api.Failed, "Widget/w": api.Failed, "ConfigMap/free": api.Created,
	}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if !strings.Contains(res.Err.Error(), "waits for the CRD of Widget."+group) {
		t.Errorf("the instance's error does not name its CRD: %v", res.Err)
	}
}

// An aggregated API server that is down is not taken for a kind that is gone: what it holds stays in the inventory.
func TestUnavailableKindsStayInTheInventory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	entry := api.InventoryEntry{Object: api.ObjectRef{Group: "down.example.com", Version: "v1", Kind: "Thing", Name: "x"}}
	prune := func() apply.Result {
		return r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: []api.InventoryEntry{entry}})
	}
	r.calls.setFault(func(req *http.Request) *http.Response {
		if strings.HasPrefix(req.URL.Path, "/apis/down.example.com") {
			return answer(503, "ServiceUnavailable", "the server is currently unable to handle the request")
		}
		return nil
	})
	if res := prune(); len(res.Inventory) != 1 || api.KindOf(res.Err) != api.Transient {
		t.Errorf("while it is down: %+v", res)
	}
	r.calls.setFault(nil)
	if res := prune(); len(res.Inventory) != 0 || res.Err != nil {
		t.Errorf("when it is gone: %+v", res)
	}
}

func TestMissingNamespaceIsWaiting(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS-nowhere}}`, configMap("b", "1"))})
	if e := apiError(t, res.Err); e.Kind != api.Waiting || e.Reason != "NamespaceMissing" {
		t.Errorf("error %+v, want waiting for the namespace", e)
	}
	if got := actions(res.Changes)["ConfigMap/b"]; got != api.Created {
		t.Errorf("the object beside it: %q", got)
	}
	res = r.Apply(t.Context(), apply.Request{Bundle: r.rendered(`{apiVersion: nowhere.example.com/v1, kind: Thing, metadata: {name: a}}`)})
	if e := apiError(t, res.Err); e.Kind != api.Waiting || e.Reason != "KindMissing" {
		t.Errorf("error %+v, want waiting for the kind", e)
	}
}

func TestSuspendedObjectsAreNotTouched(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	held := func(ref api.ObjectRef) (api.Suspension, bool) {
		return api.Suspension{Name: "incident", Reason: "INC-1"}, ref.Name == "a"
	}
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("a", "1"), configMap("b", "1")), Held: held})
	if diff := cmp.Diff(map[string]api.Action{"ConfigMap/a": api.Skipped, "ConfigMap/b": api.Created}, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	inv := r.apply(res.Inventory, configMap("a", "1"), configMap("b", "1")).Inventory
	r.calls.reset()
	pruned := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv, Held: held})
	if diff := cmp.Diff([]string{"ConfigMap/a"}, names(pruned.Inventory)); diff != "" {
		t.Errorf("left in the inventory (-want +got):\n%s", diff)
	}
	if r.get("ConfigMap", "a") == nil || r.get("ConfigMap", "b") != nil {
		t.Error("the wrong one was pruned")
	}
}

func TestCompareAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("a", "1"), configMap("b", "1"), configMap("c", "1")).Inventory
	r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"key":"drift"}}`)
	r.delete("ConfigMap", "b")
	rv := r.get("ConfigMap", "c").GetResourceVersion()
	bundle := r.rendered(configMap("a", "1"), configMap("b", "1"), configMap("c", "1"))

	bundle.Spec.Drift.Mode = api.DriftReport
	res := r.Apply(t.Context(), apply.Request{Bundle: bundle, Inventory: inv, Compare: apply.CompareAll})
	if n := res.Changes.Count(api.Created, api.Updated); n != 0 || res.Err != nil {
		t.Errorf("mode report wrote: %+v %v", res.Changes.Changes, res.Err)
	}
	bundle.Spec.Drift.Mode = api.DriftCorrect
	res = r.Apply(t.Context(), apply.Request{Bundle: bundle, Inventory: inv, Compare: apply.CompareAll})
	want := map[string]api.Action{"ConfigMap/a": api.Updated, "ConfigMap/b": api.Created, "ConfigMap/c": api.Unchanged}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := r.get("ConfigMap", "c").GetResourceVersion(); got != rv {
		t.Error("an object without drift was written")
	}
}

// What somebody added before an apply, or while it ran, is looked for after it, where that is asked for.
func TestWhatWasAddedMeanwhileIsLookedFor(t *testing.T) {
	t.Parallel()
	for _, extra := range []api.ExtraMode{api.ExtraIgnore, api.ExtraReport, api.ExtraRemove} {
		r := newRig(t)
		inv := r.apply(nil, configMap("changed", "1"), configMap("same", "1"), configMap("untouched", "1"), configMap("stripped", "1")).Inventory
		r.patch("kubectl-edit", "ConfigMap", "changed", `{"data":{"added":"x"}}`)
		r.patch("kubectl-edit", "ConfigMap", "same", `{"data":{"added":"x"}}`)
		r.patch("kubectl-edit", "ConfigMap", "stripped", `{"data":{"added":"x"},"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
		bundle := r.rendered(configMap("changed", "2"), configMap("same", "1"), configMap("untouched", "1"), configMap("stripped", "1"), configMap("new", "1"))
		bundle.Spec.Drift.Extra = extra
		res := r.Apply(t.Context(), apply.Request{Bundle: bundle, Inventory: inv, Compare: apply.CompareAll})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		for _, e := range res.Inventory {
			want := extra != api.ExtraIgnore && e.Object.Name != "untouched" && e.Object.Name != "new"
			if got := e.ResourceVersion == "" && e.MetaDigest == ""; got != want {
				t.Errorf("extra: %s: %s is to be compared: %v, want %v", extra, e.Object.Name, got, want)
			}
		}
	}
}

func TestIgnoredFieldsKeepTheirLiveValues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	deploy := func(replicas, image string) string {
		return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: NS}, spec: {replicas: ` + replicas + `, selector: {matchLabels: {app: d}},
template: {metadata: {labels: {app: d}}, spec: {containers: [{name: main, image: ` + image + `, env: [{name: A, value: git}]}, {name: side, image: s}]}}}}`
	}
	b := r.rendered(deploy("2", "one"))
	b.Spec.Drift.Ignore = []api.IgnoreRule{{Target: api.IgnoreTarget{Kind: "Deployment"}, Paths: []string{"/spec/replicas"}, Managers: []string{"tuner"}}}
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	r.patch("autoscaler", "Deployment", "d", `{"spec":{"replicas":7}}`)
	if _, err := r.dyn.Resource(resources["Deployment"]).Namespace(r.ns).Patch(t.Context(), "d", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"tuned"}]}}}}`), patchOptions("tuner")); err != nil {
		t.Fatal(err)
	}
	b2 := r.rendered(deploy("2", "two"))
	b2.Spec = b.Spec
	res = r.Apply(t.Context(), apply.Request{Bundle: b2, Inventory: res.Inventory})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	live := r.get("Deployment", "d")
	replicas, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	containers, _, _ := unstructured.NestedSlice(live.Object, "spec", "template", "spec", "containers")
	got := map[string]any{"replicas": replicas}
	for _, c := range containers {
		m := c.(map[string]any)
		got[m["name"].(string)] = m["image"]
	}
	if diff := cmp.Diff(map[string]any{"replicas": int64(7), "main": "two", "side": "tuned"}, got); diff != "" {
		t.Errorf("after the change in Git (-want +got):\n%s", diff)
	}
}

func TestForeignApplySetsAndOtherBundles(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create("kubectl", `{apiVersion: v1, kind: ConfigMap, metadata: {name: foreign, namespace: NS, labels: {applyset.kubernetes.io/part-of: applyset-other-v1}}, data: {key: theirs}}`)
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("foreign", "1"))})
	if e := apiError(t, res.Err); e.Kind != api.Forbidden || actions(res.Changes)["ConfigMap/foreign"] != api.Denied || len(res.Inventory) != 0 {
		t.Errorf("result %+v", res)
	}
	if got := data(r.get("ConfigMap", "foreign"))["key"]; got != "theirs" {
		t.Errorf("a foreign object was written: %q", got)
	}

	// Moving between bundles: the new one takes over, the old one does not delete.
	inv := r.apply(nil, configMap("moves", "1")).Inventory
	uid := r.get("ConfigMap", "moves").GetUID()
	other := r.rendered(configMap("moves", "1"))
	other.Name = r.bundle + "-other"
	moved := r.Apply(t.Context(), apply.Request{Bundle: other})
	if moved.Err != nil || actions(moved.Changes)["ConfigMap/moves"] != api.Updated {
		t.Fatalf("move: %+v", moved)
	}
	pruned := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv})
	if pruned.Err != nil || len(pruned.Inventory) != 0 {
		t.Errorf("prune after the move: %+v", pruned)
	}
	if live := r.get("ConfigMap", "moves"); live == nil || live.GetUID() != uid {
		t.Error("the move deleted the object")
	}

	// Declared twice: who does not have it is told, and does not write.
	res = r.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("twice", "1")), Declared: map[string][]string{"/ConfigMap/" + r.ns + "/twice": {"x", "y"}}})
	if e := apiError(t, res.Err); e.Reason != "DeclaredTwice" || r.get("ConfigMap", "twice") != nil {
		t.Errorf("error %+v", e)
	}
}
