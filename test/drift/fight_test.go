package drift

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// A writer that keeps taking a field back is named, with the rule that would end the fight.
// Corrections become rare, and all is well by itself when the writer stops.
func TestFight(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: files{"app/bundle.yaml": bundle(""), "app/web.yaml": deployment},
		Change: func(c *agent.Config) {
			c.Fights = drift.Limits{ContestWindow: 5 * time.Second, FirstBackoff: 2 * time.Second, LongestBackoff: 4 * time.Second}
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writes := 0
	writer.Go(func() {
		for ctx.Err() == nil {
			o, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
			if err == nil && *o.Spec.Replicas != 3 {
				_ = r.tryEdit(ctx, "rival", "deploy/web", `{"spec":{"replicas":3}}`)
				writes++
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	e := r.open("deploy/web", outcome(api.OutcomeContested))
	if !strings.Contains(e.Hint, "rival") || !strings.Contains(e.Hint, "/spec/replicas") || !strings.Contains(e.Hint, "ignore:") ||
		e.By.Manager != "rival" || e.NextCorrection.IsZero() {
		t.Errorf("episode is %+v", e)
	}
	r.metricIs("flotilla_drift_contested", 1)
	r.Eventually("the BundleDeployment names the rival and the rule", func(ctx context.Context) error {
		o, err := r.Dynamic.Resource(schema.GroupVersionResource{Group: api.Group, Version: api.Version, Resource: "bundledeployments"}).
			Namespace(api.SystemNamespace).Get(ctx, r.Text("NS-app"), metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			if text := fmt.Sprint(m["message"]); m["type"] == "Drifted" && m["reason"] == "Contested" && strings.Contains(text, "rival") && strings.Contains(text, "/spec/replicas") {
				return nil
			}
		}
		return fmt.Errorf("conditions are %v", conditions)
	})
	r.Eventually("the BundleDeployment counts it", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && (b.Drifted != 1 || len(b.Contested) != 1 || !strings.Contains(b.Contested[0], "rival")) {
			err = fmt.Errorf("%d drifted, contested are %q", b.Drifted, b.Contested)
		}
		return err
	})
	stop()
	writer.Wait()
	r.is("deploy/web", "spec.replicas", "1")
	r.drifted(0)
	r.metricIs("flotilla_drift_contested", 0)
	es := r.closed()
	if len(es) != 1 || es[0].Outcome != api.OutcomeCorrected || es[0].Count < 4 {
		t.Fatalf("episodes are %+v", es)
	}
	if writes > 8 {
		t.Errorf("the agent went along %d times", writes)
	}
	if !es[0].Flapping {
		t.Errorf("%d changes to and fro are not called flapping: %s", writes, es[0].Track.States)
	}
}

// A rival that takes other fields each time fights for the same object, which is contested all the same.
func TestFightWithOtherFields(t *testing.T) {
	var data []string
	for i := range 40 {
		data = append(data, fmt.Sprintf("k%d: git", i))
	}
	r := startWith(t, agenttest.Config{
		Files: files{
			"app/bundle.yaml": bundle(""),
			"app/cm.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: NS}\ndata: {" + strings.Join(data, ", ") + "}\n",
		},
		Change: func(c *agent.Config) {
			c.Fights = drift.Limits{ContestWindow: 10 * time.Second, FirstBackoff: 2 * time.Second, LongestBackoff: 8 * time.Second}
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writes := 0
	writer.Go(func() {
		for ctx.Err() == nil {
			o, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, "settings", metav1.GetOptions{})
			mine := false
			if err == nil {
				for _, v := range o.Data {
					mine = mine || v == "rival"
				}
			}
			if err == nil && !mine && writes < len(data) {
				_ = r.tryEdit(ctx, "rival", "cm/settings", fmt.Sprintf(`{"data":{"k%d":"rival"}}`, writes))
				writes++
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	e := r.open("cm/settings", outcome(api.OutcomeContested))
	if !strings.Contains(e.Hint, "rival") || e.NextCorrection.IsZero() {
		t.Errorf("episode is %+v", e)
	}
	r.metricIs("flotilla_drift_contested", 1)
	// A second round is longer than the first.
	r.open("cm/settings", func(next api.Episode) error {
		if next.Outcome != api.OutcomeContested || next.ID == e.ID {
			return fmt.Errorf("%s is %s", next.ID, next.Outcome)
		}
		if wait := next.NextCorrection.Sub(next.Onset); wait < 3*time.Second {
			t.Errorf("the second round is %s", wait)
		}
		return nil
	})
	stop()
	writer.Wait()
	r.drifted(0)
	if es := r.closed(); writes > 6 || len(es) > 6 {
		t.Errorf("the agent went along %d times, in %d episodes", writes, len(es))
	}
}

// A dry run that fails leaves the object unknown: neither in sync nor drifted.
func TestFailedDryRunIsUnknown(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: marked(files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")}), Mode: agenttest.Proxied,
	})
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.URL.Query().Get("dryRun") != "" && strings.HasSuffix(req.URL.Path, "/settings") {
			return &agenttest.Fault{Status: http.StatusInternalServerError}
		}
		return nil
	})
	r.edit("cm/settings", `{"data":{"key":"two"}}`)
	r.metricIs("flotilla_objects_unknown", 1)
	r.Eventually("the bundle says so", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && (b.Unknown != 1 || b.Drifted != 0) {
			err = fmt.Errorf("%d unknown, %d drifted", b.Unknown, b.Drifted)
		}
		return err
	})
	r.settle() // the others are not held up
	r.stays("cm/settings", "data.key", "two")
	r.Proxy.Spoil(nil)
	r.is("cm/settings", "data.key", "one")
	r.metricIs("flotilla_objects_unknown", 0)
	r.drifted(0)
}

// When the correction is on its way to the API server, the evidence is in the store.
func TestEvidenceIsStoredFirst(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")}, Mode: agenttest.Proxied,
	})
	reached := make(chan []byte, 1)
	var once sync.Once
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if agenttest.IsWrite(req) && strings.HasSuffix(req.URL.Path, "/settings") {
			// What is on the disk now is what a power failure would leave.
			once.Do(func() {
				b, err := os.ReadFile(r.Config.Dir + "/agent.db")
				if err != nil {
					t.Error(err)
				}
				reached <- b
			})
			return &agenttest.Fault{Wait: 3 * time.Second} // longer than the agent lives
		}
		return nil
	})
	r.edit("cm/settings", `{"data":{"key":"two"}}`)
	var disk []byte
	select {
	case disk = <-reached:
	case <-time.After(agenttest.Patience):
		t.Fatal("no correction was written")
	}
	r.Stop()
	r.Config.Dir = t.TempDir()
	if err := os.WriteFile(r.Config.Dir+"/agent.db", disk, 0o600); err != nil {
		t.Fatal(err)
	}
	es := r.Episodes()
	if len(es) != 1 || es[0].Evidence == nil || !strings.Contains(es[0].Evidence.Live, `"two"`) ||
		!strings.Contains(es[0].Evidence.ManagedFields, "kubectl-edit") || !es[0].Open() {
		t.Fatalf("episodes are %+v", es)
	}
	r.stays("cm/settings", "data.key", "two")
}

// What was corrected is told as that also where the agent was killed before it could note it.
func TestKilledAfterTheCorrection(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: marked(files{"app/bundle.yaml": bundle(""), "app/edited.yaml": configMap("edited", "one"), "app/deleted.yaml": configMap("deleted", "one"), "app/back.yaml": configMap("back", "one")}),
		Mode:  agenttest.Proxied,
	})
	// The times of claims are whole seconds: the correction's is to be another one than the install's.
	time.Sleep(1100 * time.Millisecond)
	var mu sync.Mutex
	held := map[string]bool{}
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		name := path.Base(req.URL.Path)
		if agenttest.IsWrite(req) && strings.Contains(req.URL.Path, "/configmaps") && (name == "edited" || name == "deleted" || name == "back") {
			mu.Lock()
			defer mu.Unlock()
			held[name] = true
			return &agenttest.Fault{Wait: 30 * time.Second} // longer than the agent lives
		}
		return nil
	})
	r.edit("cm/edited", `{"data":{"key":"two"}}`)
	r.edit("cm/back", `{"data":{"key":"two"}}`)
	r.remove("cm/deleted")
	r.Eventually("corrections are on their way", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if len(held) < 3 {
			return fmt.Errorf("only %v", held)
		}
		return nil
	})
	r.Stop()
	disk, err := os.ReadFile(r.Config.Dir + "/agent.db")
	if err != nil {
		t.Fatal(err)
	}
	r.Proxy.Spoil(nil)
	r.edit("cm/back", `{"data":{"key":"one"}}`) // by hand
	r.Start()
	r.is("cm/edited", "data.key", "one")
	r.is("cm/deleted", "data.key", "one")
	r.drifted(0)
	r.Stop()
	if err := os.WriteFile(r.Config.Dir+"/agent.db", disk, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.settle()
	r.ended()
	got := map[string]api.Outcome{}
	for _, e := range r.closed() {
		got[e.Object.Name] = e.Outcome
	}
	want := map[string]api.Outcome{"edited": api.OutcomeCorrected, "deleted": api.OutcomeCorrected, "back": api.OutcomeResolved}
	for name, o := range want {
		if got[name] != o {
			t.Errorf("%s ended as %q, want %q", name, got[name], o)
		}
	}
}

