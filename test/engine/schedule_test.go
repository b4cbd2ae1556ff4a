package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

func TestSchedule_aHundredCommits(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "0"), "a/keep.yaml": configMap("keep", "0"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "0"),
	})
	r.Ready("NS-b", "")
	kept := r.get("keep")
	revision := ""
	for i := 1; i <= 100; i++ {
		c := gitserver.Commit{Write: files{"a/x.yaml": configMap("x", fmt.Sprint(i)), fmt.Sprintf("a/n%d.yaml", i): configMap(fmt.Sprintf("n%d", i), "new")}}
		if i > 1 {
			c.Delete = []string{fmt.Sprintf("a/n%d.yaml", i-1)}
		}
		if i%10 == 0 {
			c.Write["b/y.yaml"] = configMap("y", fmt.Sprint(i))
		}
		revision = r.Do(c)
	}
	r.Applied(revision)
	list, err := r.Kube.CoreV1().ConfigMaps(r.NS).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range list.Items {
		if m.Name != "kube-root-ca.crt" {
			got[m.Name] = m.Data["key"]
		}
	}
	if want := (map[string]string{"x": "100", "keep": "0", "n100": "new", "y": "100"}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the cluster holds %v, want %v", got, want)
	}
	r.same(kept)
}

func TestSchedule_oneBadValueIsTriedOnce(t *testing.T) {
	port := func(n int) string {
		return strings.Replace(deployment("port", 1, ""), `image: "main:1"`, fmt.Sprintf(`image: "main:1", ports: [{containerPort: %d}]`, n), 1)
	}
	// What the objects are at first, what they become, and what the error says of that.
	objects := []struct{ path, file, good, bad, says string }{
		{"/deployments/web", "a/web.yaml", deployment("web", 1, ""), deployment("web", -1, ""), "spec.replicas"},
		{"/deployments/port", "a/port.yaml", port(80), port(99999), "containerPort"},
		{"/deployments/type", "a/type.yaml", deployment("type", 1, ""), strings.Replace(deployment("type", 1, ""), "replicas: 1", "replicas: many", 1), "replicas"},
		{"/configmaps/label", "a/label.yaml", configMap("label", "one"), strings.Replace(configMap("label", "two"), "annotations: {}", "labels: {bad: not/a/value}", 1), "metadata.labels"},
	}
	fs := files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}
	spoilt := files{"a/x.yaml": configMap("x", "two"), "a/new.yaml": configMap("new", "one"), "b/y.yaml": configMap("y", "two")}
	good := files{}
	for _, o := range objects {
		fs[o.file], spoilt[o.file] = o.good, o.bad
		good[o.file] = strings.NewReplacer("main:1", "main:2", `"one"`, `"three"`).Replace(o.good)
	}
	r := proxied(t, fs)
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	r.Proxy.Requests()
	sent := func(want int, when string) {
		t.Helper()
		n := map[string]int{}
		for _, q := range r.Proxy.Requests() {
			if q.Method == http.MethodPatch {
				n[q.Path[strings.LastIndex(q.Path[:strings.LastIndex(q.Path, "/")], "/"):]]++
			}
		}
		for _, o := range objects {
			if n[o.path] != want {
				t.Errorf("%s was sent %d times %s, want %d", o.path, n[o.path], when, want)
			}
		}
	}
	revision := r.Commit(spoilt)
	r.value("x", "two")
	r.value("new", "one")
	r.Ready("NS-b", revision)
	r.Failed("NS-a", "Deployment.apps/NS/web")
	for _, o := range objects {
		r.Failed("NS-a", o.says, o.file)
	}
	// An edit of its neighbour is still corrected, and the bad objects are not touched for that.
	r.patch("x", `{"data":{"key":"edited"}}`)
	r.value("x", "two")
	time.Sleep(7 * time.Second) // longer than any retry would wait
	sent(1, "for the commit that spoilt it")
	// Another commit that leaves the bundle as it is gives no reason to try again.
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": configMap("y", "three")}))
	sent(0, "for a commit that does not concern it")
	r.Ready("NS-a", r.Commit(good))
	sent(1, "for the commit that mended it")
}

func TestSchedule_failingBundlesStarveNobody(t *testing.T) {
	fs := files{"good/bundle.yaml": bundle("good", ""), "good/x.yaml": configMap("x", "one")}
	for i := range 6 {
		name := fmt.Sprintf("bad%d", i)
		fs[name+"/bundle.yaml"], fs[name+"/x.yaml"] = bundle(name, ""), configMap(name, "one")
	}
	r := newRig(t, agenttest.Config{Files: fs, Mode: agenttest.Proxied, Change: func(c *agent.Config) { c.Workers = 1 }})
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if agenttest.IsWrite(req) && strings.Contains(req.URL.Path, "/configmaps/bad") {
			return &agenttest.Fault{Status: http.StatusInternalServerError}
		}
		return nil
	})
	r.Start()
	r.Ready("NS-good", "")
	r.Failed("NS-bad5", "ConfigMap/NS/bad5")
	for i := range 10 {
		begun := time.Now()
		r.Commit(files{"good/x.yaml": configMap("x", fmt.Sprint(i))})
		r.value("x", fmt.Sprint(i))
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("commit %d took %s to reach a healthy bundle", i, took)
		}
	}
	r.Proxy.Requests()
	time.Sleep(5 * time.Second)
	if n := len(r.Proxy.Requests()); n > 150 {
		t.Errorf("%d requests in 5 s for six bundles that fail", n)
	}
	r.Proxy.Spoil(nil)
	for i := range 6 {
		r.Ready(fmt.Sprintf("NS-bad%d", i), "")
	}
}

