package kube

import (
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/flotilla-fleet/flotilla/api"
)

// No client of a Server spreads its requests over time, whatever the configuration that it is given says:
// client-go would allow five a second.
func TestConnect_noRateLimit(t *testing.T) {
	for name, cfg := range map[string]*rest.Config{
		"nothing said": {Host: "http://127.0.0.1:1"},
		"a rate":       {Host: "http://127.0.0.1:1", QPS: 1, Burst: 1},
		"a limiter":    {Host: "http://127.0.0.1:1", RateLimiter: flowcontrol.NewTokenBucketRateLimiter(1, 1)},
	} {
		s, err := Connect(Config{REST: cfg})
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := s.As(&api.ServiceAccount{Namespace: "team", Name: "deployer"})
		if err != nil {
			t.Fatal(err)
		}
		for who, c := range map[string]*Client{"its own": s.Own, "a bundle's": bundle} {
			if l := c.rest.GetRateLimiter(); l != nil && l.QPS() >= 0 {
				t.Errorf("%s: %s client allows %v requests a second", name, who, l.QPS())
			}
		}
		if s.base.QPS >= 0 || s.base.RateLimiter != nil {
			t.Errorf("%s: discovery allows %v requests a second", name, s.base.QPS)
		}
	}
}
