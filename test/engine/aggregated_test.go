package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// aggregated is an API server of its own that serves Things, behind an address that answers only once it is up.
type aggregated struct {
	port string
	up   atomic.Bool
	// refused counts what was asked before it was up.
	refused atomic.Int64
	// dynamic speaks to it past the address.
	dynamic dynamic.Interface
}

// newAggregated starts the API server that is to be aggregated, with the namespace of a rig.
func newAggregated(t *testing.T, r *rig) *aggregated {
	t.Helper()
	behind := controlplanetest.RESTConfigOf(t, controlplanetest.New(t, controlplane.Config{Mode: controlplane.Minimal}))
	a := &aggregated{dynamic: dynamic.NewForConfigOrDie(behind)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.NS}}
	if _, err := kubernetes.NewForConfigOrDie(behind).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	definition := &unstructured.Unstructured{}
	decode(t, r.Text(crd), definition)
	if _, err := a.dynamic.Resource(crds).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Eventually("things are served behind the address", func(ctx context.Context) error {
		_, err := a.dynamic.Resource(r.things()).List(ctx, metav1.ListOptions{})
		return err
	})
	target, err := url.Parse(behind.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(behind)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			for h := range pr.Out.Header { // who asks is the aggregator's business: behind it everybody is an administrator
				if strings.HasPrefix(h, "X-Remote-") {
					pr.Out.Header.Del(h)
				}
			}
		},
		Transport: transport, FlushInterval: -1,
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !a.up.Load() {
			a.refused.Add(1)
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		forward.ServeHTTP(w, req)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections() // watches do not end by themselves
		s.Close()
	})
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	a.port = u.Port()
	return a
}

// files are a Service that leads to the API server, and the APIService that aggregates it.
// The Service has no Pods: the test's control plane has no network that would lead to them.
func (a *aggregated) files() files {
	return files{
		"a/service.yaml": fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: things, namespace: NS}\n"+
			"spec: {type: ExternalName, externalName: localhost, ports: [{port: %s}]}\n", a.port),
		"a/apiservice.yaml": fmt.Sprintf("apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.NS.example.com}\n"+
			"spec: {group: NS.example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 10, insecureSkipTLSVerify: true, "+
			"service: {namespace: NS, name: things, port: %s}}\n", a.port),
	}
}

// thing is what Things behind the address say.
func (a *aggregated) thing(ctx context.Context, r *rig, name string) (string, error) {
	o, err := a.dynamic.Resource(r.things()).Namespace(r.NS).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	value, _, err := unstructured.NestedString(o.Object, "spec", "key")
	return value, err
}

