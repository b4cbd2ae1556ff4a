package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// A fix that arrives while the broken revision is still being applied runs, although that one needs a human.
func TestRevision_aFixIsNotLostWhileTheOldOneFails(t *testing.T) {
	r := proxied(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "zero")})
	r.Ready("NS-a", "")
	slow := make(chan struct{})
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if agenttest.IsWrite(req) && strings.HasSuffix(req.URL.Path, "/configmaps/x") {
			select {
			case <-slow:
			default:
				close(slow)
				return &agenttest.Fault{Wait: 3 * time.Second, Status: http.StatusUnprocessableEntity}
			}
		}
		return nil
	})
	r.Commit(files{"a/x.yaml": configMap("x", "one"), "a/web.yaml": deployment("web", -1, "")})
	<-slow
	fix := r.Commit(files{"a/x.yaml": configMap("x", "two"), "a/web.yaml": deployment("web", 1, "")})
	r.adopted(fix)
	r.value("x", "two")
	r.Ready("NS-a", fix)
}

// Whatever left a bundle may have moved into one that cannot be rendered: it is kept until that is known.
func TestRevision_nothingIsPrunedWhileABundleIsBroken(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"), "a/old.yaml": configMap("old", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"), "gone/bundle.yaml": bundle("gone", ""), "gone/g.yaml": configMap("g", "one"),
	})
	for _, b := range []string{"NS-a", "NS-b", "NS-gone"} {
		r.Ready(b, "")
	}
	uid := r.get("x").UID
	broken := r.Do(gitserver.Commit{
		Delete: []string{"a/x.yaml", "a/old.yaml", "gone"},
		Write:  files{"b/x.yaml": configMap("x", "two"), "b/z.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {nam: z}\n", "a/y.yaml": configMap("y", "two")},
	})
	r.adopted(broken)
	r.Failed("NS-b", "b/z.yaml")
	r.value("y", "two")
	time.Sleep(time.Second)
	for _, name := range []string{"x", "old", "g", "z"} {
		r.get(name)
	}
	r.Applied(r.Commit(files{"b/z.yaml": configMap("z", "two")}))
	r.value("x", "two")
	r.gone("old")
	r.gone("g")
	if now := r.get("x"); now.UID != uid {
		t.Error("x was made anew")
	}
}

// Who gave an object away no longer counts it, and is not held up by what becomes of it.
func TestRevision_aMoveLeavesNothingBehind(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 1, ""), "a/y.yaml": configMap("y", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Applied(r.Do(gitserver.Commit{Delete: []string{"a/web.yaml"}, Write: files{"b/web.yaml": deployment("web", 1, "")}}))
	owns := func(name string, n int) {
		t.Helper()
		r.Eventually(fmt.Sprintf("%s owns %d", name, n), func(ctx context.Context) error {
			b, err := r.Bundle(ctx, name)
			if err == nil && (b.Objects != n || b.Phase != api.PhaseReady) {
				err = fmt.Errorf("%s: %d objects", b.Phase, b.Objects)
			}
			return err
		})
	}
	owns("NS-a", 1)
	owns("NS-b", 2)
	r.Stop()
	for _, rec := range r.Records() {
		want := 2
		if rec.Status.Name == r.NS+"-a" {
			want = 1
		}
		if len(rec.Inventory) != want {
			t.Errorf("%s has %d entries in the store, want %d", rec.Status.Name, len(rec.Inventory), want)
		}
	}
	r.Start()
	r.Applied(r.Delete("b/web.yaml"))
	owns("NS-a", 1)
	owns("NS-b", 1)
}

