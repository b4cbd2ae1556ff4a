// Package controlplanetest gives tests a real Kubernetes control plane: one per test binary, started when first asked for.
//
// It promises that a test either has a working control plane or fails; it never skips.
// Every test works in a namespace of its own, so that tests share the control plane without meeting.
//
//	func TestMain(m *testing.M) { os.Exit(controlplanetest.Main(m)) }
package controlplanetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/flotilla-fleet/flotilla/internal/controlplane"
)

// shared is the control plane of this test binary.
var shared struct {
	sync.Mutex
	usable bool // Main runs, and will clean up
	dir    string
	plane  *controlplane.ControlPlane
	err    error // of a start that failed; it is not tried again
	count  int   // namespaces given out
}

// Main runs the tests and stops the shared control plane after them; TestMain must call it.
func Main(m *testing.M) int {
	shared.Lock()
	shared.usable = true
	shared.Unlock()
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared control plane:", err)
		return max(code, 1)
	}
	return code
}

func stop() error {
	shared.Lock()
	defer shared.Unlock()
	shared.usable = false
	var err error
	if shared.plane != nil {
		err = shared.plane.Stop()
	}
	if shared.dir != "" {
		err = errors.Join(err, os.RemoveAll(shared.dir))
	}
	return err
}

// Shared returns the control plane of this test binary, of mode Full with one node.
// A test must not stop or break it: for that, use New.
func Shared(t testing.TB) *controlplane.ControlPlane {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.usable {
		t.Fatal("TestMain of this package must call controlplanetest.Main")
	}
	if shared.plane == nil && shared.err == nil {
		shared.plane, shared.err = startShared(t)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.plane
}

func startShared(t testing.TB) (*controlplane.ControlPlane, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "controlplane-") //nolint:usetesting // it outlives the test that starts it
	if err != nil {
		return nil, err
	}
	shared.dir = dir
	ctx, cancel := startContext(t)
	defer cancel()
	return controlplane.Start(ctx, controlplane.Config{Dir: dir, Progress: os.Stderr})
}

// startContext leaves time to say why a start took too long before the test binary is killed.
func startContext(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			err := errors.New(`no time left: "make controlplane" builds the control plane without a time limit`)
			return context.WithDeadlineCause(t.Context(), deadline.Add(-5*time.Second), err)
		}
	}
	return context.WithCancel(t.Context())
}

// New starts a control plane for this test alone, and stops it at the end of the test.
// An empty cfg.Dir means a temporary directory.
func New(t testing.TB, cfg controlplane.Config) *controlplane.ControlPlane {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Progress == nil {
		cfg.Progress = os.Stderr
	}
	ctx, cancel := startContext(t)
	defer cancel()
	plane, err := controlplane.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	return plane
}

// RESTConfig returns an administrator's client configuration for the shared control plane, without a limit on requests.
func RESTConfig(t testing.TB) *rest.Config {
	t.Helper()
	return RESTConfigOf(t, Shared(t))
}

// RESTConfigOf is RESTConfig for a control plane that came from New.
func RESTConfigOf(t testing.TB, plane *controlplane.ControlPlane) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst = -1, -1
	return cfg
}

// WriteKubeconfig writes a kubeconfig for a control plane, with a bearer token and no other right of the admin's.
func WriteKubeconfig(file string, admin *rest.Config, token string) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData, CertificateAuthority: admin.CAFile}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	return clientcmd.WriteToFile(*cfg, file)
}

// Namespace makes a namespace on the shared control plane, and deletes it at the end of the test.
// It returns once the default service account of the namespace exists, so that pods can be made.
func Namespace(t testing.TB) string {
	t.Helper()
	cfg := RESTConfig(t)
	shared.Lock()
	shared.count++
	name := fmt.Sprintf("test-%d", shared.count)
	shared.Unlock()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	namespaces := cfg.Host + "/api/v1/namespaces"
	body := map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}
	if err := call(t.Context(), client, http.MethodPost, namespaces, body); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Nobody waits for the end of the deletion: names are never used twice.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := call(ctx, client, http.MethodDelete, namespaces+"/"+name, nil); err != nil {
			t.Logf("delete namespace %q: %v", name, err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := call(ctx, client, http.MethodGet, namespaces+"/"+name+"/serviceaccounts/default", nil)
		if err == nil {
			return name
		}
		select {
		case <-ctx.Done():
			t.Fatalf("wait for the default service account of namespace %q: %v", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func call(ctx context.Context, client *http.Client, method, url string, body any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s", method, url, res.Status)
	}
	return nil
}
