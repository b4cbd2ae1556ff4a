package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

func TestObject_declaredByTwoBundles(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/mine.yaml": configMap("mine", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	x := r.get("x")
	revision := r.Commit(files{"b/x.yaml": configMap("x", "two"), "b/y.yaml": configMap("y", "two"), "a/mine.yaml": configMap("mine", "two")})
	// Who had it first goes on, and the other one alone fails.
	r.Failed("NS-b", "ConfigMap/NS/x", "NS-a")
	r.Ready("NS-a", revision)
	r.value("mine", "two")
	// Another commit, an order and some time do not make them fight.
	r.Commit(files{"b/y.yaml": configMap("y", "three")})
	r.Sync()
	time.Sleep(3 * time.Second)
	r.same(x)
	r.Ready("NS-a", "")
	r.Failed("NS-b", "ConfigMap/NS/x")
	revision = r.Delete("b/x.yaml")
	r.Ready("NS-a", "")
	r.Ready("NS-b", revision)
	r.value("mine", "two")
	r.same(x)
}

func TestObject_movedBetweenBundles(t *testing.T) {
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one"), "a/y.yaml": configMap("y", "one"), "a/web.yaml": deployment("web", 1, ""),
		"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"),
	})
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	uids := map[string]types.UID{"x": r.get("x").UID, "y": r.get("y").UID}
	belongs := func(name, bundle string) {
		t.Helper()
		r.Eventually(name+" belongs to "+bundle, func(ctx context.Context) error {
			m, err := r.tryGet(ctx, name)
			if err != nil {
				return err
			}
			if want := plan.ApplySetID(r.NS + "-" + bundle); m.Labels[api.LabelPartOf] != want {
				return fmt.Errorf("it belongs to %s", m.Labels[api.LabelBundle])
			}
			if m.UID != uids[name] {
				return fmt.Errorf("%s was made anew", name)
			}
			return nil
		})
	}
	// Either way round in the order of names, with a change and without.
	revision := r.Do(gitserver.Commit{Delete: []string{"a/x.yaml"}, Write: files{"b/x.yaml": configMap("x", "two")}})
	r.Applied(revision)
	belongs("x", "b")
	r.value("x", "two")
	revision = r.Do(gitserver.Commit{Delete: []string{"b/x.yaml"}, Write: files{"a/x.yaml": configMap("x", "two")}})
	r.Applied(revision)
	belongs("x", "a")
	// The old bundle goes with it.
	revision = r.Do(gitserver.Commit{Delete: []string{"a"}, Write: files{
		"c/bundle.yaml": bundle("c", ""), "c/x.yaml": configMap("x", "two"), "c/y.yaml": configMap("y", "one"), "c/web.yaml": deployment("web", 1, ""),
	}})
	r.Applied(revision)
	belongs("x", "c")
	belongs("y", "c")
	r.Ready("NS-c", "")
}

func TestObject_immutableField(t *testing.T) {
	job := func(image, annotations string) string {
		return fmt.Sprintf("apiVersion: batch/v1\nkind: Job\nmetadata: {name: job, namespace: NS, annotations: {%s}}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: m, image: %q}]}}}\n", annotations, image)
	}
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/job.yaml": job("one", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	get := func() (types.UID, string) {
		j, err := r.Kube.BatchV1().Jobs(r.NS).Get(t.Context(), "job", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return j.UID, j.Spec.Template.Spec.Containers[0].Image
	}
	uid, _ := get()
	r.Commit(files{"a/job.yaml": job("two", ""), "a/x.yaml": configMap("x", "two")})
	r.Failed("NS-a", "spec.template", "flotilla.dev/force: enabled", "a/job.yaml")
	r.value("x", "two")
	if now, image := get(); now != uid || image != "one" {
		t.Errorf("the Job was touched: %s %s", now, image)
	}
	revision := r.Commit(files{"a/job.yaml": job("two", "flotilla.dev/force: enabled")})
	r.Ready("NS-a", revision)
	now, image := get()
	if now == uid || image != "two" {
		t.Errorf("the Job was not recreated: %s %s", now, image)
	}
	// Whoever allows recreation does not get it for a value that is merely wrong.
	r.Commit(files{"a/job.yaml": strings.Replace(job("two", "flotilla.dev/force: enabled"), "restartPolicy: Never", "restartPolicy: Sometimes", 1)})
	r.Failed("NS-a", "restartPolicy")
	if after, _ := get(); after != now {
		t.Error("the Job was recreated for a validation error")
	}
}

