package engine

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// many are ConfigMaps below a directory.
func many(dir string, n int) files {
	out := files{}
	for i := range n {
		name := fmt.Sprintf("%s-%d", dir, i)
		out[fmt.Sprintf("%s/%s.yaml", dir, name)] = configMap(name, "one")
	}
	return out
}

func with(fs ...files) files {
	out := files{}
	for _, f := range fs {
		maps.Copy(out, f)
	}
	return out
}

func TestGuard_emptySource(t *testing.T) {
	a, b := with(files{"a/bundle.yaml": bundle("a", "")}, many("a", 4)), with(files{"b/bundle.yaml": bundle("b", "")}, many("b", 4))
	r := start(t, with(a, b))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	var all []*corev1.ConfigMap
	for i := range 4 {
		all = append(all, r.get(fmt.Sprintf("a-%d", i)), r.get(fmt.Sprintf("b-%d", i)))
	}
	kept := r.get("a-0")
	r.Delete("a", "b")
	r.refusedBy("EmptyRendering", "renders no object at all", "allowDelete")
	for _, m := range all {
		r.same(m)
	}
	// What stays is still looked after.
	r.patch("b-1", `{"data":{"key":"edited"}}`)
	r.value("b-1", "one")
	r.same(kept)

	revision := r.Commit(a)
	r.Ready("NS-a", "")
	r.gone("b-3") // four of eight: below what is guarded by share
	r.Applied(revision)
	r.same(kept)

	// The last one goes when that is said to be meant.
	r.Delete("a")
	r.refusedBy("EmptyRendering", "renders no object at all")
	for i := range 4 {
		if err := r.hasValue(t.Context(), fmt.Sprintf("a-%d", i), "one"); err != nil {
			t.Error(err)
		}
	}
	r.same(kept)
	revision = r.Commit(files{"fleet.yaml": fleet(`guards: {allowDelete: ["*"]}`)})
	r.gone("a-0")
	r.Applied(revision)
	r.Eventually("nothing is left of the bundles", func(ctx context.Context) error {
		left, err := r.Applier.BundleStatuses(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%+v", left)
		}
		return err
	})
}

