package watch_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/watch"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

var (
	configMaps  = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	deployments = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	boats       = schema.GroupVersionKind{Group: "sea.example.com", Version: "v1", Kind: "Boat"}

	configMapsR  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	deploymentsR = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	boatsR       = schema.GroupVersionResource{Group: "sea.example.com", Version: "v1", Resource: "boats"}
	crdsR        = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	suspensionsR = schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "suspensions"}
)

// seen collects what a Watcher tells, and lets a test wait for it.
type seen struct {
	mu          sync.Mutex
	events      []watch.Event
	relisted    map[schema.GroupVersionKind]int
	lost        map[schema.GroupVersionKind]int
	suspensions []api.Suspensions
	bad         []string
	changed     chan struct{}
}

func newSeen() *seen {
	return &seen{
		relisted: map[schema.GroupVersionKind]int{}, lost: map[schema.GroupVersionKind]int{},
		changed: make(chan struct{}),
	}
}

func (s *seen) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// until waits until ok, which is called with the lock held.
func (s *seen) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		s.mu.Lock()
		good, changed := ok(), s.changed
		s.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("%s: not seen; events: %+v", what, s.events)
		}
	}
}

// last is the newest event of an object.
func (s *seen) last(name string) (watch.Event, bool) {
	for _, v := range slices.Backward(s.events) {
		if v.Ref.Name == name {
			return v, true
		}
	}
	return watch.Event{}, false
}

func start(t *testing.T, rc *rest.Config, s *seen, kinds ...schema.GroupVersionKind) *watch.Watcher {
	t.Helper()
	w, err := watch.New(watch.Config{
		REST: rc, Log: slog.New(slog.DiscardHandler),
		Handler:         func(e watch.Event) { s.note(func() { s.events = append(s.events, e) }) },
		Relisted:        func(k schema.GroupVersionKind) { s.note(func() { s.relisted[k]++ }) },
		Lost:            func(k schema.GroupVersionKind, _ error) { s.note(func() { s.lost[k]++ }) },
		OnSuspensions:   func(set api.Suspensions) { s.note(func() { s.suspensions = append(s.suspensions, set) }) },
		OnBadSuspension: func(name string, _ error) { s.note(func() { s.bad = append(s.bad, name) }) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.SetKinds(kinds)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run did not end")
		}
	})
	return w
}

func client(t *testing.T, rc *rest.Config) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func object(apiVersion, kind, name string, labels map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	o.SetName(name)
	o.SetLabels(labels)
	return o
}

func ours(set string) map[string]string {
	return map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: set}
}

