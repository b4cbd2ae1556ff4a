package apply_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// A CRD drops a version in which somebody once wrote: the API server can no longer read that claim,
// and refuses every server-side apply of the object as long as it is there.
func TestVersionThatACRDDrops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	group := r.ns + ".example.com"
	crd := func(versions ...string) string {
		var b strings.Builder
		for i, v := range versions {
			storage := "false"
			if i == len(versions)-1 {
				storage = "true"
			}
			b.WriteString("{name: " + v + ", served: true, storage: " + storage + ", schema: {openAPIV3Schema: {type: object, properties: " +
				"{spec: {type: object, properties: {size: {type: integer}, note: {type: string}, gone: {type: string}, more: {type: string}}}}}}}, ")
		}
		return `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.` + group + `}, ` +
			`spec: {group: ` + group + `, scope: Cluster, names: {kind: Widget, plural: widgets}, versions: [` + b.String() + `]}}`
	}
	widget := func(version, name, spec string) string {
		return `{apiVersion: ` + group + `/` + version + `, kind: Widget, metadata: {name: ` + name + `}, spec: {` + spec + `}}`
	}
	all := func(crd, version, spec string) []string {
		return []string{crd, widget(version, "ours", spec), widget(version, "shared", spec), widget(version, "edited", spec)}
	}
	old, now := schema.GroupVersionResource{Group: group, Version: "v1alpha1", Resource: "widgets"}, schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}
	edit := func(in schema.GroupVersionResource, name, manager, merge string) {
		t.Helper()
		_, err := r.dyn.Resource(in).Patch(t.Context(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
	}
	left := r.apply(nil, crd("v1alpha1"), widget("v1alpha1", "left", "size: 1")).Inventory[1:]
	inv := r.apply(nil, all(crd("v1alpha1"), "v1alpha1", "size: 1, gone: x")...).Inventory
	edit(old, "shared", "operator", `{"spec":{"note":"mine"}}`)
	edit(old, "edited", "kubectl-edit", `{"spec":{"size":7,"note":"mine"}}`)
	inv = r.apply(inv, all(crd("v1alpha1", "v1"), "v1alpha1", "size: 1, gone: x")...).Inventory
	eventually(t, "the new version is served", func() bool {
		_, err := r.dyn.Resource(now).Get(t.Context(), "shared", metav1.GetOptions{})
		return err == nil
	})
	edit(now, "shared", "operator", `{"spec":{"more":"mine"}}`) // one writer in both versions
	for _, name := range []string{"ours", "shared", "edited", "left"} {
		edit(now, name, "migrator", `{}`) // what a storage version migrator does
	}
	_, err := r.dyn.Resource(resources["CRD"]).Patch(t.Context(), "widgets."+group, types.MergePatchType,
		[]byte(`{"status":{"storedVersions":["v1"]}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}

	// The commit that drops the version, as a project's new release does: its objects come in the new one.
	inv = append(r.apply(inv, crd("v1")).Inventory, inv[1:]...)
	if in := r.Inspect(t.Context(), r.rendered(), r.object(widget("v1", "edited", "size: 2"))); in.Err != nil || in.DryRun == nil {
		t.Errorf("drift cannot be told: %v", in.Err)
	}
	diffs, err := r.Diff(t.Context(), apply.DiffRequest{Request: apply.Request{Bundle: r.rendered(all(crd("v1"), "v1", "size: 2")...), Inventory: inv}})
	if err != nil || len(diffs) != 4 {
		t.Fatalf("diff: %v, %d objects", err, len(diffs))
	}
	for _, d := range diffs[1:] {
		if d.Step.Err != nil || d.Step.Action != api.Updated || d.DryRun == nil {
			t.Errorf("diff of %s: %s, %v", d.Step.Object, d.Step.Action, d.Step.Err)
		}
	}
	// What is known to us in the old version is there in the new one, and is not taken for gone.
	if in := r.InspectExtra(t.Context(), r.rendered(), left[0].Object); in.Err != nil || in.Live == nil {
		t.Errorf("an object in a version that is gone: %v, %v", in.Live, in.Err)
	}
	var wrong error
	eventually(t, "what left Git is deleted in the version that there is", func() bool {
		res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: left})
		_, err := r.dyn.Resource(now).Get(t.Context(), "left", metav1.GetOptions{})
		if apierrors.IsNotFound(err) != (len(res.Inventory) == 0) {
			wrong = fmt.Errorf("the inventory holds %d, and of the object the API server says: %w", len(res.Inventory), err)
		}
		return wrong != nil || apierrors.IsNotFound(err)
	})
	if wrong != nil {
		t.Error(wrong)
	}
	none := left[0].Object
	none.Name = "nobody"
	if in := r.InspectExtra(t.Context(), r.rendered(), none); in.Err != nil || in.Live != nil {
		t.Errorf("an object that is not there: %v, %v", in.Live, in.Err)
	}
	r.calls.setFault(func(req *http.Request) *http.Response {
		if strings.HasSuffix(req.URL.Path, "/nobody") {
			return answer(500, "InternalError", "boom")
		}
		return nil
	})
	if in := r.InspectExtra(t.Context(), r.rendered(), none); in.Err == nil {
		t.Error("an object that cannot be read is taken for one that is not there")
	}
	r.calls.setFault(nil)

	// A drift is corrected at the second look: the first one moved the claims, after which nothing is as it was looked at.
	correct := func() error {
		t.Helper()
		live, err := r.dyn.Resource(now).Get(t.Context(), "ours", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := r.object(widget("v1", "ours", "size: 1"))
		_, err = r.Correct(t.Context(), r.rendered(), want, live)
		return err
	}
	edit(now, "ours", "kubectl-edit", `{"spec":{"size":9}}`)
	if err := correct(); apiError(t, err).Reason != "Conflict" {
		t.Errorf("first correction: %v, want a conflict", err)
	}
	if err := correct(); err != nil {
		t.Errorf("second correction: %v", err)
	}
	inv = r.apply(inv, all(crd("v1"), "v1", "size: 2")...).Inventory

	for name, want := range map[string][]any{"ours": {nil, nil}, "shared": {"mine", "mine"}, "edited": {"mine", nil}} {
		live, err := r.dyn.Resource(now).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec, _ := live.Object["spec"].(map[string]any)
		if spec["size"] != int64(2) || spec["note"] != want[0] || spec["more"] != want[1] || spec["gone"] != nil {
			t.Errorf("%s: %v, want size 2, what others added, and nothing of what left Git", name, spec)
		}
		for _, e := range live.GetManagedFields() {
			if e.APIVersion != group+"/v1" {
				t.Errorf("%s: %s still claims fields in %s", name, e.Manager, e.APIVersion)
			}
		}
		if n := strings.Count(string(must(live.MarshalJSON())), `"manager":"operator"`); name == "shared" && n != 1 {
			t.Errorf("the operator has %d entries, want its two joined", n)
		}
	}
	if res := r.apply(inv, all(crd("v1"), "v1", "size: 2")...); res.Changes.Count(api.Unchanged) != 4 {
		t.Errorf("another pass: %+v", res.Changes.Changes)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
