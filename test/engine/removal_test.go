package engine

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func namespace(name, annotations string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, annotations: {%s}}\n", name, annotations)
}

// namespace returns a Namespace that is neither gone nor going.
func (r *rig) namespace(name string) *corev1.Namespace {
	r.t.Helper()
	ns, err := r.Kube.CoreV1().Namespaces().Get(r.t.Context(), r.Text(name), metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceActive {
		r.t.Fatalf("%s is gone, or going: %v", name, err)
	}
	return ns
}

// What a prune leaves alone is no reason to refuse one: neither by its kind nor by its share.
func TestGuard_countsOnlyWhatWouldBeDeleted(t *testing.T) {
	fs := files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/live.yaml": namespace("NS-live", ""),
		"a/git.yaml": namespace("NS-git", "flotilla.dev/prune: disabled"), "a/hands.yaml": namespace("NS-hands", ""),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	}
	for i := range 8 {
		name := fmt.Sprintf("kept-%d", i)
		fs["b/"+name+".yaml"] = annotated(name, "one", "flotilla.dev/prune: disabled")
	}
	r := start(t, fs)
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Ready("NS-a", r.Commit(files{"a/hands.yaml": namespace("NS-hands", "flotilla.dev/reconcile: disabled")}))
	_, err := r.Kube.CoreV1().Namespaces().Patch(t.Context(), r.NS+"-live", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"flotilla.dev/prune":"disabled"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept := r.get("kept-0")
	r.Delete("a", "b")
	revision := r.Commit(files{"c/bundle.yaml": bundle("c", ""), "c/z.yaml": configMap("z", "one")})
	r.Ready("NS-c", revision)
	r.gone("x")
	r.gone("y")
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Applied(revision)
	r.namespace("NS-live")
	r.namespace("NS-git")
	r.namespace("NS-hands")
	r.same(kept)
}
