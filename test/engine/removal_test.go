package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
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

// message waits until a bundle's message holds the words.
func (r *rig) message(name string, words ...string) {
	r.t.Helper()
	r.Eventually(r.Text(name)+" says "+strings.Join(words, ", "), func(ctx context.Context) error {
		b, err := r.Bundle(ctx, name)
		for _, w := range words {
			if err == nil && !strings.Contains(b.Message, r.Text(w)) {
				err = fmt.Errorf("%s is %s: %q", name, b.Phase, b.Message)
			}
		}
		return err
	})
}

// held is a Deployment that is pruned before ConfigMaps, and is gone when release was called.
func held() string {
	return strings.Replace(deployment("held", 0, ""), "namespace: NS}", "namespace: NS, finalizers: [example.com/hold]}", 1)
}

// going waits until what held describes is being deleted.
func (r *rig) going() {
	r.t.Helper()
	r.Eventually("held is being deleted", func(ctx context.Context) error {
		d, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "held", metav1.GetOptions{})
		if err == nil && d.DeletionTimestamp == nil {
			err = errors.New("it is not")
		}
		return err
	})
}

func (r *rig) release() {
	r.t.Helper()
	_, err := r.Kube.AppsV1().Deployments(r.NS).Patch(r.t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
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

// A removal that waits goes by what Git says when the wait is over, and not by what it said before.
func TestPrune_goesByWhatGitSaysNow(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":    fleet("guards: {allowDelete: [NS-a], maxDeletePercent: 100}"),
		"a/bundle.yaml": bundle("a", ""), "a/held.yaml": held(), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
		"a/z.yaml": configMap("z", "one"), "a/ns.yaml": namespace("NS-spare", ""),
		"c/bundle.yaml": bundle("c", ""), "c/web.yaml": deployment("web", -1, ""),
	})
	r.Ready("NS-a", "")
	y, spare := r.get("y"), r.namespace("NS-spare")
	r.Delete("a/held.yaml", "a/y.yaml", "a/z.yaml", "a/ns.yaml")
	r.going()
	// y is to move, and cannot yet. The namespace may not go after all.
	r.Do(gitserver.Commit{Write: files{
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-c]"), "b/y.yaml": configMap("y", "one"), "fleet.yaml": fleet("guards: {maxDeletePercent: 100}"),
	}})
	r.message("NS-b", "waits for NS-c")
	r.release()
	r.Failed("NS-a", "Namespace/NS-spare", "allowDelete: [NS-a]")
	r.gone("z")
	r.same(y)
	if now := r.namespace("NS-spare"); now.UID != spare.UID {
		t.Error("the namespace is another one")
	}
	r.Commit(files{"c/web.yaml": deployment("web", 1, ""), "a/ns.yaml": namespace("NS-spare", "")})
	r.Ready("NS-b", "")
	r.Ready("NS-a", "")
	if now := r.get("y"); now.UID != y.UID {
		t.Error("y was deleted on its way to the other bundle")
	}
}

// A bundle that leaves Git as a whole goes by it, too, and keeps what nobody has taken over yet on its list.
func TestPrune_aBundleThatGoesKeepsWhatMoves(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":    fleet("guards: {maxDeletePercent: 100}"),
		"a/bundle.yaml": bundle("a", ""), "a/held.yaml": held(), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", ""), "c/web.yaml": deployment("web", -1, ""),
	})
	r.Ready("NS-a", "")
	y := r.get("y")
	r.Delete("a")
	r.going()
	r.Commit(files{"b/bundle.yaml": bundle("b", "dependsOn: [NS-c]"), "b/y.yaml": configMap("y", "one")})
	r.message("NS-b", "waits for NS-c")
	r.release()
	r.message("NS-a", "NS-b")
	r.same(y)
	// It does not move after all.
	r.Delete("b")
	r.gone("y")
	r.Eventually("nothing is left of the bundle", func(ctx context.Context) error {
		if b, err := r.Bundle(ctx, "NS-a"); err == nil {
			return fmt.Errorf("%s: %s", b.Phase, b.Message)
		}
		return nil
	})
}

// What a bundle still has for another one to take over goes if that one never had it.
func TestPrune_whatNeverMoved(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":    fleet("guards: {maxDeletePercent: 100}"),
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", ""), "c/web.yaml": deployment("web", -1, ""),
	})
	r.Ready("NS-a", "")
	y := r.get("y")
	r.Ready("NS-a", r.Do(gitserver.Commit{
		Delete: []string{"a/y.yaml"},
		Write:  files{"b/bundle.yaml": bundle("b", "dependsOn: [NS-c]"), "b/y.yaml": configMap("y", "one")},
	}))
	r.same(y)
	r.Delete("b")
	r.gone("y")
}