func TestSchedule_aNewerRevisionEndsTheWait(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", "timeout: 10m"), "a/web.yaml": deployment("web", 1, "nodeSelector: {no: where}"),
		"b/bundle.yaml": bundle("b", "dependsOn: [NS-a]"), "b/y.yaml": configMap("y", "one"),
	})
	r.progressing("NS-a", "web")
	revision := r.Commit(files{"a/web.yaml": deployment("web", 1, "")})
	r.Ready("NS-a", revision)
	r.value("y", "one")
}

func TestSync_forces(t *testing.T) {
	r := newRig(t, agenttest.Config{Mode: agenttest.Proxied, Files: files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/web.yaml": deployment("web", -1, ""),
	}})
	quotas := r.Kube.CoreV1().ResourceQuotas(r.NS)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/configmaps": resource.MustParse("0")}}}
	if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	try := func(ctx context.Context) error {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}}
		_, err := r.Kube.CoreV1().ConfigMaps(r.NS).Create(ctx, m, metav1.CreateOptions{DryRun: []string{"All"}})
		return err
	}
	r.Eventually("the quota counts", func(ctx context.Context) error {
		err := try(ctx)
		if apierrors.IsForbidden(err) {
			return nil
		}
		return errors.Join(errors.New("not yet"), err)
	})
	r.Start()
	r.Failed("NS-a", "exceeded quota")
	r.Failed("NS-b", "spec.replicas")
	tries := 0
	r.Eventually("it was tried once more, a second later", func(context.Context) error {
		for _, q := range r.Proxy.Requests() {
			if q.Method == http.MethodPatch && strings.HasSuffix(q.Path, "/configmaps/x") {
				tries++
			}
		}
		if tries < 2 {
			return fmt.Errorf("%d tries", tries)
		}
		return nil
	})
	r.Failed("NS-a", "exceeded quota")
	// Nobody tells the agent that the quota is gone: it would try again in five minutes.
	if err := quotas.Delete(t.Context(), "none", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("the quota counts no more", try)
	r.Eventually("the order is given", func(ctx context.Context) error { return r.Applier.OrderSync(ctx, r.NS+"-a") })
	r.value("x", "one")
	r.Ready("NS-a", "")
	if err := r.Applier.OrderSync(t.Context(), r.NS+"-none"); err == nil {
		t.Error("an order for a bundle that does not exist was taken")
	}
}

// Bundles whose requests are not answered hold up no other: neither by their number nor by that of their objects.
func TestSchedule_slowBundlesHoldUpNobody(t *testing.T) {
	fs := files{"z/bundle.yaml": bundle("z", ""), "z/y.yaml": configMap("y", "one")}
	for i := range 20 {
		dir := fmt.Sprintf("hang%d", i)
		maps.Copy(fs, many(dir, 3))
		fs[dir+"/bundle.yaml"] = bundle(dir, "")
	}
	r := proxied(t, fs)
	r.Ready("NS-z", "")
	for i := range 20 {
		r.Ready(fmt.Sprintf("NS-hang%d", i), "")
	}
	const hang = 25 * time.Second
	first := make(chan time.Time, 1)
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if !agenttest.IsWrite(req) || !strings.Contains(req.URL.Path, "/configmaps/hang") {
			return nil
		}
		select {
		case first <- time.Now():
		default:
		}
		return &agenttest.Fault{Wait: hang, Status: http.StatusGatewayTimeout}
	})
	change := files{"z/y.yaml": configMap("y", "two")}
	for i := range 20 {
		for j := range 3 {
			name := fmt.Sprintf("hang%d-%d", i, j)
			change[fmt.Sprintf("hang%d/%s.yaml", i, name)] = configMap(name, "two")
		}
	}
	r.Commit(change)
	begun := <-first
	r.value("y", "two")
	if waited := time.Since(begun); waited >= hang {
		t.Errorf("y came after %v, when the first of the others was given up", waited)
	}
	r.Proxy.Spoil(nil)
}

