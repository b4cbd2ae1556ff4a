package kube

import (
	"net/http"
	"sync/atomic"

	"k8s.io/client-go/util/flowcontrol"
)

// headerFlowSchema is on every answer of an API server that has priority and fairness (KEP-1040): on unless it is
// switched off. Such a server divides its attention itself, and a client's own limit would only be in the way.
const headerFlowSchema = "X-Kubernetes-Pf-Flowschema-Uid"

// What a client may ask of an API server that does not protect itself: ten times client-go's own default.
const (
	unfairQPS   = 50
	unfairBurst = 100
)

// fairness limits the requests to an API server that has no priority and fairness, as its last answer told.
type fairness struct {
	limit flowcontrol.RateLimiter
	// missing is set where an answer came without the header.
	missing atomic.Bool
}

func newFairness() *fairness {
	return &fairness{limit: flowcontrol.NewTokenBucketRateLimiter(unfairQPS, unfairBurst)}
}

func (f *fairness) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if f.missing.Load() {
			if err := f.limit.Wait(req.Context()); err != nil {
				return nil, err
			}
		}
		resp, err := next.RoundTrip(req)
		if err == nil {
			f.missing.Store(resp.Header.Get(headerFlowSchema) == "")
		}
		return resp, err
	})
}
