package apply_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

func TestInspectAndCorrect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bundle := r.rendered(configMap("a", "1"))
	desired := bundle.Objects[0]
	r.apply(nil, configMap("a", "1"))

	in := r.Inspect(t.Context(), bundle, desired)
	if in.Err != nil || in.Live.GetResourceVersion() != in.DryRun.GetResourceVersion() {
		t.Fatalf("in sync: %+v", in)
	}
	r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"key":"drift","added":"x"},"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
	in = r.Inspect(t.Context(), bundle, desired)
	if in.Err != nil || data(in.Live)["key"] != "drift" || data(in.DryRun)["key"] != "1" {
		t.Fatalf("drifted: %+v", in)
	}
	if got := data(r.get("ConfigMap", "a"))["key"]; got != "drift" {
		t.Fatalf("a look changed the object: %q", got)
	}
	stale := in.Live
	r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"key":"drifts on"}}`)
	if _, err := r.Correct(t.Context(), bundle, desired, stale); err == nil || apiError(t, err).Reason != "Conflict" {
		t.Errorf("corrected what was not compared: %v", err)
	}
	in = r.Inspect(t.Context(), bundle, desired)
	r.calls.reset()
	e, err := r.Correct(t.Context(), bundle, desired, in.Live)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{http.MethodPatch: 1}, r.calls.verbs()); diff != "" {
		t.Errorf("requests of a correction (-want +got):\n%s", diff)
	}
	live := r.get("ConfigMap", "a")
	if diff := cmp.Diff(map[string]string{"key": "1", "added": "x"}, data(live)); diff != "" {
		t.Errorf("corrected (-want +got):\n%s", diff)
	}
	if e.ResourceVersion != live.GetResourceVersion() || e.Digest != apply.Digest(desired) || live.GetLabels()[api.LabelPartOf] != plan.ApplySetID(r.bundle) {
		t.Errorf("entry %+v of %v", e, live.GetLabels())
	}

	// Extra fields go too where the policy says so.
	bundle.Spec.Drift.Extra = api.ExtraRemove
	r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"added":"y"}}`)
	if _, err := r.Correct(t.Context(), bundle, desired, r.get("ConfigMap", "a")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"key": "1"}, data(r.get("ConfigMap", "a"))); diff != "" {
		t.Errorf("with extra: remove (-want +got):\n%s", diff)
	}

	// A missing object comes back; one that appeared meanwhile is not overwritten unseen.
	r.delete("ConfigMap", "a")
	in = r.Inspect(t.Context(), bundle, desired)
	if in.Err != nil || in.Live != nil || in.DryRun != nil {
		t.Fatalf("missing: %+v", in)
	}
	if r.get("ConfigMap", "a") != nil {
		t.Fatal("a look created the object")
	}
	if _, err := r.Correct(t.Context(), bundle, desired, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Correct(t.Context(), bundle, desired, nil); err == nil {
		t.Error("an object that is there was written as if missing")
	}

	// The break-glass annotation on the live object holds, and a failed read is an error.
	live = r.patch("kubectl-edit", "ConfigMap", "a", `{"data":{"key":"mine"},"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}}}`)
	if _, err := r.Correct(t.Context(), bundle, desired, live); err == nil {
		t.Error("corrected against the annotation")
	}
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodGet {
			return answer(500, "InternalError", "unwell")
		}
		return nil
	})
	if in := r.Inspect(t.Context(), bundle, desired); in.Err == nil {
		t.Error("a failed read was not reported as unknown")
	}
	r.calls.setFault(nil)
	if got := data(r.get("ConfigMap", "a"))["key"]; got != "mine" {
		t.Errorf("live value %q, want mine", got)
	}
}

