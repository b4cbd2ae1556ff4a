package engine

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// What an agent reads before its first pass is read until it is known: a hiccup must not end it.
func TestStart_duringAHiccup(t *testing.T) {
	for _, what := range []string{"/suspensions", "/version", "/bundledeployments", "/configmaps"} {
		t.Run(strings.Trim(what, "/"), func(t *testing.T) {
			r := newRig(t, agenttest.Config{Mode: agenttest.Proxied, Files: files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")}})
			r.Start()
			r.Ready("NS-a", "")
			r.Stop()
			r.Config.Dir = t.TempDir() // so that all of it has to be read
			r.DropLease()
			x := r.get("x")
			failed := make(chan struct{}, 1)
			left := 2
			r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
				if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, what) && left > 0 {
					left--
					select {
					case failed <- struct{}{}:
					default:
					}
					return &agenttest.Fault{Status: http.StatusInternalServerError}
				}
				return nil
			})
			revision := r.Commit(files{"a/y.yaml": configMap("y", "one")})
			r.Start()
			select {
			case <-failed:
			case <-time.After(agenttest.Patience):
				t.Fatal("nothing was spoilt")
			}
			r.Ready("NS-a", revision)
			r.value("y", "one")
			r.same(x)
		})
	}
}
