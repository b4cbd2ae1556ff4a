package apply_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

func TestBootstrapAgainWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	version := func() string {
		o, err := r.dyn.Resource(resources["CRD"]).Get(t.Context(), "suspensions.flotilla.dev", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o.GetResourceVersion()
	}
	before := version()
	if err := r.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := version(); after != before {
		t.Errorf("the CRD was written again: %s then %s", before, after)
	}
}

func TestSuspensions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	s, err := r.Suspend(t.Context(), api.Suspension{Scope: api.Scope{Bundles: []string{r.bundle}}, Reason: "INC-1", Until: until})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name == "" || s.Actor == "" || s.Created.IsZero() || !s.Until.Equal(until) {
		t.Errorf("stored %+v", s)
	}
	find := func() *api.Suspension {
		all, err := r.Suspensions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if x.Name == s.Name {
				return &x
			}
		}
		return nil
	}
	if diff := cmp.Diff(&s, find()); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if err := r.Resume(t.Context(), s.Name); err != nil || find() != nil {
		t.Errorf("resume: %v, still there: %v", err, find())
	}
	if err := r.Resume(t.Context(), s.Name); err != nil {
		t.Errorf("resume again: %v", err)
	}

	// The API server itself refuses what makes no sense.
	for name, spec := range map[string]string{
		"no scope":    `{scope: {}, reason: r, until: "2030-01-01T00:00:00Z"}`,
		"all false":   `{scope: {all: false}, reason: r, until: "2030-01-01T00:00:00Z"}`,
		"two scopes":  `{scope: {all: true, bundles: [x]}, reason: r, until: "2030-01-01T00:00:00Z"}`,
		"no bundle":   `{scope: {bundles: []}, reason: r, until: "2030-01-01T00:00:00Z"}`,
		"no reason":   `{scope: {all: true}, until: "2030-01-01T00:00:00Z"}`,
		"blank":       `{scope: {all: true}, reason: "  ", until: "2030-01-01T00:00:00Z"}`,
		"no end":      `{scope: {all: true}, reason: r}`,
		"no date":     `{scope: {all: true}, reason: r, until: tomorrow}`,
		"no kind":     `{scope: {objects: [{name: x}]}, reason: r, until: "2030-01-01T00:00:00Z"}`,
		"empty names": `{scope: {bundles: [""]}, reason: r, until: "2030-01-01T00:00:00Z"}`,
	} {
		o := r.object(`{apiVersion: flotilla.dev/v1alpha1, kind: Suspension, metadata: {name: NS-bad}, spec: ` + spec + `}`)
		if _, err := r.dyn.Resource(resources["Suspension"]).Create(t.Context(), o, metav1.CreateOptions{}); err == nil {
			t.Errorf("%s was accepted", name)
			_ = r.Resume(t.Context(), o.GetName())
		}
	}
}

// A clock that runs ahead must not end a suspension early.
func TestSuspensionsSurviveAWrongClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, err := r.Suspend(t.Context(), api.Suspension{Scope: api.Scope{Bundles: []string{r.bundle}}, Reason: "INC-2", Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Resume(t.Context(), s.Name) }()
	ahead := func() time.Time { return time.Now().Add(48 * time.Hour) }
	a := connect(t, connection{rest: controlplanetest.RESTConfig(t), now: ahead})
	all, err := a.Suspensions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, held := all.Find(ahead(), r.bundle, api.ObjectRef{}); !held {
		t.Error("the suspension ended early because our clock is ahead")
	}
	if _, held := all.Find(ahead().Add(2*time.Hour), r.bundle, api.ObjectRef{}); held {
		t.Error("the suspension never ends")
	}
}

