package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

func TestHealth_timeoutNamesTheReason(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "timeout: 10s"), "a/web.yaml": deployment("web", 1, "nodeSelector: {no: where}"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
		"c/bundle.yaml": bundle("c", "wait: false, timeout: 3s"), "c/web.yaml": deployment("never", 1, "nodeSelector: {no: where}"),
		"d/bundle.yaml": bundle("d", "dependsOn: [NS-c]"), "d/z.yaml": configMap("z", "one"),
	})
	r.Failed("NS-a", "not healthy after 10s", "Deployment.apps/NS/web", "Unschedulable")
	r.value("z", "one") // nobody waits for what says wait: false
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "y", metav1.GetOptions{}); err == nil {
		t.Error("y was applied although what it depends on failed")
	}
	// Another reason, from Events this time: the Pods are refused.
	r.Commit(files{"a/web.yaml": deployment("web", 1, "priorityClassName: none-such")})
	r.Failed("NS-a", "no PriorityClass with name none-such")
	r.Ready("NS-a", r.Commit(files{"a/web.yaml": deployment("web", 1, "")}))
	r.value("y", "one")
}

func TestHealth_expressions(t *testing.T) {
	r := start(t, files{
		"crd/bundle.yaml": bundle("crd", ""), "crd/crd.yaml": crd,
		"a/bundle.yaml": bundle("a", `timeout: 2m, dependsOn: [NS-crd], health: [{apiVersion: NS.example.com/v1, kind: Thing, failed: "has(self.status) && self.status.state == 'broken'", current: "has(self.status) && self.status.state == 'done'"}]`),
		"a/thing.yaml":  thing("one", "one"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
	})
	r.thingIs("one", "one")
	state := func(s string) {
		t.Helper()
		_, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Patch(t.Context(), "one", types.MergePatchType,
			fmt.Appendf(nil, `{"status":{"state":%q}}`, s), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(phase, word string) {
		t.Helper()
		r.Eventually("the bundle is "+phase, func(ctx context.Context) error {
			b, err := r.Bundle(ctx, "NS-a")
			if err == nil && (string(b.Phase) != phase || !strings.Contains(b.Message, word)) {
				err = fmt.Errorf("%s: %s", b.Phase, b.Message)
			}
			return err
		})
	}
	is("progressing", "Thing")
	state("broken")
	is("progressing", "failed")
	state("done")
	r.Ready("NS-a", "")
	r.value("y", "one")
	state("broken")
	is("progressing", "Thing")
	state("done")
	r.Ready("NS-a", "")
}

// chart is a Helm chart whose hooks and objects are ConfigMaps.
func hookedChart(value string) files {
	hook := func(name, phases string, weight int) string {
		return annotated(name, value, fmt.Sprintf("helm.sh/hook: %q, helm.sh/hook-weight: \"%d\"", phases, weight))
	}
	return files{
		"a/bundle.yaml": bundle("a", "helm: {chart: ./}, namespace: NS"), "a/Chart.yaml": "{apiVersion: v2, name: hooked, version: 1.0.0}\n",
		"a/templates/main.yaml": configMap("main", value),
		"a/templates/h3.yaml":   hook("h3-post", "post-install,post-upgrade", 0),
		"a/templates/h2.yaml":   hook("h2-pre", "pre-install,pre-upgrade", 5),
		"a/templates/h1.yaml":   hook("h1-pre", "pre-install,pre-upgrade", -5),
		"a/templates/ht.yaml":   hook("h-test", "test", 0),
	}
}

func TestHooks_runInOrder(t *testing.T) {
	r := start(t, hookedChart("one"))
	order := func() {
		t.Helper()
		last := 0
		for _, name := range []string{"h1-pre", "h2-pre", "main", "h3-post"} {
			m := r.get(name)
			if n := rv(t, m); n <= last {
				t.Errorf("%s came too early: %d after %d", name, n, last)
			} else {
				last = n
			}
		}
		if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "h-test", metav1.GetOptions{}); err == nil {
			t.Error("a test hook was run")
		}
	}
	r.Ready("NS-a", "")
	order()
	before := r.get("h1-pre")
	// Once for a change, and not for a restart or an order.
	r.Stop()
	r.Start()
	r.Sync()
	time.Sleep(time.Second)
	r.same(before)
	r.Ready("NS-a", r.Commit(hookedChart("two")))
	order()
	if now := r.get("h1-pre"); now.UID == before.UID || now.Data["key"] != "two" {
		t.Errorf("the hook did not run for the upgrade: %v", now.Data)
	}
}

func TestHooks_thatFailHoldTheRestBack(t *testing.T) {
	const job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, namespace: NS, annotations: {helm.sh/hook: pre-install}}\nspec: {backoffLimit: 0, activeDeadlineSeconds: %d, template: {spec: {restartPolicy: Never, %scontainers: [{name: m, image: m}]}}}\n"
	fs := hookedChart("one")
	for name := range fs {
		if strings.HasPrefix(name, "a/templates/h") {
			delete(fs, name)
		}
	}
	fs["a/templates/job.yaml"] = fmt.Sprintf(job, 1, "nodeSelector: {no: where}, ")
	r := newRig(t, agenttest.Config{Files: fs})
	r.Start()
	r.Failed("NS-a", "hook")
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "main", metav1.GetOptions{}); err == nil {
		t.Error("main was applied although a hook before it failed")
	}
	r.Ready("NS-a", r.Commit(files{"a/templates/job.yaml": fmt.Sprintf(job, 60, "")}))
	r.value("main", "one")
}

// What left Git and is kept is nobody's to wait for: who deletes it by hand does not make the bundle, and what depends on it, wait.
func TestHealth_ofWhatIsKeptIsNotAwaited(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "prune: false"), "a/x.yaml": configMap("x", "one"), "a/old.yaml": deployment("old", 1, ""), "a/web.yaml": deployment("web", 1, ""),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-b", "")
	r.Ready("NS-a", r.Delete("a/old.yaml"))
	if err := r.Kube.AppsV1().Deployments(r.NS).Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	counts := func() {
		t.Helper()
		r.Eventually("its objects are counted", func(ctx context.Context) error {
			b, err := r.Bundle(ctx, "NS-a")
			if err == nil && (b.Objects != 3 || b.ReadyObjects != 3) {
				err = fmt.Errorf("%d of %d are ready", b.ReadyObjects, b.Objects)
			}
			return err
		})
	}
	revision := r.Commit(files{"a/x.yaml": configMap("x", "two"), "b/y.yaml": configMap("y", "two")})
	r.Ready("NS-b", revision)
	r.Ready("NS-a", revision)
	counts()
	r.Stop()
	r.Start()
	revision = r.Commit(files{"b/y.yaml": configMap("y", "three")})
	r.Ready("NS-b", revision)
	r.Ready("NS-a", "")
	counts()
}
