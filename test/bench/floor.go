package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/internal/kubejson"
)

// floorWorkers is how many requests the bare client has in flight.
const floorWorkers = 16

// apply sends every object by server-side apply, does nothing else, and says how long that took.
func (p *plane) apply(ctx context.Context, objs []object) (time.Duration, error) {
	c, err := p.rest()
	if err != nil {
		return 0, err
	}
	bodies := make([][]byte, len(objs))
	for i, o := range objs {
		bodies[i] = o.json()
	}
	begun := time.Now()
	err = parallel(ctx, len(objs), func(i int) error {
		return c.Patch(types.ApplyPatchType).AbsPath(objs[i].path).
			Param("fieldManager", "floor").Param("force", "true").Param("fieldValidation", "Ignore").Body(bodies[i]).Do(ctx).Error()
	})
	return time.Since(begun), err
}

// rest is a client for raw JSON.
func (p *plane) rest() (*rest.RESTClient, error) {
	cfg := rest.CopyConfig(p.bare)
	cfg.NegotiatedSerializer = kubejson.Codecs
	cfg.ContentType = "application/json"
	return rest.UnversionedRESTClientFor(cfg)
}

// parallel calls f for 0 to n-1 from floorWorkers goroutines, and returns the first error.
func parallel(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range floorWorkers {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// timing is how long the bare client took to apply, and how long it took from the beginning of that
// until the Deployments were healthy, for which it does not wait.
type timing struct {
	applied, healthy time.Duration
}

// changes is how often every Deployment is changed, by the bare client and by the agent: the median counts.
const changes = 5

// bare is the same objects as those of n bundles, in a namespace of their own, applied by the bare client.
type bare struct {
	plane   *plane
	ns      string
	n       int
	version int // of the Deployments
	seen    *observer
	cancel  context.CancelFunc
}

// newBare makes the namespace, and watches the Deployments in it.
func (p *plane) newBare(ctx context.Context, n int, ns string) (*bare, error) {
	if err := p.namespace(ctx, ns); err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(ctx)
	return &bare{plane: p, ns: ns, n: n, seen: p.observe(watching, deployments, ns, nil), cancel: cancel}, nil
}

// install applies all objects.
func (b *bare) install(ctx context.Context) (timing, error) {
	b.version = 1
	var all []object
	for i := range b.n {
		all = append(all, objects(b.ns, i, b.version)...)
	}
	return b.timed(ctx, all)
}

// change applies every Deployment in another version.
func (b *bare) change(ctx context.Context) (timing, error) {
	b.version++
	changed := make([]object, b.n)
	for i := range changed {
		changed[i] = deployment(b.ns, i, b.version)
	}
	return b.timed(ctx, changed)
}

// remove deletes all, and waits until it is gone.
func (b *bare) remove(ctx context.Context) error {
	b.cancel()
	return b.plane.removeNamespace(ctx, b.ns)
}

// timed applies objects, and waits until the Deployments among them are healthy in their version.
func (b *bare) timed(ctx context.Context, objs []object) (t timing, err error) {
	begun := time.Now()
	if t.applied, err = b.plane.apply(ctx, objs); err != nil {
		return timing{}, fmt.Errorf("floor: %w", err)
	}
	at, err := b.seen.until(ctx, nil, "floor", func(all map[string]*unstructured.Unstructured) bool {
		if len(all) < b.n {
			return false
		}
		for _, d := range all {
			seen, _, _ := unstructured.NestedInt64(d.Object, "status", "observedGeneration")
			if seen < int64(b.version) {
				return false
			}
		}
		return true
	})
	t.healthy = at.Sub(begun)
	if err == nil {
		err = pause(ctx, settle)
	}
	return t, err
}

// median is that of the times to apply, and that of the times to healthy; all must not be empty.
func median(all []timing) timing {
	var applied, healthy []time.Duration
	for _, t := range all {
		applied, healthy = append(applied, t.applied), append(healthy, t.healthy)
	}
	slices.Sort(applied)
	slices.Sort(healthy)
	return timing{applied[len(all)/2], healthy[len(all)/2]}
}
