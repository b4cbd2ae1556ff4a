package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
)

// Selector chooses the objects that carry our labels.
const Selector = api.LabelManagedBy + "=" + api.ManagedBy + "," + api.LabelPartOf

// Everything chooses all objects: nothing has the label that it excludes.
const Everything = "!" + api.Group + "/none"

// Config says what to watch and whom to tell.
// The functions are called from the watches' own goroutines and must return soon: they queue.
type Config struct {
	REST *rest.Config
	Log  *slog.Logger
	// Handler takes every event; required.
	Handler func(Event)
	// Relisted says that a kind was seen as a whole, at first, after Relist, and when its watch could not go on where it ended:
	// events may be missing in between. What differs is known by then, and its events have been handled. Nil means nobody asks.
	Relisted func(schema.GroupVersionKind)
	// Lost says that the watch of a kind is down for a reason. It is called once until the watch is back, which Relisted says,
	// even where the watch went on where it ended. A kind that the cluster does not have is not lost: it is known that there is
	// nothing of it. Nil means nobody asks.
	Lost func(schema.GroupVersionKind, error)
	// OnSuspensions takes the whole set at every change, and at first. Nil means they are not watched.
	OnSuspensions func(api.Suspensions)
	// OnBadSuspension says that a Suspension cannot be read; it is in the set nevertheless. Nil means it is only logged.
	OnBadSuspension func(name string, err error)
	// Selector chooses the objects by their labels. Empty means the package's Selector.
	Selector string
}

// Meta is what is kept of an object.
type Meta struct {
	UID             string
	ResourceVersion string
	Generation      int64
	// MetaDigest is api.MetaDigest.
	MetaDigest string
	// PartOf is the ApplySet that the object's label names.
	PartOf string
	// Orders are what its annotations say.
	Orders api.Orders
	// Applied says that our field manager applied it: nobody made it by copying the labels.
	Applied bool
}

// Matters reports whether a change from one state to another can be more than a change of status.
func (m Meta) Matters(next Meta) bool {
	return m.UID != next.UID || m.Generation != next.Generation || !api.SameMeta(m.MetaDigest, next.MetaDigest)
}

// Event is one change of an object.
type Event struct {
	Ref api.ObjectRef
	// Meta is the state after the change; the last one known if the object is gone.
	Meta
	// Before is the state before it; zero if the object is new to the watch.
	Before Meta
	// Deleted says that the object is no longer seen: it was deleted, or it lost our labels.
	// Only a GET can tell.
	Deleted bool
}

// Watcher watches the kinds it was told to. Its methods may be called from several goroutines.
type Watcher struct {
	cfg       Config
	metadata  metadata.Interface
	dynamic   dynamic.Interface
	discovery *discovery.DiscoveryClient

	mu sync.Mutex
	// wg counts the watches that run.
	wg sync.WaitGroup
	// ctx is Run's, and nil before and after it. It is here because kinds come and go while Run runs.
	ctx     context.Context //nolint:containedctx // owned by Run
	kinds   map[schema.GroupKind]*kind
	orders  *suspensions
	changed chan struct{} // closed and replaced when a kind is synced or goes
	relist  chan struct{} // everything is to be seen anew
}

// New makes a Watcher. It watches nothing before Run.
func New(cfg Config) (*Watcher, error) {
	switch {
	case cfg.REST == nil:
		return nil, errors.New("watch: REST is required")
	case cfg.Log == nil:
		return nil, errors.New("watch: Log is required")
	case cfg.Handler == nil:
		return nil, errors.New("watch: Handler is required")
	}
	if cfg.Selector == "" {
		cfg.Selector = Selector
	}
	rc := rest.CopyConfig(cfg.REST)
	rc.QPS, rc.Burst = -1, -1 // a watch is one request for minutes
	rc.Timeout = 0
	w := &Watcher{cfg: cfg, kinds: map[schema.GroupKind]*kind{}, changed: make(chan struct{}), relist: make(chan struct{}, 1)}
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if w.metadata, err = metadata.NewForConfigAndClient(rc, client); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if w.dynamic, err = dynamic.NewForConfigAndClient(rc, client); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if w.discovery, err = discovery.NewDiscoveryClientForConfigAndClient(rc, client); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if cfg.OnSuspensions != nil {
		w.orders = newSuspensions(w)
	}
	return w, nil
}

