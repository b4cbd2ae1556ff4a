// Package agenttest gives tests a whole agent: with a repository of its own, on a real control plane,
// and, where a test wants one, with a proxy in between that counts requests and spoils some.
//
// It promises that what a test leaves on a shared control plane does not disturb the next one,
// and that an agent which ends by itself fails the test. It never fakes a part of the agent.
package agenttest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/sources"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// Config says what a Rig is made of.
type Config struct {
	// Plane is the control plane. Nil means the shared one of the test binary, which is cleaned up after the test.
	Plane *controlplane.ControlPlane
	// Repo is the fleet repository. Nil means a new one.
	Repo *gitservertest.Repository
	// Files are its first commit, beside clusters/one/cluster.yaml.
	// "NS" in their names and texts stands for Rig.NS, here and in Commit.
	Files map[string]string
	// Mode says whether the agent's requests go through a proxy.
	Mode Mode
	// Change, if set, changes the agent's configuration before it is started.
	Change func(*agent.Config)
}

// Mode says how the agent reaches the API server.
type Mode int

const (
	// Direct means without a proxy.
	Direct Mode = iota
	// Proxied means through Rig.Proxy.
	Proxied
)

// Rig is an agent with a repository of its own.
type Rig struct {
	// NS is a word of this test's own, for a namespace and to begin the names of bundles with.
	NS     string
	Config agent.Config
	Plane  *controlplane.ControlPlane
	Repo   *gitservertest.Repository
	// Proxy is nil in mode Direct.
	Proxy *Proxy
	// Kube writes as the field manager kubectl-edit. It does not go through the proxy, and neither do the other two.
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	Applier *agent.Target
	// Patience is how long Eventually waits: the constant of that name, unless a test of very many objects sets it.
	Patience time.Duration

	t    testing.TB
	stop func()
}

// Patience is how long a test waits for one thing.
const Patience = 60 * time.Second

const clusterYAML = `apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: one, labels: {env: test}}
`

// Main runs the tests as controlplanetest.Main does; TestMain must call it. The test binary is also the worker of its agents.
func Main(m *testing.M) int {
	if len(os.Args) == 2 && os.Args[1] == engine.Word {
		if err := engine.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	worker.Store(true)
	return controlplanetest.Main(m)
}

// worker says that the test binary serves as a worker.
var worker atomic.Bool

// names counts the words that were given out.
var names atomic.Int64

// New makes a rig. The agent is not started yet.
func New(t testing.TB, cfg Config) *Rig {
	t.Helper()
	shared := cfg.Plane == nil
	if shared {
		cfg.Plane = controlplanetest.Shared(t)
	}
	if cfg.Repo == nil {
		cfg.Repo = gitservertest.New(t)
	}
	r := &Rig{NS: fmt.Sprintf("t%d", names.Add(1)), Plane: cfg.Plane, Repo: cfg.Repo, Patience: Patience, t: t, stop: func() {}}
	direct := controlplanetest.RESTConfigOf(t, r.Plane)
	r.Config = agent.Config{
		Cluster: "one", REST: direct, Dir: t.TempDir(), Source: sources.Branch(cfg.Repo.Dir, gitserver.DefaultBranch),
		Poll: 200 * time.Millisecond, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if !worker.Load() {
		t.Fatal("TestMain must call agenttest.Main")
	}
	var err error
	if r.Config.Worker, err = sandbox.Self(engine.Word); err != nil {
		t.Fatal(err)
	}
	if cfg.Repo.URL != "" {
		r.Config.Source.URL = cfg.Repo.URL
	}
	if cfg.Mode == Proxied {
		r.Proxy = newProxy(t, direct)
		r.Config.REST = &rest.Config{Host: r.Proxy.URL, QPS: -1}
	}
	r.Kube = r.Client("kubectl-edit")
	if r.Dynamic, err = dynamic.NewForConfig(direct); err != nil {
		t.Fatal(err)
	}
	if r.Applier, err = agent.Connect(agent.TargetConfig{REST: direct}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"clusters/one/cluster.yaml": clusterYAML}
	maps.Copy(files, cfg.Files)
	r.Commit(files)
	if cfg.Change != nil {
		cfg.Change(&r.Config)
	}
	if shared {
		t.Cleanup(r.clean)
	}
	t.Cleanup(func() { r.Stop() })
	return r
}

// Start makes a rig and starts its agent.
func Start(t testing.TB, cfg Config) *Rig {
	t.Helper()
	r := New(t, cfg)
	r.Start()
	return r
}

// FreeAddr returns an address of this machine for whoever listens there later. Nobody else gets its port meanwhile:
// the system takes free ones from another range, and so do the other servers of tests.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for try := 1; ; try++ {
		addr := fmt.Sprintf("127.0.0.1:%d", 6_000+rand.IntN(2_000))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err == nil {
			_ = l.Close()
			return addr
		}
		if try == 20 {
			t.Fatal(err)
		}
	}
}