// A laptop whose clock is slow suspends for as long as was said: the end is in the API server's time.
func TestSuspendWithAWrongClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	slow := func() time.Time { return time.Now().Add(-12 * time.Minute) }
	a := connect(t, connection{rest: controlplanetest.RESTConfig(t), now: slow})
	order := api.Suspension{Scope: api.Scope{Bundles: []string{r.bundle}}, Reason: "INC-3", Actor: "ana", Until: slow().Add(10 * time.Minute)}
	s, err := a.Suspend(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Resume(t.Context(), s.Name) }()
	all, err := r.Suspensions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, held := all.Find(time.Now().Add(8*time.Minute), r.bundle, api.ObjectRef{})
	if !held {
		t.Fatalf("nothing is suspended eight minutes from now: %+v", all)
	}
	if _, held := all.Find(time.Now().Add(12*time.Minute), r.bundle, api.ObjectRef{}); held {
		t.Errorf("it lasts until %s", got.Until)
	}

	// What has ended before it begins is an error, and leaves nothing behind.
	order.Name, order.Until = r.bundle+"-late", slow().Add(-time.Minute)
	_, err = a.Suspend(t.Context(), order)
	if e := apiError(t, err); e.Reason != "SuspensionEnded" || !strings.Contains(e.Error(), "nothing is suspended") {
		t.Errorf("a suspension that has ended: %v", err)
	}
	if _, err := r.dyn.Resource(resources["Suspension"]).Get(t.Context(), order.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it was left behind: %v", err)
	}
}

func TestStatusIsWrittenOnceAndInventoryIsRebuilt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inv := r.apply(nil, configMap("a", "1"), configMap("b", "1"), `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: NS}, spec: {ports: [{port: 80}]}}`).Inventory
	st := api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady, AppliedRevision: "abc", Objects: 3, ReadyObjects: 3}
	r.calls.reset()
	for range 3 {
		if err := r.PublishStatus(t.Context(), st, inv); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]int{"PATCH": 1}, r.calls.verbs()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	read := func() *unstructured.Unstructured {
		o, err := r.dyn.Resource(resources["Bundle"]).Namespace(api.SystemNamespace).Get(t.Context(), r.bundle, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := read()
	if got := o.GetLabels()[api.LabelApplySetID]; got != plan.ApplySetID(r.bundle) {
		t.Errorf("id label %q", got)
	}
	wantNotes := map[string]string{
		api.AnnotationTooling: "flotilla/v1alpha1", api.AnnotationGroupKinds: "ConfigMap,Service", api.AnnotationNamespaces: r.ns,
	}
	if diff := cmp.Diff(wantNotes, o.GetAnnotations()); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	conditions := func() map[string]string {
		out := map[string]string{}
		list, _, _ := unstructured.NestedSlice(read().Object, "status", "conditions")
		for _, c := range list {
			m := c.(map[string]any)
			out[m["type"].(string)] = m["status"].(string)
		}
		return out
	}
	if diff := cmp.Diff(map[string]string{"Ready": "True", "Drifted": "False", "Suspended": "False"}, conditions()); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}

	// A fresh agent that lost its store: nothing is written again, and everything owned is found.
	fresh := newApplier(t, r.calls.wrap)
	inventory(t, fresh)
	r.calls.reset()
	if err := fresh.PublishStatus(t.Context(), st, inv); err != nil {
		t.Fatal(err)
	}
	if n := r.calls.verbs()["PATCH"]; n != 0 {
		t.Errorf("%d writes of an unchanged status after a restart", n)
	}
	all := inventory(t, fresh)
	if diff := cmp.Diff(names(inv), names(all[r.bundle])); diff != "" {
		t.Errorf("rebuilt inventory (-want +got):\n%s", diff)
	}
	for i, e := range all[r.bundle] {
		if e.UID != inv[i].UID || e.Digest != "" || e.MetaDigest != inv[i].MetaDigest {
			t.Errorf("entry %+v, applied as %+v", e, inv[i])
		}
	}
	// With the rebuilt inventory nothing changes on the cluster.
	res := fresh.Apply(t.Context(), apply.Request{Bundle: r.rendered(configMap("a", "1"), configMap("b", "1")), Inventory: all[r.bundle]})
	if n := res.Changes.Count(api.Unchanged); n != 2 || res.Err != nil {
		t.Errorf("after the rebuild: %+v %v", res.Changes.Changes, res.Err)
	}

	st.Phase, st.Drifted, st.Suspended = api.PhaseFailed, 1, "incident"
	st.Error = &api.StatusError{
		Kind: api.Stalled, Reason: "BadManifest", Message: strings.Repeat("x", 5000), File: "apps/web/" + strings.Repeat("ö", 5000), Line: 7, Field: "spec.replicas",
	}
	if err := fresh.PublishStatus(t.Context(), st, inv); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"Ready": "False", "Drifted": "True", "Suspended": "True"}, conditions()); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	// Where the error is can be read without the hub, bounded like the message.
	told := func() *api.StatusError {
		all, err := r.BundleStatuses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if b.Name == r.bundle {
				return b.Error
			}
		}
		return nil
	}
	e := told()
	if e == nil || e.Kind != api.Stalled || e.Reason != "BadManifest" || e.Line != 7 || e.Field != "spec.replicas" ||
		!strings.HasPrefix(e.File, "apps/web/öö") || len(e.File) > 600 || !strings.HasPrefix(e.Message, "xxx") || len(e.Message) > 1100 {
		t.Errorf("error is %+v", e)
	}
	st.Phase, st.Error = api.PhaseReady, nil
	if err := fresh.PublishStatus(t.Context(), st, inv); err != nil {
		t.Fatal(err)
	}
	if e := told(); e != nil {
		t.Errorf("an error that is over stays: %+v", e)
	}
	if err := fresh.DeleteStatus(t.Context(), r.bundle); err != nil {
		t.Fatal(err)
	}
	if err := fresh.DeleteStatus(t.Context(), r.bundle); err != nil {
		t.Errorf("delete again: %v", err)
	}
}