// The APIService, the way to the API server behind it, and objects of that API come in one commit,
// and the API server comes up only after that, as a Deployment of the same commit would.
func TestAPIService_withItsInstancesInOneCommit(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{"z/bundle.yaml": bundle("z", ""), "z/z.yaml": configMap("z", "one")}})
	a := newAggregated(t, r)
	r.Start()
	r.Ready("NS-z", "")

	revision := r.Commit(with(a.files(), files{
		"a/bundle.yaml": bundle("a", ""), "a/thing.yaml": thing("one", "one"), "a/x.yaml": configMap("x", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/thing.yaml": thing("two", "one"), // finds its way by trying again
	}))
	r.value("x", "one") // nobody else waits
	r.Eventually("somebody asks for the API", func(context.Context) error {
		if a.refused.Load() == 0 {
			return errors.New("nobody did")
		}
		return nil
	})
	r.Failed("NS-b", "Thing")
	a.up.Store(true)
	r.Ready("NS-a", revision)
	r.Ready("NS-b", revision)
	is := func(name, want string) {
		t.Helper()
		r.Eventually(fmt.Sprintf("thing %s is %q", name, want), func(ctx context.Context) error {
			got, err := a.thing(ctx, r, name)
			if err == nil && got != want {
				err = fmt.Errorf("it is %q", got)
			}
			return err
		})
	}
	is("one", "one")
	is("two", "one")

	t.Log("drift behind the API is seen by watch and corrected")
	_, err := a.dynamic.Resource(r.things()).Namespace(r.NS).Patch(t.Context(), "one", types.MergePatchType,
		[]byte(`{"spec":{"key":"edited"}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
	is("one", "one")
	r.Stop()
	named := slices.ContainsFunc(r.Episodes(), func(e api.Episode) bool {
		return e.Object.Kind == "Thing" && e.Object.Name == "one" && e.By.Manager == "kubectl-edit"
	})
	if !named {
		t.Errorf("no episode names who did it: %+v", r.Episodes())
	}
	r.Start()

	t.Log("what leaves Git while nobody can look is not taken for gone")
	a.up.Store(false)
	r.Commit(with(a.files(), files{"a/other.yaml": thing("other", "one")})) // the API is needed, and is not there
	r.Delete("a/thing.yaml")
	r.Eventually("the agent has tried", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-a")
		if err == nil && b.Error == nil {
			err = fmt.Errorf("%s: %s", b.Phase, b.Message)
		}
		return err
	})
	if _, err := a.thing(t.Context(), r, "one"); err != nil {
		t.Errorf("the thing behind the API: %v", err)
	}
	r.Stop()
	kept := slices.ContainsFunc(r.Records(), func(rec api.BundleRecord) bool {
		return slices.ContainsFunc(rec.Inventory, func(e api.InventoryEntry) bool { return e.Object.Kind == "Thing" && e.Object.Name == "one" })
	})
	if !kept {
		t.Error("it is in no inventory any more")
	}
	r.Start()
	a.up.Store(true)
	r.Eventually("it is deleted once the API answers", func(ctx context.Context) error {
		if _, err := a.thing(ctx, r, "one"); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
	is("other", "one")

	t.Log("all of it leaves in one commit: the objects before the API")
	r.Delete("a/other.yaml", "a/apiservice.yaml", "a/service.yaml", "b/thing.yaml", "b/bundle.yaml")
	r.Eventually("the API is gone, and so is what was in it", func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().Services(r.NS).Get(ctx, "things", metav1.GetOptions{})
		if err == nil {
			return errors.New("the Service is still there")
		}
		for _, name := range []string{"one", "two", "other"} {
			if _, err := a.thing(ctx, r, name); !apierrors.IsNotFound(err) {
				return fmt.Errorf("thing %s: %w", name, errors.Join(err, errors.New("want it gone")))
			}
		}
		return nil
	})
	r.value("x", "one")
}

// An API server that comes and goes all the time holds up nobody who does not need it, and what it serves is as in Git in the end.
func TestAPIService_thatComesAndGoes(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{"z/bundle.yaml": bundle("z", ""), "z/z.yaml": configMap("z", "0")}})
	a := newAggregated(t, r)
	a.up.Store(true)
	r.Start()
	r.Commit(with(a.files(), files{"a/bundle.yaml": bundle("a", ""), "a/thing.yaml": thing("one", "0")}))
	r.Ready("NS-a", "")
	get := func() *unstructured.Unstructured {
		t.Helper()
		o, err := a.dynamic.Resource(r.things()).Namespace(r.NS).Get(t.Context(), "one", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	uid := get().GetUID()

	ctx, stop := context.WithCancel(t.Context())
	var toggler sync.WaitGroup
	toggler.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for up := false; ; up = !up {
			a.up.Store(up)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	const commits = 15
	revision := ""
	for i := 1; i <= commits; i++ {
		change := files{"z/z.yaml": configMap("z", fmt.Sprint(i))}
		if i%3 == 0 {
			change["a/thing.yaml"] = thing("one", fmt.Sprint(i))
		}
		was := a.up.Load()
		r.Eventually("it comes or goes", func(context.Context) error {
			if a.up.Load() == was {
				return errors.New("it stays as it is")
			}
			return nil
		})
		begun := time.Now()
		revision = r.Commit(change)
		r.value("z", fmt.Sprint(i))
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("commit %d took %s to reach a bundle that needs no such API", i, took)
		}
	}
	stop()
	toggler.Wait()
	if a.refused.Load() == 0 {
		t.Error("nobody was refused")
	}
	a.up.Store(true)
	r.Applied(revision)
	r.Ready("NS-a", "")
	r.Ready("NS-z", revision)
	now := get()
	if value, _, _ := unstructured.NestedString(now.Object, "spec", "key"); value != fmt.Sprint(commits) || now.GetUID() != uid {
		t.Errorf("the thing is %q, and %s was %s", value, now.GetUID(), uid)
	}
}
