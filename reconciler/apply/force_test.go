package apply_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// forcedService asks to be forced. Ports are "name number"; more is YAML inside its first port.
func forcedService(note, port, more string) string {
	return `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: NS, annotations: {flotilla.dev/force: enabled, note: "` + note + `"}},
		spec: {selector: {app: web}, ports: [{name: http, port: ` + port + more + `}]}}`
}

// claims are who claims fields of an object, and how.
func claims(o *unstructured.Unstructured) string {
	var out []string
	for _, e := range o.GetManagedFields() {
		out = append(out, e.Manager+"/"+string(e.Operation)+" "+e.FieldsV1.GetRawString())
	}
	return strings.Join(out, "\n")
}

// told is a witness that knows what was applied and remembers who it was told of.
type told struct {
	lastApplied
	managers *[]string
}

func (w told) Found(_ context.Context, _ api.ObjectRef, in apply.Inspection) error {
	*w.managers = append(*w.managers, claims(in.Live))
	return nil
}

// policy has the API server refuse updates of a resource in the test's namespace for which an expression does not hold.
func (r *rig) policy(group, resource, holds, message, reason string) {
	r.t.Helper()
	for resource, doc := range map[string]string{
		"validatingadmissionpolicies": `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: NS}, spec: {failurePolicy: Fail,
			matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NS}}, resourceRules: [{apiGroups: ["` + group + `"], apiVersions: [v1], operations: [UPDATE], resources: [` + resource + `]}]},
			validations: [{expression: "` + holds + `", reason: ` + reason + `, message: "` + message + `"}]}}`,
		"validatingadmissionpolicybindings": `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: NS}, spec: {policyName: NS, validationActions: [Deny]}}`,
	} {
		at := r.dyn.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource})
		if _, err := at.Create(r.t.Context(), r.object(doc), metav1.CreateOptions{}); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = at.Delete(context.WithoutCancel(r.t.Context()), r.ns, metav1.DeleteOptions{}) })
	}
}

// What was in the way is told before it is taken away, and once: by a commit and by a full pass alike.
func TestMakingRoomKeepsTheEvidence(t *testing.T) {
	t.Parallel()
	for name, compare := range map[string]apply.Compare{"a commit": apply.CompareChanged, "a full pass": apply.CompareAll} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			inv := r.apply(nil, forcedService("one", "80", "")).Inventory
			r.patch("kubectl-edit", "Service", "web", `{"metadata":{"labels":{"mine":"yes"}},"spec":{"ports":[{"name":"http","port":81}]}}`)
			note := "one"
			if compare == apply.CompareChanged {
				note = "two"
			}
			var managers []string
			res := r.Apply(t.Context(), apply.Request{
				Bundle: r.rendered(forcedService(note, "80", "")), Inventory: inv, Compare: compare,
				Witness: told{lastApplied{r.rendered(forcedService("one", "80", ""))}, &managers},
			})
			if res.Err != nil || actions(res.Changes)["Service/web"] != api.Updated {
				t.Fatalf("%v: %+v", res.Err, res.Changes)
			}
			if len(managers) != 1 || !strings.Contains(managers[0], "kubectl-edit/Update") {
				t.Errorf("the witness was told of %q", managers)
			}
			live := r.get("Service", "web")
			if ports, _, _ := unstructured.NestedSlice(live.Object, "spec", "ports"); len(ports) != 1 || ports[0].(map[string]any)["port"] != int64(80) {
				t.Errorf("ports %v", ports)
			}
		})
	}
}

// Where room was made for nothing the claims are given back; and for another refusal none is made.
func TestMakingRoomCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, forcedService("one", "80", "")).Inventory
	r.patch("kubectl-edit", "Service", "web", `{"metadata":{"labels":{"mine":"yes"}},"spec":{"ports":[{"name":"http","port":81}]}}`)
	before := claims(r.get("Service", "web"))
	r.policy("", "services", "!object.spec.ports.exists(p, p.port == 80) && !('note' in object.metadata.annotations && object.metadata.annotations['note'] == 'two')", "not allowed", "Invalid")
	eventually(t, "the policy works", func() bool {
		_, err := r.dyn.Resource(resources["Service"]).Namespace(r.ns).Patch(t.Context(), "web", "application/merge-patch+json",
			[]byte(`{"metadata":{"annotations":{"note":"two"}}}`), metav1.PatchOptions{DryRun: []string{"All"}})
		return err != nil
	})
	// "one" fits if room is made, and is refused all the same; "two" without another port is refused for no lack of room.
	for _, doc := range []string{forcedService("one", "80", ""), forcedService("two", "81", "")} {
		for _, compare := range []apply.Compare{apply.CompareChanged, apply.CompareAll} {
			res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(doc), Inventory: []api.InventoryEntry{{Object: inv[0].Object}}, Compare: compare})
			if res.Err == nil || !strings.Contains(res.Err.Error(), "not allowed") {
				t.Errorf("%q: %v", compare, res.Err)
			}
			if now := claims(r.get("Service", "web")); now != before {
				t.Errorf("%q: the claims were\n%s\nand are\n%s", compare, before, now)
			}
		}
	}
	b := r.rendered(forcedService("one", "80", ""))
	if _, err := r.Correct(t.Context(), b, b.Objects[0], r.get("Service", "web")); err == nil {
		t.Error("the correction was not refused")
	}
	if now := claims(r.get("Service", "web")); now != before {
		t.Errorf("after a correction the claims were\n%s\nand are\n%s", before, now)
	}
}

