package engine

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
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

// What the cluster says of a bundle is put right by a start: the last agent may have stored what it could not write any more.
func TestStart_publishesWhatIsStored(t *testing.T) {
	r := start(t, files{"a/bundle.yaml": bundle("a", ""), "a/x.yaml": configMap("x", "one")})
	r.Ready("NS-a", "")
	r.Stop()
	deployments := schema.GroupVersionResource{Group: "flotilla.dev", Version: "v1alpha1", Resource: "bundledeployments"}
	_, err := r.Dynamic.Resource(deployments).Namespace("flotilla-system").Patch(t.Context(), r.Text("NS-a"), types.MergePatchType,
		[]byte(`{"status":{"drifted":7}}`), metav1.PatchOptions{FieldManager: api.FieldManager})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := r.Bundle(t.Context(), "NS-a"); err != nil || b.Drifted != 7 {
		t.Fatalf("the test is worthless: %+v, %v", b, err)
	}
	r.Start()
	r.Eventually("the cluster says what is so", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-a")
		if err == nil && b.Drifted != 0 {
			err = fmt.Errorf("%d drifted", b.Drifted)
		}
		return err
	})
}
