package kube

import (
	"context"
	"net/http"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// counting is a limit that lets everything pass, and counts.
type counting struct {
	flowcontrol.RateLimiter
	n int
}

func (c *counting) Wait(context.Context) error {
	c.n++
	return nil
}

// Only an API server without priority and fairness is spared.
func TestFairness(t *testing.T) {
	limit := &counting{}
	f := &fairness{limit: limit}
	fair := false
	client := f.wrap(roundTripper(func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		if fair {
			h.Set("X-Kubernetes-PF-FlowSchema-UID", "x")
		}
		return &http.Response{Header: h, Body: http.NoBody}, nil
	}))
	ask := func(times, want int) {
		t.Helper()
		for range times {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://server/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		if limit.n != want {
			t.Errorf("waited %d times, want %d", limit.n, want)
		}
	}
	ask(3, 2) // nothing is known before the first answer
	fair = true
	ask(3, 3) // the server was upgraded: its first answer says so
}

// The API server of the tests, as any by default, has it.
func TestFairness_ofTheAPIServer(t *testing.T) {
	f := newFairness()
	cfg := rest.CopyConfig(controlplanetest.RESTConfig(t))
	cfg.Wrap(f.wrap)
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.missing.Store(true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cfg.Host+"/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if f.missing.Load() {
		t.Errorf("no %s in %v", headerFlowSchema, resp.Header)
	}
}
