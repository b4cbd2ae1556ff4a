package apply_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// pauses counts the waits.
func pauses(n *int) apply.Waiting {
	return func(ctx context.Context) (context.Context, func()) {
		*n++
		return ctx, func() {}
	}
}

// superseded ends every wait after a moment.
func superseded(resumed *bool) apply.Waiting {
	return func(ctx context.Context) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		return ctx, func() {
			*resumed = true
			cancel()
		}
	}
}

// job is a hook's Job, which ends at once on the test's nodes; more is YAML of its metadata.
func job(name, more string) string {
	return `{apiVersion: batch/v1, kind: Job, metadata: {name: ` + name + `, namespace: NS` + more + `}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}`
}

func (r *rig) hook(doc string, weight int, phases ...api.HookPhase) api.Hook {
	r.t.Helper()
	return api.Hook{Phases: phases, Weight: weight, Object: r.object(doc)}
}

// stuckJob is a hook that never ends.
func (r *rig) stuckJob(name string, phases ...api.HookPhase) api.Hook {
	r.t.Helper()
	h := r.hook(job(name, ""), 0, phases...)
	if err := unstructured.SetNestedField(h.Object.Object, true, "spec", "suspend"); err != nil {
		r.t.Fatal(err)
	}
	return h
}

// hooked is a bundle with hooks, which leaves no parent behind.
func (r *rig) hooked(digest string, hooks ...api.Hook) api.RenderedBundle {
	r.t.Helper()
	r.t.Cleanup(func() { _ = r.DeleteStatus(context.WithoutCancel(r.t.Context()), r.bundle) })
	b := r.rendered(configMap("main", digest))
	b.Digest, b.Hooks = digest, hooks
	return b
}

var (
	preBoth  = []api.HookPhase{api.HookPreInstall, api.HookPreUpgrade}
	postBoth = []api.HookPhase{api.HookPostInstall, api.HookPostUpgrade}
)

// ended waits until a Job has ended, as hooks of the last time have. One that is deleted and created anew while its Pod
// is being created makes the Job controller wait for five minutes.
func (r *rig) ended(name string) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		conditions, _, _ := unstructured.NestedSlice(r.get("Job", name).Object, "status", "conditions")
		for _, c := range conditions {
			if m, _ := c.(map[string]any); m["type"] == "Complete" && m["status"] == "True" {
				return
			}
		}
	}
	r.t.Fatalf("the Job %s does not end", name)
}