// refusedBy waits until a guard has refused a pass as a whole.
func (r *rig) refusedBy(reason string, words ...string) {
	r.t.Helper()
	r.Refused(words...)
	report, err := r.Applier.Report(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if e := report.Status.Error; e == nil || e.Kind != api.Forbidden || e.Reason != reason {
		r.t.Errorf("it is refused with %+v", e)
	}
}

// A bundle whose files are all gone, and itself is not, is more likely broken than meant to be emptied.
func TestGuard_aBundleThatRendersNothing(t *testing.T) {
	a := many("a", 8)
	r := start(t, with(a, files{
		"a/bundle.yaml": bundle("a", ""),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"), "b/left.yaml": configMap("left", "one"),
	}))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	before := []*corev1.ConfigMap{r.get("left")}
	for i := range 8 {
		before = append(before, r.get(fmt.Sprintf("a-%d", i)))
	}
	c := gitserver.Commit{Delete: []string{"b/left.yaml"}, Write: files{"b/y.yaml": configMap("y", "two")}}
	for name := range a {
		c.Delete = append(c.Delete, name)
	}
	r.Do(c)
	r.Failed("NS-a", "a/bundle.yaml", "renders to no object")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil {
		t.Fatal(err)
	}
	if e := b.Error; e == nil || e.Kind != api.Stalled || e.Reason != "EmptyBundle" || e.File != "a/bundle.yaml" {
		t.Errorf("the error is %+v", e)
	}
	r.value("y", "two")
	r.Sync()
	time.Sleep(2 * time.Second)
	for _, m := range before { // what left the other bundle may have moved into this one
		r.same(m)
	}
	r.patch("a-0", `{"data":{"key":"edited"}}`)
	r.value("a-0", "one")
	for _, name := range []string{"a-6", "a-7"} {
		delete(a, "a/"+name+".yaml")
	}
	revision := r.Commit(a)
	for _, name := range []string{"a-6", "a-7", "left"} {
		r.gone(name)
	}
	r.Applied(revision)
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	for _, m := range before[2:7] { // a-1 to a-5
		r.same(m)
	}
}

// One of several bundles that leaves Git is a mass deletion like any other.
func TestGuard_oneBundleOfSeveralIsRemoved(t *testing.T) {
	a := with(files{"a/bundle.yaml": bundle("a", "")}, many("a", 8))
	r := start(t, with(a, files{"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	var before []*corev1.ConfigMap
	for i := range 8 {
		before = append(before, r.get(fmt.Sprintf("a-%d", i)))
	}
	r.Do(gitserver.Commit{Delete: []string{"a"}, Write: files{"b/y.yaml": configMap("y", "two")}})
	r.refusedBy("MassDeletion", "would delete 8 of 9", "allowDelete: [NS-a]")
	if err := r.hasValue(t.Context(), "y", "one"); err != nil {
		t.Errorf("a refused pass changed something: %v", err)
	}
	for _, m := range before {
		r.same(m)
	}
	revision := r.Commit(files{"fleet.yaml": fleet("guards: {allowDelete: [NS-a]}")})
	for _, m := range before {
		r.gone(m.Name)
	}
	r.value("y", "two")
	r.Applied(revision)
}

func TestGuard_massDeletion(t *testing.T) {
	r := start(t, with(files{"a/bundle.yaml": bundle("a", ""), "b/bundle.yaml": bundle("b", "")}, many("a", 8), many("b", 4)))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	kept := r.get("a-7")
	// The directory is gone from Git, or the target that chose this cluster: it is all the same.
	r.Commit(files{"a/bundle.yaml": bundle("a", "targets: [{clusters: [another]}]"), "b/b-0.yaml": configMap("b-0", "two")})
	r.refusedBy("MassDeletion", "would delete 8 of 12", "allowDelete: [NS-a]")
	if err := r.hasValue(t.Context(), "b-0", "one"); err != nil {
		t.Errorf("a refused pass changed something: %v", err)
	}
	r.Delete("clusters/one/cluster.yaml")
	r.Refused("one")
	r.same(kept)
	revision := r.Commit(files{
		"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one}\nspec: {guards: {allowDelete: [NS-a]}}\n",
	})
	r.gone("a-7")
	r.value("b-0", "two")
	r.Applied(revision)
}

func TestGuard_protectedKindsAndPruneDisabled(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":    fleet("guards: {maxDeletePercent: 100}"),
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"a/ns.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS}\n",
		"b/bundle.yaml": bundle("b", ""), "b/live.yaml": configMap("live", "one"), "b/live2.yaml": configMap("live2", "one"), "b/git.yaml": annotated("git", "one", "flotilla.dev/prune: disabled"),
		"b/y.yaml":      configMap("y", "one"),
		"c/bundle.yaml": bundle("c", "prune: false"), "c/z.yaml": configMap("z", "one"), "c/z2.yaml": configMap("z2", "one"),
	})
	for _, b := range []string{"NS-a", "NS-b", "NS-c"} {
		r.Ready(b, "")
	}
	r.patch("live", `{"metadata":{"annotations":{"flotilla.dev/prune":"disabled"}}}`)
	r.patch("live2", `{"metadata":{"annotations":{"flotilla.dev/prune":"disabled"}}}`)
	live, git, z, z2 := r.get("live"), r.get("git"), r.get("z"), r.get("z2")
	r.Delete("a", "b/live.yaml", "b/live2.yaml", "b/git.yaml", "b/y.yaml", "c/z.yaml")
	r.Commit(files{"b/new.yaml": configMap("new", "one")})
	r.value("new", "one")
	r.gone("y")
	r.Failed("NS-a", "Namespace/NS", "allowDelete: [NS-a]")
	r.Ready("NS-c", "")
	ns, err := r.Kube.CoreV1().Namespaces().Get(t.Context(), r.NS, metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceActive {
		t.Fatalf("the namespace is gone, or going: %v", err)
	}
	for _, m := range []*corev1.ConfigMap{live, git, z, z2, r.get("x")} {
		r.same(m)
	}
	// Bundles that leave Git altogether leave what is protected from pruning.
	r.patch("live2", `{"metadata":{"annotations":{"flotilla.dev/prune":null}}}`)
	r.gone("live2")
	r.Stop()
	r.Config.Dir = t.TempDir() // not even if the agent's own memory is lost
	r.DropLease()
	r.Delete("b", "c")
	r.Start()
	r.Commit(files{"d/bundle.yaml": bundle("d", ""), "d/w.yaml": configMap("w", "one")})
	r.value("w", "one")
	r.gone("new")
	for _, m := range []*corev1.ConfigMap{live, git, z, z2} {
		r.same(m)
	}
	// The annotation goes, and then the object.
	r.patch("live", `{"metadata":{"annotations":{"flotilla.dev/prune":null}}}`)
	r.gone("live")
	r.Commit(files{"fleet.yaml": fleet("guards: {allowDelete: [NS-a], maxDeletePercent: 100}")})
	r.Eventually("the namespace goes once that is said to be meant", func(ctx context.Context) error {
		ns, err := r.Kube.CoreV1().Namespaces().Get(ctx, r.NS, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && ns.Status.Phase == corev1.NamespaceTerminating {
			return nil
		}
		return fmt.Errorf("it is still there (%v)", err)
	})
}

// A claim takes its data with it: it leaves only where that is said to be meant, and what left with it waits for that.
func TestGuard_persistentVolumeClaim(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
		"a/disk.yaml": "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: disk, namespace: NS}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n",
	})
	r.value("y", "one")
	claims := r.Kube.CoreV1().PersistentVolumeClaims(r.NS)
	var before *corev1.PersistentVolumeClaim
	r.Eventually("the claim is there", func(ctx context.Context) (err error) {
		before, err = claims.Get(ctx, "disk", metav1.GetOptions{})
		return err
	})
	y := r.get("y")
	r.Delete("a/disk.yaml", "a/y.yaml")
	r.Failed("NS-a", "PersistentVolumeClaim/NS/disk", "allowDelete: [NS-a]")
	now, err := claims.Get(t.Context(), "disk", metav1.GetOptions{})
	if err != nil || now.UID != before.UID || now.DeletionTimestamp != nil {
		t.Fatalf("the claim is gone, or going: %v", err)
	}
	r.same(y)
	revision := r.Commit(files{"fleet.yaml": fleet("guards: {allowDelete: [NS-a]}")})
	r.Eventually("the claim goes", func(ctx context.Context) error {
		_, err := claims.Get(ctx, "disk", metav1.GetOptions{})
		return isGone(err)
	})
	r.gone("y")
	r.Ready("NS-a", "")
	r.Applied(revision)
}

func TestPrune_failedDeletionsAreTriedAgain(t *testing.T) {
	r := proxied(t, with(files{"a/bundle.yaml": bundle("a", ""), "b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}, many("a", 3)))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.Method == http.MethodDelete && strings.HasSuffix(req.URL.Path, "/a-1") {
			return &agenttest.Fault{Status: http.StatusInternalServerError}
		}
		return nil
	})
	r.Delete("a/a-1.yaml", "a/a-2.yaml")
	r.gone("a-2")
	r.Failed("NS-a", "ConfigMap/NS/a-1")
	// Neither a commit nor a restart forgets it.
	revision := r.Commit(files{"a/a-0.yaml": configMap("a-0", "two"), "b/y.yaml": configMap("y", "two")})
	r.value("a-0", "two")
	r.Ready("NS-b", revision)
	r.Stop()
	r.Start()
	r.Failed("NS-a", "ConfigMap/NS/a-1")
	r.Proxy.Spoil(nil)
	r.gone("a-1")
	r.Ready("NS-a", revision)
}

// A bundle that may render nothing is emptied, within the guards, and is ready then.
func TestGuard_aBundleThatMayRenderNothing(t *testing.T) {
	a := many("a", 8)
	r := start(t, with(a, files{"a/bundle.yaml": bundle("a", "empty: allowed")}))
	r.Ready("NS-a", "")
	kept := r.get("a-7")
	// It is not refused for rendering nothing, but for how much it would delete at once.
	c := gitserver.Commit{}
	for name := range a {
		c.Delete = append(c.Delete, name)
	}
	r.Do(c)
	r.refusedBy("MassDeletion", "8 of 8", "allowDelete")
	r.same(kept)
	revision := r.Commit(files{"a/a-7.yaml": a["a/a-7.yaml"], "a/a-6.yaml": a["a/a-6.yaml"], "fleet.yaml": fleet("guards: {allowDelete: [NS-a]}")})
	r.Ready("NS-a", revision)
	r.gone("a-0")
	r.Commit(files{"fleet.yaml": fleet("")})
	revision = r.Delete("a/a-7.yaml", "a/a-6.yaml")
	r.Ready("NS-a", revision)
	r.gone("a-7")
	r.gone("a-6")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil {
		t.Fatal(err)
	}
	if b.Error != nil || b.Objects != 0 {
		t.Errorf("the status is %+v", b)
	}
	// And it is filled again.
	revision = r.Commit(files{"a/a-1.yaml": a["a/a-1.yaml"]})
	r.Ready("NS-a", revision)
	r.value("a-1", "one")
}