func TestPruneOnlyWhatIsOurs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("go", "1"), configMap("stripped", "1"), configMap("kept", "1"), configMap("stuck", "1"), configMap("namesake", "1")).Inventory
	r.patch("kubectl-edit", "ConfigMap", "stripped", `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null}}}`)
	r.patch("kubectl-edit", "ConfigMap", "kept", `{"metadata":{"annotations":{"flotilla.dev/prune":"disabled"}}}`)
	r.delete("ConfigMap", "namesake")
	r.create("kubectl-create", configMap("namesake", "theirs"))
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodDelete && strings.HasSuffix(req.URL.Path, "/stuck") {
			return answer(403, "Forbidden", "not you")
		}
		return nil
	})
	res := r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: inv})
	want := map[string]api.Action{
		"ConfigMap/go": api.Pruned, "ConfigMap/stripped": api.Skipped, "ConfigMap/kept": api.Skipped,
		"ConfigMap/stuck": api.Failed, "ConfigMap/namesake": api.Skipped,
	}
	if diff := cmp.Diff(want, actions(res.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ConfigMap/kept", "ConfigMap/stuck"}, names(res.Inventory)); diff != "" {
		t.Errorf("survivors (-want +got):\n%s", diff)
	}
	if e := apiError(t, res.Err); e.Kind != api.Forbidden || !strings.Contains(e.Error(), "stuck") {
		t.Errorf("error %v", res.Err)
	}
	for name, there := range map[string]bool{"go": false, "stripped": true, "kept": true, "stuck": true, "namesake": true} {
		if (r.get("ConfigMap", name) != nil) != there {
			t.Errorf("%s: there = %v, want %v", name, !there, there)
		}
	}
	// Tried again, it works.
	r.calls.setFault(nil)
	res = r.Prune(t.Context(), apply.PruneRequest{Bundle: r.bundle, Entries: res.Inventory})
	if diff := cmp.Diff([]string{"ConfigMap/kept"}, names(res.Inventory)); diff != "" || res.Err != nil {
		t.Errorf("second try: %v\n%s", res.Err, diff)
	}
}

func TestDiffSaysWhatApplyWouldDo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("same", "1"), configMap("changed", "1"), configMap("leaves", "1")).Inventory
	bundle := r.rendered(configMap("same", "1"), configMap("changed", "2"), configMap("new", "1"),
		`{apiVersion: v1, kind: Namespace, metadata: {name: NS-new}}`, `{apiVersion: v1, kind: ConfigMap, metadata: {name: inside, namespace: NS-new}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: bad, namespace: NS}, spec: {ports: [{port: 99999}]}}`)
	r.calls.reset()
	diffs, err := r.Diff(t.Context(), apply.DiffRequest{Request: apply.Request{Bundle: bundle, Inventory: inv}, Coming: bundle.Objects})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]api.Action{}
	for _, d := range diffs {
		got[d.Step.Object.Kind+"/"+d.Step.Object.Name] = d.Step.Action
		if d.Step.Object.Name == "changed" && (data(d.Live)["key"] != "1" || data(d.DryRun)["key"] != "2") {
			t.Errorf("the objects to compare: %v", d)
		}
	}
	want := map[string]api.Action{
		"ConfigMap/same": api.Unchanged, "ConfigMap/changed": api.Updated, "ConfigMap/new": api.Created, "ConfigMap/leaves": api.Pruned,
		"Namespace/" + r.ns + "-new": api.Created, "ConfigMap/inside": api.Created, "Service/bad": api.Failed,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
	if last := diffs[len(diffs)-1].Step; last.Next != plan.Delete {
		t.Errorf("the last step is %+v, want the deletion", last)
	}
	if r.get("ConfigMap", "leaves") == nil || r.get("ConfigMap", "new") != nil || data(r.get("ConfigMap", "changed"))["key"] != "1" {
		t.Error("a diff changed the cluster")
	}
}

func TestStringDataLeavesWithGit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, stringData: {a: one, b: two}}`).Inventory
	r.apply(inv, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: NS}, stringData: {a: one}}`)
	if diff := cmp.Diff(map[string]string{"a": "b25l"}, data(r.get("Secret", "s"))); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
}