func TestObject_whatTheServerFillsIn(t *testing.T) {
	service := func(name, kind, note string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: NS, annotations: {note: %q}}\nspec: {type: %s, selector: {app: web}, ports: [{port: 80}]}\n", name, note, kind)
	}
	role := func(note string) string {
		return fmt.Sprintf("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-all, annotations: {note: %q}}\naggregationRule: {clusterRoleSelectors: [{matchLabels: {NS: part}}]}\nrules: []\n", note)
	}
	const part = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: NS-part, labels: {NS: part}}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]\n"
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/cluster.yaml": service("cluster", "ClusterIP", "0"), "a/node.yaml": service("node", "NodePort", "0"),
		"a/all.yaml": role("0"), "a/part.yaml": part,
	})
	r.Ready("NS-a", "")
	roles := r.Kube.RbacV1().ClusterRoles()
	r.Eventually("the rules are aggregated", func(ctx context.Context) error {
		c, err := roles.Get(ctx, r.NS+"-all", metav1.GetOptions{})
		if err == nil && len(c.Rules) != 1 {
			err = fmt.Errorf("%d rules", len(c.Rules))
		}
		return err
	})
	w, err := roles.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + r.NS + "-all"})
	if err != nil {
		t.Fatal(err)
	}
	emptied := make(chan int, 1)
	go func() {
		n := 0
		for ev := range w.ResultChan() {
			if c, ok := ev.Object.(*rbacv1.ClusterRole); ok && ev.Type != watch.Deleted && len(c.Rules) == 0 {
				n++
			}
		}
		emptied <- n
	}()
	get := func(name string) *corev1.Service {
		s, err := r.Kube.CoreV1().Services(r.NS).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := map[string]*corev1.Service{"cluster": get("cluster"), "node": get("node")}
	for i := 1; i <= 5; i++ {
		note := fmt.Sprint(i)
		r.Ready("NS-a", r.Commit(files{"a/cluster.yaml": service("cluster", "ClusterIP", note), "a/node.yaml": service("node", "NodePort", note), "a/all.yaml": role(note)}))
		r.Sync()
	}
	time.Sleep(time.Second)
	r.Ready("NS-a", "")
	for name, old := range before {
		now := get(name)
		if now.Annotations["note"] != "5" || now.UID != old.UID || now.Spec.ClusterIP != old.Spec.ClusterIP || now.Spec.Ports[0].NodePort != old.Spec.Ports[0].NodePort {
			t.Errorf("%s: %+v, and was %+v", name, now.Spec, old.Spec)
		}
	}
	w.Stop()
	if n := <-emptied; n > 0 {
		t.Errorf("the aggregated rules were emptied %d times", n)
	}
	r.Stop()
	if es := r.Episodes(); len(es) > 0 {
		t.Errorf("drift where there is none: %+v", es)
	}
}

