package drift

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// world is a directory per bundle, of the kinds of objects that real repositories hold.
//
//go:embed testdata/world
var world embed.FS

// quiet is how long the controllers work. FLOTILLA_QUIET, such as "10m", makes it longer.
const quiet = 60 * time.Second

// The example fleet and twenty bundles of all that looks like drift and is not are installed, under the strictest policy:
// while ordinary controllers work nothing drifts, nothing is unknown, and nothing is written twice.
func TestNothingDriftsByItself(t *testing.T) {
	repo := gitservertest.New(t)
	files := files{"clusters/one/cluster.yaml": `apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: one, labels: {env: prod, region: eu}}
spec: {variables: {environment: prod, region: eu, cluster_domain: one.example.com}}
`}
	read := func(fsys fs.FS, root, prefix string) {
		err := fs.WalkDir(fsys, root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasPrefix(path, "clusters/") {
				return err
			}
			b, err := fs.ReadFile(fsys, path)
			text := strings.Replace(string(b), "      mode: correct\n", "      mode: correct\n      extra: report\n", 1)
			if path == "fleet.yaml" && text == string(b) {
				t.Fatal("the fleet's policy is not what this test makes stricter")
			}
			files[prefix+strings.TrimPrefix(path, root+"/")] = text
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	read(fleetexample.FS(), ".", "")
	read(world, "testdata/world", "world/")
	repo.Commit(files)
	key := filepath.Join(t.TempDir(), "age.txt")
	b, err := fs.ReadFile(fleetexample.FS(), fleetexample.AgeKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, agenttest.Config{
		Repo: repo, Files: map[string]string{"clusters/one/cluster.yaml": files["clusters/one/cluster.yaml"]},
		Change: func(c *agent.Config) {
			c.AgeKeyFiles = []string{key}
			c.Compare = 20 * time.Second
		},
	})
	r.Start()
	r.Eventually("all is applied", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		all, err := r.Applier.BundleStatuses(ctx)
		for _, b := range all {
			if b.Phase == api.PhaseFailed {
				return fmt.Errorf("%s: %s", b.Name, b.Message)
			}
		}
		if st := report.Status; err != nil || st.AppliedRevision == "" || st.Error != nil || len(all) < 26 {
			return fmt.Errorf("at %q of %q with %d bundles: %+v (%v)", st.AppliedRevision, st.DesiredRevision, len(all), st.Error, err)
		}
		return nil
	})
	// What a CA injector does is its own; nothing else does anything in the meantime that a controller would not.
	for _, hook := range []string{"webhook/world-policy"} {
		r.editAs("cert-manager-cainjector", hook, `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"CABUNDLE"}]`)
	}
	installed := r.dryRuns()
	time.Sleep(quietFor(t))
	if n := r.metric("flotilla_objects_unknown"); n != 0 {
		t.Errorf("%v objects are unknown", n)
	}
	after := r.dryRuns() - installed
	t.Logf("dry runs: %v while it was installed, %v after", installed, after)
	if after > 10 { // one for each object that something really happened to, whatever the number of full compares
		t.Errorf("%v dry runs while nothing happened but what controllers do", after)
	}
	objects := 0
	all, err := r.Applier.BundleStatuses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		objects += b.Objects
		t.Logf("%s: %s, %d of %d ready %s", b.Name, b.Phase, b.ReadyObjects, b.Objects, b.Message)
	}
	t.Logf("%d bundles with %d objects", len(all), objects)
	// Applied again as a whole, nothing is to be changed.
	ordered := r.dryRuns()
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	runs, since := ordered, time.Now()
	r.Eventually("all was looked at again", func(ctx context.Context) error {
		now, err := r.tryMetric(ctx, dryRunsMetric)
		if err != nil {
			return err
		}
		if now != runs {
			runs, since = now, time.Now()
		}
		if runs == ordered || time.Since(since) < 3*time.Second {
			return fmt.Errorf("%v dry runs after the order", runs-ordered)
		}
		return nil
	})
	es := r.closed()
	for _, e := range es {
		t.Errorf("%s %s %s by %+v: %+v", e.Object, e.Class, e.Outcome, e.By, e.Fields)
	}
	for _, rec := range r.Records() {
		for _, c := range rec.Status.Changes {
			if c.Action != api.Created {
				t.Errorf("%s: %s %s (%s) %s", rec.Status.Name, c.Object, c.Action, c.Reason, c.Error)
			}
		}
	}
}

func quietFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("FLOTILLA_QUIET")
	if text == "" {
		return quiet
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A correction that the API server refuses for good is tried once, and again only when something changes, or after minutes.
func TestRefusedCorrectionIsNoHotLoop(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: marked(files{"app/bundle.yaml": bundle(""), "app/cm.yaml": configMap("settings", "one")}), Mode: agenttest.Proxied,
	})
	r.settle()
	var writes, dryRuns atomic.Int64
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		switch {
		case !strings.HasSuffix(req.URL.Path, "/configmaps/settings") || req.Method == http.MethodGet:
		case agenttest.IsWrite(req):
			writes.Add(1)
		default:
			dryRuns.Add(1)
		}
		return nil
	})
	r.edit("cm/settings", `{"immutable":true,"data":{"key":"two"}}`)
	e := r.open("cm/settings", outcome(api.OutcomeFailed))
	if !strings.Contains(e.Error, "immutable") {
		t.Errorf("error is %q", e.Error)
	}
	if wait := e.NextCorrection.Sub(e.Onset); wait < 4*time.Minute || wait > 6*time.Minute {
		t.Errorf("it is tried again after %s", wait)
	}
	time.Sleep(5 * time.Second) // longer than the first tries of what may pass
	r.settle()                  // the neighbour is corrected
	if n := writes.Load(); n != 1 {
		t.Errorf("%d writes, want one", n)
	}
	if n := dryRuns.Load(); n < 1 || n > 3 {
		t.Errorf("%d dry runs", n)
	}
	r.stays("cm/settings", "data.key", "two")
	r.open("cm/settings", outcome(api.OutcomeFailed))
}