// testWriter logs into the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// Client returns a client whose writes carry a field manager's name.
func (r *Rig) Client(manager string) kubernetes.Interface {
	r.t.Helper()
	rc := rest.CopyConfig(controlplanetest.RESTConfigOf(r.t, r.Plane))
	rc.UserAgent, rc.QPS = manager+"/test", -1
	c, err := kubernetes.NewForConfig(rc)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// Text puts the test's own word where NS stands.
func (r *Rig) Text(s string) string { return strings.ReplaceAll(s, "NS", r.NS) }

// Commit writes files onto the default branch and returns the commit's hash.
func (r *Rig) Commit(files map[string]string) string {
	r.t.Helper()
	return r.Do(gitserver.Commit{Write: files})
}

// Delete removes files and directories in a commit and returns its hash.
func (r *Rig) Delete(files ...string) string {
	r.t.Helper()
	return r.Do(gitserver.Commit{Delete: files})
}

// Do makes a commit of any shape and returns its hash.
func (r *Rig) Do(c gitserver.Commit) string {
	r.t.Helper()
	write := make(map[string]string, len(c.Write))
	for name, text := range c.Write {
		write[r.Text(name)] = r.Text(text)
	}
	c.Write = write
	return r.Repo.Do(c)
}

// Start runs the agent until Stop.
func (r *Rig) Start() {
	r.t.Helper()
	a, err := agent.New(r.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := a.Run(ctx)
		if ctx.Err() == nil {
			r.t.Errorf("the agent ended by itself: %v", err)
		}
		done <- err
	}()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("agent: %v", err)
		}
		if err := a.Close(); err != nil {
			r.t.Errorf("close the agent: %v", err)
		}
	}
}

// Stop ends the agent and waits until it is gone. Stopping twice is no error.
func (r *Rig) Stop() { r.stop() }

// Eventually asks until the answer is nil.
func (r *Rig) Eventually(what string, ask func(ctx context.Context) error) {
	r.t.Helper()
	Eventually(r.t, r.Patience, what, ask)
}

// Eventually asks until there is no error, and fails the test with the last one when the patience is over.
func Eventually(t testing.TB, patience time.Duration, what string, ask func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	begun := time.Now()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			t.Logf("%s: %d ms", what, time.Since(begun).Milliseconds())
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Bundle returns what the cluster tells of a bundle.
func (r *Rig) Bundle(ctx context.Context, name string) (api.BundleStatus, error) {
	reports, err := r.Applier.BundleStatuses(ctx)
	if err != nil {
		return api.BundleStatus{}, err
	}
	for _, b := range reports {
		if b.Name == r.Text(name) {
			return b, nil
		}
	}
	return api.BundleStatus{}, fmt.Errorf("no bundle %q among %d", r.Text(name), len(reports))
}

// Ready waits until a bundle is ready, at a revision unless that is empty.
func (r *Rig) Ready(name, revision string) {
	r.t.Helper()
	r.Eventually(r.Text(name)+" is ready", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, name)
		if err != nil {
			return err
		}
		if b.Phase != api.PhaseReady || b.Drifted != 0 || (revision != "" && b.AppliedRevision != revision) {
			return fmt.Errorf("%s is %s at %s with %d drifted: %s", name, b.Phase, b.AppliedRevision, b.Drifted, b.Message)
		}
		return nil
	})
}

// Failed waits until a bundle has failed, with all of the words in its message.
func (r *Rig) Failed(name string, words ...string) {
	r.t.Helper()
	r.Eventually(r.Text(name)+" has failed", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, name)
		if err != nil {
			return err
		}
		if b.Phase != api.PhaseFailed {
			return fmt.Errorf("%s is %s: %s", name, b.Phase, b.Message)
		}
		for _, w := range words {
			if !strings.Contains(b.Message, r.Text(w)) {
				return fmt.Errorf("there is no %q in: %s", r.Text(w), b.Message)
			}
		}
		return nil
	})
}