// Run watches until ctx ends, and returns when no watch is left.
func (w *Watcher) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.ctx != nil {
		w.mu.Unlock()
		return errors.New("watch: it runs already")
	}
	w.ctx = ctx
	for _, k := range w.kinds {
		w.startLocked(k)
	}
	if w.orders != nil {
		w.wg.Go(func() { w.orders.source.run(ctx) })
	}
	w.wg.Go(func() { w.relistLoop(ctx) })
	w.mu.Unlock()

	<-ctx.Done()
	w.mu.Lock()
	w.ctx = nil
	for _, k := range w.kinds {
		k.stop()
	}
	w.mu.Unlock()
	w.wg.Wait()
	return nil
}

func (w *Watcher) startLocked(k *kind) {
	ctx, cancel := context.WithCancel(w.ctx)
	k.cancel = cancel
	w.wg.Go(func() {
		defer cancel()
		k.source.run(ctx)
	})
}

// SetKinds says which kinds to watch. Watches of other kinds end, without events.
// Of a kind in several versions the first one counts.
func (w *Watcher) SetKinds(kinds []schema.GroupVersionKind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	want := map[schema.GroupKind]bool{}
	for _, gvk := range kinds {
		gk := gvk.GroupKind()
		if want[gk] {
			continue
		}
		want[gk] = true
		old := w.kinds[gk]
		if old != nil && (old.gvk == gvk || slices.Contains(kinds, old.gvk)) {
			continue
		}
		if old != nil {
			old.stop()
		}
		k := newKind(w, gvk)
		w.kinds[gk] = k
		if w.ctx != nil {
			w.startLocked(k)
		}
	}
	for gk, k := range w.kinds {
		if !want[gk] {
			k.stop()
			delete(w.kinds, gk)
		}
	}
	w.announceLocked()
}

func (w *Watcher) kind(gk schema.GroupKind) *kind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[gk]
}

// Get returns what is known of an object; false if it is not there, or its kind is not (yet) watched.
func (w *Watcher) Get(ref api.ObjectRef) (Meta, bool) {
	k := w.kind(ref.GVK().GroupKind())
	if k == nil {
		return Meta{}, false
	}
	return k.get(name{ref.Namespace, ref.Name})
}

// Objects calls f for every object that is known. f may call the Watcher.
func (w *Watcher) Objects(f func(api.ObjectRef, Meta)) {
	for _, k := range w.all() {
		k.each(f)
	}
}

func (w *Watcher) all() []*kind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.kinds))
}

// Synced reports whether the watch of a kind has seen everything there is.
func (w *Watcher) Synced(gvk schema.GroupVersionKind) bool {
	k := w.kind(gvk.GroupKind())
	return k != nil && k.synced()
}

// WaitSynced waits until all of the kinds are synced; they must be (or become) watched.
func (w *Watcher) WaitSynced(ctx context.Context, kinds []schema.GroupVersionKind) error {
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		i := slices.IndexFunc(kinds, func(gvk schema.GroupVersionKind) bool { return !w.Synced(gvk) })
		if i < 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("watch: wait for %s: %w", kinds[i], context.Cause(ctx))
		}
	}
}

// announceLocked wakes all that wait for a change.
func (w *Watcher) announceLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Watcher) announce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.announceLocked()
}

// pokeMissing has all kinds that were not found asked for again at once.
func (w *Watcher) pokeMissing() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kinds {
		k.source.poke()
	}
	if w.orders != nil {
		w.orders.source.poke()
	}
}