func create(t *testing.T, r dynamic.ResourceInterface, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	out, err := r.Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func patch(t *testing.T, r dynamic.ResourceInterface, name, body string, sub ...string) *unstructured.Unstructured {
	t.Helper()
	out, err := r.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEvents(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(configMapsR).Namespace(ns)
	s := newSeen()
	w := start(t, rc, s, configMaps)
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{configMaps}); err != nil {
		t.Fatal(err)
	}
	create(t, r, object("v1", "ConfigMap", "foreign", nil))
	made := create(t, r, object("v1", "ConfigMap", "a", ours("set-1")))

	s.until(t, "created", func() bool { _, ok := s.last("a"); return ok })
	s.mu.Lock()
	got, _ := s.last("a")
	s.mu.Unlock()
	want := watch.Event{
		Ref: api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: ns, Name: "a"},
		Meta: watch.Meta{
			UID: string(made.GetUID()), ResourceVersion: made.GetResourceVersion(),
			MetaDigest: api.MetaDigest(made), PartOf: "set-1",
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if m, ok := w.Get(got.Ref); !ok || m != want.Meta {
		t.Fatalf("Get: %v %v", m, ok)
	}

	changed := patch(t, r, "a", `{"data":{"k":"v"}}`)
	s.until(t, "changed", func() bool { e, _ := s.last("a"); return e.ResourceVersion == changed.GetResourceVersion() })
	s.mu.Lock()
	e, _ := s.last("a")
	s.mu.Unlock()
	if e.Before != want.Meta || !e.Before.Matters(e.Meta) || e.Deleted {
		t.Fatalf("a changed ConfigMap must matter: %+v", e)
	}

	// A label that was taken away looks like a deletion; the object is there all the same.
	patch(t, r, "a", `{"metadata":{"labels":{"`+api.LabelPartOf+`":null}}}`)
	s.until(t, "label stripped", func() bool { e, _ := s.last("a"); return e.Deleted })
	if _, ok := w.Get(got.Ref); ok {
		t.Fatal("an object without our label is still known")
	}
	patch(t, r, "a", `{"metadata":{"labels":{"`+api.LabelPartOf+`":"set-1"}}}`)
	s.until(t, "label is back", func() bool { e, _ := s.last("a"); return !e.Deleted })
	if err := r.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "deleted", func() bool { e, _ := s.last("a"); return e.Deleted })
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.last("foreign"); ok {
		t.Fatalf("an object without our labels was seen: %+v", e)
	}
}

// A change of status moves nothing that counts; a change of the spec moves the generation.
func TestStatusDoesNotMatter(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(deploymentsR).Namespace(ns)
	s := newSeen()
	start(t, rc, s, deployments)
	d := object("apps/v1", "Deployment", "d", ours("set-2"))
	pod := map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "app", "image": "nginx"}}},
	}
	d.Object["spec"] = map[string]any{
		"replicas": int64(0), "paused": true, "template": pod,
		"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
	}
	create(t, r, d)
	s.until(t, "created", func() bool { _, ok := s.last("d"); return ok })
	patched := patch(t, r, "d", `{"status":{"conditions":[{"type":"Test","status":"True"}]}}`, "status")
	// The Deployment's controller writes a status, too: ours need not be the last.
	var e watch.Event
	s.until(t, "status", func() bool {
		i := slices.IndexFunc(s.events, func(e watch.Event) bool {
			return e.Ref.Name == "d" && e.ResourceVersion == patched.GetResourceVersion()
		})
		if i >= 0 {
			e = s.events[i]
		}
		return i >= 0
	})
	if e.Before.UID == "" || e.Before.Matters(e.Meta) {
		t.Fatalf("a change of status must not matter: %+v", e)
	}
	patched = patch(t, r, "d", `{"spec":{"replicas":1}}`)
	matters := func() bool {
		for _, e := range s.events {
			if e.Generation == patched.GetGeneration() && e.Before.Matters(e.Meta) {
				return true
			}
		}
		return false
	}
	s.until(t, "spec", matters)
}

func boatCRD() *unstructured.Unstructured {
	crd := object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "boats.sea.example.com", nil)
	crd.Object["spec"] = map[string]any{
		"group": "sea.example.com", "scope": "Cluster",
		"names": map[string]any{"kind": "Boat", "plural": "boats", "singular": "boat", "listKind": "BoatList"},
		"versions": []any{map[string]any{
			"name": "v1", "served": true, "storage": true,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
		}},
	}
	return crd
}

