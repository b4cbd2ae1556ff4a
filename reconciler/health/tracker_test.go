package health

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
)

var scaled = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}

// quiet is a Tracker that is not running: the test does what its watches would, in the order that it wants.
func quiet(t *testing.T) *Tracker {
	t.Helper()
	tr, err := New(Config{REST: &rest.Config{Host: "http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// done is a Deployment that is done by its own status.
func done(version string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"replicas": int64(1)},
		"status": map[string]any{
			"observedGeneration": int64(1), "replicas": int64(1), "updatedReplicas": int64(1), "readyReplicas": int64(1), "availableReplicas": int64(1),
			"conditions": []any{map[string]any{"type": "Available", "status": "True"}},
		},
	}}
	o.SetGroupVersionKind(scaled)
	o.SetNamespace("ns")
	o.SetName("d")
	o.SetGeneration(1)
	o.SetResourceVersion(version)
	return o
}

func applied(version string) []api.InventoryEntry {
	return []api.InventoryEntry{{Object: api.RefOf(done(version)), ResourceVersion: version}}
}

// page is the answer to a list; meanwhile is what happens while it is on its way.
func page(version string, meanwhile func(), items ...*unstructured.Unstructured) func(metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	return func(metav1.ListOptions) (*unstructured.UnstructuredList, error) {
		if meanwhile != nil {
			meanwhile()
		}
		l := &unstructured.UnstructuredList{}
		l.SetResourceVersion(version)
		for _, o := range items {
			l.Items = append(l.Items, *o)
		}
		return l, nil
	}
}

// An object that was judged while its bundle was not waiting yet is judged anew by the bundle's own expressions.
func TestJudgedBeforeItsBundleWaits(t *testing.T) {
	t.Parallel()
	tr := quiet(t)
	tr.Set("other", []api.InventoryEntry{{Object: api.ObjectRef{Group: scaled.Group, Version: "v1", Kind: scaled.Kind, Namespace: "ns", Name: "other"}}}, nil)
	k := tr.kinds[scaled.GroupKind()]
	if _, err := tr.list(t.Context(), k, page("5", nil)); err != nil {
		t.Fatal(err)
	}
	// The watch has looked for expressions and found none, and is held up before it says so.
	o := done("7")
	status, message := judge(o, tr.checkFor(api.RefOf(o)))
	tr.Set("b", applied("7"), []api.HealthCheck{{APIVersion: "apps/v1", Kind: "Deployment", Current: "self.spec.replicas == 2"}})
	tr.see(k, api.RefOf(o), verdict{version: 7, status: status, message: message})
	if s := tr.Get("b"); s.Healthy() {
		t.Errorf("ready by the standard, and not by the bundle's expression: %+v", s)
	}
	tr.take(k, o)
	if s := tr.Get("b"); s.Healthy() || !strings.Contains(s.InProgress[0].Message, "current expression") {
		t.Errorf("%+v", s)
	}
}

// The API server's store was restored from a backup, and counts on from there: what there is then counts.
func TestResourceVersionsThatWentBack(t *testing.T) {
	t.Parallel()
	tr := quiet(t)
	tr.Set("b", applied("1000"), nil)
	k := tr.kinds[scaled.GroupKind()]
	list := func(p func(metav1.ListOptions) (*unstructured.UnstructuredList, error)) Summary {
		t.Helper()
		if _, err := tr.list(t.Context(), k, p); err != nil {
			t.Fatal(err)
		}
		return tr.Get("b")
	}
	if s := list(page("1000", nil, done("1000"))); !s.Healthy() {
		t.Fatalf("%+v", s)
	}
	if s := list(page("500", nil, done("400"))); !s.Healthy() {
		t.Errorf("after the restore: %+v", s)
	}
	// What is applied afterwards has to be seen, as ever: also where the list that was begun before is older.
	tr.Set("b", applied("520"), nil)
	if s := tr.Get("b"); s.Healthy() {
		t.Errorf("the next apply was not seen yet: %+v", s)
	}
	if s := list(page("540", func() { tr.Set("b", applied("560"), nil) }, done("520"))); s.Healthy() {
		t.Errorf("what was applied during the list was not seen yet: %+v", s)
	}
	if s := list(page("600", nil, done("560"))); !s.Healthy() {
		t.Errorf("%+v", s)
	}
	// The same of an object that is not there.
	if s := list(page("300", nil)); s.Healthy() || s.InProgress[0].Message != "not found" {
		t.Errorf("after a restore without it: %+v", s)
	}
}
