package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// ordinary is a repository with something of everything.
func ordinary() files {
	return with(files{
		"a/bundle.yaml": bundle("a", ""), "a/web.yaml": deployment("web", 2, ""),
		"a/service.yaml":  "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n",
		"a/secret.yaml":   "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: NS}\nstringData: {key: value}\n",
		"crd/bundle.yaml": bundle("crd", ""), "crd/crd.yaml": crd,
		"thing/bundle.yaml": bundle("thing", "dependsOn: [NS-crd]"), "thing/thing.yaml": thing("one", "one"),
		"off/bundle.yaml": bundle("off", ""), "off/off.yaml": annotated("off", "one", "flotilla.dev/reconcile: disabled"), "off/on.yaml": configMap("on", "one"),
		"bad/bundle.yaml": bundle("bad", ""), "bad/web.yaml": deployment("bad", -1, ""),
		"hooks/bundle.yaml": bundle("hooks", "helm: {chart: ./}, namespace: NS"), "hooks/Chart.yaml": "{apiVersion: v2, name: hooked, version: 1.0.0}\n",
		"hooks/templates/h.yaml": annotated("h", "one", "helm.sh/hook: pre-install"), "hooks/templates/m.yaml": configMap("m", "one"),
	}, files{"many/bundle.yaml": bundle("many", "")}, many("many", 10))
}

// settled waits until everything in ordinary is as it will stay.
func (r *rig) settled() {
	r.t.Helper()
	for _, b := range []string{"NS-a", "NS-crd", "NS-thing", "NS-off", "NS-hooks", "NS-many"} {
		r.Ready(b, "")
	}
}

func TestQuiet_nothingIsAskedWhileNothingChanges(t *testing.T) {
	fs := ordinary()
	// What an autoscaler sets away from Git costs nothing either, for as long as it stays.
	fs["hpa/bundle.yaml"], fs["hpa/web.yaml"] = bundle("hpa", ""), deployment("scaled", 1, "")
	fs["hpa/hpa.yaml"] = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: scaled, namespace: NS}\n" +
		"spec: {minReplicas: 2, maxReplicas: 6, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: scaled}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}\n"
	// Neither does waiting for what does not become healthy.
	fs["stuck/bundle.yaml"], fs["stuck/web.yaml"] = bundle("stuck", "timeout: 30m"), deployment("stuck", 1, "nodeSelector: {no: where}")
	r := proxied(t, fs)
	r.settled()
	r.Failed("NS-bad", "spec.replicas")
	r.progressing("NS-stuck", "Deployment.apps/NS/stuck")
	r.Eventually("the autoscaler has scaled", func(ctx context.Context) error {
		d, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "scaled", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("%d are ready", d.Status.ReadyReplicas)
		}
		return err
	})
	// The watches for health linger, Events and statuses are written behind the work.
	r.Eventually("it is quiet", func(ctx context.Context) error {
		r.Proxy.Requests()
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
		return r.Proxy.Quiet()
	})
	r.Proxy.Requests()
	time.Sleep(20 * time.Second)
	if err := r.Proxy.Quiet(); err != nil {
		t.Errorf("requests although nothing changed:\n%v", err)
	}
	r.progressing("NS-stuck", "Deployment.apps/NS/stuck") // all the time
	// A commit that changes nothing for this cluster is not worth a request for an object either.
	r.adopted(r.Commit(files{"README.md": "x"}))
	for _, q := range r.Proxy.Requests() {
		if strings.Contains(q.Path, "/namespaces/"+r.NS+"/") {
			t.Errorf("%s %s for a commit that changes nothing", q.Method, q.Path)
		}
	}
	// One object of many: requests for what changed, and not for the rest.
	r.Ready("NS-many", r.Commit(files{"many/many-3.yaml": configMap("many-3", "two")}))
	touched := map[string]int{}
	for _, q := range r.Proxy.Requests() {
		if strings.Contains(q.Path, "/namespaces/"+r.NS+"/") {
			touched[q.Method+" "+q.Path]++
		}
	}
	for q := range touched {
		if !strings.HasSuffix(q, "/many-3") && !strings.Contains(q, "/events") {
			t.Errorf("%s: only many-3 changed", q)
		}
	}
}

