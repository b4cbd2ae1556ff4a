package watch

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/flotilla-fleet/flotilla/api"
)

// How soon a server that is down, or a kind that is not there, is asked again.
const (
	firstRetry   = 200 * time.Millisecond
	longestRetry = 3 * time.Second
	longestFind  = 10 * time.Second
)

// client lists and watches the objects of one resource.
type client interface {
	List(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error)
}

// sink takes what a source finds. All calls come from one goroutine, one after the other.
type sink interface {
	cache.ReflectorStore
	// clear says that the cluster does not have the kind (any more), with the answer that said so.
	clear(ctx context.Context, err error)
	// lost says that the watch is down. It is up again with Replace, or with found: then it goes on where it ended.
	lost(err error)
	found()
	// trim takes away what need not be kept, before it is kept anywhere.
	trim(o runtime.Object)
}

// source keeps a sink up to date with one kind, from when the cluster has it.
type source struct {
	gvk       schema.GroupVersionKind
	selector  string
	discovery *discovery.DiscoveryClient
	client    func(schema.GroupVersionResource) client
	sink      sink
	wake      chan struct{}

	mu      sync.Mutex
	restart context.CancelFunc // ends the reflector that runs; nil if none does
}

// poke has the kind looked for at once if it was not found.
func (s *source) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// again has everything seen anew. Until it is, what is known stays. It reports whether there was a watch to begin anew.
func (s *source) again() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restart == nil {
		s.poke()
		return false
	}
	s.restart()
	return true
}

func (s *source) setRestart(f context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restart = f
}

// run watches until ctx ends.
func (s *source) run(ctx context.Context) {
	// The reflector's own log is of no use to an operator: the sink is told what is worth knowing.
	ctx = klog.NewContext(ctx, klog.Logger{})
	retry := firstRetry
	for ctx.Err() == nil {
		gvr, err := s.find(ctx)
		if err != nil {
			longest := longestRetry
			switch {
			case notFound(err):
				s.sink.clear(ctx, err)
				longest = longestFind
			case ctx.Err() == nil:
				s.sink.lost(err)
			}
			if !s.pause(ctx, min(retry, longest)) {
				return
			}
			retry = min(2*retry, longest)
			continue
		}
		retry = firstRetry
		s.reflect(ctx, gvr)
	}
}

// pause waits for a while, or until somebody knows that it is worth looking; false if ctx ended.
func (s *source) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.wake:
	case <-ctx.Done():
		return false
	}
	return true
}

// find asks the cluster for the resource of the kind.
func (s *source) find(ctx context.Context) (schema.GroupVersionResource, error) {
	gv := s.gvk.GroupVersion()
	// Both become parts of a URL.
	if err := cmp.Or(api.CheckGroup(gv.Group), api.CheckVersion(gv.Version)); err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("find %s: %w", s.gvk.Kind, err)
	}
	list, err := s.discovery.ServerResourcesForGroupVersionWithContext(ctx, gv.String())
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("find %s: %w", s.gvk.Kind, err)
	}
	for _, r := range list.APIResources {
		if r.Kind == s.gvk.Kind && !isSubresource(r.Name) {
			return gv.WithResource(r.Name), nil
		}
	}
	return schema.GroupVersionResource{}, apierrors.NewNotFound(schema.GroupResource{Group: gv.Group, Resource: s.gvk.Kind}, gv.Version)
}

func isSubresource(name string) bool { return strings.Contains(name, "/") }

func notFound(err error) bool { return apierrors.IsNotFound(err) }

// reflect lists and watches until ctx ends, the kind is gone, or everything is to be seen anew.
// The reflector asks the server to stream what is there, and lists only where the server cannot do that.
func (s *source) reflect(ctx context.Context, gvr schema.GroupVersionResource) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.setRestart(cancel)
	defer s.setRestart(nil)
	c := s.client(gvr)
	check := func(err error) error {
		switch {
		case err == nil || ctx.Err() != nil:
		case notFound(err):
			cancel() // find tells whether it comes back
		case !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err):
			s.sink.lost(err)
		}
		return err
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.LabelSelector = s.selector
			if opts.ResourceVersion == "0" {
				opts.ResourceVersion = "" // any version could be older than what is known
			}
			list, err := c.List(ctx, opts)
			if check(err) != nil {
				return nil, err
			}
			s.sink.trim(list)
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
			opts.LabelSelector = s.selector
			w, err := c.Watch(ctx, opts)
			stream := opts.SendInitialEvents != nil
			if stream && apierrors.IsInvalid(err) {
				return nil, err // the server cannot stream what is there: it is listed next
			}
			if check(err) != nil {
				return nil, err
			}
			if !stream && ctx.Err() == nil {
				s.sink.found()
			}
			return apiwatch.Filter(w, func(e apiwatch.Event) (apiwatch.Event, bool) {
				if e.Type != apiwatch.Bookmark { // its annotations say what it marks
					s.sink.trim(e.Object)
				}
				return e, true
			}), nil
		},
	}
	cache.NewReflectorWithOptions(lw, nil, s.sink, cache.ReflectorOptions{
		Name: s.gvk.Kind, TypeDescription: s.gvk.String(), Logger: &klog.Logger{},
		Backoff: &wait.Backoff{Duration: firstRetry, Cap: longestRetry, Steps: 10, Factor: 2, Jitter: 0.5},
	}).RunWithContext(ctx)
}