// established waits until custom resources of a definition can be made.
func established(t *testing.T, r dynamic.NamespaceableResourceInterface, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		out, err := r.Create(ctx, o, metav1.CreateOptions{})
		if err == nil {
			return out
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A kind whose definition comes later is picked up; when the definition goes, so do its objects; and it may come back.
func TestKindComesAndGoes(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	c := client(t, rc)
	s := newSeen()
	w := start(t, rc, s, boats, configMaps)
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{configMaps}); err != nil {
		t.Fatalf("a kind that is missing must not hold others back: %v", err)
	}
	for range 2 {
		create(t, c.Resource(crdsR), boatCRD())
		t.Cleanup(func() {
			_ = c.Resource(crdsR).Delete(context.WithoutCancel(t.Context()), "boats.sea.example.com", metav1.DeleteOptions{})
		})
		made := established(t, c.Resource(boatsR), object("sea.example.com/v1", "Boat", "alice", ours("set-3")))
		s.until(t, "boat", func() bool { e, ok := s.last("alice"); return ok && e.UID == string(made.GetUID()) && !e.Deleted })
		if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{boats}); err != nil {
			t.Fatal(err)
		}
		if err := c.Resource(crdsR).Delete(t.Context(), "boats.sea.example.com", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.until(t, "boat is gone", func() bool { e, _ := s.last("alice"); return e.Deleted })
		for begun := time.Now(); w.Synced(boats); time.Sleep(20 * time.Millisecond) {
			if time.Since(begun) > 60*time.Second {
				t.Fatal("a kind that is gone counts as synced")
			}
		}
	}
	if s.lost[boats] != 0 {
		t.Fatalf("a kind that is not there was lost %d times", s.lost[boats])
	}
}

func TestSetKindsAtRunTime(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(configMapsR).Namespace(ns)
	create(t, r, object("v1", "ConfigMap", "before", ours("set-4")))
	s := newSeen()
	w := start(t, rc, s)
	w.SetKinds([]schema.GroupVersionKind{configMaps})
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{configMaps}); err != nil {
		t.Fatal(err)
	}
	ref := api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: ns, Name: "before"}
	if _, ok := w.Get(ref); !ok {
		t.Fatal("not known after sync")
	}
	found := false
	w.Objects(func(r api.ObjectRef, m watch.Meta) { found = found || r == ref && m.PartOf == "set-4" })
	if !found {
		t.Fatal("Objects left one out")
	}
	w.SetKinds(nil)
	if _, ok := w.Get(ref); ok || w.Synced(configMaps) {
		t.Fatal("a kind that is no longer watched is known")
	}
	create(t, r, object("v1", "ConfigMap", "after", ours("set-4")))
	w.SetKinds([]schema.GroupVersionKind{configMaps})
	s.until(t, "after", func() bool { _, ok := s.last("after"); return ok })
}

// What happens while the API server is down, or is no longer in its memory afterwards, is seen once it is back.
func TestAPIServerKilled(t *testing.T) {
	plane := controlplanetest.New(t, controlplane.Config{Mode: controlplane.Minimal})
	rc := controlplanetest.RESTConfigOf(t, plane)
	r := client(t, rc).Resource(configMapsR).Namespace("default")
	s := newSeen()
	w := start(t, rc, s, configMaps)
	create(t, r, object("v1", "ConfigMap", "a", ours("set-5")))
	create(t, r, object("v1", "ConfigMap", "b", ours("set-5")))
	s.until(t, "created", func() bool { _, ok := s.last("b"); return ok })
	s.until(t, "listed", func() bool { return s.relisted[configMaps] > 0 })

	if err := plane.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.until(t, "lost", func() bool { return s.lost[configMaps] == 1 })
	relisted := s.relisted[configMaps]
	if _, ok := w.Get(api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: "default", Name: "a"}); !ok {
		t.Fatal("what was known must stay known while the server is away")
	}
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := patch(t, r, "b", `{"data":{"k":"v"}}`)
	s.until(t, "deleted meanwhile", func() bool { e, _ := s.last("a"); return e.Deleted })
	s.until(t, "changed meanwhile", func() bool { e, _ := s.last("b"); return e.ResourceVersion == changed.GetResourceVersion() })
	s.until(t, "said to be back", func() bool { return s.relisted[configMaps] > relisted })
	t.Logf("seen %v after the server was back; relisted %d times", time.Since(began), s.relisted[configMaps])
}

// The API server forgets old resource versions: the watch must list anew and say so.
func TestExpired(t *testing.T) {
	rc := controlplanetest.RESTConfig(t)
	ns := controlplanetest.Namespace(t)
	r := client(t, rc).Resource(configMapsR).Namespace(ns)
	gate := &expiring{}
	rc.Wrap(gate.wrap)
	s := newSeen()
	w := start(t, rc, s, configMaps)
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{configMaps}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "listed", func() bool { return s.relisted[configMaps] == 1 })
	create(t, r, object("v1", "ConfigMap", "early", ours("set-6")))
	s.until(t, "early", func() bool { _, ok := s.last("early"); return ok })
	gate.breakAll()
	s.until(t, "listed anew", func() bool { return s.relisted[configMaps] == 2 })
	create(t, r, object("v1", "ConfigMap", "late", ours("set-6")))
	s.until(t, "late", func() bool { _, ok := s.last("late"); return ok })
	if gate.expired() == 0 {
		t.Fatal("no 410 was given")
	}
}

