package health_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
)

func TestMain(m *testing.M) { os.Exit(controlplanetest.Main(m)) }

// rig is a running Tracker and a client of the cluster.
type rig struct {
	*health.Tracker
	t   *testing.T
	dyn dynamic.Interface
	ns  string

	mu      sync.Mutex
	calls   []string
	watches []func(last string, how error) // end the watches that are open
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, ns: controlplanetest.Namespace(t)}
	cfg := rest.CopyConfig(controlplanetest.RESTConfig(t))
	var err error
	if r.dyn, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			r.mu.Lock()
			r.calls = append(r.calls, req.URL.Path+"?"+req.URL.RawQuery)
			r.mu.Unlock()
			res, err := next.RoundTrip(req)
			if err == nil && req.URL.Query().Get("watch") != "" {
				r.endable(res)
			}
			return res, err
		})
	})
	if r.Tracker, err = health.New(health.Config{REST: cfg, Linger: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// endable lets a test end a watch as a server or a network does, between two events.
func (r *rig) endable(res *http.Response) {
	body := res.Body
	read, write := io.Pipe()
	var mu sync.Mutex
	ended := false
	go func() {
		for lines := bufio.NewReader(body); ; {
			line, err := lines.ReadBytes('\n')
			mu.Lock()
			if ended {
				mu.Unlock()
				return
			}
			_, _ = write.Write(line)
			mu.Unlock()
			if err != nil {
				_ = write.CloseWithError(err)
				return
			}
		}
	}()
	res.Body = struct {
		io.Reader
		io.Closer
	}{read, closer(func() error { _ = read.Close(); return body.Close() })}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = append(r.watches, func(last string, how error) {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		_, _ = io.WriteString(write, last)
		_ = write.CloseWithError(how)
		_ = body.Close()
	})
}

type closer func() error

func (f closer) Close() error { return f() }

func (r *rig) watching() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.watches) > 0
}

// endWatches ends all watches; last is what still came of them, how the error with which they end, nil for none.
func (r *rig) endWatches(last string, how error) {
	r.mu.Lock()
	watches := r.watches
	r.watches = nil
	r.mu.Unlock()
	for _, end := range watches {
		end(last, how)
	}
}

func (r *rig) requests(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, c := range r.calls {
		if strings.Contains(c, part) {
			n++
		}
	}
	return n
}

var resources = map[string]schema.GroupVersionResource{
	"ConfigMap":             {Version: "v1", Resource: "configmaps"},
	"PersistentVolumeClaim": {Version: "v1", Resource: "persistentvolumeclaims"},
	"Deployment":            {Group: "apps", Version: "v1", Resource: "deployments"},
	"Job":                   {Group: "batch", Version: "v1", Resource: "jobs"},
}

// create makes an object with our labels and returns its inventory entry.
func (r *rig) create(doc string) api.InventoryEntry {
	r.t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
		r.t.Fatal(err)
	}
	u.SetNamespace(r.ns)
	u.SetLabels(map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: "applyset-" + r.ns})
	o, err := r.dyn.Resource(resources[u.GetKind()]).Namespace(r.ns).Create(r.t.Context(), u, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return entry(o)
}

func entry(o *unstructured.Unstructured) api.InventoryEntry {
	return api.InventoryEntry{Object: api.RefOf(o), UID: string(o.GetUID()), ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration()}
}

func (r *rig) patch(kind, name, merge string, subresources ...string) api.InventoryEntry {
	r.t.Helper()
	o, err := r.dyn.Resource(resources[kind]).Namespace(r.ns).Patch(r.t.Context(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}, subresources...)
	if err != nil {
		r.t.Fatal(err)
	}
	return entry(o)
}

// await waits, told by the Tracker, until the summary of the bundle is as it should be.
func (r *rig) await(bundle, what string, ok func(health.Summary) bool) health.Summary {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	for {
		s := r.Get(bundle)
		if ok(s) {
			return s
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("%s: never; last %+v", what, s)
		case <-r.Changed():
		}
	}
}

func healthy(s health.Summary) bool { return s.Healthy() }

