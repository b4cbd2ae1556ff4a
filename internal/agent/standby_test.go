package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// standbyReady asks an agent that stands by whether it could take over.
func standbyReady(listen string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), "stands by") {
			return fmt.Errorf("%d %q (%w)", res.StatusCode, body, err)
		}
		return nil
	}
}

// An agent that stands by leaves the cluster to the one that has it, and takes over when that one ends,
// with a directory of its own and with the other's.
func TestAgent_standsBy(t *testing.T) {
	files := app()
	for n := range 6 {
		name := fmt.Sprintf("edited-%d", n)
		files["app/"+name+".yaml"] = configMap(name, "one")
	}
	r := newRig(t, files)
	r.Ready("app", "")
	edits := 0
	// corrects edits an object that nobody has edited before: one that is edited again and again is contested.
	corrects := func(who string) {
		t.Helper()
		name := fmt.Sprintf("edited-%d", edits)
		edits++
		if _, err := r.Kube.CoreV1().ConfigMaps("app").Patch(t.Context(), name, types.MergePatchType, []byte(`{"data":{"key":"by hand"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		r.Eventually(who+" corrects", r.setting(name, "one"))
	}
	for _, tt := range []struct{ name, dir string }{{"the same directory", r.Config.Dir}, {"another directory", t.TempDir()}} {
		t.Run(tt.name, func(t *testing.T) {
			corrects("the first agent")
			next := r.Config
			next.Dir, next.Standby, next.Listen = tt.dir, true, agenttest.FreeAddr(t)
			opened, ended := make(chan error, 1), make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				a, err := agent.Open(ctx, next)
				opened <- err
				if err == nil {
					err = errors.Join(a.Run(ctx), a.Close())
				}
				ended <- err
			}()
			r.Eventually("it stands by", standbyReady(next.Listen))
			corrects("the first agent, while another stands by,")
			select {
			case err := <-opened:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
			r.Stop()
			if err := <-opened; err != nil {
				t.Fatal(err)
			}
			corrects("the second agent")
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the second agent: %v", err)
			}
			r.Start()
		})
	}
}

// What no agent can run with ends an agent that would stand by at once: a Deployment then leaves the old one.
func TestOpen_refusesBeforeItStandsBy(t *testing.T) {
	join := filepath.Join(t.TempDir(), "join.json")
	if err := os.WriteFile(join, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := agenttest.New(t, agenttest.Config{Files: app()})
	r.Start()
	for _, tt := range []struct {
		name   string
		change func(*agent.Config)
	}{
		{"a join file that makes no sense", func(c *agent.Config) { c.JoinFile = join }},
		{"an address that is none", func(c *agent.Config) { c.Source.URL = "ftp://git.example.com/fleet.git" }},
		{"no cluster's name", func(c *agent.Config) { c.Cluster = "One" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := r.Config
			next.Standby = true
			tt.change(&next)
			a, err := agent.Open(t.Context(), next)
			if a != nil {
				_ = a.Close()
			}
			if api.KindOf(err) != api.Stalled {
				t.Errorf("it did not end: %v", err)
			}
		})
	}
}