func TestSuspensions(t *testing.T) {
	plane := controlplanetest.New(t, controlplane.Config{Mode: controlplane.Minimal})
	rc := controlplanetest.RESTConfigOf(t, plane)
	c := client(t, rc)
	s := newSeen()
	w := start(t, rc, s)
	crd := object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "suspensions.flotilla.dev", nil)
	crd.Object["spec"] = map[string]any{
		"group": api.Group, "scope": "Cluster",
		"names": map[string]any{"kind": "Suspension", "plural": "suspensions", "singular": "suspension", "listKind": "SuspensionList"},
		"versions": []any{map[string]any{
			"name": api.Version, "served": true, "storage": true,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
		}},
	}
	create(t, c.Resource(crdsR), crd)
	order := object(api.APIVersion, "Suspension", "inc-1", nil)
	order.Object["spec"] = map[string]any{
		"scope": map[string]any{"bundles": []any{"podinfo"}}, "reason": "INC-1", "until": "2100-01-01T00:00:00Z", "actor": "alice",
	}
	made := established(t, c.Resource(suspensionsR), order)
	newest := func() api.Suspensions {
		if len(s.suspensions) == 0 {
			return nil
		}
		return s.suspensions[len(s.suspensions)-1]
	}
	s.until(t, "suspension", func() bool { return len(newest()) == 1 })
	want := api.Suspension{
		Name: "inc-1", Scope: api.Scope{Bundles: []string{"podinfo"}}, Reason: "INC-1", Actor: "alice",
		Until: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), Created: made.GetCreationTimestamp().UTC(),
	}
	s.mu.Lock()
	got := newest()[0]
	s.mu.Unlock()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if !w.SuspensionsSynced() {
		t.Fatal("not synced")
	}
	// One that cannot be read holds for everything, and is reported.
	broken := object(api.APIVersion, "Suspension", "inc-2", nil)
	broken.Object["spec"] = map[string]any{"scope": map[string]any{"bundels": []any{"podinfo"}}, "reason": "x", "until": "tomorrow"}
	create(t, c.Resource(suspensionsR), broken)
	s.until(t, "broken", func() bool {
		set := newest()
		return len(set) == 2 && set[1].Scope.All && set[1].Active(set[1].Created.Add(time.Hour)) &&
			!set[1].Active(set[1].Created.Add(api.DefaultSuspendMax)) && len(s.bad) == 1
	})
	for _, name := range []string{"inc-1", "inc-2"} {
		if err := c.Resource(suspensionsR).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "lifted", func() bool { return len(newest()) == 0 })
}

// Many objects cost little memory, and a change is seen in milliseconds among them.
func TestMemoryAndLatency(t *testing.T) {
	const count = 2000
	plane := controlplanetest.New(t, controlplane.Config{Mode: controlplane.Minimal})
	rc := controlplanetest.RESTConfigOf(t, plane)
	r := client(t, rc).Resource(configMapsR).Namespace("default")
	for i := range count {
		create(t, r, object("v1", "ConfigMap", fmt.Sprintf("cm-%d", i), ours("set-7")))
	}
	before := heap()
	s := newSeen()
	w := start(t, rc, s, configMaps)
	if err := w.WaitSynced(t.Context(), []schema.GroupVersionKind{configMaps}); err != nil {
		t.Fatal(err)
	}
	s.note(func() { s.events = nil })
	each := float64(heap()-before) / count
	t.Logf("%.0f bytes of heap for an object", each)
	if each > 4096 {
		t.Errorf("%.0f bytes of heap for an object are too many", each)
	}
	var worst time.Duration
	for i := range 100 {
		changed := patch(t, r, fmt.Sprintf("cm-%d", i), `{"data":{"k":"v"}}`)
		began := time.Now()
		s.until(t, "change", func() bool {
			e, _ := s.last(changed.GetName())
			return e.ResourceVersion == changed.GetResourceVersion()
		})
		worst = max(worst, time.Since(began))
	}
	t.Logf("the slowest of 100 changes was seen %v after the write", worst)
	if worst > time.Second {
		t.Errorf("the slowest change was seen only after %v", worst)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
