package engine

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// A chart whose first installation fails partway is still installed, not upgraded, by the commit that mends it.
func TestHooks_ofAnInstallationThatIsMended(t *testing.T) {
	chart := func(port string) files {
		fs := hookedChart("one")
		fs["a/templates/only.yaml"] = annotated("install-only", "one", "helm.sh/hook: post-install")
		fs["a/templates/up.yaml"] = annotated("upgrade-only", "one", "helm.sh/hook: post-upgrade")
		fs["a/templates/web.yaml"] = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS}\nspec: {ports: [{port: " + port + "}]}\n"
		return fs
	}
	r := start(t, chart("99999"))
	r.Failed("NS-a", "Service/NS/web")
	pre := r.get("h1-pre")
	r.Sync() // another try of the same thing
	r.Failed("NS-a", "Service/NS/web")
	r.same(pre)
	r.Ready("NS-a", r.Commit(chart("80")))
	if m := r.get("install-only"); m.Data["key"] != "one" {
		t.Errorf("the hook of the installation: %v", m.Data)
	}
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "upgrade-only", metav1.GetOptions{}); err == nil {
		t.Error("the installation was taken for an upgrade")
	}
}

// What somebody else put under a hook's name is neither deleted nor written over, and the bundle says so.
func TestHooks_leaveWhatIsNoHook(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: hookedChart("one")})
	theirs := r.create("h1-pre", "theirs", nil, nil)
	r.Start()
	r.Failed("NS-a", "ConfigMap/NS/h1-pre")
	r.same(theirs)
	r.remove("h1-pre")
	r.Sync()
	r.Eventually("the chart is installed once the name is free", func(ctx context.Context) error {
		return errors.Join(r.hasValue(ctx, "h1-pre", "one"), r.hasValue(ctx, "main", "one"))
	})
}

// The hooks of a removal come before and after it; one that fails holds it up, and a bundle that is renamed is not removed.
func TestHooks_ofARemoval(t *testing.T) {
	chart := func(name, stuck string) files {
		fs := hookedChart("one")
		fs["a/templates/bye.yaml"] = annotated("bye", "one", "helm.sh/hook: post-delete")
		fs["a/templates/drain.yaml"] = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: drain, namespace: NS, annotations: {helm.sh/hook: pre-delete}}\nspec: {suspend: " + stuck + ", template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}\n"
		fs["fleet.yaml"], fs["b/bundle.yaml"], fs["b/y.yaml"] = fleet("guards: {maxDeletePercent: 100}"), bundle("b", ""), configMap("y", "one")
		fs["a/bundle.yaml"] = bundle(name, "helm: {chart: ./}, namespace: NS, timeout: "+map[string]string{"true": "1s", "false": "30s"}[stuck])
		return fs
	}
	none := func(r *rig, names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s is there (%v)", name, err)
			}
		}
	}
	r := start(t, chart("a", "true"))
	r.Ready("NS-a", "")
	main := r.get("main")
	r.Ready("NS-renamed", r.Commit(chart("renamed", "true")))
	r.Eventually("the old name is gone", func(ctx context.Context) error {
		if _, err := r.Bundle(ctx, "NS-a"); err == nil {
			return errors.New("still there")
		}
		return nil
	})
	if _, err := r.Kube.BatchV1().Jobs(r.NS).Get(t.Context(), "drain", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a rename ran the hooks of a removal (%v)", err)
	}
	if now := r.get("main"); now.UID != main.UID {
		t.Error("a rename made the objects anew")
	}

	r.Delete("a")
	r.Failed("NS-renamed", "hook Job.batch/NS/drain did not end")
	r.get("main")
	none(r, "bye")
	// It comes back, mended, and is removed again; the agent knows what it had, though it was restarted.
	r.Ready("NS-renamed", r.Commit(chart("renamed", "false")))
	r.Stop()
	r.Delete("a")
	r.Start()
	r.gone("main")
	r.value("bye", "one")
	job, err := r.Kube.BatchV1().Jobs(r.NS).Get(t.Context(), "drain", metav1.GetOptions{})
	if err != nil || job.Status.Succeeded != 1 {
		t.Errorf("the Job before it: %+v (%v)", job.Status, err)
	}
}

