package apply_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

func TestMain(m *testing.M) { os.Exit(controlplanetest.Main(m)) }

// rig is an Applier on the shared control plane, with a bundle name and a namespace of its own.
type rig struct {
	*target
	t      *testing.T
	dyn    dynamic.Interface
	ns     string
	bundle string
	calls  *calls
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ns := controlplanetest.Namespace(t)
	calls := &calls{}
	a := newApplier(t, calls.wrap)
	dyn, err := dynamic.NewForConfig(controlplanetest.RESTConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{target: a, t: t, dyn: dyn, ns: ns, bundle: "b-" + ns, calls: calls}
	// Discovery and the list of BundleDeployments are read once per agent; they are not what tests count.
	if res := a.Apply(t.Context(), apply.Request{Bundle: r.rendered()}); res.Err != nil {
		t.Fatal(res.Err)
	}
	// While another test's CRD goes, discovery says nothing of its group.
	eventually(t, "the API server says what it offers", func() bool {
		_, err := a.Facts(t.Context())
		return err == nil
	})
	calls.reset()
	return r
}

// target is a cluster, with all that flotilla does there.
type target struct {
	*kube.Server
	*cluster.Client
	*apply.Applier
}

// connection says what a test's target has that others have not.
type connection struct {
	rest        *rest.Config
	now         func() time.Time
	challenge   time.Duration
	concurrency int
}

func connect(tb testing.TB, c connection) *target {
	tb.Helper()
	server, err := kube.Connect(kube.Config{REST: c.rest, Now: c.now})
	if err != nil {
		tb.Fatal(err)
	}
	own, err := cluster.New(cluster.Config{Server: server, Challenge: c.challenge, Now: c.now})
	if err != nil {
		tb.Fatal(err)
	}
	a, err := apply.New(apply.Config{Server: server, Parents: own, Concurrency: c.concurrency})
	if err != nil {
		tb.Fatal(err)
	}
	return &target{server, own, a}
}

var bootstrap sync.Once

func newApplier(t *testing.T, wrap func(http.RoundTripper) http.RoundTripper) *target {
	t.Helper()
	cfg := rest.CopyConfig(controlplanetest.RESTConfig(t))
	cfg.Wrap(wrap)
	a := connect(t, connection{rest: cfg})
	bootstrap.Do(func() {
		if err := a.Bootstrap(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return a
}

// rendered makes a bundle of YAML documents; NS stands for the test's namespace.
func (r *rig) rendered(docs ...string) api.RenderedBundle {
	r.t.Helper()
	b := api.RenderedBundle{Name: r.bundle, Origin: map[string]string{}}
	for _, d := range docs {
		o := r.object(d)
		b.Objects = append(b.Objects, o)
		b.Origin[api.RefOf(o).ID()] = "apps/" + strings.ToLower(o.GetKind()) + ".yaml"
	}
	b.Digest = fmt.Sprint(docs)
	return b
}

// placeholder is a word of its own: the ID of an ApplySet, which is a hash, may hold the letters.
var placeholder = regexp.MustCompile(`\bNS\b`)

func (r *rig) object(doc string) *unstructured.Unstructured {
	r.t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(placeholder.ReplaceAllString(doc, r.ns)), &u.Object); err != nil {
		r.t.Fatalf("%v in %s", err, doc)
	}
	return u
}

// apply applies and fails the test on any error.
func (r *rig) apply(inventory []api.InventoryEntry, docs ...string) apply.Result {
	r.t.Helper()
	res := r.Apply(r.t.Context(), apply.Request{Bundle: r.rendered(docs...), Inventory: inventory})
	if res.Err != nil {
		r.t.Fatal(res.Err)
	}
	return res
}

// resources: kind -> how the test reaches it
var resources = map[string]schema.GroupVersionResource{
	"ConfigMap":             {Version: "v1", Resource: "configmaps"},
	"Secret":                {Version: "v1", Resource: "secrets"},
	"Service":               {Version: "v1", Resource: "services"},
	"Deployment":            {Group: "apps", Version: "v1", Resource: "deployments"},
	"Job":                   {Group: "batch", Version: "v1", Resource: "jobs"},
	"Namespace":             {Version: "v1", Resource: "namespaces"},
	"PersistentVolumeClaim": {Version: "v1", Resource: "persistentvolumeclaims"},
	"PodDisruptionBudget":   {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
	"Ingress":               {Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	"StatefulSet":           {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"DaemonSet":             {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"Event":                 {Version: "v1", Resource: "events"},
	"Bundle":                {Group: "flotilla.dev", Version: "v1alpha1", Resource: "bundledeployments"},
	"Suspension":            {Group: "flotilla.dev", Version: "v1alpha1", Resource: "suspensions"},
	"CRD":                   {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
}

func (r *rig) get(kind, name string) *unstructured.Unstructured {
	r.t.Helper()
	o, err := r.look(kind, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// look is get for what is asked again until it is so.
func (r *rig) look(kind, name string) (*unstructured.Unstructured, error) {
	return r.dyn.Resource(resources[kind]).Namespace(r.ns).Get(r.t.Context(), name, metav1.GetOptions{})
}

// create makes an object as somebody else.
func (r *rig) create(manager, doc string) *unstructured.Unstructured {
	r.t.Helper()
	o := r.object(doc)
	out, err := r.dyn.Resource(resources[o.GetKind()]).Namespace(r.ns).Create(r.t.Context(), o, metav1.CreateOptions{FieldManager: manager})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// patch changes an object as somebody else.
func (r *rig) patch(manager, kind, name, merge string) *unstructured.Unstructured {
	r.t.Helper()
	how := types.MergePatchType
	if strings.HasPrefix(merge, "[") {
		how = types.JSONPatchType
	}
	o, err := r.dyn.Resource(resources[kind]).Namespace(r.ns).Patch(r.t.Context(), name, how, []byte(merge), metav1.PatchOptions{FieldManager: manager})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func (r *rig) delete(kind, name string) {
	r.t.Helper()
	if err := r.dyn.Resource(resources[kind]).Namespace(r.ns).Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// actions are the actions of a change set by "Kind/name".
func actions(cs api.ChangeSet) map[string]api.Action {
	out := map[string]api.Action{}
	for _, c := range cs.Changes {
		out[c.Object.Kind+"/"+c.Object.Name] = c.Action
	}
	return out
}

func names(entries []api.InventoryEntry) []string {
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Object.Kind+"/"+e.Object.Name)
	}
	slices.Sort(out)
	return out
}

func data(o *unstructured.Unstructured) map[string]string {
	if o == nil {
		return nil
	}
	m, _, _ := unstructured.NestedStringMap(o.Object, "data")
	return m
}

// apiError is the first api.Error in err.
func apiError(t *testing.T, err error) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is not an api.Error", err)
	}
	return e
}

func configMap(name, value string) string {
	return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + ", namespace: NS}, data: {key: \"" + value + "\"}}"
}

// calls records requests and can answer them itself.
type calls struct {
	mu    sync.Mutex
	made  []string
	fault func(*http.Request) *http.Response
}

func (c *calls) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		c.mu.Lock()
		c.made = append(c.made, req.Method+" "+req.URL.Path)
		fault := c.fault
		c.mu.Unlock()
		if fault != nil {
			if resp := fault(req); resp != nil {
				if req.Body != nil {
					_ = req.Body.Close()
				}
				resp.Request = req
				return resp, nil
			}
		}
		return next.RoundTrip(req)
	})
}

func (c *calls) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = nil
}

// all returns the requests as "METHOD path".
func (c *calls) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.made)
}

// verbs counts the requests by method.
func (c *calls) verbs() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]int{}
	for _, m := range c.made {
		verb, _, _ := strings.Cut(m, " ")
		out[verb]++
	}
	return out
}

func (c *calls) setFault(f func(*http.Request) *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer is an API server's error.
func answer(code int, reason metav1.StatusReason, message string) *http.Response {
	st := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure",
		Code: int32(code), Reason: reason, Message: message,
	}
	b, _ := json.Marshal(st)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: readCloser{strings.NewReader(string(b))}, ContentLength: int64(len(b)),
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// eventually waits for what controllers do, by asking again; it fails the test after a while.
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

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
