package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// observer sees, by one watch, what becomes of the objects of one resource in one namespace.
type observer struct {
	resource  schema.GroupVersionResource
	namespace string
	plane     *plane

	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured // name -> as it was last seen
	seen    func(o *unstructured.Unstructured, at time.Time)
	changed chan struct{}
}

var bundleDeployments = schema.GroupVersionResource{Group: "flotilla.dev", Version: "v1alpha1", Resource: "bundledeployments"}

// observe begins to watch, as soon as the resource is there. seen may be nil; it is called for every event.
func (p *plane) observe(ctx context.Context, gvr schema.GroupVersionResource, namespace string, seen func(*unstructured.Unstructured, time.Time)) *observer {
	o := &observer{
		resource: gvr, namespace: namespace, plane: p, seen: seen,
		objects: map[string]*unstructured.Unstructured{}, changed: make(chan struct{}, 1),
	}
	go func() {
		for ctx.Err() == nil {
			o.watch(ctx)
			_ = pause(ctx, 100*time.Millisecond) // then ctx has ended
		}
	}()
	return o
}

func (o *observer) watch(ctx context.Context) {
	// Without a resourceVersion a watch begins with what is there.
	w, err := o.plane.dynamic.Resource(o.resource).Namespace(o.namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return // not there yet
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		obj, ok := ev.Object.(*unstructured.Unstructured)
		if !ok || ev.Type == watch.Bookmark {
			continue
		}
		at := time.Now()
		obj.SetManagedFields(nil)
		o.mu.Lock()
		if ev.Type == watch.Deleted {
			delete(o.objects, obj.GetName())
		} else {
			o.objects[obj.GetName()] = obj
		}
		o.mu.Unlock()
		if o.seen != nil {
			o.seen(obj, at)
		}
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
}

// until waits for what is seen to be as wanted, and says when that was.
func (o *observer) until(ctx context.Context, a *agent, what string, wanted func(map[string]*unstructured.Unstructured) bool) (time.Time, error) {
	timeout := time.NewTimer(20 * time.Minute)
	defer timeout.Stop()
	var ended chan struct{} // a is nil where no agent is needed
	if a != nil {
		ended = a.done
	}
	for {
		o.mu.Lock()
		done := wanted(o.objects)
		o.mu.Unlock()
		at := time.Now()
		if done {
			return at, nil
		}
		select {
		case <-o.changed:
		case <-ctx.Done():
			return at, ctx.Err()
		case <-ended:
			return at, fmt.Errorf("%s: %w", what, a.alive(ctx))
		case <-timeout.C:
			return at, fmt.Errorf("%s: not after 20 minutes", what)
		}
	}
}

// ready reports whether a bundle is as the revision says, and healthy.
func ready(b *unstructured.Unstructured, revision string) bool {
	if b == nil {
		return false
	}
	phase, _, _ := unstructured.NestedString(b.Object, "status", "phase")
	applied, _, _ := unstructured.NestedString(b.Object, "status", "revision")
	return phase == "ready" && applied == revision
}

// allReady waits for n bundles.
func allReady(n int, revision string) func(map[string]*unstructured.Unstructured) bool {
	return func(all map[string]*unstructured.Unstructured) bool {
		if len(all) < n {
			return false
		}
		for i := range n {
			if !ready(all[bundleName(i)], revision) {
				return false
			}
		}
		return true
	}
}
