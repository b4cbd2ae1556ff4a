package apply_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// brought is a Deployment as people bring it; metadata, spec, container and env are YAML inside of those.
func brought(metadata, spec, image, env string) string {
	return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS, ` + metadata + `}, spec: {replicas: 0, ` + spec + `selector: {matchLabels: {app: web}}, ` +
		`template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "` + image + `", env: [` + env + `]}]}}}}`
}

// What people bring, by whatever tool it was applied before: taken over, a field changed, a field dropped, an item dropped,
// the object dropped, each as if it had always been ours. What of it Git never said is gone with the take-over.
func TestOwnershipThatPeopleBring(t *testing.T) {
	t.Parallel()
	const update, ssa = metav1.ManagedFieldsOperationUpdate, metav1.ManagedFieldsOperationApply
	for name, tt := range map[string]struct {
		manager string
		op      metav1.ManagedFieldsOperationType
		named   bool // the policy must name it
	}{
		"kubectl apply":               {"kubectl-client-side-apply", update, false},
		"kubectl apply --server-side": {"kubectl", ssa, false},
		"kubectl create":              {"kubectl-create", update, false},
		"kubectl edit":                {"kubectl-edit", update, false},
		"Helm 3":                      {"helm", update, false},
		"Helm 4":                      {"helm", ssa, false},
		"kustomize-controller":        {"kustomize-controller", ssa, false},
		"helm-controller":             {"helm-controller", update, false},
		"helm-controller, Helm 4":     {"helm-controller", ssa, false},
		"Argo CD":                     {"argocd-controller", update, false},
		"Argo CD, server-side":        {"argocd-controller", ssa, false},
		"Terraform":                   {"HashiCorp", update, true},
		"Terraform's manifest":        {"Terraform", ssa, true},
		"kpt":                         {"kpt", ssa, true},
		"Rancher Fleet":               {"fleetagent", update, true},
		"Config Sync":                 {"configsync", ssa, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			at := r.dyn.Resource(resources["Deployment"]).Namespace(r.ns)
			o := r.object(brought(`labels: {team: a, theirs: x}, annotations: {note: a, theirs: x}`, "minReadySeconds: 5, revisionHistoryLimit: 3, ", "web:0", `{name: A, value: "0"}, {name: B, value: b}, {name: THEIRS, value: x}`))
			var err error
			if tt.op == ssa {
				_, err = at.Apply(t.Context(), "web", o, metav1.ApplyOptions{FieldManager: tt.manager})
			} else {
				_, err = at.Create(t.Context(), o, metav1.CreateOptions{FieldManager: tt.manager})
			}
			if err != nil {
				t.Fatal(err)
			}
			uid := r.get("Deployment", "web").GetUID()
			var inv []api.InventoryEntry
			step := func(what, doc, want string) {
				t.Helper()
				b := r.rendered(doc)
				if tt.named {
					b.Spec.Drift.TakeOver = []string{tt.manager}
				}
				res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inv})
				if res.Err != nil {
					t.Fatal(what, res.Err)
				}
				inv = res.Inventory
				live := r.get("Deployment", "web")
				if got := summed(live); got != want || live.GetUID() != uid {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
			}
			full := `{name: A, value: "1"}, {name: B, value: b}`
			step("taken over", brought(`labels: {team: a}, annotations: {note: a}`, "minReadySeconds: 5, ", "web:1", full), "team=a note=a 5 10 web:1 A=1 B=b")
			step("a field changed", brought(`labels: {team: b}, annotations: {note: a}`, "minReadySeconds: 6, ", "web:2", full), "team=b note=a 6 10 web:2 A=1 B=b")
			step("fields dropped", brought(`labels: {team: b}`, "", "web:2", full), "team=b note= <nil> 10 web:2 A=1 B=b")
			step("an item dropped", brought(`labels: {team: b}`, "", "web:2", `{name: B, value: b}`), "team=b note= <nil> 10 web:2 B=b")
			if res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv}); res.Err != nil || r.get("Deployment", "web") != nil {
				t.Errorf("the object dropped: %v, and it is there: %v", res.Err, r.get("Deployment", "web") != nil)
			}
		})
	}
}

// summed is a Deployment in one line.
func summed(o *unstructured.Unstructured) string {
	spec := o.Object["spec"].(map[string]any)
	env, _ := valueAt(spec, "template", "spec", "containers", "0", "env").([]any)
	s := fmt.Sprintf("team=%s note=%s %v %v %v", o.GetLabels()["team"], o.GetAnnotations()["note"], spec["minReadySeconds"], spec["revisionHistoryLimit"],
		valueAt(spec, "template", "spec", "containers", "0", "image"))
	if o.GetLabels()["theirs"] != "" || o.GetAnnotations()["theirs"] != "" {
		s += " and what is theirs"
	}
	for _, e := range env {
		s += fmt.Sprintf(" %v=%v", e.(map[string]any)["name"], e.(map[string]any)["value"])
	}
	return s
}

// What a rule leaves to others by its path stays at every write: at the take-over, with a commit, with a correction
// that takes away what others added, and where room is made.
func TestIgnoredFieldsOutliveTheirClaims(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	git := func(a string) []string {
		return []string{
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS}, data: {a: "` + a + `"}}`,
			podOf("", "", "", `env: [{name: A, value: "`+a+`"}]`),
		}
	}
	bundle := func(a string, extra api.ExtraMode) api.RenderedBundle {
		b := r.rendered(git(a)...)
		b.Spec.Drift = api.Drift{Mode: api.DriftCorrect, Extra: extra, Ignore: []api.IgnoreRule{{Paths: []string{"/data/keep", "/metadata/annotations/keep", "/spec/minReadySeconds"}}}}
		return b
	}
	r.create("kubectl-create", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS, annotations: {keep: x}}, data: {a: "0", keep: theirs, gone: x}}`)
	r.create("kubectl-create", podOf("", "minReadySeconds: 4, ", "", `env: [{name: A, value: "0"}, {name: GONE, value: x}]`))
	kept := func(what string) {
		t.Helper()
		cm, web := r.get("ConfigMap", "a"), r.get("Deployment", "web")
		got := fmt.Sprintf("%v %v %v %v", data(cm), cm.GetAnnotations()["keep"], valueAt(web.Object, "spec", "minReadySeconds"), valueAt(web.Object, "spec", "template", "spec", "containers", "0", "env"))
		if d := cmp.Diff("map[a:1 keep:theirs] x 4 [map[name:A value:1]]", got); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	res := r.Apply(t.Context(), apply.Request{Bundle: bundle("1", "")})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	kept("taken over")
	r.patch("kubectl-patch", "ConfigMap", "a", `{"data":{"a":"x","gone":"x"},"metadata":{"annotations":{"keep":"x"}}}`)
	r.patch("kubectl-edit", "Deployment", "web", `{"spec":{"minReadySeconds":4,"paused":true}}`)
	b := bundle("1", api.ExtraRemove)
	for i, kind := range []string{"ConfigMap", "Deployment"} {
		eventually(t, "the object holds still", func() bool {
			_, err := r.Correct(t.Context(), b, b.Objects[i], r.get(kind, b.Objects[i].GetName()))
			return err == nil
		})
	}
	kept("corrected")
	if res = r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory, Compare: apply.CompareAll}); res.Err != nil {
		t.Error(res.Err)
	}
	kept("a full pass")
}
