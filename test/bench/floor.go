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
	cfg := rest.CopyConfig(p.config)
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

// floor is what the bare client took to install and to change every Deployment,
// and how long it took from the beginning of that until the Deployments were healthy, for which it does not wait.
type floor struct {
	install, change               time.Duration
	installHealthy, changeHealthy time.Duration
}

// changes is how often every Deployment is changed, by the bare client and by the agent: the median counts.
const changes = 5

// floors installs n bundles' objects into a new namespace, changes every Deployment if that is wanted, and removes all.
func (p *plane) floors(ctx context.Context, n int, ns string, change bool) (f floor, err error) {
	if err := p.namespace(ctx, ns); err != nil {
		return f, err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	w := p.observe(watching, deployments, ns, nil)
	var all []object
	for i := range n {
		all = append(all, objects(ns, i, 1)...)
	}
	if f.install, f.installHealthy, err = p.timed(ctx, w, all, n, 1); err != nil {
		return f, fmt.Errorf("floor: %w", err)
	}
	if !change {
		return f, p.removeNamespace(ctx, ns)
	}
	var applied, healthy [changes]time.Duration
	for c := range changes {
		version := c + 2
		changed := make([]object, n)
		for i := range changed {
			changed[i] = deployment(ns, i, version)
		}
		if applied[c], healthy[c], err = p.timed(ctx, w, changed, n, int64(version)); err != nil {
			return f, fmt.Errorf("floor: %w", err)
		}
	}
	slices.Sort(applied[:])
	slices.Sort(healthy[:])
	f.change, f.changeHealthy = applied[changes/2], healthy[changes/2]
	return f, p.removeNamespace(ctx, ns)
}

// timed applies objects, and waits until the n Deployments among them are healthy in a generation.
func (p *plane) timed(ctx context.Context, w *observer, objs []object, n int, generation int64) (applied, healthy time.Duration, err error) {
	begun := time.Now()
	if applied, err = p.apply(ctx, objs); err != nil {
		return 0, 0, err
	}
	at, err := w.until(ctx, nil, "floor", func(all map[string]*unstructured.Unstructured) bool {
		if len(all) < n {
			return false
		}
		for _, d := range all {
			seen, _, _ := unstructured.NestedInt64(d.Object, "status", "observedGeneration")
			if seen < generation {
				return false
			}
		}
		return true
	})
	if err == nil {
		err = pause(ctx, settle)
	}
	return applied, at.Sub(begun), err
}
