package apply_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// inFlight counts requests that are on their way at the same time.
type inFlight struct {
	mu        sync.Mutex
	now, most int
}

func (f *inFlight) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		f.add(1)
		defer f.add(-1)
		return next.RoundTrip(req)
	})
}

func (f *inFlight) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now += n
	f.most = max(f.most, f.now)
}

// Objects are applied side by side, and never more of them than the limit says, of however many bundles.
func TestConcurrencyIsLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const limit = 3
	counted := &inFlight{}
	cfg := rest.CopyConfig(controlplanetest.RESTConfig(t))
	cfg.Wrap(counted.wrap)
	a := connect(t, connection{rest: cfg, concurrency: limit})
	var docs [2][]string
	for i := range 40 {
		docs[i%2] = append(docs[i%2], configMap(fmt.Sprint("m", i), "one"))
	}
	var bundles [2]api.RenderedBundle
	for i := range docs {
		bundles[i] = r.rendered(docs[i]...)
		bundles[i].Name = fmt.Sprintf("%s-%d", r.bundle, i)
		if res := a.Apply(t.Context(), apply.Request{Bundle: api.RenderedBundle{Name: bundles[i].Name}}); res.Err != nil { // what is asked once
			t.Fatal(res.Err)
		}
	}
	counted.most = 0
	var wg sync.WaitGroup
	for _, b := range bundles {
		wg.Go(func() {
			if res := a.Apply(t.Context(), apply.Request{Bundle: b}); res.Err != nil || res.Changes.Count(api.Created) != 20 {
				t.Errorf("%v: %d created", res.Err, res.Changes.Count(api.Created))
			}
		})
	}
	wg.Wait()
	// The BundleDeployment of each bundle may be written beside them.
	if counted.most < 2 || counted.most > limit+len(bundles) {
		t.Errorf("%d requests at a time, the limit is %d", counted.most, limit)
	}
}
