package apply

import (
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/flotilla-fleet/flotilla/api"
)

// No client of an Applier spreads its requests over time, whatever the configuration that it is given says:
// client-go would allow five a second.
func TestNew_noRateLimit(t *testing.T) {
	for name, cfg := range map[string]*rest.Config{
		"nothing said": {Host: "http://127.0.0.1:1"},
		"a rate":       {Host: "http://127.0.0.1:1", QPS: 1, Burst: 1},
		"a limiter":    {Host: "http://127.0.0.1:1", RateLimiter: flowcontrol.NewTokenBucketRateLimiter(1, 1)},
	} {
		a, err := New(Config{REST: cfg})
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := a.clientFor(&api.ServiceAccount{Namespace: "team", Name: "deployer"})
		if err != nil {
			t.Fatal(err)
		}
		for who, c := range map[string]*client{"its own": a.own, "a bundle's": bundle} {
			if l := c.rest.GetRateLimiter(); l != nil && l.QPS() >= 0 {
				t.Errorf("%s: %s client allows %v requests a second", name, who, l.QPS())
			}
		}
		if a.base.QPS >= 0 || a.base.RateLimiter != nil {
			t.Errorf("%s: discovery allows %v requests a second", name, a.base.QPS)
		}
	}
}