// A status that was written while the CRD of an older version merged it field by field is taken over whole.
// It is not parallel: others put the CRD of this version back at any time.
func TestStatusOfAnOlderCRD(t *testing.T) {
	r := newRig(t)
	inv := r.apply(nil, configMap("a", "1")).Inventory
	st := api.BundleStatus{Name: r.bundle, Phase: api.PhaseFailed, Error: &api.StatusError{Kind: api.Stalled, Message: "bad", Line: 7}}
	// publish writes until the fields that are ours are so: a CRD that was changed is not served at once.
	publish := func(want string) *unstructured.Unstructured {
		t.Helper()
		for n := 0; ; n++ {
			st.DesiredRevision = fmt.Sprint(n)
			if err := r.PublishStatus(t.Context(), st, inv); err != nil {
				t.Fatal(err)
			}
			o, err := r.dyn.Resource(resources["Bundle"]).Namespace(api.SystemNamespace).Get(t.Context(), r.bundle, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			fields := ""
			for _, m := range o.GetManagedFields() {
				fields += m.FieldsV1.GetRawString()
			}
			if strings.Contains(fields, want) {
				return o
			}
			if n == 100 {
				t.Fatalf("the fields are %s, want %s among them", fields, want)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	older := `[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/status/x-kubernetes-map-type"}]`
	_, err := r.dyn.Resource(resources["CRD"]).Patch(t.Context(), "bundledeployments.flotilla.dev", types.JSONPatchType, []byte(older), metav1.PatchOptions{FieldManager: "older"})
	if err != nil {
		t.Fatal(err)
	}
	publish(`"f:line":{}`)
	if err := r.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.Phase, st.Error = api.PhaseReady, nil
	o := publish(`"f:status":{}`)
	if e, found, _ := unstructured.NestedMap(o.Object, "status", "error"); found {
		t.Errorf("an error that is over stays: %v", e)
	}
	if phase, _, _ := unstructured.NestedString(o.Object, "status", "phase"); phase != "ready" {
		t.Errorf("phase %q", phase)
	}
}

// A kind that no ApplySet held before is announced on the parent before its first object is written:
// an agent that dies in between, and loses its store, still finds the object.
func TestNewKindsAreAnnouncedFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.calls.reset()
	r.calls.setFault(func(req *http.Request) *http.Response {
		if strings.Contains(req.URL.Path, "/limitranges/") {
			return answer(400, "BadRequest", "stop here")
		}
		return nil
	})
	res := r.Apply(t.Context(), apply.Request{Bundle: r.rendered(`{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: NS}, spec: {limits: []}}`)})
	if res.Err == nil {
		t.Fatal("no error")
	}
	if len(r.calls.made) != 2 || !strings.Contains(r.calls.made[0], "bundledeployments") {
		t.Errorf("requests %v, want the parent first", r.calls.made)
	}
	_ = r.DeleteStatus(t.Context(), r.bundle)
}

func TestLease(t *testing.T) {
	r := newRig(t) // makes the namespace
	agent := func(challenge time.Duration) *target {
		cfg := rest.CopyConfig(controlplanetest.RESTConfig(t))
		cfg.Wrap(r.calls.wrap)
		return connect(t, connection{rest: cfg, challenge: challenge})
	}
	// Only the second holder falls silent: who challenges the first may wait for an answer that comes late.
	one, two := agent(time.Second), agent(cluster.DefaultChallenge)
	if err := one.AcquireLease(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := one.AcquireLease(t.Context(), "one"); err != nil {
		t.Errorf("the holder itself: %v", err)
	}
	life := func() cluster.Life {
		t.Helper()
		l, err := r.Life(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	starts := len(life().UncleanStarts)
	if l := life(); l.State != cluster.LifeAlive || l.Holder != "one" || starts == 0 || l.Age > 30 {
		t.Errorf("of an agent that found its own lease, not given back: %+v", l)
	}
	reached := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	if err := one.RenewLease(t.Context(), "one", reached); err != nil {
		t.Fatal(err)
	}
	if l := life(); l.State != cluster.LifeAlive || l.Reached.Sub(reached).Abs() > 2*time.Second || len(l.UncleanStarts) != starts {
		t.Errorf("of an agent that has renewed its lease: %+v", l)
	}
	if e := apiError(t, two.RenewLease(t.Context(), "two", reached)); e.Kind != api.Forbidden {
		t.Errorf("another agent renews it: %v", e)
	}

	// A holder that lives answers what its watch shows it.
	ctx, stop := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for ctx.Err() == nil {
			if err := one.AnswerLease(ctx, "one"); err != nil && ctx.Err() == nil {
				t.Errorf("answer: %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	err := two.AcquireLease(t.Context(), "two")
	if e := apiError(t, err); e.Kind != api.Forbidden || !strings.Contains(e.Error(), `"one"`) {
		t.Errorf("another agent: %v", err)
	}
	stop()
	<-answered

	if err := one.ReleaseLease(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if err := one.ReleaseLease(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if l := life(); l.State != cluster.LifeStopped || l.Reached.IsZero() {
		t.Errorf("after the release: %+v", l)
	}
	r.calls.reset()
	if err := two.AcquireLease(t.Context(), "two"); err != nil {
		t.Errorf("after the release: %v", err)
	}
	if l := life(); l.State != cluster.LifeAlive || len(l.UncleanStarts) != starts {
		t.Errorf("who takes what was released has not come after a crash: %+v", l)
	}
	if n := r.calls.verbs()["PATCH"]; n != 0 {
		t.Errorf("a released lease was challenged: %d patches", n)
	}

	// One that does not answer has lost the cluster, and is told so.
	if err := one.AcquireLease(t.Context(), "one"); err != nil {
		t.Errorf("after the holder fell silent: %v", err)
	}
	if l := life(); len(l.UncleanStarts) != starts+1 {
		t.Errorf("who takes it from one that fell silent comes after a crash: %+v", l)
	}
	err = two.AnswerLease(t.Context(), "two")
	if e := apiError(t, err); e.Kind != api.Forbidden || !strings.Contains(e.Error(), "taken over") {
		t.Errorf("the old holder: %v", err)
	}
	if err := one.ReleaseLease(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ref := api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: r.ns, Name: "a"}
	for range 5 {
		r.Event(t.Context(), cluster.EventRequest{Bundle: r.bundle, Object: ref, Type: "Warning", Reason: "Drifted", Message: "data.key"})
	}
	if n := r.calls.verbs()["POST"]; n != 1 {
		t.Errorf("%d Events for one thing, want 1", n)
	}
	list, err := r.dyn.Resource(resources["Event"]).Namespace(r.ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v, %d events", err, len(list.Items))
	}
	if got := list.Items[0].Object["message"]; got != "data.key" {
		t.Errorf("message %v", got)
	}
	for i := range 100 {
		r.Event(t.Context(), cluster.EventRequest{Object: ref, Type: "Normal", Reason: "Applied", Message: strings.Repeat("x", i)})
	}
	if n := r.calls.verbs()["POST"]; n > 25 {
		t.Errorf("%d Events written in a burst", n)
	}
	r.Event(t.Context(), cluster.EventRequest{Object: ref, Type: "Warning", Reason: "Failed", Message: "late"})
	list, err = r.dyn.Resource(resources["Event"]).Namespace(r.ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Failed"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a warning was lost in routine: %v, %d", err, len(list.Items))
	}
}

func TestServiceAccountIsImpersonated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.rendered(configMap("a", "1"))
	b.Spec.ServiceAccount = &api.ServiceAccount{Namespace: r.ns, Name: "deployer"}
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	if e := apiError(t, res.Err); e.Kind != api.Forbidden || !strings.Contains(e.Error(), "system:serviceaccount:"+r.ns+":deployer") {
		t.Errorf("without a role: %v", res.Err)
	}
	r.apply(nil,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: deployer, namespace: NS}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deployer, namespace: NS}, rules: [{apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deployer, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}, subjects: [{kind: ServiceAccount, name: deployer, namespace: NS}]}`)
	eventually(t, "the role takes effect", func() bool {
		return r.Apply(t.Context(), apply.Request{Bundle: b}).Err == nil
	})
	if r.get("ConfigMap", "a") == nil {
		t.Error("not applied")
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hook := func(name string, weight int, phases []api.HookPhase, policies ...string) api.Hook {
		return api.Hook{Phases: phases, Weight: weight, DeletePolicies: policies, Object: r.object(
			`{apiVersion: batch/v1, kind: Job, metadata: {name: ` + name + `, namespace: NS}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}`)}
	}
	both := []api.HookPhase{api.HookPreInstall, api.HookPreUpgrade}
	b := r.rendered(configMap("a", "1"))
	b.Hooks = []api.Hook{
		hook("first", -5, both, "before-hook-creation", "hook-succeeded"),
		hook("install-only", 0, []api.HookPhase{api.HookPreInstall}),
		hook("post", 0, []api.HookPhase{api.HookPostInstall, api.HookPostUpgrade}),
	}
	b.Digest = "v1"
	res := r.Apply(t.Context(), apply.Request{Bundle: b})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	if r.get("Job", "first") != nil {
		t.Error("hook-succeeded did not delete")
	}
	post, only := r.get("Job", "post"), r.get("Job", "install-only")
	if post == nil || only == nil {
		t.Fatal("a hook did not run")
	}
	if post.GetLabels()[api.LabelPartOf] != "" {
		t.Error("a hook became a member of the ApplySet")
	}
	if diff := cmp.Diff([]string{"ConfigMap/a"}, names(res.Inventory)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	// The same bundle again: no hook runs, not even after a restart.
	if err := r.PublishStatus(t.Context(), api.BundleStatus{Name: r.bundle, Phase: api.PhaseReady}, res.Inventory); err != nil {
		t.Fatal(err)
	}
	fresh := newApplier(t, r.calls.wrap)
	if res := fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory, Compare: apply.CompareAll}); res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := r.get("Job", "post"); got.GetUID() != post.GetUID() {
		t.Error("the hook ran again without a change")
	}
	// A change: the upgrade hooks run anew, the install hook does not.
	b.Digest = "v2"
	if res := fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory}); res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := r.get("Job", "post"); got == nil || got.GetUID() == post.GetUID() {
		t.Error("the upgrade hook did not run")
	}
	if got := r.get("Job", "install-only"); got.GetUID() != only.GetUID() {
		t.Error("the install hook ran in an upgrade")
	}
	// A hook that cannot end stops what comes after it, and says so.
	b.Digest, b.Spec.Timeout = "v3", api.Duration(5*time.Second)
	stuck := hook("stuck", 0, both)
	if err := unstructured.SetNestedField(stuck.Object.Object, true, "spec", "suspend"); err != nil {
		t.Fatal(err)
	}
	b.Hooks = []api.Hook{stuck}
	b.Objects = append(b.Objects, r.object(configMap("after", "1")))
	res = fresh.Apply(t.Context(), apply.Request{Bundle: b, Inventory: res.Inventory})
	if e := apiError(t, res.Err); e.Kind != api.Stalled || !strings.Contains(e.Error(), "stuck") {
		t.Errorf("error %v", res.Err)
	}
	if r.get("ConfigMap", "after") != nil {
		t.Error("objects were applied after a failed hook")
	}
	_ = fresh.DeleteStatus(t.Context(), r.bundle)
}

func TestFacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f, err := r.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, v := range f.APIVersions {
		has[v] = true
	}
	if !strings.HasPrefix(f.KubeVersion, "v1.") || !has["apps/v1"] || !has["apps/v1/Deployment"] || !has["v1"] {
		t.Errorf("facts %s, %d versions", f.KubeVersion, len(f.APIVersions))
	}
}