const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 2, selector: {matchLabels: {app: d}},
template: {metadata: {labels: {app: d}}, spec: {containers: [{name: main, image: one}]}}}}`

func TestDeploymentBecomesReadyAndIsJudgedAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cm := r.create(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}`)
	d := r.create(deployment)
	r.Set("b", []api.InventoryEntry{cm, d}, nil)
	s := r.await("b", "ready", healthy)
	if diff := cmp.Diff(health.Summary{Total: 2, Ready: 2}, s); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if n := r.requests("/configmaps"); n != 0 {
		t.Errorf("%d requests for a kind without status", n)
	}
	// A later state is applied: what was healthy before does not count, from this very moment.
	d = r.patch("Deployment", "d", `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"two"}]}}}}`)
	r.Set("b", []api.InventoryEntry{cm, d}, nil)
	if s := r.Get("b"); s.Healthy() && s.Ready == 2 {
		// It may be that fast only if the watch saw the new generation ready; then its status says so.
		o, err := r.dyn.Resource(resources["Deployment"]).Namespace(r.ns).Get(t.Context(), "d", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seen, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration"); seen != o.GetGeneration() {
			t.Errorf("ready before the change was observed: %+v", s)
		}
	}
	r.await("b", "ready again", healthy)

	// Nobody waits: the watch closes, and a new wait opens a new one.
	before := r.requests("watch=true")
	r.Remove("b")
	if s := r.Get("b"); s.Total != 0 {
		t.Errorf("a removed bundle: %+v", s)
	}
	r.Set("c", []api.InventoryEntry{d}, nil)
	r.await("c", "ready in another bundle", healthy)
	if before == 0 {
		t.Error("no watch was opened at all")
	}
}

func TestMissingAndUnknown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.create(deployment)
	gone := d
	gone.Object.Name = "gone"
	never := api.InventoryEntry{Object: api.ObjectRef{Group: "nowhere.example.com", Version: "v1", Kind: "Thing", Name: "x"}}
	r.Set("b", []api.InventoryEntry{d, gone, never}, nil)
	s := r.await("b", "all looked at", func(s health.Summary) bool {
		return s.Ready == 1 && len(s.InProgress) == 2 && s.InProgress[0].Message == "not found" && strings.Contains(s.InProgress[1].Message, "cannot be watched")
	})
	if s.Healthy() {
		t.Errorf("healthy without its objects: %+v", s)
	}
}