// Refused waits until the cluster as a whole has an error, with all of the words in its message.
func (r *Rig) Refused(words ...string) {
	r.t.Helper()
	r.Eventually("the refusal is known", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		if report.Status.Error == nil {
			return fmt.Errorf("no error at revision %s", report.Status.DesiredRevision)
		}
		for _, w := range words {
			if !strings.Contains(report.Status.Error.Message, r.Text(w)) {
				return fmt.Errorf("there is no %q in: %s", r.Text(w), report.Status.Error.Message)
			}
		}
		return nil
	})
}

// Applied waits until the whole cluster is at a revision, without an error.
func (r *Rig) Applied(revision string) {
	r.t.Helper()
	r.Eventually("the cluster is at the revision", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		if st := report.Status; st.AppliedRevision != revision || st.Error != nil {
			return fmt.Errorf("it is at %s, and wants %s: %+v", st.AppliedRevision, st.DesiredRevision, st.Error)
		}
		return nil
	})
}

// Episodes reads the store of an agent that has been stopped.
func (r *Rig) Episodes() []api.Episode {
	r.t.Helper()
	s, err := store.Open(store.Config{Path: r.Config.Dir + "/agent.db", Cluster: "one"})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	out, err := s.Episodes(store.Filter{})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// Records reads the bundles from the store of an agent that has been stopped.
func (r *Rig) Records() []api.BundleRecord {
	r.t.Helper()
	s, err := store.Open(store.Config{Path: r.Config.Dir + "/agent.db", Cluster: "one"})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	out, err := s.Bundles()
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// Sync orders the agent to look at everything anew.
func (r *Rig) Sync() {
	r.t.Helper()
	// Only an agent that has begun to report takes orders.
	r.Eventually("the order is given", func(ctx context.Context) error { return r.Applier.OrderSync(ctx, "") })
}

// DropLease lets another agent in at once.
func (r *Rig) DropLease() {
	r.t.Helper()
	err := r.Kube.CoordinationV1().Leases(api.SystemNamespace).Delete(context.Background(), "flotilla-agent", metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.t.Fatal(err)
	}
}

// leftovers are the cluster-scoped kinds that tests make.
var leftovers = []schema.GroupVersionResource{
	{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"},
	{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	{Version: "v1", Resource: "namespaces"},
}

// inNamespace are the kinds that tests make in their namespaces.
var inNamespace = []schema.GroupVersionResource{
	{Version: "v1", Resource: "configmaps"},
	{Version: "v1", Resource: "secrets"},
	{Group: "apps", Version: "v1", Resource: "deployments"},
	{Group: "apps", Version: "v1", Resource: "daemonsets"},
	{Group: "batch", Version: "v1", Resource: "jobs"},
}

// clean takes away what the test left on a shared control plane. It waits for nothing: names are never used twice.
func (r *Rig) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r.DropLease()
	own := schema.GroupVersionResource{Group: api.Group, Version: api.Version}
	all := metav1.ListOptions{}
	ours := metav1.ListOptions{LabelSelector: api.LabelManagedBy + "=" + api.ManagedBy}
	remove := func(gvr schema.GroupVersionResource, namespace string, opts metav1.ListOptions) {
		var c dynamic.ResourceInterface = r.Dynamic.Resource(gvr)
		if namespace != "" {
			c = r.Dynamic.Resource(gvr).Namespace(namespace)
		}
		if gvr.Resource != "namespaces" {
			if err := c.DeleteCollection(ctx, metav1.DeleteOptions{}, opts); err != nil && !apierrors.IsNotFound(err) {
				r.t.Logf("clean up %s: %v", gvr.Resource, err)
			}
			return
		}
		list, err := c.List(ctx, opts)
		if err != nil {
			r.t.Logf("clean up %s: %v", gvr.Resource, err)
			return
		}
		for _, ns := range list.Items {
			if err := c.Delete(ctx, ns.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				r.t.Logf("clean up namespace %s: %v", ns.GetName(), err)
			}
		}
	}
	remove(own.GroupVersion().WithResource("suspensions"), "", all)
	remove(own.GroupVersion().WithResource("bundledeployments"), api.SystemNamespace, all)
	remove(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, api.SystemNamespace, ours)
	for _, gvr := range inNamespace {
		remove(gvr, r.NS, ours) // at once: the namespace takes its time, and a rebuilt inventory would still find them
	}
	for _, gvr := range leftovers {
		opts := ours
		if gvr.Group == "apiextensions.k8s.io" {
			// flotilla's own CRDs carry no such label, and stay.
			opts.LabelSelector += "," + api.LabelPartOf
		}
		remove(gvr, "", opts)
	}
	_ = r.Kube.CoreV1().Namespaces().Delete(ctx, r.NS, metav1.DeleteOptions{})
}