// Random values come out differently after a restart, and that is no change for which hooks run.
func TestHooks_withRandomValuesAndARestart(t *testing.T) {
	fs := hookedChart("one")
	fs["a/templates/random.yaml"] = annotated("random", "{{ randAlphaNum 20 }}", "helm.sh/hook: \"pre-install,pre-upgrade\"")
	r := start(t, fs)
	r.Ready("NS-a", "")
	before := []*corev1.ConfigMap{r.get("random"), r.get("h1-pre"), r.get("h3-post")}
	r.Stop()
	r.Start()
	r.Applied(r.Commit(files{"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}))
	for _, m := range before {
		r.same(m)
	}
	r.Ready("NS-a", r.Commit(files{"a/templates/main.yaml": configMap("main", "two")}))
	if now := r.get("random"); now.Data["key"] == before[0].Data["key"] {
		t.Errorf("the hook of an upgrade has the value of the last time: %q", now.Data["key"])
	}
}

// What ran after the last object was deleted does not run again, however often the agent tries to forget the bundle.
func TestHooks_ofARemovalThatIsCutShort(t *testing.T) {
	fs := hookedChart("one")
	fs["a/templates/bye.yaml"] = annotated("bye", "one", "helm.sh/hook: post-delete")
	fs["fleet.yaml"], fs["b/bundle.yaml"], fs["b/y.yaml"] = fleet("guards: {maxDeletePercent: 100}"), bundle("b", ""), configMap("y", "one")
	r := proxied(t, fs)
	r.Ready("NS-a", "")
	var tries atomic.Int32
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.Method == http.MethodDelete && strings.HasSuffix(req.URL.Path, "/bundledeployments/"+r.NS+"-a") {
			tries.Add(1)
			return &agenttest.Fault{Status: http.StatusInternalServerError, Late: true}
		}
		return nil
	})
	revision := r.Delete("a")
	r.Eventually("the BundleDeployment is deleted, twice", func(context.Context) error {
		if tries.Load() < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	bye := r.get("bye")
	r.Stop()
	r.Proxy.Spoil(nil)
	r.Start()
	r.Applied(revision)
	r.same(bye)
	r.Stop()
	for _, rec := range r.Records() {
		if rec.Status.Name == r.NS+"-a" {
			t.Errorf("it is not forgotten: %+v", rec)
		}
	}
}

// A bundle that is renamed is there already, and upgraded: even if its first try fails when the old name is gone.
func TestHooks_ofABundleThatIsRenamed(t *testing.T) {
	for _, prune := range []string{"true", "false"} {
		t.Run("prune: "+prune, func(t *testing.T) {
			chart := func(name, port string) files {
				fs := hookedChart("one")
				delete(fs, "a/templates/h1.yaml")
				delete(fs, "a/templates/h2.yaml")
				fs["a/templates/only.yaml"] = annotated("install-only", "one", "helm.sh/hook: post-install")
				fs["a/templates/up.yaml"] = annotated("upgrade-only", "one", "helm.sh/hook: post-upgrade")
				fs["a/templates/web.yaml"] = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS}\nspec: {ports: [{port: " + port + "}]}\n"
				fs["a/bundle.yaml"] = bundle(name, "helm: {chart: ./}, namespace: NS, prune: "+prune)
				return fs
			}
			r := start(t, chart("a", "80"))
			r.Ready("NS-a", "")
			before := r.get("install-only")
			r.Commit(chart("renamed", "99999"))
			r.Failed("NS-renamed", "Service/NS/web")
			r.Stop()
			r.Start()
			r.Failed("NS-renamed", "Service/NS/web")
			r.Ready("NS-renamed", r.Commit(chart("renamed", "81")))
			r.same(before)
			r.value("upgrade-only", "one")
		})
	}
}