// A correction that is refused is told, with the reason.
func TestRefusedCorrection(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")}, Mode: agenttest.Proxied,
	})
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if agenttest.IsWrite(req) && strings.HasSuffix(req.URL.Path, "/settings") {
			return &agenttest.Fault{Status: http.StatusForbidden}
		}
		return nil
	})
	r.edit("cm/settings", `{"data":{"key":"two"}}`)
	e := r.open("cm/settings", outcome(api.OutcomeFailed))
	if !strings.Contains(e.Error, "made up") {
		t.Errorf("error is %q", e.Error)
	}
	r.metricIs("flotilla_drift_failed", 1)
}

// A correction never deletes, whatever Git allows: what only recreating would put right is reported as failed,
// and recreated when somebody asks for a sync.
func TestCorrectionNeverRecreates(t *testing.T) {
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(""),
		"app/cm.yaml":     strings.Replace(configMap("settings", "one"), "namespace: NS", "namespace: NS, annotations: {flotilla.dev/force: enabled}", 1),
	}))
	before := r.get("cm/settings")
	r.edit("cm/settings", `{"immutable":true,"data":{"key":"two"}}`)
	e := r.open("cm/settings", outcome(api.OutcomeFailed))
	if !strings.Contains(e.Error, "flotilla.dev/force") {
		t.Errorf("error is %q", e.Error)
	}
	r.settle()
	r.stays("cm/settings", "data.key", "two")
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.back("cm/settings", before)
	r.is("cm/settings", "data.key", "one")
	r.drifted(0)
}