// A denial by a policy is told as one, whatever its words: it is no immutable field, and nothing is recreated in spite of it.
func TestDenialIsNoImmutableField(t *testing.T) {
	t.Parallel()
	for reason, force := range map[string]string{"Invalid": "enabled", "Forbidden": "enabled", "RequestEntityTooLarge": "disabled"} {
		t.Run(reason, func(t *testing.T) {
			r := newRig(t)
			doc := func(image string) string {
				return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: NS, annotations: {flotilla.dev/force: ` + force + `}}, spec: {replicas: 0,
					selector: {matchLabels: {app: d}}, template: {metadata: {labels: {app: d}}, spec: {containers: [{name: main, image: ` + image + `}]}}}}`
			}
			inv := r.apply(nil, doc("one")).Inventory
			uid := r.get("Deployment", "d").GetUID()
			r.policy("apps", "deployments", "false", "updates to prod workloads are forbidden during the freeze: all is immutable and cannot be changed", reason)
			eventually(t, "the policy works", func() bool {
				_, err := r.dyn.Resource(resources["Deployment"]).Namespace(r.ns).Patch(t.Context(), "d", "application/merge-patch+json",
					[]byte(`{"metadata":{"annotations":{"note":"two"}}}`), metav1.PatchOptions{DryRun: []string{"All"}})
				return err != nil
			})
			told := func(err error) {
				t.Helper()
				if e := apiError(t, err); e.Kind != api.Forbidden || e.Reason != "AdmissionDenied" || strings.Contains(err.Error(), api.AnnotationForce) || !strings.Contains(err.Error(), "prod workloads") {
					t.Errorf("told as %+v: %v", e, err)
				}
			}
			for _, compare := range []apply.Compare{apply.CompareChanged, apply.CompareAll} {
				told(r.Apply(t.Context(), apply.Request{Bundle: r.rendered(doc("two")), Inventory: inv, Compare: compare}).Err)
			}
			diffs, err := r.Diff(t.Context(), apply.DiffRequest{Request: apply.Request{Bundle: r.rendered(doc("two")), Inventory: inv}})
			if err != nil || len(diffs) != 1 {
				t.Fatal(err, diffs)
			}
			told(diffs[0].Step.Err)
			b := r.rendered(doc("two"))
			_, err = r.Correct(t.Context(), b, b.Objects[0], r.get("Deployment", "d"))
			told(err)
			if live := r.get("Deployment", "d"); live == nil || live.GetUID() != uid {
				t.Fatal("it was deleted and created during the freeze")
			}
		})
	}
}

// flotilla diff shows what making room takes away, the ways out where it may not be made, and refusals as what they are.
func TestDiffOfWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, doc, want string
		err             string
	}{
		{"forced", forcedService("one", "80", ""), "changed /metadata/labels/mine, changed /spec/ports/[port=81,protocol=TCP], removed /spec/ports/[port=80,protocol=TCP]", ""},
		{"not forced", strings.Replace(forcedService("one", "80", ""), "flotilla.dev/force: enabled", "a: b", 1), "", "what kubectl-edit added is in its place"},
		{"wrong", forcedService("one", "99999", ""), "", "must be between 1 and 65535"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			first := strings.Replace(tt.doc, "99999", "80", 1)
			inv := r.apply(nil, first).Inventory
			r.patch("kubectl-edit", "Service", "web", `{"metadata":{"labels":{"mine":"yes"}},"spec":{"ports":[{"name":"http","port":81}]}}`)
			diffs, err := r.Diff(t.Context(), apply.DiffRequest{Request: apply.Request{Bundle: r.rendered(tt.doc), Inventory: inv}})
			if err != nil || len(diffs) != 1 {
				t.Fatal(err, diffs)
			}
			d := diffs[0]
			if tt.err != "" {
				if d.Step.Err == nil || !strings.Contains(fmt.Sprint(d.Step.Err), tt.err) || d.Step.Action != api.Failed {
					t.Errorf("%s, %v", d.Step.Action, d.Step.Err)
				}
				return
			}
			var got []string
			for _, f := range drift.Compare(drift.Input{Desired: d.Desired, Live: d.Live, DryRun: d.DryRun}).Fields {
				got = append(got, string(f.Class)+" "+f.Path)
			}
			if s := strings.Join(got, ", "); d.Step.Action != api.Updated || s != tt.want {
				t.Errorf("%s (%v): %s, want %s", d.Step.Action, d.Step.Err, s, tt.want)
			}
		})
	}
}
