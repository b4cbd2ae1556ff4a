package watch

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/flotilla-fleet/flotilla/api"
)

// suspensions keeps the Suspensions of the cluster.
type suspensions struct {
	w      *Watcher
	source *source

	mu  sync.Mutex
	set map[string]api.Suspension // by name
	// bad is what was said last about those that cannot be read: name -> message
	bad   map[string]string
	whole bool
	down  bool
}

func newSuspensions(w *Watcher) *suspensions {
	s := &suspensions{w: w, set: map[string]api.Suspension{}, bad: map[string]string{}}
	s.source = &source{
		gvk:       schema.GroupVersionKind{Group: api.Group, Version: api.Version, Kind: api.KindSuspension},
		discovery: w.discovery, sink: s, wake: make(chan struct{}, 1),
		client: func(gvr schema.GroupVersionResource) client { return dynamicClient{w.dynamic.Resource(gvr)} },
	}
	return s
}

type dynamicClient struct {
	r dynamic.NamespaceableResourceInterface
}

func (c dynamicClient) List(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	return c.r.List(ctx, opts)
}

func (c dynamicClient) Watch(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
	return c.r.Watch(ctx, opts)
}

// SuspensionsSynced reports whether all Suspensions of the cluster are known.
func (w *Watcher) SuspensionsSynced() bool {
	if w.orders == nil {
		return false
	}
	w.orders.mu.Lock()
	defer w.orders.mu.Unlock()
	return w.orders.whole
}

func (s *suspensions) trim(runtime.Object) {}

// Add keeps a Suspension.
func (s *suspensions) Add(o any) error { return s.Update(o) }

// Update keeps a Suspension.
func (s *suspensions) Update(o any) error {
	if u, ok := o.(*unstructured.Unstructured); ok {
		s.keep(u)
		s.tell()
	}
	return nil
}

// Delete forgets a Suspension.
func (s *suspensions) Delete(o any) error {
	if u, ok := o.(*unstructured.Unstructured); ok {
		s.mu.Lock()
		delete(s.set, u.GetName())
		delete(s.bad, u.GetName())
		s.mu.Unlock()
		s.tell()
	}
	return nil
}

// Replace takes all Suspensions.
func (s *suspensions) Replace(list []any, _ string) error {
	there := map[string]bool{}
	for _, o := range list {
		if u, ok := o.(*unstructured.Unstructured); ok {
			there[u.GetName()] = true
			s.keep(u)
		}
	}
	s.mu.Lock()
	maps.DeleteFunc(s.set, func(name string, _ api.Suspension) bool { return !there[name] })
	maps.DeleteFunc(s.bad, func(name, _ string) bool { return !there[name] })
	s.whole = true
	s.mu.Unlock()
	s.found()
	s.tell()
	s.w.announce()
	return nil
}

// Resync is not used.
func (s *suspensions) Resync() error { return nil }

func (s *suspensions) clear(_ context.Context, err error) {
	s.lost(err)
	s.mu.Lock()
	had := len(s.set) > 0
	clear(s.set)
	s.whole = false
	s.mu.Unlock()
	if had {
		s.tell()
	}
}

func (s *suspensions) lost(err error) {
	s.mu.Lock()
	first := !s.down
	s.down = true
	s.mu.Unlock()
	if first {
		s.w.cfg.Log.Warn("watch is down", "kind", api.KindSuspension, "error", err)
	}
}

func (s *suspensions) found() {
	s.mu.Lock()
	was := s.down
	s.down = false
	s.mu.Unlock()
	if was {
		s.w.cfg.Log.Info("watch is up", "kind", api.KindSuspension)
	}
}

// keep takes a Suspension, and says once what is wrong with it.
func (s *suspensions) keep(u *unstructured.Unstructured) {
	decoded, err := api.DecodeSuspension(u)
	name, problem := u.GetName(), ""
	if err != nil {
		problem = err.Error()
	}
	s.mu.Lock()
	known := s.bad[name]
	s.set[name], s.bad[name] = decoded, problem
	s.mu.Unlock()
	if problem == "" || problem == known {
		return
	}
	s.w.cfg.Log.Error("suspension cannot be read and holds as far as it can be", "suspension", name,
		"scope", decoded.Scope.String(), "until", decoded.Until, "error", err)
	if s.w.cfg.OnBadSuspension != nil {
		s.w.cfg.OnBadSuspension(name, err)
	}
}

// tell hands the set over, sorted by name.
func (s *suspensions) tell() {
	s.mu.Lock()
	out := make(api.Suspensions, 0, len(s.set))
	for _, o := range s.set {
		out = append(out, o)
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b api.Suspension) int { return strings.Compare(a.Name, b.Name) })
	s.w.cfg.OnSuspensions(out)
}