// What stays because some bundle cannot be rendered goes when it can, also if the agent was restarted in between.
// Until then the status says so.
func TestPrune_staysWhileABundleIsBroken(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", restart), func(t *testing.T) {
			r := start(t, files{
				"fleet.yaml":    fleet("guards: {maxDeletePercent: 100}"),
				"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"),
				"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"),
				"g/bundle.yaml": bundle("g", ""), "g/w.yaml": configMap("w", "one"),
			})
			for _, name := range []string{"NS-a", "NS-b", "NS-g"} {
				r.Ready(name, "")
			}
			r.Do(gitserver.Commit{Delete: []string{"a/y.yaml", "g"}, Write: files{"b/z.yaml": "kind: [\n"}})
			r.message("NS-a", "until bundle NS-b can be rendered: 1")
			r.message("NS-g", "until bundle NS-b can be rendered: 1")
			r.Ready("NS-a", "")
			r.get("y")
			if restart {
				r.Stop()
				r.Start()
			}
			// Another bundle's mistake keeps it as well.
			r.Commit(files{"b/z.yaml": configMap("z", "two"), "c/bundle.yaml": bundle("c", ""), "c/v.yaml": "kind: [\n"})
			r.value("z", "two")
			r.message("NS-a", "until bundle NS-c can be rendered: 1")
			r.message("NS-g", "until bundle NS-c can be rendered: 1")
			r.Commit(files{"c/v.yaml": configMap("v", "one")})
			r.gone("y")
			r.gone("w")
			r.Eventually("the status says so no more", func(ctx context.Context) error {
				b, err := r.Bundle(ctx, "NS-a")
				if err == nil && b.Message != "" {
					err = errors.New(b.Message)
				}
				return err
			})
		})
	}
}

// A bundle that goes waits for those that stay and depended on it: until what they have left is gone.
func TestPrune_goesAfterWhatDependedOnIt(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost store %t", lost), func(t *testing.T) {
			r := start(t, files{
				"fleet.yaml":     fleet("guards: {maxDeletePercent: 100}"),
				"op/bundle.yaml": bundle("op", ""), "op/op.yaml": configMap("operator", "one"),
				"app/bundle.yaml": bundle("app", "dependsOn: [NS-op], timeout: 5s"), "app/held.yaml": held(), "app/x.yaml": configMap("x", "one"),
			})
			r.Ready("NS-app", "")
			if lost {
				r.Stop()
				r.Config.Dir = t.TempDir()
				r.DropLease()
			}
			// What is wrong with it holds up the removal, too.
			r.Do(gitserver.Commit{Delete: []string{"op", "app/held.yaml"}, Write: files{"app/bundle.yaml": bundle("app", "timeout: 5s"), "app/web.yaml": deployment("web", -1, "")}})
			if lost {
				r.Start()
			}
			r.Failed("NS-app", "spec.replicas")
			r.message("NS-op", "left Git", "waits for NS-app (failed), which depended on it")
			r.Commit(files{"app/web.yaml": deployment("web", 0, "")})
			r.going()
			time.Sleep(time.Second)
			r.get("operator")
			r.release()
			r.gone("operator")
			r.Ready("NS-app", "")
		})
	}
}

// Dependencies that could not be rendered hold up nothing, and neither do such that turned about before they were applied.
func TestPrune_goesThoughDependenciesTurnedAbout(t *testing.T) {
	app := files{"app/bundle.yaml": bundle("app", "dependsOn: [NS-db]"), "app/x.yaml": configMap("x", "one")}
	r := start(t, with(app, files{
		"fleet.yaml":     fleet("guards: {maxDeletePercent: 100}"),
		"db/bundle.yaml": bundle("db", ""), "db/y.yaml": configMap("y", "one"),
		"keep/bundle.yaml": bundle("keep", ""), "keep/z.yaml": configMap("z", "one"),
	}))
	r.Ready("NS-app", "")
	r.Do(gitserver.Commit{Delete: []string{"app"}, Write: files{"db/bundle.yaml": bundle("db", "dependsOn: [NS-app]")}})
	r.Failed("NS-db", `there is no bundle "NS-app"`)
	r.Applied(r.Delete("db"))
	r.gone("x")
	r.gone("y")

	// Neither of the two could be applied when they changed places.
	r.Commit(with(app, files{"db/bundle.yaml": bundle("db", ""), "db/y.yaml": configMap("y", "one")}))
	r.Ready("NS-app", "")
	r.Commit(files{
		"app/bundle.yaml": bundle("app", ""), "app/web.yaml": deployment("web", -1, ""),
		"db/bundle.yaml": bundle("db", "dependsOn: [NS-app]"), "db/y.yaml": configMap("y", "two"),
	})
	r.Failed("NS-app", "spec.replicas")
	r.message("NS-db", "waits for NS-app")
	r.Applied(r.Delete("app", "db"))
	r.gone("x")
	r.gone("y")
}