// Bundles that wait for their hooks, or for what does not become healthy, and one that waits for a finalizer, hold no worker:
// another one is applied meanwhile, although there is only one worker, and however many wait.
func TestSchedule_waitingHoldsNoWorker(t *testing.T) {
	const many = 12
	job := "apiVersion: batch/v1\nkind: Job\nmetadata: {name: stuck%d, namespace: NS, annotations: {helm.sh/hook: pre-install}}\n" +
		"spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}\n"
	held := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: NS, finalizers: [example.com/hold]}\ndata: {key: one}\n"
	r := newRig(t, agenttest.Config{
		Files: files{
			"b/bundle.yaml": bundle("b", ""), "b/held.yaml": held, "b/more.yaml": configMap("more", "one"),
			"z/bundle.yaml": bundle("z", ""), "z/z.yaml": configMap("z", "one"),
		},
		Change: func(c *agent.Config) { c.Workers = 1 },
	})
	r.Start()
	defer r.patch("held", `{"metadata":{"finalizers":null}}`)
	r.Ready("NS-b", "")
	c := gitserver.Commit{Delete: []string{"b/held.yaml"}, Write: files{}}
	for i := range many {
		dir := fmt.Sprintf("a%d", i)
		c.Write[dir+"/bundle.yaml"] = bundle(dir, "helm: {chart: ./}, namespace: NS, timeout: 10m")
		c.Write[dir+"/Chart.yaml"] = "{apiVersion: v2, name: a, version: 1.0.0}\n"
		c.Write[dir+"/templates/job.yaml"] = fmt.Sprintf(job, i)
		c.Write[dir+"/templates/main.yaml"] = configMap(fmt.Sprintf("main%d", i), "one")
		dir = fmt.Sprintf("w%d", i)
		c.Write[dir+"/bundle.yaml"] = bundle(dir, "timeout: 10m")
		c.Write[dir+"/web.yaml"] = deployment(dir, 1, "nodeSelector: {no: where}")
	}
	r.Do(c)
	r.Eventually("all hooks have begun and the object is going", func(ctx context.Context) error {
		jobs, err := r.Kube.BatchV1().Jobs(r.NS).List(ctx, metav1.ListOptions{})
		if err == nil && len(jobs.Items) != many {
			err = fmt.Errorf("%d hooks", len(jobs.Items))
		}
		m, err2 := r.Kube.CoreV1().ConfigMaps(r.NS).Get(ctx, "held", metav1.GetOptions{})
		if err2 == nil && m.DeletionTimestamp == nil {
			err2 = errors.New("it is not going")
		}
		return errors.Join(err, err2)
	})
	r.Eventually("the status says what is waited for", func(ctx context.Context) error {
		for _, name := range []string{"NS-a0", "NS-b"} {
			b, err := r.Bundle(ctx, name)
			if err == nil && !strings.Contains(b.Message, "waiting for a hook") {
				err = fmt.Errorf("%s is %s: %q", name, b.Phase, b.Message)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for i := range many {
		r.progressing(fmt.Sprintf("NS-w%d", i), fmt.Sprintf("Deployment.apps/NS/w%d", i))
	}
	// Well within the ten minutes of the hooks, and of health.
	r.Ready("NS-z", r.Commit(files{"z/z.yaml": configMap("z", "two")}))
	r.value("z", "two")
	for i := range many {
		if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), fmt.Sprintf("main%d", i), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("hook %d was not waited for: %v", i, err)
		}
	}
}

// No more bundles are worked on at a time than there are workers, and no fewer while there is work.
func TestSchedule_workersBoundWhatIsDoneAtATime(t *testing.T) {
	const bundles, workers, hold = 8, 2, 700 * time.Millisecond
	fs := files{}
	for i := range bundles {
		name := fmt.Sprintf("w%d", i)
		fs[name+"/bundle.yaml"], fs[name+"/x.yaml"] = bundle(name, ""), configMap(name, "one")
	}
	r := newRig(t, agenttest.Config{Files: fs, Mode: agenttest.Proxied, Change: func(c *agent.Config) { c.Workers = workers }})
	var mu sync.Mutex
	var begun []time.Time
	tried := map[string]bool{}
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if !agenttest.IsWrite(req) || !strings.Contains(req.URL.Path, "/configmaps/w") {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		begun = append(begun, time.Now())
		tried[req.URL.Path] = true
		return &agenttest.Fault{Wait: hold, Status: http.StatusServiceUnavailable}
	})
	r.Start()
	r.Eventually("all have been tried", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if len(tried) < bundles {
			return fmt.Errorf("only %d", len(tried))
		}
		return nil
	})
	r.Proxy.Spoil(nil)
	most := 0
	for i := range begun {
		n := 1 // those that were not answered yet when this one began
		for _, before := range begun[:i] {
			if begun[i].Sub(before) < hold {
				n++
			}
		}
		most = max(most, n)
	}
	if most != workers {
		t.Errorf("%d bundles were worked on at a time, want %d", most, workers)
	}
	for i := range bundles {
		r.Ready(fmt.Sprintf("NS-w%d", i), "")
	}
}