// progressing waits until a bundle waits for an object to be healthy.
func (r *rig) progressing(name, object string) {
	r.t.Helper()
	r.Eventually(r.Text(name)+" waits", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, name)
		if err == nil && (b.Phase != api.PhaseProgressing || !strings.Contains(b.Message, r.Text(object))) {
			err = fmt.Errorf("%s: %s", b.Phase, b.Message)
		}
		return err
	})
}

// adopted waits until the cluster has adopted a revision, whatever became of its bundles.
func (r *rig) adopted(revision string) {
	r.t.Helper()
	r.Eventually("the revision is adopted", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err == nil && report.Status.DesiredRevision != revision {
			err = fmt.Errorf("it is at %s", report.Status.DesiredRevision)
		}
		return err
	})
}

func TestQuiet_aRestartWritesNothing(t *testing.T) {
	fs := ordinary()
	delete(fs, "bad/bundle.yaml") // what failed is tried once more after a restart
	delete(fs, "bad/web.yaml")
	r := proxied(t, fs)
	r.settled()
	r.Eventually("it is quiet", func(ctx context.Context) error {
		r.Proxy.Requests()
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
		return r.Proxy.Quiet()
	})
	r.Stop()
	last, err := r.Applier.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := r.versions()
	r.Proxy.Requests()
	var writes []string
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if agenttest.IsWrite(req) {
			writes = append(writes, req.Method+" "+req.URL.Path)
		}
		return nil
	})
	r.Start()
	r.Eventually("the agent is back", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		switch st := report.Status; {
		case err != nil:
			return err
		case st.Error != nil:
			return fmt.Errorf("%+v", st.Error)
		case st.Started.Equal(last.Status.Started):
			return errors.New("the report is still the old agent's")
		}
		r.Proxy.Requests()
		select {
		case <-ctx.Done():
		case <-time.After(4 * time.Second):
		}
		return r.Proxy.Quiet()
	})
	r.settled()
	r.Stop()
	r.Proxy.Spoil(nil)
	for _, w := range writes {
		// Its own namespace and CRDs are made sure of, which writes nothing where they are as they should be;
		// and the report says when the agent began.
		own := strings.Contains(w, "/leases") || strings.HasSuffix(w, "/configmaps/flotilla-agent") ||
			strings.HasSuffix(w, "/namespaces/"+api.SystemNamespace) || strings.HasSuffix(w, ".flotilla.dev")
		if !own {
			t.Errorf("a restart wrote: %s", w)
		}
	}
	for name, version := range r.versions() {
		if before[name] != version {
			t.Errorf("%s was at %s, and is at %s", name, before[name], version)
		}
	}
}

// versions are the resourceVersions of all that the agent could have touched in the test's namespace, and of the bundles' statuses.
func (r *rig) versions() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	maps, err := r.Kube.CoreV1().ConfigMaps(r.NS).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range maps.Items {
		out[m.Name] = m.ResourceVersion
	}
	web, err := r.Kube.AppsV1().Deployments(r.NS).Get(r.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	out["web"] = web.ResourceVersion
	return out
}

func TestSuspension_isHonouredBeforeTheFirstWrite(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"), "b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one")})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Stop()
	s, err := r.Applier.Suspend(t.Context(), api.Suspension{Scope: api.Scope{Bundles: []string{r.NS + "-a"}}, Reason: "INC-1", Until: time.Now().Add(time.Hour), Actor: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	r.patch("x", `{"data":{"key":"by hand"}}`)
	x, y := r.get("x"), r.get("y")
	r.Commit(files{"a/x.yaml": configMap("x", "two"), "a/new.yaml": configMap("new", "one"), "b/z.yaml": configMap("z", "two")})
	r.Delete("a/y.yaml")
	r.Start()
	r.value("z", "two")
	r.Eventually("the bundle is suspended", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-a")
		if err == nil && b.Phase != api.PhaseSuspended {
			err = fmt.Errorf("%s: %s", b.Phase, b.Message)
		}
		return err
	})
	r.Sync()
	time.Sleep(2 * time.Second)
	r.same(x)
	r.same(y)
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "new", metav1.GetOptions{}); err == nil {
		t.Error("new was created under a suspension")
	}
	if err := r.Applier.Resume(t.Context(), s.Name); err != nil {
		t.Fatal(err)
	}
	r.value("x", "two")
	r.value("new", "one")
	r.gone("y")
	r.Ready("NS-a", "")
}
