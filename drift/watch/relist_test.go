package watch_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// Relist finds what the watch missed, without a list and without a moment in which nothing is known.
func TestRelist(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(configMapsR).Namespace(ns)
	var lists atomic.Int64
	counted := rest.CopyConfig(rc)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.URL.Query().Get("watch") == "" && strings.HasSuffix(req.URL.Path, "s") && !strings.HasSuffix(req.URL.Path, "/apis") {
				lists.Add(1)
			}
			return next.RoundTrip(req)
		})
	})
	s := newSeen()
	w := start(t, counted, s, configMaps, deployments)
	for _, name := range []string{"kept", "missed"} {
		create(t, r, object("v1", "ConfigMap", name, ours("set-8")))
	}
	ref := func(name string) api.ObjectRef {
		return api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: ns, Name: name}
	}
	both := []schema.GroupVersionKind{configMaps, deployments}
	if err := w.WaitSynced(t.Context(), both); err != nil {
		t.Fatal(err)
	}
	s.until(t, "created", func() bool {
		_, kept := s.last("kept")
		_, missed := s.last("missed")
		return kept && missed && s.relisted[configMaps] == 1 && s.relisted[deployments] == 1
	})
	for round := range 3 {
		w.Miss(ref("missed"))
		w.Invent(ref("invented"))
		s.note(func() { s.events = nil })
		w.Relist()
		s.until(t, "all seen anew", func() bool {
			for _, k := range both {
				if !w.Synced(k) {
					t.Error("not synced in between")
				}
			}
			if _, ok := w.Get(ref("kept")); !ok {
				t.Error("what was known is not, in between")
			}
			return s.relisted[configMaps] == round+2 && s.relisted[deployments] == round+2
		})
		s.mu.Lock()
		var got []string
		for _, e := range s.events {
			got = append(got, fmt.Sprint(e.Ref.Name, " ", e.Deleted))
		}
		s.mu.Unlock()
		if d := cmp.Diff([]string{"missed false", "invented true"}, got); d != "" {
			t.Errorf("events: %s", d)
		}
	}
	changed := patch(t, r, "kept", `{"data":{"k":"v"}}`)
	s.until(t, "the watch goes on", func() bool { e, _ := s.last("kept"); return e.ResourceVersion == changed.GetResourceVersion() })
	if n := lists.Load(); n != 0 {
		t.Errorf("there were %d lists", n)
	}
	if len(s.lost) != 0 {
		t.Errorf("lost: %v", s.lost)
	}
}

// A watch that is no longer allowed is lost, once, and what happened meanwhile is seen when it is allowed again.
func TestLostWithoutPermission(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(configMapsR).Namespace(ns)
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	user := "user-" + ns
	grant := func() {
		_, err := kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	revoke := func() error {
		return kube.RbacV1().ClusterRoleBindings().Delete(t.Context(), user, metav1.DeleteOptions{})
	}
	grant()
	gate := &expiring{}
	limited := rest.CopyConfig(rc)
	limited.Impersonate = rest.ImpersonationConfig{UserName: user}
	limited.Wrap(gate.wrap)
	s := newSeen()
	w := start(t, limited, s, configMaps)
	s.until(t, "seen", func() bool { return s.relisted[configMaps] == 1 })
	if err := revoke(); err != nil {
		t.Fatal(err)
	}
	// The API server's authorizer hears of it a moment later.
	asUser := client(t, limited).Resource(configMapsR)
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		_, err := asUser.List(t.Context(), metav1.ListOptions{Limit: 1})
		if apierrors.IsForbidden(err) {
			break
		}
		if time.Since(begun) > 60*time.Second {
			t.Fatalf("the right is not gone: %v", err)
		}
	}
	gate.breakAll()
	s.until(t, "lost", func() bool { return s.lost[configMaps] == 1 })
	create(t, r, object("v1", "ConfigMap", "meanwhile", ours("set-9")))
	if !w.Synced(configMaps) {
		t.Error("what was known is not")
	}
	grant()
	s.until(t, "seen anew", func() bool { return s.relisted[configMaps] == 2 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.last("meanwhile"); !ok || s.lost[configMaps] != 1 {
		t.Errorf("seen: %v, lost %d times", ok, s.lost[configMaps])
	}
	t.Cleanup(func() {
		_ = kube.RbacV1().ClusterRoleBindings().Delete(context.WithoutCancel(t.Context()), user, metav1.DeleteOptions{})
	})
}

// A conversion webhook that does not answer hides the objects: the watch is lost, once, until it answers or is not needed.
func TestLostConversion(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	c := client(t, rc)
	crd := boatCRD()
	const name = "rafts.sea.example.com"
	crd.SetName(name)
	v1, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	v2 := (&unstructured.Unstructured{Object: v1[0].(map[string]any)}).DeepCopy().Object
	v2["name"], v2["storage"] = "v2", false
	crd.Object["spec"].(map[string]any)["versions"] = []any{v1[0], v2}
	crd.Object["spec"].(map[string]any)["names"] = map[string]any{"kind": "Raft", "plural": "rafts", "singular": "raft", "listKind": "RaftList"}
	create(t, c.Resource(crdsR), crd)
	t.Cleanup(func() { _ = c.Resource(crdsR).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}) })
	raftsV1 := c.Resource(schema.GroupVersionResource{Group: "sea.example.com", Version: "v1", Resource: "rafts"})
	established(t, raftsV1, object("sea.example.com/v1", "Raft", "alice", ours("set-10")))
	s := newSeen()
	rafts := schema.GroupVersionKind{Group: "sea.example.com", Version: "v2", Kind: "Raft"}
	w := start(t, rc, s, rafts)
	s.until(t, "seen", func() bool { _, ok := s.last("alice"); return ok && s.relisted[rafts] > 0 })

	patch(t, c.Resource(crdsR), name, `{"spec":{"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":{"url":"https://127.0.0.1:1/convert"}}}}}`)
	w.Relist()
	s.until(t, "lost", func() bool { return s.lost[rafts] == 1 })
	if _, ok := w.Get(api.ObjectRef{Group: rafts.Group, Version: "v2", Kind: "Raft", Name: "alice"}); !ok {
		t.Error("what was known is not")
	}
	s.mu.Lock()
	before := s.relisted[rafts]
	s.mu.Unlock()
	patch(t, c.Resource(crdsR), name, `{"spec":{"conversion":{"strategy":"None","webhook":null}}}`)
	s.until(t, "seen anew", func() bool { return s.relisted[rafts] > before })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost[rafts] != 1 {
		t.Errorf("lost %d times", s.lost[rafts])
	}
}