// A CustomResourceDefinition and a PersistentVolumeClaim are as precious as a Namespace, and nothing else of their bundle goes before that is settled.
func TestGuard_definitionsAndClaims(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":    fleet("guards: {maxDeletePercent: 100}"),
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"a/crd.yaml":    "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: gadgets.NS.example.com}\nspec: {group: NS.example.com, scope: Namespaced, names: {kind: Gadget, plural: gadgets}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}\n",
		"b/bundle.yaml": bundle("b", "wait: false"), "b/y.yaml": configMap("y", "one"),
		"b/claim.yaml":  "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: claim, namespace: NS}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n",
		"c/bundle.yaml": bundle("c", ""), "c/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-c", "")
	r.value("y", "one")
	claim, err := r.Kube.CoreV1().PersistentVolumeClaims(r.NS).Get(t.Context(), "claim", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Delete("a/crd.yaml", "a/x.yaml", "b")
	r.Commit(files{"a/new.yaml": configMap("new", "one")})
	r.Failed("NS-a", "CustomResourceDefinition.apiextensions.k8s.io/gadgets.NS.example.com", "allowDelete: [NS-a]")
	r.Failed("NS-b", "PersistentVolumeClaim/NS/claim", "allowDelete: [NS-b]")
	r.get("x")
	r.get("y")
	if now, err := r.Kube.CoreV1().PersistentVolumeClaims(r.NS).Get(t.Context(), "claim", metav1.GetOptions{}); err != nil || now.UID != claim.UID || now.DeletionTimestamp != nil {
		t.Errorf("the claim is gone, or going: %v", err)
	}
	r.Commit(files{"fleet.yaml": fleet("guards: {allowDelete: [NS-a], maxDeletePercent: 100}")})
	r.gone("x")
	r.Ready("NS-a", "")
	gadgets := r.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	r.Eventually("the kind is gone", func(ctx context.Context) error {
		_, err := gadgets.Get(ctx, r.Text("gadgets.NS.example.com"), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
	r.get("y")
}

// A bundle that leaves Git while it waits for its next try is removed at once, and what it failed for is told no more.
func TestPrune_doesNotWaitForABackoff(t *testing.T) {
	r := proxied(t, files{
		"fleet.yaml":        fleet("guards: {maxDeletePercent: 100, allowDelete: ['*']}"),
		"ok/bundle.yaml":    bundle("ok", ""),
		"ok/x.yaml":         configMap("x", "one"),
		"bad/bundle.yaml":   bundle("bad", ""),
		"bad/y.yaml":        configMap("applied", "one"),
		"bad/refused.yaml":  "apiVersion: v1\nkind: Pod\nmetadata: {name: refused, namespace: NS-q}\nspec: {containers: [{name: c, image: x, securityContext: {privileged: true}}]}\n",
		"bad/restrict.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-q, labels: {pod-security.kubernetes.io/enforce: restricted}}\n",
	})
	r.Failed("NS-bad", "refused")
	var last time.Time
	r.Eventually("it waits for minutes", func(context.Context) error {
		for _, q := range r.Proxy.Requests() {
			if q.Method == http.MethodPatch && strings.HasSuffix(q.Path, "/pods/refused") {
				last = q.At
			}
		}
		if quiet := time.Since(last); last.IsZero() || quiet < 10*time.Second {
			return fmt.Errorf("tried %s ago", quiet)
		}
		return nil
	})
	revision := r.Delete("bad")
	r.gone("applied")
	r.Applied(revision)
	r.Eventually("the bundle is gone", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-bad")
		if err == nil {
			return fmt.Errorf("it is %s: %+v", b.Phase, b.Error)
		}
		return nil
	})
}

// A store that is put back from an older copy does not know what was made meanwhile, which leaves the cluster with Git all the same.
func TestPrune_whatAnOlderStoreDoesNotKnow(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	r.Stop()
	file := filepath.Join(r.Config.Dir, "agent.db")
	older, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r.Commit(files{"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")})
	r.Start()
	r.Ready("NS-b", "")
	r.Stop()
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Delete("b")
	r.Start()
	r.gone("y")
	r.get("x")
}