func TestObject_reconcileDisabledIsHonoured(t *testing.T) {
	r := proxied(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "0"), "a/y.yaml": configMap("y", "0")})
	r.Ready("NS-a", "")
	r.patch("x", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}},"data":{"key":"by hand"}}`)
	// Reads of it fail every other time; that is never taken for leave to write.
	random := rand.New(rand.NewPCG(1, 1))
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/configmaps/x") && random.IntN(2) == 0 {
			return &agenttest.Fault{Status: []int{500, 503, 403, 504, 0}[random.IntN(5)]}
		}
		return nil
	})
	var kept *corev1.ConfigMap
	revision := ""
	for i := 1; i <= 10; i++ {
		revision = r.Commit(files{"a/x.yaml": configMap("x", fmt.Sprint(i)), "a/y.yaml": configMap("y", fmt.Sprint(i))})
		r.value("y", fmt.Sprint(i))
		if i == 5 {
			r.Stop()
			r.Start()
		}
		if kept == nil {
			kept = r.get("x")
		}
	}
	r.Sync()
	time.Sleep(2 * time.Second)
	if kept.Data["key"] != "by hand" {
		t.Fatalf("x is %q", kept.Data["key"])
	}
	r.same(kept)
	r.Proxy.Spoil(nil)
	// After a 403 the bundle would be tried again in minutes only.
	r.Sync()
	r.Applied(revision)
	r.same(kept)
	r.patch("x", `{"metadata":{"annotations":{"flotilla.dev/reconcile":null}}}`)
	r.value("x", "10")
}

// One word keeps the agent off, and nothing that looks like it: not on the cluster, and in Git it is an error.
func TestObject_reconcileMeansThatWord(t *testing.T) {
	words := []string{"Disabled", "true", "false", "enabled", ""}
	all := func(value string) files {
		fs := files{"a/off.yaml": configMap("off", value)}
		for i := range words {
			fs[fmt.Sprintf("a/o%d.yaml", i)] = configMap(fmt.Sprintf("o%d", i), value)
		}
		return fs
	}
	r := start(t, with(files{"a/bundle.yaml": bundle("a", ""), "b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}, all("one")))
	r.Ready("NS-a", "")
	r.Ready("NS-b", "")
	by := func(name, word string) {
		t.Helper()
		r.patch(name, fmt.Sprintf(`{"metadata":{"annotations":{"flotilla.dev/reconcile":%q}},"data":{"key":"by hand"}}`, word))
	}
	by("off", "disabled")
	off := r.get("off")
	for i, word := range words {
		by(fmt.Sprintf("o%d", i), word)
	}
	for i := range words {
		r.value(fmt.Sprintf("o%d", i), "one")
	}
	r.Applied(r.Commit(all("two")))
	for i := range words {
		r.value(fmt.Sprintf("o%d", i), "two")
	}
	r.same(off)

	y := r.get("y")
	r.Commit(with(all("three"), files{"b/y.yaml": annotated("y", "two", `flotilla.dev/reconcile: "true"`)}))
	r.Failed("NS-b", "b/y.yaml", "flotilla.dev/reconcile")
	b, err := r.Bundle(t.Context(), "NS-b")
	if err != nil {
		t.Fatal(err)
	}
	if e := b.Error; e.Kind != api.Stalled || e.Reason != "UnknownAnnotation" || e.File != "b/y.yaml" || e.Field != "metadata.annotations.flotilla.dev/reconcile" {
		t.Errorf("the error is %+v", e)
	}
	for i := range words {
		r.value(fmt.Sprintf("o%d", i), "three") // the other bundle
	}
	r.same(y)
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": annotated("y", "two", "flotilla.dev/reconcile: enabled")}))
	r.value("y", "two")
	r.same(off)
}

func TestObject_manyErrorsAreBounded(t *testing.T) {
	const n = 13_000 // as many as other projects have seen
	fs := files{"a/bundle.yaml": bundle("a", ""), "b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}
	for i := range 20 {
		var all strings.Builder
		for j := range n / 20 {
			name := fmt.Sprintf("bad-%d-%d", i, j)
			all.WriteString(strings.Replace(configMap(name, "one"), "name: "+name, "name: "+name+", labels: {bad: \"not/a/value\"}", 1) + "---\n")
		}
		fs[fmt.Sprintf("a/bad%d.yaml", i)] = all.String()
	}
	r := start(t, fs)
	r.Patience = 4 * time.Minute // for thousands of requests
	r.Ready("NS-b", "")
	r.Failed("NS-a", fmt.Sprintf("%d objects failed", n))
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil || len(b.Message) > 4096 {
		t.Errorf("the message has %d bytes: %v", len(b.Message), err)
	}
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": configMap("y", "two")}))
	r.Stop()
	for _, rec := range r.Records() {
		if len(rec.Status.Changes) > api.MaxChanges || rec.Status.Error != nil && len(rec.Status.Error.Message) > 64<<10 {
			t.Errorf("%s keeps %d changes and %d bytes of error", rec.Status.Name, len(rec.Status.Changes), len(rec.Status.Error.Message))
		}
	}
}

// The cluster's report is one object: however much drifts, it can be written, and says how much it leaves out.
func TestReport_ofMuchDriftIsBounded(t *testing.T) {
	const objects, keys, size = 120, 5, 3_000
	big := func(letter string) map[string]string {
		out := map[string]string{}
		for k := range keys {
			out[fmt.Sprintf("key%d", k)] = strings.Repeat(letter, size)
		}
		return out
	}
	text := func(data map[string]string) string {
		b, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	fs := files{"a/bundle.yaml": bundle("a", "drift: {mode: report}"), "b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one")}
	for i := range objects {
		name := fmt.Sprintf("big-%d", i)
		fs["a/"+name+".yaml"] = fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: NS}, data: %s}\n", name, text(big("g")))
	}
	r := start(t, fs)
	r.Ready("NS-a", "")
	for i := range objects {
		r.patch(fmt.Sprintf("big-%d", i), `{"data":`+text(big("h"))+`}`)
	}
	r.Eventually("all drift is counted", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-a")
		if err == nil && b.Drifted != objects {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
	r.Eventually("the report tells of all drift, or how much it leaves out", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		for _, e := range report.Drift {
			if e.Object.Name == "" || len(e.Fields) == 0 || len(e.Fields)+e.FieldsOmitted != keys || e.Outcome != api.OutcomeReported {
				return fmt.Errorf("an episode of the report is %+v", e)
			}
		}
		if n := len(report.Drift); n == 0 || n+report.DriftOmitted != objects {
			return fmt.Errorf("%d episodes and %d left out", n, report.DriftOmitted)
		}
		return nil
	})
	r.Applied(r.Commit(files{"b/y.yaml": configMap("y", "two")}))
	r.value("y", "two")
}

func TestTakeOver_fromKubectlAndHelm(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{
		"a/bundle.yaml": bundle("a", ""), "a/client.yaml": configMap("client", "git"), "a/helm.yaml": configMap("helm", "git"),
		"a/web.yaml": deployment("web", 2, ""), "a/other.yaml": configMap("other", "git"),
	}})
	create := func(manager, name string, annotations map[string]string) *corev1.ConfigMap {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations, Labels: map[string]string{"old": "yes"}}, Data: map[string]string{"key": "old", "left": "over"}}
		m, err := r.Client(manager).CoreV1().ConfigMaps(r.NS).Create(t.Context(), m, metav1.CreateOptions{FieldManager: manager})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	client := create("kubectl-client-side-apply", "client", map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"key":"old","left":"over"}}`})
	helm := create("helm", "helm", map[string]string{"meta.helm.sh/release-name": "old"})
	other := create("some-controller", "other", nil)
	r.Start()
	r.Ready("NS-a", "")
	for _, old := range []*corev1.ConfigMap{client, helm} {
		now := r.get(old.Name)
		if _, left := now.Data["left"]; left || now.Labels["old"] != "" || now.UID != old.UID || now.Data["key"] != "git" {
			t.Errorf("%s is not Git's alone: %v %v", old.Name, now.Data, now.Labels)
		}
	}
	// Another controller keeps what only it set.
	if now := r.get("other"); now.Data["left"] != "over" || now.Data["key"] != "git" || now.UID != other.UID {
		t.Errorf("other: %v", now.Data)
	}
	// A field that leaves Git leaves the cluster, whoever had set it before.
	r.Commit(files{"a/helm.yaml": strings.Replace(configMap("helm", "x"), `data: {key: "x"}`, `data: {new: "x"}`, 1)})
	r.Eventually("a field that left Git is gone", func(ctx context.Context) error {
		m, err := r.tryGet(ctx, "helm")
		if err == nil && (m.Data["new"] != "x" || len(m.Data) != 1) {
			err = fmt.Errorf("%v", m.Data)
		}
		return err
	})
}

// What another tool heeds and flotilla does not is told in the bundle's status, and nothing fails for it.
func TestObject_foreignMarks(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": annotated("x", "one", `argocd.argoproj.io/sync-wave: "1"`)})
	r.Ready("NS-a", "")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], "a/x.yaml:") || !strings.Contains(b.Warnings[0], "spec.dependsOn") {
		t.Errorf("the warnings are %q", b.Warnings)
	}
}