// However an object is read, its digest is the same: as protobuf, as JSON, as its metadata alone.
func TestDigestIsTheSameEverywhere(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(deploymentsR).Namespace(ns)
	d := object("apps/v1", "Deployment", "d", ours("set-11"))
	d.SetAnnotations(map[string]string{"a": "<&>"})
	d.SetFinalizers([]string{"example.com/z", "example.com/a"})
	t.Cleanup(func() {
		_, err := r.Patch(context.WithoutCancel(t.Context()), "d", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	container := map[string]any{
		"name": "app", "image": "nginx", "env": []any{map[string]any{"name": "A&B<C>", "value": "x"}, map[string]any{"name": "A", "value": "x"}},
		"ports": []any{map[string]any{"containerPort": int64(10)}, map[string]any{"containerPort": int64(9)}, map[string]any{"containerPort": int64(9), "protocol": "UDP"}},
	}
	d.Object["spec"] = map[string]any{
		"replicas": int64(0), "selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
		"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}, "spec": map[string]any{"containers": []any{container}}},
	}
	if _, err := r.Apply(t.Context(), "d", d, metav1.ApplyOptions{FieldManager: api.FieldManager}); err != nil {
		t.Fatal(err)
	}
	w := start(t, rc, newSeen(), deployments)
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{deployments}); err != nil {
		t.Fatal(err)
	}
	m, err := metadata.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	part, err := m.Resource(deploymentsR).Namespace(ns).Get(t.Context(), "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := r.Get(t.Context(), "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := w.Get(api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: ns, Name: "d"})
	if a, b := api.MetaDigest(part), api.MetaDigest(whole); a != b || got.MetaDigest != a {
		t.Errorf("watch %q, metadata %q, whole %q", got.MetaDigest, a, b)
	}
}

// BenchmarkDigest is what one event costs.
func BenchmarkDigest(b *testing.B) {
	fieldsOf := func(name string) *metav1.FieldsV1 {
		return metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:app":{},"f:x":{}}},"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"` +
			name + `\"}":{".":{},"f:args":{},"f:env":{"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:livenessProbe":{"f:httpGet":{"f:path":{},"f:port":{}}},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},"f:resources":{"f:limits":{"f:memory":{}}}}}}}}}`)
	}
	o := &metav1.PartialObjectMetadata{}
	o.Labels = ours("set")
	o.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: api.FieldManager, Operation: "Apply", FieldsV1: fieldsOf("a")}, {Manager: "kubectl", Operation: "Update", FieldsV1: fieldsOf("b")},
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = api.MetaDigest(o)
	}
}
