package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// rv is an object's resourceVersion as a number: later writes have higher ones.
func rv(t *testing.T, o metav1.Object) int {
	t.Helper()
	n, err := strconv.Atoi(o.GetResourceVersion())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOrder_dependsOn(t *testing.T) {
	r := start(t, files{
		"c/bundle.yaml": bundle("c", "dependsOn: [NS-b]"), "c/z.yaml": configMap("z", "one"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
		"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 2, ""),
		"o/bundle.yaml": bundle("o", "dependsOn: [NS-stuck]"), "o/o.yaml": configMap("o", "one"),
		"stuck/bundle.yaml": bundle("stuck", ""), "stuck/web.yaml": deployment("stuck", 1, "nodeSelector: {no: where}"),
	})
	r.Ready("NS-c", "")
	web, err := r.Kube.AppsV1().Deployments(r.NS).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if y, z := r.get("y"), r.get("z"); rv(t, web) >= rv(t, y) || rv(t, y) >= rv(t, z) || web.Status.ReadyReplicas != 2 {
		t.Errorf("applied out of order: web ready at %s, y at %s, z at %s", web.ResourceVersion, y.ResourceVersion, z.ResourceVersion)
	}
	r.Eventually("the one whose dependency is not ready waits, and says for what", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-o")
		if err == nil && (b.Phase != "blocked" || !strings.Contains(b.Message, r.NS+"-stuck")) {
			err = fmt.Errorf("%s: %s", b.Phase, b.Message)
		}
		return err
	})
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "o", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("o was applied before what it depends on was ready: %v", err)
	}

	// All of it goes in the opposite order.
	w, err := r.Kube.CoreV1().ConfigMaps(r.NS).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	gone := make(chan []string, 1)
	go func() {
		var names []string
		for ev := range w.ResultChan() {
			if o, ok := ev.Object.(metav1.Object); ok && ev.Type == watch.Deleted {
				names = append(names, o.GetName())
			}
			if len(names) == 2 {
				gone <- names
				return
			}
		}
	}()
	r.Delete("a", "b", "c")
	select {
	case names := <-gone:
		if !slices.Equal(names, []string{"z", "y"}) {
			t.Errorf("deleted in the order %v", names)
		}
	case <-time.After(agenttest.Patience):
		t.Fatal("they were not deleted")
	}
	r.Eventually("what the others depended on is gone at last", func(ctx context.Context) error {
		_, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
}

func TestOrder_cycleAndMissingDependency(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Commit(files{
		"a/bundle.yaml": bundle("a", "dependsOn: [NS-b]"), "b/bundle.yaml": bundle("b", "dependsOn: [NS-c]"),
		"c/bundle.yaml": bundle("c", "dependsOn: [NS-a]"), "c/z.yaml": configMap("z", "one"), "b/y.yaml": configMap("y", "two"),
	})
	r.Refused("NS-a -> NS-b -> NS-c -> NS-a")
	// The last good state is still kept.
	r.patch("x", `{"data":{"key":"edited"}}`)
	r.value("x", "one")
	if err := r.hasValue(t.Context(), "y", "one"); err != nil {
		t.Errorf("a part of what was refused was applied: %v", err)
	}
	revision := r.Commit(files{"c/bundle.yaml": bundle("c", "")})
	r.Ready("NS-a", "")
	r.value("y", "two")
	r.Applied(revision)
	// A dependency that is nowhere holds up only who names it.
	r.Commit(files{"b/bundle.yaml": bundle("b", "dependsOn: [NS-nowhere]"), "b/y.yaml": configMap("y", "three"), "c/z.yaml": configMap("z", "two")})
	r.value("z", "two")
	r.unknownDependency("NS-b", "b/bundle.yaml", "NS-nowhere")
	if err := r.hasValue(t.Context(), "y", "two"); err != nil {
		t.Errorf("it was applied without what it depends on: %v", err)
	}
	revision = r.Commit(files{"nowhere/bundle.yaml": bundle("nowhere", ""), "nowhere/w.yaml": configMap("w", "one")})
	r.Ready("NS-b", revision)
	r.value("y", "three")
	r.Applied(revision)
}

// unknownDependency waits until a bundle has failed because what it depends on is not in Git.
func (r *rig) unknownDependency(name, file, dependency string) {
	r.t.Helper()
	r.Failed(name, file, dependency)
	b, err := r.Bundle(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	if e := b.Error; e == nil || e.Kind != api.Stalled || e.Reason != "UnknownDependency" || e.File != file || e.Field != "spec.dependsOn.0" {
		r.t.Errorf("the error is %+v", e)
	}
}

// Who depends on what leaves Git is told, and until then nothing is taken away from under it.
func TestOrder_dependencyLeavesGit(t *testing.T) {
	a := files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")}
	r := start(t, with(a, files{
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", ""), "c/z.yaml": configMap("z", "one"),
	}))
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	x, y := r.get("x"), r.get("y")
	r.Do(gitserver.Commit{Delete: []string{"a"}, Write: files{"b/y.yaml": configMap("y", "two"), "c/z.yaml": configMap("z", "two")}})
	r.unknownDependency("NS-b", "b/bundle.yaml", "NS-a")
	r.value("z", "two")
	r.Sync()
	time.Sleep(2 * time.Second)
	r.same(x)
	r.same(y)
	revision := r.Commit(a)
	r.Applied(revision)
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	r.value("y", "two")
	r.same(x)
	// The one that depended says that it does so no more: then the other may go.
	revision = r.Do(gitserver.Commit{Delete: []string{"a"}, Write: files{"b/bundle.yaml": bundle("b", "")}})
	r.gone("x")
	r.Ready("NS-b", revision)
	r.Applied(revision)
}

// crd defines a kind Thing of the test's own group; its objects live in namespaces.
const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.NS.example.com}
spec:
  group: NS.example.com
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
`

// thing is an object of it.
func thing(name, value string) string {
	return fmt.Sprintf("apiVersion: NS.example.com/v1\nkind: Thing\nmetadata: {name: %s, namespace: NS}\nspec: {key: %q}\n", name, value)
}

func (r *rig) things() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.NS + ".example.com", Version: "v1", Resource: "things"}
}

// thingIs waits until a Thing has a value.
func (r *rig) thingIs(name, want string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("Thing %s is %q", name, want), func(ctx context.Context) error {
		o, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got, _, _ := unstructured.NestedString(o.Object, "spec", "key"); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func TestCRD_withItsInstancesInOneCommit(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/thing.yaml": thing("one", "one"), "a/crd.yaml": crd,
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/thing.yaml": thing("two", "one"),
		"c/bundle.yaml": bundle("c", ""), "c/thing.yaml": thing("three", "one"), // finds its way by trying again
	})
	r.thingIs("one", "one")
	r.thingIs("two", "one")
	r.thingIs("three", "one")
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	events, err := r.Kube.CoreV1().Events(api.SystemNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if name := e.InvolvedObject.Name; e.Reason == "Failed" && (name == r.NS+"-a" || name == r.NS+"-b") {
			t.Errorf("%s was not applied at the first try: %s", name, e.Message)
		}
	}
	// Deleted by hand, with all instances: everything comes back.
	if err := r.Dynamic.Resource(crds).Delete(t.Context(), "things."+r.NS+".example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the CRD is new", func(ctx context.Context) error {
		o, err := r.Dynamic.Resource(crds).Get(ctx, "things."+r.NS+".example.com", metav1.GetOptions{})
		if err == nil && o.GetDeletionTimestamp() != nil {
			err = errors.New("it is the old one")
		}
		return err
	})
	r.thingIs("one", "one")
	r.thingIs("two", "one")
	r.thingIs("three", "one")
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	r.Commit(files{"a/thing.yaml": thing("one", "two")})
	r.thingIs("one", "two")
}

// Of two bundles that declare one object the second fails, and is told so, even where only the cluster knows that it is one:
// objects of a kind that is cluster-scoped, with different namespaces.
func TestCRD_clusterScopedObjectInTwoBundles(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")}})
	o := &unstructured.Unstructured{}
	decode(t, strings.Replace(r.Text(crd), "scope: Namespaced", "scope: Cluster", 1), o)
	if _, err := r.Dynamic.Resource(crds).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Dynamic.Resource(crds).Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{})
	})
	r.Start()
	r.Ready("NS-a", "")
	nowhere := func(value string) string { return strings.Replace(thing("one", value), ", namespace: NS", "", 1) }
	r.Commit(files{
		"b/bundle.yaml": bundle("b", "namespace: NS-one"), "b/thing.yaml": nowhere("b"), "b/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", "namespace: NS-two"), "c/thing.yaml": nowhere("c"),
	})
	r.Failed("NS-c", `is declared by bundle "`+r.NS+`-b", too, which has it`)
	r.Ready("NS-b", "")
	r.value("y", "one")
	is := func(want string) {
		t.Helper()
		r.Eventually("the Thing is that of "+want, func(ctx context.Context) error {
			o, err := r.Dynamic.Resource(r.things()).Get(ctx, "one", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got, _, _ := unstructured.NestedString(o.Object, "spec", "key"); got != want {
				return fmt.Errorf("it is %q", got)
			}
			return nil
		})
	}
	is("b")
	r.Delete("b/thing.yaml")
	r.Ready("NS-c", "")
	is("c")
}

func TestCRD_missingWhileInstancesAreDeclared(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{
		"a/bundle.yaml": bundle("a", ""), "a/thing.yaml": thing("one", "one"), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	}})
	makeCRD := func() {
		t.Helper()
		o := &unstructured.Unstructured{}
		decode(t, r.Text(crd), o)
		if _, err := r.Dynamic.Resource(crds).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	dropCRD := func() {
		if err := r.Dynamic.Resource(crds).Delete(t.Context(), "things."+r.NS+".example.com", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	r.Start()
	r.Failed("NS-a", "Thing", "a/thing.yaml")
	r.value("x", "one") // its neighbours do not wait for it
	r.Ready("NS-b", "")
	makeCRD()
	r.thingIs("one", "one")
	r.Ready("NS-a", "")
	dropCRD()
	r.Eventually("it is known that the instance cannot be looked after", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-a")
		if err == nil && b.Unknown == 0 && b.Phase != "failed" && len(b.Uncorrected) == 0 {
			err = fmt.Errorf("%s, %d unknown, %d drifted, not corrected: %q", b.Phase, b.Unknown, b.Drifted, b.Uncorrected)
		}
		return err
	})
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two"), "a/thing.yaml": thing("one", "two"), "b/y.yaml": configMap("y", "two")})
	r.Ready("NS-b", revision)
	r.value("x", "two")
	r.Failed("NS-a", "Thing")
	makeCRD()
	r.thingIs("one", "two")
	r.Ready("NS-a", revision)
	// Without its kind nothing is left to delete when the instance leaves Git.
	dropCRD()
	r.Eventually("the kind is served no more", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(r.things()).List(ctx, metav1.ListOptions{})
		return isGone(err)
	})
	revision = r.Delete("a/thing.yaml")
	r.Ready("NS-a", revision)
	r.Applied(revision)
}

// Classes come before what names them: a Pod whose PriorityClass is not there is refused. All of it is created in one pass.
func TestClass_withWhatNamesItInOneCommit(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""),
		"a/a.yaml":      "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: NS}\nspec: {priorityClassName: NS-high, runtimeClassName: NS-run, containers: [{name: c, image: c}]}\n",
		"a/z.yaml": "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: NS-high}\nvalue: 1000\n---\n" +
			"apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: NS-run}\nhandler: run\n",
	})
	r.Ready("NS-a", "")
	r.Stop()
	for _, rec := range r.Records() {
		for _, c := range rec.Status.Changes {
			if c.Action != api.Created || c.Error != "" {
				t.Errorf("%s was not created at once: %s %s", c.Object, c.Action, c.Error)
			}
		}
		if len(rec.Status.Changes) != 3 {
			t.Errorf("%d changes: %+v", len(rec.Status.Changes), rec.Status.Changes)
		}
	}
}

// A CRD drops the version in which its instances were first applied: they are applied, awaited and corrected in the new one.
func TestCRD_dropsAVersion(t *testing.T) {
	both := strings.Replace(crd, "  - name: v1\n    served: true\n    storage: true\n", "  - name: v1alpha1\n    served: true\n    storage: false\n"+
		"    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}\n  - name: v1\n    served: true\n    storage: true\n", 1)
	first := strings.Replace(strings.Replace(both, "storage: true", "storage: later", 1), "storage: false", "storage: true", 1)
	first = strings.Replace(first, "storage: later", "storage: false", 1)
	old := func(name, value string) string { return strings.Replace(thing(name, value), "/v1\n", "/v1alpha1\n", 1) }
	r := proxied(t, files{"a/bundle.yaml": bundle("a", ""), "a/crd.yaml": first, "a/one.yaml": old("one", "one"), "a/gone.yaml": old("gone", "one")})
	r.Ready("NS-a", "")
	r.Ready("NS-a", r.Commit(files{"a/crd.yaml": both, "a/one.yaml": thing("one", "two")}))
	for _, name := range []string{"one", "gone"} { // what a storage version migrator does
		_, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Patch(t.Context(), name, types.MergePatchType, []byte(`{}`), metav1.PatchOptions{FieldManager: "migrator"})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Dynamic.Resource(crds).Patch(t.Context(), "things."+r.NS+".example.com", types.MergePatchType, []byte(`{"status":{"storedVersions":["v1"]}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	// The version leaves, and with it an instance that was only ever applied in it.
	r.Do(gitserver.Commit{Write: files{"a/crd.yaml": crd}, Delete: []string{"a/gone.yaml"}})
	r.Eventually("the instance that left is gone", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Get(ctx, "gone", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
	r.Proxy.Break() // the watches begin anew, as they do every few minutes
	r.Ready("NS-a", r.Commit(files{"a/one.yaml": thing("one", "three")}))
	r.thingIs("one", "three")
	_, err = r.Dynamic.Resource(r.things()).Namespace(r.NS).Patch(t.Context(), "one", types.MergePatchType, []byte(`{"spec":{"key":"edited"}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
	r.thingIs("one", "three")
}

func TestAPIService_thatDoesNotAnswerStopsNobodyElse(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""),
		"b/service.yaml": `apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.NS.example.com}
spec: {group: NS.example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 10, insecureSkipTLSVerify: true, service: {namespace: NS, name: nobody}}
`,
		"c/bundle.yaml": bundle("c", ""), "c/thing.yaml": thing("one", "one"), "c/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-a", "")
	r.value("z", "one")
	r.Failed("NS-c", "Thing")
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two"), "c/z.yaml": configMap("z", "two"), "a/new.yaml": "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d, namespace: NS}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: m, image: m}]}}}\n"})
	r.Ready("NS-a", revision)
	r.value("z", "two")
	r.Stop()
	revision = r.Commit(files{"a/x.yaml": configMap("x", "three")})
	r.Start()
	r.Ready("NS-a", revision)
	// An object of that group that was never applied holds up nobody once it leaves Git.
	r.Failed("NS-c", "Thing")
	r.Ready("NS-c", r.Delete("c/thing.yaml"))
}
