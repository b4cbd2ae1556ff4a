package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

// rig is an agent with a control plane and a repository of its own.
type rig struct {
	*agenttest.Rig
	t *testing.T
}

// newRig makes a rig whose repository holds the files, and starts the agent.
func newRig(t *testing.T, files map[string]string) *rig {
	t.Helper()
	return &rig{agenttest.Start(t, agenttest.Config{Plane: controlplanetest.New(t, controlplane.Config{}), Files: files}), t}
}

const appBundle = `apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: app}
spec: {namespace: app}
`

const appNamespace = `apiVersion: v1
kind: Namespace
metadata: {name: app}
`

const appDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "web:1"}]
`

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: app}\ndata: {key: %q}\n", name, value)
}

func app() map[string]string {
	return map[string]string{
		"app/bundle.yaml": appBundle, "app/ns.yaml": appNamespace, "app/web.yaml": appDeployment,
		"app/settings.yaml": configMap("settings", "one"),
	}
}

func (r *rig) replicas(want int32) func(context.Context) error {
	return func(ctx context.Context) error {
		d, err := r.Kube.AppsV1().Deployments("app").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && *d.Spec.Replicas != want {
			err = fmt.Errorf("%d replicas, want %d", *d.Spec.Replicas, want)
		}
		return err
	}
}

func (r *rig) scale(n int) {
	r.t.Helper()
	_, err := r.Kube.AppsV1().Deployments("app").Patch(r.t.Context(), "web", types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) setting(name, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		m, err := r.Kube.CoreV1().ConfigMaps("app").Get(ctx, name, metav1.GetOptions{})
		if err == nil && m.Data["key"] != want {
			err = fmt.Errorf("%s holds %q, want %q", name, m.Data["key"], want)
		}
		return err
	}
}

// corrected waits until the agent tells of a correction, which it does once its store has it; the cluster shows it sooner.
func (r *rig) corrected(name string) {
	r.t.Helper()
	r.Eventually("the correction of "+name+" is told", func(ctx context.Context) error {
		selector := metav1.ListOptions{FieldSelector: "reason=Corrected,involvedObject.name=" + name}
		list, err := r.Kube.CoreV1().Events("app").List(ctx, selector)
		if err == nil && len(list.Items) == 0 {
			err = errors.New("there is no Event")
		}
		return err
	})
}

func TestAgent_appliesFollowsAndPrunes(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	r.Eventually("the setting is there", r.setting("settings", "one"))

	revision := r.Repo.Commit(map[string]string{"app/settings.yaml": configMap("settings", "two"), "app/more.yaml": configMap("more", "x")})
	r.Ready("app", revision)
	r.Eventually("the setting changed", r.setting("settings", "two"))
	r.Eventually("the new one is there", r.setting("more", "x"))

	r.Repo.Do(gitserver.Commit{Delete: []string{"app/more.yaml"}})
	r.Eventually("what left Git is pruned", func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().ConfigMaps("app").Get(ctx, "more", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("more is still there (%v)", err)
	})
}

func TestAgent_correctsAndExplainsAnEdit(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	r.scale(5)
	r.Eventually("the edit is corrected", r.replicas(2))
	if err := r.Kube.CoreV1().ConfigMaps("app").Delete(t.Context(), "settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the deleted object is back", r.setting("settings", "one"))
	r.corrected("web")
	r.corrected("settings")
	r.Eventually("all drift is closed", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && (b.Drifted != 0 || b.Phase != api.PhaseReady) {
			err = fmt.Errorf("%d drifted, %s", b.Drifted, b.Phase)
		}
		return err
	})
	r.Stop()
	got := map[string]api.Episode{}
	for _, e := range r.Episodes() {
		got[e.Object.Kind] = e
	}
	if len(got) != 2 {
		t.Fatalf("episodes: %+v", got)
	}
	d := got["Deployment"]
	if d.Class != api.ClassChanged || d.Outcome != api.OutcomeCorrected || len(d.Fields) != 1 || d.Evidence == nil {
		t.Fatalf("episode is %+v", d)
	}
	if f := d.Fields[0]; f.Path != "/spec/replicas" || f.Desired != "2" || f.Live != "5" || f.By.Manager != "kubectl-edit" || f.By.Operation != "Update" {
		t.Errorf("field is %+v", f)
	}
	if m := got["ConfigMap"]; m.Class != api.ClassMissing || m.Outcome != api.OutcomeCorrected {
		t.Errorf("episode is %+v", m)
	}
}

func TestAgent_onlyReportsInModeReport(t *testing.T) {
	files := app()
	files["app/bundle.yaml"] = strings.Replace(appBundle, "{namespace: app}", "{namespace: app, drift: {mode: report}}", 1)
	r := newRig(t, files)
	r.Ready("app", "")
	r.scale(5)
	r.Eventually("the drift is counted", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && b.Drifted != 1 {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
	if err := r.replicas(5)(t.Context()); err != nil {
		t.Errorf("mode report wrote to the cluster: %v", err)
	}
	r.scale(2)
	r.Eventually("the drift ends when it is undone", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && b.Drifted != 0 {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
	r.Stop()
	es := r.Episodes()
	if len(es) != 1 || es[0].Outcome != api.OutcomeResolved {
		t.Errorf("episodes: %+v", es)
	}
}

// What happened while the agent was away is told apart from what Git changed meanwhile.
func TestAgent_reportsWhatItMissed(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	r.Stop()
	r.scale(7)
	revision := r.Repo.Commit(map[string]string{"app/settings.yaml": configMap("settings", "two")})
	r.Start()
	r.Ready("app", revision)
	r.Eventually("the missed edit is corrected", r.replicas(2))
	r.corrected("web")
	r.Eventually("the missed commit is applied", r.setting("settings", "two"))
	r.Stop()
	es := r.Episodes()
	if len(es) != 1 || es[0].Object.Kind != "Deployment" || es[0].Outcome != api.OutcomeCorrected {
		t.Fatalf("episodes: %+v", es)
	}
}

func TestAgent_rebuildsALostStore(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	before, err := r.Kube.CoreV1().ConfigMaps("app").Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Stop()
	r.Config.Dir = t.TempDir()
	r.Repo.Do(gitserver.Commit{Delete: []string{"app/web.yaml"}})
	r.Start()
	r.Eventually("an object that left Git meanwhile is pruned all the same", func(ctx context.Context) error {
		_, err := r.Kube.AppsV1().Deployments("app").Get(ctx, "web", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("web is still there (%v)", err)
	})
	after, err := r.Kube.CoreV1().ConfigMaps("app").Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil || after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("settings was written again: %v, %s then %s", err, before.ResourceVersion, after.ResourceVersion)
	}
}

// What drifted while the store was lost is recorded before it is corrected, and not corrected
// where it is only to be reported.
func TestAgent_recordsDriftAfterALostStore(t *testing.T) {
	for _, mode := range []string{"report", "correct"} {
		t.Run(mode, func(t *testing.T) {
			fs := app()
			fs["app/bundle.yaml"] = strings.Replace(appBundle, "spec: {", "spec: {drift: {mode: "+mode+"}, ", 1)
			r := newRig(t, fs)
			r.Ready("app", "")
			r.Stop()
			r.Config.Dir = t.TempDir()
			byHand := metav1.PatchOptions{FieldManager: "kubectl-edit"}
			if _, err := r.Kube.CoreV1().ConfigMaps("app").Patch(t.Context(), "settings", types.MergePatchType, []byte(`{"data":{"key":"by hand"}}`), byHand); err != nil {
				t.Fatal(err)
			}
			if err := r.Kube.AppsV1().Deployments("app").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			r.Start()
			want := "one"
			if mode == "report" {
				want = "by hand"
				r.Eventually("the drift is reported", func(ctx context.Context) error {
					b, err := r.Bundle(ctx, "app")
					if err == nil && b.Drifted != 2 {
						err = fmt.Errorf("%d drifted", b.Drifted)
					}
					return err
				})
				r.Sync()
				time.Sleep(time.Second)
				if _, err := r.Kube.AppsV1().Deployments("app").Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
					t.Errorf("what is only to be reported was made anew (%v)", err)
				}
			} else {
				r.Eventually("the Deployment is back", r.replicas(2))
			}
			r.Eventually("settings is as the mode wants it", r.setting("settings", want))
			r.Stop()
			seen := map[string]string{}
			for _, e := range r.Episodes() {
				seen[e.Object.Name] = string(e.Class) + " " + e.By.Manager
			}
			if seen["settings"] != "changed kubectl-edit" || !strings.HasPrefix(seen["web"], "missing") {
				t.Errorf("episodes are %v", seen)
			}
		})
	}
}

// One person's clock that is ahead does not make the agent deaf to everybody else's orders.
func TestAgent_obeysOrdersWhateverTheirClock(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	ahead, err := agent.Connect(agent.TargetConfig{
		REST: controlplanetest.RESTConfigOf(t, r.Plane), Now: func() time.Time { return time.Now().Add(time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	quotas := r.Kube.CoreV1().ResourceQuotas("app")
	counts := func(want bool) func(context.Context) error {
		return func(ctx context.Context) error {
			try := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}}
			_, err := r.Kube.CoreV1().ConfigMaps("app").Create(ctx, try, metav1.CreateOptions{DryRun: []string{"All"}})
			if apierrors.IsForbidden(err) != want {
				return fmt.Errorf("not yet (%v)", err)
			}
			return nil
		}
	}
	for _, order := range []struct {
		name string
		by   *agent.Target
	}{{"first", ahead}, {"second", r.Applier}, {"third", ahead}} {
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: order.name},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/configmaps": resource.MustParse("0")}},
		}
		if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.Eventually("the quota counts", counts(true))
		revision := r.Repo.Commit(map[string]string{"app/" + order.name + ".yaml": configMap(order.name, "x")})
		r.Failed("app", "exceeded quota", order.name)
		// Nobody tells the agent that the quota is gone: by itself it tries again in five minutes.
		if err := quotas.Delete(t.Context(), order.name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.Eventually("the quota is gone", counts(false))
		if err := order.by.OrderSync(t.Context(), "app"); err != nil {
			t.Fatal(err)
		}
		r.Eventually("the "+order.name+" order is obeyed", r.setting(order.name, "x"))
		r.Ready("app", revision)
	}
}

func TestAgent_refusesASecondAgent(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	second := r.Config
	second.Dir = t.TempDir()
	a, err := agent.New(second)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	err = a.Run(t.Context())
	if api.KindOf(err) != api.Forbidden || !strings.Contains(err.Error(), "another agent") {
		t.Fatalf("a second agent ran: %v", err)
	}
}

func TestAgent_emptyRepositoryDeletesNothing(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	marker := r.Repo.Do(gitserver.Commit{Delete: []string{"app/bundle.yaml", "app/ns.yaml", "app/web.yaml", "app/settings.yaml"}})
	r.Stop()
	r.Start() // a restart must not forget what is owned
	r.Eventually("the refusal is known", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		st := report.Status
		if st.DesiredRevision != marker || st.Error == nil || st.Error.Kind != api.Forbidden || !strings.Contains(st.Error.Message, "allowDelete") {
			return fmt.Errorf("status at %s is %+v", st.DesiredRevision, st.Error)
		}
		return nil
	})
	if err := r.setting("settings", "one")(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Repo.Commit(map[string]string{"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {guards: {allowDelete: [app]}}\n"})
	r.Eventually("it is deleted once Git says that this is meant", func(ctx context.Context) error {
		ns, err := r.Kube.CoreV1().Namespaces().Get(ctx, "app", metav1.GetOptions{})
		if apierrors.IsNotFound(err) || (err == nil && ns.Status.Phase == corev1.NamespaceTerminating) {
			return nil
		}
		return fmt.Errorf("the namespace is still there (%v)", err)
	})
}

// A commit that touches a suspended object is applied to the rest, and to that object when the suspension ends.
func TestAgent_appliesWhatASuspensionHeldBack(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	s, err := r.Applier.Suspend(t.Context(), api.Suspension{
		Scope:  api.Scope{Objects: []api.ObjectRef{{Kind: "ConfigMap", Namespace: "app", Name: "settings"}}},
		Reason: "INC-1", Until: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Eventually("the suspension is in force", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err == nil && len(report.Status.Suspensions) != 1 {
			err = fmt.Errorf("suspensions: %+v", report.Status.Suspensions)
		}
		return err
	})
	revision := r.Repo.Commit(map[string]string{"app/settings.yaml": configMap("settings", "two"), "app/more.yaml": configMap("more", "x")})
	r.Eventually("the rest is applied", r.setting("more", "x"))
	r.Eventually("the bundle says why it is behind", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && b.Phase != api.PhaseSuspended {
			err = fmt.Errorf("app is %s: %s", b.Phase, b.Message)
		}
		return err
	})
	if err := r.setting("settings", "one")(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the suspended object follows", r.setting("settings", "two"))
	r.Ready("app", revision)
}

// A revision that cannot be read, found at the start, removes nothing: not even from a bundle that does not prune.
func TestAgent_startsWithABrokenRepository(t *testing.T) {
	files := app()
	files["app/bundle.yaml"] = strings.Replace(appBundle, "{namespace: app}", "{namespace: app, prune: false}", 1)
	r := newRig(t, files)
	r.Ready("app", "")
	r.Stop()
	r.Repo.Commit(map[string]string{"fleet.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {nonsense: 1}\n"})
	r.Start()
	r.Eventually("the error names file and field", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		if e := report.Status.Error; e == nil || e.File != "fleet.yaml" || e.Line != 3 || e.Field != "spec.nonsense" {
			return fmt.Errorf("error is %+v", e)
		}
		return nil
	})
	r.scale(6)
	r.Eventually("what was applied last is still corrected", r.replicas(2))
	if _, err := r.Bundle(t.Context(), "app"); err != nil {
		t.Errorf("the bundle was forgotten: %v", err)
	}
}

// What was adopted into Git while suspended is not set back to the old value when the suspension ends.
func TestAgent_resumesIntoTheNewCommit(t *testing.T) {
	r := newRig(t, app())
	r.Ready("app", "")
	s, err := r.Applier.Suspend(t.Context(), api.Suspension{
		Scope: api.Scope{Bundles: []string{"app"}}, Reason: "INC-1", Until: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Eventually("the suspension is in force", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err == nil && len(report.Status.Suspensions) != 1 {
			err = fmt.Errorf("suspensions: %+v", report.Status.Suspensions)
		}
		return err
	})
	r.scale(4)
	r.Eventually("the drift is recorded", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && b.Drifted != 1 {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
	revision := r.Repo.Commit(map[string]string{"app/web.yaml": strings.Replace(appDeployment, "replicas: 2", "replicas: 4", 1)})
	r.Eventually("the commit waits", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && (b.Phase != api.PhaseSuspended || b.DesiredRevision != revision) {
			err = fmt.Errorf("app is %s for %s", b.Phase, b.DesiredRevision)
		}
		return err
	})
	before, err := r.Kube.AppsV1().Deployments("app").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	r.Ready("app", revision)
	r.Eventually("the drift is over", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "app")
		if err == nil && b.Drifted != 0 {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
	after, err := r.Kube.AppsV1().Deployments("app").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || *after.Spec.Replicas != 4 || after.Generation != before.Generation {
		t.Errorf("replicas %d at generation %d, then %d at %d (%v): it went through the old value",
			*before.Spec.Replicas, before.Generation, *after.Spec.Replicas, after.Generation, err)
	}
}

// While the API server cannot be reached the agent lives and is not ready; once it holds the cluster it is.
func TestAgent_readyz(t *testing.T) {
	listen := agenttest.FreeAddr(t)
	r := agenttest.New(t, agenttest.Config{
		Files: map[string]string{"app/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NS-app}\nspec: {namespace: default}\n", "app/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NS-a}\n"},
		Mode:  agenttest.Proxied, Change: func(c *agent.Config) { c.Listen = listen },
	})
	r.Proxy.Spoil(func(*http.Request) *agenttest.Fault { return &agenttest.Fault{Status: http.StatusServiceUnavailable} })
	r.Start()
	says := func(path string, status int, words ...string) {
		t.Helper()
		r.Eventually(fmt.Sprintf("%s answers %d with %q", path, status, words), func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+path, nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != status {
				return fmt.Errorf("%d %q (%w)", res.StatusCode, body, err)
			}
			for _, w := range words {
				if !strings.Contains(string(body), w) {
					return fmt.Errorf("it says %q", body)
				}
			}
			return nil
		})
	}
	says("/healthz", http.StatusOK, "ok")
	says("/readyz", http.StatusServiceUnavailable, "[-] lease: the API server has not yet said", "[-] repository: the repository has not yet answered", "[+] store")
	r.Proxy.Spoil(nil)
	says("/readyz", http.StatusOK, "[+] lease", "[+] repository", "[+] store")
}