func TestFinishedJobsThatWereCleanedUpAreReady(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := func(name, spec string) api.InventoryEntry {
		return r.create(`{apiVersion: batch/v1, kind: Job, metadata: {name: ` + name + `}, spec: {` + spec + `, template: {spec: {restartPolicy: Never, containers: [{name: c, image: c}]}}}}`)
	}
	done, stopped := job("done", "backoffLimit: 0"), job("stopped", "suspend: true")
	r.Set("done", []api.InventoryEntry{done}, nil)
	r.Set("stopped", []api.InventoryEntry{stopped}, nil)
	r.await("done", "the Job is done", healthy)
	r.await("stopped", "the other Job is seen", func(s health.Summary) bool {
		return len(s.InProgress) == 1 && s.InProgress[0].Message != "not looked at yet"
	})
	remove := func(name string) {
		background := metav1.DeletePropagationBackground
		err := r.dyn.Resource(resources["Job"]).Namespace(r.ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil {
			t.Fatal(err)
		}
	}
	// As the controller for finished Jobs does it. The watch shows the deletions in this order.
	remove("done")
	remove("stopped")
	r.await("stopped", "the other Job is gone", func(s health.Summary) bool { return len(s.InProgress) == 1 && s.InProgress[0].Message == "not found" })
	if s := r.Get("done"); !s.Healthy() {
		t.Errorf("a finished Job that was cleaned up: %+v", s)
	}
	// One that was gone before anybody looked had finished.
	r.Set("late", []api.InventoryEntry{{Object: api.ObjectRef{Group: "batch", Version: "v1", Kind: "Job", Namespace: r.ns, Name: "never-seen"}, ResourceVersion: "1"}}, nil)
	r.await("late", "the Job that nobody saw", healthy)
}

// What was healthy before the last change does not count: the watch has to have seen that change.
func TestOnlyTheAppliedStateCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.create(deployment)
	r.Set("b", []api.InventoryEntry{d}, nil)
	r.await("b", "ready", healthy)
	future := d
	future.ResourceVersion = "99999999999"
	r.Set("b", []api.InventoryEntry{future}, nil)
	if s := r.Get("b"); len(s.InProgress) != 1 || !strings.Contains(s.InProgress[0].Message, "not been seen yet") {
		t.Errorf("judged by an older state: %+v", s)
	}
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.create(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {state: starting}}`)
	checks := []api.HealthCheck{{
		APIVersion: "v1", Kind: "ConfigMap",
		Failed: "self.data.state == 'broken'", InProgress: "self.data.state == 'busy'", Current: "self.data.ready == 'yes'",
	}}
	r.Set("b", []api.InventoryEntry{c}, checks)
	s := r.await("b", "judged by its expression", func(s health.Summary) bool {
		return len(s.InProgress) == 1 && strings.Contains(s.InProgress[0].Message, "no answer yet")
	})
	if s.Healthy() {
		t.Error("healthy without its field")
	}
	for _, step := range []struct {
		patch string
		ok    func(health.Summary) bool
	}{
		{`{"data":{"ready":"no"}}`, func(s health.Summary) bool { return len(s.InProgress) == 1 }},
		{`{"data":{"state":"broken"}}`, func(s health.Summary) bool { return len(s.Failed) == 1 }},
		{`{"data":{"state":"busy","ready":"yes"}}`, func(s health.Summary) bool { return len(s.InProgress) == 1 }},
		{`{"data":{"state":"fine"}}`, healthy},
	} {
		r.Set("b", []api.InventoryEntry{r.patch("ConfigMap", "c", step.patch)}, checks)
		r.await("b", step.patch, step.ok)
	}
	// Other expressions for what was judged already take effect.
	r.Set("b", []api.InventoryEntry{c}, []api.HealthCheck{{APIVersion: "v1", Kind: "ConfigMap", Failed: "self.data.state == 'fine'"}})
	r.await("b", "judged by the new expression", func(s health.Summary) bool { return len(s.Failed) == 1 })
	r.Set("b", []api.InventoryEntry{c}, nil)
	r.await("b", "without expressions", healthy)
}

// However a watch ends, what changes afterwards is seen. Where it only ended, or the connection broke, nothing is listed again.
func TestWatchesThatEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		last  string
		how   error
		lists int
	}{
		"its time is over":      {lists: 0},
		"in the middle":         {last: `{"type":"MODIFIED","object":{"apiVer`, lists: 0},
		"reset":                 {how: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, lists: 0},
		"no answer in time":     {how: os.ErrDeadlineExceeded, lists: 0},
		"too old":               {last: `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}}`, lists: 1},
		"something else came":   {last: "<html>", lists: 1},
		"an event of no object": {last: `{"type":"ADDED"}`, lists: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.Set("b", []api.InventoryEntry{r.create(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 0, selector: {matchLabels: {a: b}},
				template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`)}, nil)
			r.await("b", "the first state", healthy)
			for n := 0; !r.watching(); n++ {
				if n == 1000 {
					t.Fatal("no watch was opened in ten seconds")
				}
				time.Sleep(10 * time.Millisecond)
			}
			before := r.requests("limit=")
			r.endWatches(c.last, c.how)
			r.Set("b", []api.InventoryEntry{r.patch("Deployment", "d", `{"spec":{"revisionHistoryLimit":3}}`)}, nil)
			r.await("b", "the state after the watch ended", healthy)
			if n := r.requests("limit=") - before; n != c.lists {
				t.Errorf("%d lists after the watch ended, want %d", n, c.lists)
			}
		})
	}
}

// Without an answer of its expressions an object is in progress, and without a current expression its own status decides.
func TestExpressionsThatDoNotSay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.create(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {other: x}}`)
	pvc := r.create(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}}`)
	for _, tt := range []struct {
		name   string
		object api.InventoryEntry
		check  api.HealthCheck
		want   health.Status
		says   string
	}{
		{"failed without its field", c, api.HealthCheck{Failed: "self.data.state == 'broken'"}, health.InProgress, "its failed expression has no answer yet: no such key: state"},
		{"inProgress without its field", c, api.HealthCheck{InProgress: "self.data.state == 'busy'"}, health.InProgress, "its inProgress expression has no answer yet: no such key: state"},
		{"failed without its field, and current", c, api.HealthCheck{Failed: "self.status.phase == 'Failed'", Current: "true"}, health.InProgress, "no such key: status"},
		{"inProgress that gives no truth value", c, api.HealthCheck{InProgress: "self.data.other"}, health.InProgress, "not true or false"},
		{"inProgress that holds", c, api.HealthCheck{InProgress: "self.data.other == 'x'", Current: "true"}, health.InProgress, "its inProgress expression holds"},
		{"inProgress that does not hold", c, api.HealthCheck{InProgress: "self.data.other == 'y'", Current: "true"}, health.Ready, ""},
		{"no current, and no status", c, api.HealthCheck{Failed: "self.data.other == 'y'"}, health.Ready, ""},
		{"no current, and a status that is not done", pvc, api.HealthCheck{Failed: "self.status.phase == 'Lost'"}, health.InProgress, "PVC"},
		{"current against the status", pvc, api.HealthCheck{Current: "self.status.phase == 'Pending'"}, health.Ready, ""},
	} {
		tt.check.APIVersion, tt.check.Kind = "v1", tt.object.Object.Kind
		r.Set("b", []api.InventoryEntry{tt.object}, []api.HealthCheck{tt.check})
		var got health.Status
		var says string
		r.await("b", tt.name, func(s health.Summary) bool {
			switch {
			case s.Healthy():
				got, says = health.Ready, ""
			case len(s.Failed) > 0:
				got, says = health.Failed, s.Failed[0].Message
			case strings.Contains(s.InProgress[0].Message, "not looked at yet"):
				return false
			default:
				got, says = health.InProgress, s.InProgress[0].Message
			}
			return true
		})
		if got != tt.want || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %s %q, want %s %q", tt.name, got, says, tt.want, tt.says)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for expression, ok := range map[string]bool{
		"self.status.phase == 'Ready'": true,
		"has(self.status) && self.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')": true,
		"self.status.phase ==": false,
		"'text'":               false,
		"other.x":              false,
	} {
		err := health.Validate([]api.HealthCheck{{APIVersion: "v1", Kind: "X", Current: expression}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", expression, err)
		}
	}
	err := health.Validate([]api.HealthCheck{{Current: "true"}, {Current: "true", InProgress: "self."}})
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Field != "spec.health.1.inProgress" || e.Kind != api.Stalled {
		t.Errorf("the error does not say where: %+v", err)
	}
}

func TestExplainNamesPodsAndEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.create(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 1, selector: {matchLabels: {app: d}},
template: {metadata: {labels: {app: d}}, spec: {nodeSelector: {no: such-node}, containers: [{name: main, image: one}]}}}}`)
	r.Set("b", []api.InventoryEntry{d}, nil)
	r.await("b", "in progress", func(s health.Summary) bool { return len(s.InProgress) == 1 })
	var why string
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !strings.Contains(why, "Unschedulable") {
		select {
		case <-ctx.Done():
			t.Fatalf("explanation %q", why)
		case <-time.After(50 * time.Millisecond):
			why = r.Explain(t.Context(), d.Object)
		}
	}
	if len(why) > 700 {
		t.Errorf("explanation of %d bytes", len(why))
	}
	if got := r.Explain(t.Context(), api.ObjectRef{Version: "v1", Kind: "ConfigMap", Namespace: r.ns, Name: "none"}); got != "" {
		t.Errorf("an explanation of nothing: %q", got)
	}
}

// However much else there is in the namespace, the reason is found: in the Pods that the newest ReplicaSet has, and in the Events about what is asked for.
func TestExplainInABusyNamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := func(gvr schema.GroupVersionResource, doc string, n int) {
		t.Helper()
		for i := range n {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(fmt.Appendf(nil, doc, fmt.Sprintf("a-%03d", i), r.ns), &u.Object); err != nil {
				t.Fatal(err)
			}
			if _, err := r.dyn.Resource(gvr).Namespace(r.ns).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	other(schema.GroupVersionResource{Version: "v1", Resource: "pods"},
		`{apiVersion: v1, kind: Pod, metadata: {name: %[1]s, labels: {app: d}}, spec: {containers: [{name: main, image: one}]}}`, 60)
	other(schema.GroupVersionResource{Version: "v1", Resource: "events"}, `{apiVersion: v1, kind: Event, metadata: {name: %[1]s}, type: Warning, reason: Foreign, message: foreign,
		involvedObject: {apiVersion: v1, kind: ConfigMap, namespace: %[2]s, name: %[1]s}}`, 150)
	workload := func(name, pod string) api.InventoryEntry {
		return r.create(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: ` + name + `}, spec: {replicas: 1, selector: {matchLabels: {app: ` + name + `}},
			template: {metadata: {labels: {app: ` + name + `}}, spec: {` + pod + `, containers: [{name: main, image: one}]}}}}`)
	}
	for want, e := range map[string]api.InventoryEntry{
		"Pod d-":        workload("d", "nodeSelector: {no: such-node}"),
		"ReplicaSet e-": workload("e", "serviceAccountName: nobody"), // it has no Pods at all
	} {
		var why string
		eventually(t, want, func() bool { why = r.Explain(t.Context(), e.Object); return strings.Contains(why, want) })
		if strings.Contains(why, "oreign") {
			t.Errorf("explained by what is somebody else's: %s", why)
		}
	}
	before := r.requests("")
	r.Explain(t.Context(), api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: r.ns, Name: "d"})
	if n := r.requests("") - before; n > 12 {
		t.Errorf("%d requests for an explanation", n)
	}
}

// eventually waits for what controllers do, by asking again.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