// Status-only updates cost no look at the object.
func TestStatusUpdatesCostNothing(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/web.yaml": deployment}))
	r.settle()
	const runs = `flotilla_dry_run_seconds_count{result="ok"}`
	before := r.metric(runs)
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range 625 {
				patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Test%d","status":"True","reason":"R%d"}]}}`, w, i)
				if err := r.tryEdit(t.Context(), "operator", "deploy/web", patch, "status"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	if n := r.metric(runs) - before; n != 0 {
		t.Errorf("5,000 updates of the status caused %v dry runs", n)
	}
	// The neighbour that must be seen.
	r.edit("deploy/web", `{"spec":{"replicas":2}}`)
	r.is("deploy/web", "spec.replicas", "1")
	if n := r.metric(runs) - before; n < 1 || n > 6 {
		t.Errorf("one edit caused %v dry runs", n)
	}
}

// Every metric that the documentation names is there.
func TestMetricsAreDocumented(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("")}))
	r.settle()
	// One mark was made by hand, told by the watch, and corrected.
	r.metricIs("flotilla_drift_correct_seconds_count", 1)
	r.metricIs(`flotilla_drift_detect_seconds_count{class="changed"}`, 1)
	r.metricIs("flotilla_episodes_closed", 1)
	res, err := http.Get("http://" + r.listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for line := range strings.Lines(string(body)) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok && strings.HasPrefix(name, "flotilla_") {
			served = append(served, strings.Fields(name)[0])
		}
	}
	doc := operatingDoc(t)
	for _, name := range served {
		if !strings.Contains(doc, "`"+name) {
			t.Errorf("docs/operating.md does not name %s", name)
		}
	}
	for _, name := range []string{
		"flotilla_drift_detect_seconds", "flotilla_drift_correct_seconds", "flotilla_drift_open", "flotilla_drift_contested",
		"flotilla_objects_unknown", "flotilla_objects_exempt", "flotilla_dry_run_seconds", "flotilla_episodes_dropped_total", "flotilla_outbox_reports",
	} {
		if !slices.Contains(served, name) {
			t.Errorf("%s is not served", name)
		}
	}
}