// The end of a suspension of one object also lets the bundle go that left Git meanwhile.
func TestSuspension_itsEndLetsABundleThatLeftGitGo(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"), "b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one")})
	r.Ready("NS-a", "")
	s, err := r.Applier.Suspend(t.Context(), api.Suspension{
		Scope: api.Scope{Objects: []api.ObjectRef{{Kind: "ConfigMap", Namespace: r.NS, Name: "x"}}}, Reason: "INC-1", Until: time.Now().Add(time.Hour), Actor: "tester",
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Eventually("it is suspended", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err == nil && len(report.Status.Suspensions) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	r.Delete("a")
	r.gone("y")
	time.Sleep(time.Second)
	r.get("x")
	if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	r.gone("x")
}

// Health is followed on from where it was when the agent was stopped.
func TestHealth_isFollowedAfterARestart(t *testing.T) {
	r := start(t, files{
		"crd/bundle.yaml": bundle("crd", ""), "crd/crd.yaml": crd,
		"a/bundle.yaml": bundle("a", "timeout: 10s"), "a/web.yaml": deployment("web", 1, "nodeSelector: {no: where}"),
		"t/bundle.yaml": bundle("t", `timeout: 2m, dependsOn: [NS-crd], health: [{apiVersion: NS.example.com/v1, kind: Thing, current: "has(self.status) && self.status.state == 'done'"}]`),
		"t/thing.yaml":  thing("one", "one"),
	})
	phase := func(name string, want api.BundlePhase) {
		t.Helper()
		r.Eventually(fmt.Sprintf("%s is %s", name, want), func(ctx context.Context) error {
			b, err := r.Bundle(ctx, name)
			if err == nil && b.Phase != want {
				err = fmt.Errorf("%s: %s", b.Phase, b.Message)
			}
			return err
		})
	}
	state := func(s string) {
		t.Helper()
		_, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Patch(t.Context(), "one", types.MergePatchType,
			fmt.Appendf(nil, `{"status":{"state":%q}}`, s), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
	}
	phase("NS-a", api.PhaseProgressing)
	r.thingIs("one", "one")
	state("done")
	r.Ready("NS-t", "")
	r.Stop()
	r.Start()
	r.Failed("NS-a", "not healthy after 10s")
	phase("NS-t", api.PhaseReady)
	state("broken")
	phase("NS-t", api.PhaseProgressing)
	state("done")
	r.Ready("NS-t", "")
}

// What was changed while the agent was down is recorded, although a commit changes the same object:
// in bundles of any size.
func TestWitness_driftThatACommitWritesOver(t *testing.T) {
	fs := with(files{"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 1, ""), "a/x.yaml": configMap("x", "one"), "a/lost.yaml": configMap("lost", "one")}, many("a", 70))
	r := start(t, fs)
	r.Ready("NS-a", "")
	r.Stop()
	edit := func(manager, name, body string) {
		t.Helper()
		_, err := r.Kube.AppsV1().Deployments(r.NS).Patch(t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
	}
	edit("kubectl-set", "web", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"main:9"}]}}}}`)
	r.patch("x", `{"data":{"key":"by hand"}}`)
	r.remove("lost")
	revision := r.Commit(files{
		"a/web.yaml": strings.Replace(deployment("web", 1, ""), "main:1", "main:2", 1),
		"a/x.yaml":   configMap("x", "two"), "a/lost.yaml": configMap("lost", "two"),
	})
	r.Start()
	r.Ready("NS-a", revision)
	r.value("x", "two")
	r.value("lost", "two")
	r.Stop()
	found := map[string]api.Episode{}
	for _, e := range r.Episodes() {
		found[e.Object.Kind+"/"+e.Object.Name] = e
	}
	for object, want := range map[string]api.Class{"Deployment/web": api.ClassChanged, "ConfigMap/x": api.ClassChanged, "ConfigMap/lost": api.ClassMissing} {
		e, ok := found[object]
		if !ok || e.Class != want || e.Open() || e.Outcome != api.OutcomeCorrected {
			t.Errorf("%s: %v %+v", object, ok, e)
		}
	}
	if e := found["Deployment/web"]; e.By.Manager != "kubectl-set" || len(e.Fields) != 1 || e.Fields[0].Live != `"main:9"` || e.Fields[0].Desired != `"main:1"` {
		t.Errorf("the image: %+v", e)
	}
	if len(found) != 3 {
		t.Errorf("%d episodes", len(found))
	}
}

// Of objects whose watch is down nothing is claimed, until it is back.
func TestWatch_thatIsDownMakesItsObjectsUnknown(t *testing.T) {
	r := proxied(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/s.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: s, namespace: NS}\n"})
	r.Ready("NS-a", "")
	unknown := func(n int) {
		t.Helper()
		r.Eventually(fmt.Sprintf("%d unknown", n), func(ctx context.Context) error {
			b, err := r.Bundle(ctx, "NS-a")
			if err == nil && b.Unknown != n {
				err = fmt.Errorf("%d unknown", b.Unknown)
			}
			return err
		})
	}
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/v1/serviceaccounts") {
			return &agenttest.Fault{Status: http.StatusForbidden}
		}
		return nil
	})
	r.Proxy.Break()
	unknown(1)
	r.Proxy.Spoil(nil)
	unknown(0)
	r.Ready("NS-a", "")
}

// A chart repository that does not answer at first holds its bundle up no longer than that.
func TestRender_whatPassesIsTriedAgain(t *testing.T) {
	repo := newChartRepository(t)
	r := start(t, files{
		"a/bundle.yaml": bundle("a", fmt.Sprintf("helm: {repo: %q, chart: one, version: 1.0.0}, namespace: NS", repo.url)),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-b", "")
	r.Failed("NS-a", "one")
	repo.up.Store(true)
	r.Ready("NS-a", "")
	r.value("from-chart", "1.0.0")
}

var hpaKind = schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}

const hpa = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: NS}
spec: {minReplicas: 2, maxReplicas: 6, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}
`

// An autoscaler that goes, and that was not in Git, leaves drift behind.
func TestAutoscaler_thatGoesGivesTheReplicasBack(t *testing.T) {
	r := newRig(t, agenttest.Config{
		Files:  files{"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 1, "")},
		Change: func(c *agent.Config) { c.Compare = time.Second },
	})
	r.Start()
	r.Ready("NS-a", "")
	hpas := r.Dynamic.Resource(hpaKind).Namespace(r.NS)
	scaler := &unstructured.Unstructured{}
	decode(t, r.Text(hpa), scaler)
	if _, err := hpas.Create(t.Context(), scaler, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	replicas := func(n int32) {
		t.Helper()
		r.Eventually(fmt.Sprintf("%d replicas", n), func(ctx context.Context) error {
			d, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
			if err == nil && *d.Spec.Replicas != n {
				err = fmt.Errorf("%d", *d.Spec.Replicas)
			}
			return err
		})
	}
	replicas(2) // the autoscaler's doing
	time.Sleep(2 * time.Second)
	replicas(2)
	if err := hpas.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	replicas(1)
}

// A key that is put right is used without a new commit.
func TestRender_anotherKeyIsNoticed(t *testing.T) {
	secret, err := fs.ReadFile(fleetexample.FS(), "apps/secrets/secrets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	right, err := fs.ReadFile(fleetexample.FS(), fleetexample.AgeKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "age.txt")
	wrong, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte(wrong.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, agenttest.Config{
		Files: files{
			"a/bundle.yaml": bundle("a", ""), "a/secret.yaml": string(secret),
			"a/ns.yaml":     "{apiVersion: v1, kind: Namespace, metadata: {name: web}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: backup}}\n",
			"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
		},
		Change: func(c *agent.Config) { c.AgeKeyFiles = []string{key} },
	})
	r.Start()
	r.Ready("NS-b", "")
	r.Failed("NS-a", "a/secret.yaml")
	if err := os.WriteFile(key, right, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Ready("NS-a", "")
}

// A bundle under another name takes over what it had, and the old name goes without a fight or a trace of one.
func TestRevision_aRenamedBundleDoesNotFight(t *testing.T) {
	r := start(t, with(files{"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 1, "")}, many("a", 8)))
	r.Ready("NS-a", "")
	old := "NS-a"
	for _, name := range []string{"b", "c", "b"} {
		r.Applied(r.Commit(files{"a/bundle.yaml": bundle(name, "")}))
		r.Ready("NS-"+name, "")
		r.Eventually("the old name is gone", func(ctx context.Context) error {
			if _, err := r.Bundle(ctx, old); err == nil {
				return errors.New("still there")
			}
			return nil
		})
		old = "NS-" + name
	}
	time.Sleep(2 * time.Second)
	all, err := r.Applier.BundleStatuses(t.Context())
	if err != nil || len(all) != 1 {
		t.Errorf("%d bundles: %v", len(all), err)
	}
	r.Stop()
	for _, e := range r.Episodes() {
		t.Errorf("drift where there is none: %s %s %s by %s: %+v", e.Object, e.Class, e.Outcome, e.By.Manager, e.Fields)
	}
	if rec := r.Records(); len(rec) != 1 {
		t.Errorf("%d bundles in the store", len(rec))
	}
}

// An agent that was killed in the middle of a commit does not take its own work for drift.
func TestWitness_ourOwnHalfDoneWorkIsNoDrift(t *testing.T) {
	r := start(t, with(files{"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 1, ""), "a/old.yaml": configMap("old", "one")}, many("a", 8)))
	r.Ready("NS-a", "")
	r.Stop()
	store, err := os.ReadFile(r.Config.Dir + "/agent.db")
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	change := files{"a/web.yaml": strings.Replace(deployment("web", 2, ""), "main:1", "main:2", 1)}
	for i := range 8 {
		change[fmt.Sprintf("a/a-%d.yaml", i)] = configMap(fmt.Sprintf("a-%d", i), "two")
	}
	revision := r.Do(gitserver.Commit{Write: change, Delete: []string{"a/old.yaml"}})
	r.Ready("NS-a", revision)
	r.gone("old")
	r.Stop()
	// What was stored last is what was stored before: as if it had been killed then.
	if err := os.WriteFile(r.Config.Dir+"/agent.db", store, 0o600); err != nil {
		t.Fatal(err)
	}
	// It looks before it applies: that is held back for a while.
	held, err := r.Applier.Suspend(t.Context(), api.Suspension{Scope: api.Scope{Bundles: []string{r.NS + "-a"}}, Reason: "INC-1", Until: time.Now().Add(time.Hour), Actor: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.adopted(revision)
	time.Sleep(2 * time.Second)
	if err := r.Applier.Resume(t.Context(), held.Name); err != nil {
		t.Fatal(err)
	}
	r.Applied(revision)
	r.Ready("NS-a", revision)
	r.value("a-3", "two")
	r.Stop()
	for _, e := range r.Episodes() {
		t.Errorf("drift where there is none: %s %s %s by %s: %+v", e.Object, e.Class, e.Outcome, e.By.Manager, e.Fields)
	}
}