// A hook replaces what a hook left behind, and never what somebody else put under its name.
func TestHookReplacesOnlyHooks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hookMark := `annotations: {helm.sh/hook: pre-install}`
	ours := `labels: {` + api.LabelManagedBy + `: flotilla}, ` + hookMark
	tests := []struct {
		name string
		live string // what is there before
		hook string
		// replaced: the hook's object is another one afterwards. Otherwise it is the one that was there.
		replaced bool
		refused  string // a word of the error; "" is none
	}{
		{"foreign", configMap("foreign", "theirs"), configMap("foreign", "ours"), false, "foreign"},
		{"foreign-job", job("foreign-job", ""), job("foreign-job", ""), false, "foreign-job"},
		{
			"member", `{apiVersion: v1, kind: ConfigMap, metadata: {name: member, namespace: NS, labels: {applyset.kubernetes.io/part-of: ` + plan.ApplySetID("another") + `}, ` + hookMark + `}}`,
			configMap("member", "ours"), false, "member",
		},
		{
			"claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim, namespace: NS, ` + ours + `}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim, namespace: NS, ` + hookMark + `}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, false, "",
		},
		{
			"their-claim", `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: their-claim, namespace: NS, labels: {applyset.kubernetes.io/part-of: ` + plan.ApplySetID("another") + `}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: their-claim, namespace: NS}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`, false, "their-claim",
		},
		{
			"disabled", configMap("disabled", "theirs"),
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: disabled, namespace: NS, annotations: {flotilla.dev/reconcile: disabled}}, data: {key: ours}}`, false, "",
		},
		{"old", `{apiVersion: v1, kind: ConfigMap, metadata: {name: old, namespace: NS, ` + ours + `}}`, configMap("old", "ours"), true, ""},
		{
			"helm-map", `{apiVersion: v1, kind: ConfigMap, metadata: {name: helm-map, namespace: NS, labels: {` + api.LabelManagedBy + `: Helm}, ` + hookMark + `}, data: {key: ours}}`,
			configMap("helm-map", "ours"), false, "",
		},
		{"old-job", job("old-job", ", "+ours), job("old-job", ", "+hookMark), true, ""},
		{"helm-job", job("helm-job", ", "+hookMark), job("helm-job", ", "+hookMark), true, ""},
		{
			"kept-job", job("kept-job", `, labels: {`+api.LabelManagedBy+`: flotilla}, annotations: {helm.sh/hook: pre-install, flotilla.dev/prune: disabled}`),
			job("kept-job", ", "+hookMark), false, "prune: disabled",
		},
		{
			"paused", `{apiVersion: v1, kind: ConfigMap, metadata: {name: paused, namespace: NS, labels: {` + api.LabelManagedBy + `: flotilla}, annotations: {helm.sh/hook: pre-install, flotilla.dev/reconcile: disabled}}, data: {key: theirs}}`,
			configMap("paused", "ours"), false, "",
		},
	}
	for _, tt := range tests {
		before := r.create("kubectl-create", tt.live)
		if before.GetKind() == "Job" {
			r.ended(tt.name)
		}
		b := r.hooked(tt.name, r.hook(tt.hook, 0, preBoth...))
		b.Hooks[0].DeletePolicies = []string{"before-hook-creation"}
		if tt.refused != "" || tt.name == "claim" || tt.name == "paused" {
			b.Hooks[0].DeletePolicies = []string{"before-hook-creation", "hook-succeeded", "hook-failed"}
		}
		res := r.Apply(t.Context(), apply.Request{Bundle: b})
		switch {
		case tt.refused == "" && res.Err != nil:
			t.Errorf("%s: %v", tt.name, res.Err)
		case tt.refused != "" && res.Err == nil:
			t.Errorf("%s: no error", tt.name)
		case tt.refused != "":
			if e := apiError(t, res.Err); e.Kind != api.Forbidden || !strings.Contains(e.Error(), tt.refused) || e.Hint == "" {
				t.Errorf("%s: %s error %v, hint %q", tt.name, e.Kind, e, e.Hint)
			}
		}
		now := r.get(before.GetKind(), tt.name)
		switch {
		case now == nil || now.GetDeletionTimestamp() != nil:
			t.Errorf("%s was deleted", tt.name)
		case (now.GetUID() != before.GetUID()) != tt.replaced:
			t.Errorf("%s: replaced is %v, want %v", tt.name, !tt.replaced, tt.replaced)
		case !tt.replaced && data(now)["key"] != data(before)["key"]:
			t.Errorf("%s was written over", tt.name)
		}
	}
}

// A first try that fails partway does not make the next one an upgrade, and what ran for it is not run again.
func TestHooksOfAnInstallationThatFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hooks := []api.Hook{
		r.hook(configMap("pre", "1"), 0, api.HookPreInstall), r.hook(configMap("pre-upgrade", "1"), 0, api.HookPreUpgrade),
		r.hook(configMap("post", "1"), 0, api.HookPostInstall), r.hook(configMap("post-upgrade", "1"), 0, api.HookPostUpgrade),
	}
	r.calls.setFault(func(req *http.Request) *http.Response {
		if strings.HasSuffix(req.URL.Path, "/configmaps/second") {
			return answer(500, "InternalError", "try again")
		}
		return nil
	})
	b := r.hooked("v1", hooks...)
	b.Objects = append(b.Objects, r.object(configMap("second", "1")))
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	pre := r.get("ConfigMap", "pre")
	if res.Err == nil || pre == nil || len(res.Inventory) == 0 {
		t.Fatalf("the first try: %v, left %v", res.Err, names(res.Inventory))
	}
	r.calls.setFault(nil)
	// The agent may be another one then.
	fresh := newApplier(t, r.calls.wrap)
	if res = fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
		t.Fatal(res.Err)
	}
	there := func(want ...string) {
		t.Helper()
		var got []string
		for _, name := range []string{"pre", "pre-upgrade", "post", "post-upgrade"} {
			if r.get("ConfigMap", name) != nil {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("hooks that ran (-want +got):\n%s", diff)
		}
	}
	there("pre", "post")
	if now := r.get("ConfigMap", "pre"); now.GetUID() != pre.GetUID() {
		t.Error("a hook before the objects ran again in the second try")
	}
	b.Digest = "v2"
	if res = fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
		t.Fatal(res.Err)
	}
	there("pre", "pre-upgrade", "post", "post-upgrade")
	// Back to what ran before the last: that is a change, too.
	up := r.get("ConfigMap", "pre-upgrade")
	b.Digest = "v1"
	if res = fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
		t.Fatal(res.Err)
	}
	if now := r.get("ConfigMap", "pre-upgrade"); now.GetUID() == up.GetUID() {
		t.Error("the hook did not run for the way back")
	}
}

// A change whose hooks had begun and that is taken back makes the way back an upgrade, and so it is when it lands again.
func TestHooksOfAChangeThatIsTakenBack(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"first", "second", "main", "after"} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			hooks := []api.Hook{
				r.hook(configMap("first", "1"), 0, preBoth...), r.hook(configMap("second", "1"), 1, preBoth...),
				r.hook(configMap("after", "1"), 0, postBoth...),
			}
			var inventory []api.InventoryEntry
			land := func(digest string) error {
				b := r.hooked(digest, hooks...)
				res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inventory})
				inventory = res.Inventory
				return res.Err
			}
			uids := func() map[string]types.UID {
				out := map[string]types.UID{}
				for _, h := range hooks {
					if o := r.get("ConfigMap", h.Object.GetName()); o != nil {
						out[o.GetName()] = o.GetUID()
					}
				}
				return out
			}
			lands := func(digest string, all bool) {
				t.Helper()
				was := uids()
				if err := land(digest); err != nil {
					t.Fatal(err)
				}
				for name, uid := range uids() {
					if ran := uid != was[name]; ran != all {
						t.Errorf("%s lands: the hook %s ran is %t, want %t", digest, name, ran, all)
					}
				}
			}
			fails := func() {
				t.Helper()
				r.calls.setFault(func(req *http.Request) *http.Response {
					if req.Method == http.MethodPatch && strings.HasSuffix(req.URL.Path, "/configmaps/"+broken) {
						return answer(500, "InternalError", "try again")
					}
					return nil
				})
				if land("v2") == nil {
					t.Fatal("the change did not fail")
				}
				r.calls.setFault(nil)
			}
			if err := land("v1"); err != nil {
				t.Fatal(err)
			}
			fails()
			lands("v1", true)
			lands("v1", false)
			fails()
			lands("v1", true)
			lands("v2", true)
			lands("v2", false)
			// One without hooks in between is a change, too.
			b := r.hooked("v3")
			if err := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inventory}).Err; err != nil {
				t.Fatal(err)
			}
			lands("v2", true)
		})
	}
}

// A bundle that was there before it had hooks is upgraded, not installed.
func TestHooksThatComeLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("main", "1")).Inventory
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady, AppliedRevision: "abc"}, inv); err != nil {
		t.Fatal(err)
	}
	b := r.hooked("v1", r.hook(configMap("install", "1"), 0, api.HookPreInstall), r.hook(configMap("upgrade", "1"), 0, api.HookPreUpgrade))
	if res := r.Apply(t.Context(), apply.Request{Bundle: b, Inventory: inv}); res.Err != nil {
		t.Fatal(res.Err)
	}
	if r.get("ConfigMap", "install") != nil || r.get("ConfigMap", "upgrade") == nil {
		t.Error("it was taken for an installation")
	}
}

func TestHookOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	account := `{apiVersion: v1, kind: ServiceAccount, metadata: {name: z-account, namespace: NS}}`
	role := `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: y-role, namespace: NS}, rules: []}`
	b := r.hooked("v1",
		r.hook(job("a-job", ""), 0, preBoth...), r.hook(configMap("b-map", "1"), 0, preBoth...), r.hook(account, 0, preBoth...), r.hook(role, 0, preBoth...),
		r.hook(configMap("late", "1"), 5, api.HookPreInstall, api.HookPreUpgrade), r.hook(configMap("early", "1"), -5, api.HookPostInstall, api.HookPreInstall),
	)
	if res := r.Apply(t.Context(), apply.Request{Bundle: b}); res.Err != nil {
		t.Fatal(res.Err)
	}
	var got []string
	for _, made := range r.calls.made {
		verb, path, _ := strings.Cut(made, " ")
		if name := path[strings.LastIndex(path, "/")+1:]; verb == http.MethodPatch && name != r.bundle {
			got = append(got, name)
		}
	}
	if diff := cmp.Diff([]string{"early", "z-account", "y-role", "b-map", "a-job", "late", "main", "early"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// Waiting for a hook holds up nobody, and a newer revision ends it.
func TestHookIsSuperseded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.hooked("v1", r.stuckJob("stuck", preBoth...))
	b.Spec.Timeout = api.Duration(30 * time.Second)
	begun, resumed := time.Now(), false
	res := r.Apply(t.Context(), apply.Request{Bundle: b, Waiting: superseded(&resumed)})
	if took := time.Since(begun); took > 10*time.Second || !resumed {
		t.Errorf("ended after %s, resumed %v", took, resumed)
	}
	if e := apiError(t, res.Err); e.Reason != "Superseded" || e.Kind != api.Waiting {
		t.Errorf("%s %s: %v", e.Kind, e.Reason, e)
	}
	if r.get("ConfigMap", "main") != nil {
		t.Error("objects were applied after a hook that did not end")
	}
	// A hook that does end is waited for in the same way.
	b = r.hooked("v2", r.hook(job("quick", ""), 0, preBoth...))
	waits := 0
	if res := r.Apply(t.Context(), apply.Request{Bundle: b, Waiting: pauses(&waits)}); res.Err != nil || waits == 0 {
		t.Errorf("%d waits: %v", waits, res.Err)
	}
}

// What is published while hooks run does not undo the note that they ran.
func TestHooksRanSurvivesAPublication(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.hooked("v1", r.hook(job("hook", ""), 0, postBoth...))
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady}, nil); err != nil {
		t.Fatal(err)
	}
	onItsWay, proceed := make(chan struct{}), make(chan struct{})
	var patches atomic.Int32
	r.calls.setFault(func(req *http.Request) *http.Response {
		if req.Method == http.MethodPatch && strings.HasSuffix(req.URL.Path, "/bundledeployments/"+r.bundle) {
			if patches.Add(1) == 1 {
				close(onItsWay)
				<-proceed
			}
		}
		return nil
	})
	done := make(chan error)
	go func() {
		done <- r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseProgressing, Message: "late"}, nil)
	}()
	<-onItsWay
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	close(proceed)
	if err := <-done; err != nil || res.Err != nil {
		t.Fatal(err, res.Err)
	}
	ran := r.get("Job", "hook")
	for _, a := range []*target{r.target, newApplier(t, r.calls.wrap)} {
		if res := a.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
			t.Fatal(res.Err)
		}
		if now := r.get("Job", "hook"); now == nil || now.GetUID() != ran.GetUID() {
			t.Fatal("the hook ran again: it was forgotten that it did")
		}
	}
	o, err := r.dyn.Resource(resources["Bundle"]).Namespace(api.SystemNamespace).Get(t.Context(), r.bundle, metav1.GetOptions{})
	if err != nil || o.GetAnnotations()["flotilla.dev/hooks-ran"] != "v1" || o.GetLabels()[api.LabelApplySetID] == "" {
		t.Errorf("%v %v %v", o.GetAnnotations(), o.GetLabels(), err)
	}
	message, _, _ := unstructured.NestedString(o.Object, "status", "message")
	if message != "late" {
		t.Errorf("the publication was lost: message %q", message)
	}
}

// Hooks are run, waited for and deleted as the bundle's identity.
func TestHooksAreImpersonated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(nil, r.deployer()...)
	strangers := r.strangers(func(path string) bool { return strings.Contains(path, "/namespaces/"+r.ns+"/") })
	h := r.hook(job("hook", ""), 0, preBoth...)
	h.DeletePolicies = []string{"before-hook-creation", "hook-succeeded"}
	b := r.hooked("v1", h)
	b.Spec.ServiceAccount = &api.ServiceAccount{Namespace: r.ns, Name: "deployer"}
	eventually(t, "the role takes effect", func() bool {
		return r.Apply(t.Context(), apply.Request{Bundle: b}).Err == nil
	})
	if s := strangers(); len(s) > 0 {
		t.Errorf("not as the bundle's service account: %v", s)
	}
}

// Hooks of moments that never come cost nothing.
func TestHooksThatAreNeverRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.hooked("v1", r.hook(job("hook", ""), 0, api.HookPreDelete), r.hook(job("hook2", ""), 0, api.HookPostDelete))
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	if res.Err != nil || r.get("Job", "hook") != nil {
		t.Errorf("error %v", res.Err)
	}
	// The parent may be written for its kinds.
	n := 0
	for _, made := range r.calls.made {
		if strings.Contains(made, "bundledeployments") {
			n++
		}
	}
	o, err := r.dyn.Resource(resources["Bundle"]).Namespace(api.SystemNamespace).Get(t.Context(), r.bundle, metav1.GetOptions{})
	if n > 1 || err == nil && o.GetAnnotations()["flotilla.dev/hooks-ran"] != "" {
		t.Errorf("requests %v", r.calls.made)
	}
}

// The hooks of a removal run once, one after another, and not where their namespace is no more.
func TestHooksOfARemoval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stuck := r.stuckJob("stuck", api.HookPreDelete)
	b := r.hooked("v1", r.hook(configMap("first", "one"), -1, api.HookPreDelete), stuck, r.hook(configMap("bye", "one"), 0, api.HookPostDelete))
	if err := r.Apply(t.Context(), apply.Request{Bundle: b}).Err; err != nil {
		t.Fatal(err)
	}
	if r.get("ConfigMap", "first") != nil || r.get("ConfigMap", "bye") != nil {
		t.Error("they were run at the installation")
	}
	b.Spec.Timeout = api.Duration(5 * time.Second)
	req := apply.Request{Bundle: b}
	if _, ok, err := r.RunPreDelete(t.Context(), req); ok || err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("a hook that does not end: %t, %v", ok, err)
	}
	req.Held = func(ref api.ObjectRef) (api.Suspension, bool) {
		return api.Suspension{Name: "break"}, ref.Name == "stuck"
	}
	if changes, ok, err := r.RunPreDelete(t.Context(), req); ok || err != nil || len(changes) != 2 || !strings.Contains(changes[1].Reason, "break") {
		t.Errorf("a hook that is suspended: %t, %v, %+v", ok, err, changes)
	}
	req.Held, req.Bundle.Hooks = nil, slices.Delete(slices.Clone(b.Hooks), 1, 2)
	for i := range 2 {
		changes, ok, err := r.RunPreDelete(t.Context(), req)
		if !ok || err != nil || len(changes) != 1-i {
			t.Errorf("try %d: %t, %v, %+v", i, ok, err, changes)
		}
	}
	// It came back, and is removed again.
	if err := r.Apply(t.Context(), req).Err; err != nil {
		t.Fatal(err)
	}
	if changes, ok, err := r.RunPreDelete(t.Context(), req); !ok || err != nil || len(changes) != 1 {
		t.Errorf("another removal: %t, %v, %+v", ok, err, changes)
	}
	// What comes back has its own hooks run: its objects may be half gone.
	req.Bundle.Hooks = append(req.Bundle.Hooks, r.hook(configMap("up", "one"), 0, preBoth...))
	if err := r.Apply(t.Context(), apply.Request{Bundle: req.Bundle}).Err; err != nil || r.get("ConfigMap", "up") == nil {
		t.Errorf("what comes back after half a removal: %v", err)
	}
	bye := b.Hooks[len(b.Hooks)-1]
	bye.Object = bye.Object.DeepCopy()
	bye.Object.SetNamespace(r.ns + "-gone")
	req.Bundle.Hooks = []api.Hook{bye}
	for i := range 2 {
		changes, ok, err := r.RunPostDelete(t.Context(), req)
		if !ok || err != nil || len(changes) != 1-i || i == 0 && (changes[0].Action != api.Skipped || !strings.Contains(changes[0].Reason, "is gone")) {
			t.Errorf("a hook whose namespace is gone, try %d: %t, %v, %+v", i, ok, err, changes)
		}
	}
	if changes, ok, err := r.RunPreDelete(t.Context(), apply.Request{Bundle: b}); !ok || err != nil || len(changes) != 0 {
		t.Errorf("a removal that was not recorded begins anew: %t, %v, %+v", ok, err, changes)
	}
}
