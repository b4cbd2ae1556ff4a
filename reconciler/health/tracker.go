package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/kubejson"
)

// Config is what a Tracker needs.
type Config struct {
	// REST is how to reach the API server; required. Its rate limits are not used.
	REST *rest.Config
	// Log may be nil.
	Log *slog.Logger
	// Linger is how long a watch that nobody needs any more stays open. Zero means DefaultLinger.
	Linger time.Duration
}

// DefaultLinger keeps watches open between bundles that follow each other.
const DefaultLinger = 10 * time.Second

// Object is one object that is not healthy.
type Object struct {
	Ref     api.ObjectRef
	Status  Status
	Message string
}

// Summary is how the objects of one bundle fare.
type Summary struct {
	Total, Ready int
	// Unseen counts the objects of which nothing is known yet: their watch has only begun. They are in InProgress.
	Unseen int
	// InProgress and Failed are sorted by object.
	InProgress, Failed []Object
}

// Healthy reports whether all objects are.
func (s Summary) Healthy() bool { return s.Ready == s.Total }

// Tracker follows the health of objects. Its methods may be called from many goroutines.
type Tracker struct {
	log     *slog.Logger
	linger  time.Duration
	dynamic dynamic.Interface
	// rest opens the watches.
	rest   *rest.RESTClient
	mapper *restmapper.DeferredDiscoveryRESTMapper
	// wake is told that bundles were set or removed.
	wake    chan struct{}
	changed chan string
	// notify is told that dirty is not empty.
	notify chan struct{}

	mu sync.Mutex
	// bundles: name -> what it waits for
	bundles map[string]*bundle
	// owners: object ID -> the bundle that waits for it
	owners map[string]string
	// kinds: kind -> what its watch has seen
	kinds map[schema.GroupKind]*kind
	// checks: expressions -> compiled
	checks map[api.HealthCheck]*check
	dirty  map[string]bool
}

type bundle struct {
	entries []api.InventoryEntry
	checks  map[schema.GroupKind]*check
}

// kind is one watch.
type kind struct {
	gvk schema.GroupVersionKind
	// verdicts: object ID -> what was last seen of it
	verdicts map[string]verdict
	// listed is the resourceVersion up to which everything was seen; 0 before the first list.
	listed uint64
	// users counts the bundles that wait; idle is since when there is none.
	users int
	idle  time.Time
	stop  context.CancelFunc
	// err is why the watch does not work at the moment.
	err error
}

type verdict struct {
	version uint64
	status  Status
	message string
	gone    bool
	check   *check
}

// New returns a Tracker. It does nothing before Run.
func New(cfg Config) (*Tracker, error) {
	if cfg.REST == nil {
		return nil, errors.New("health: REST is required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	base := rest.CopyConfig(cfg.REST)
	base.QPS, base.Burst, base.RateLimiter = -1, 0, nil
	base.WarningHandler = rest.NoWarnings{}
	client, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, fmt.Errorf("health: client: %w", err)
	}
	dyn, err := dynamic.NewForConfigAndClient(base, client)
	if err != nil {
		return nil, fmt.Errorf("health: client: %w", err)
	}
	plain := rest.CopyConfig(base)
	plain.ContentType, plain.AcceptContentTypes = "application/json", "application/json"
	plain.NegotiatedSerializer, plain.GroupVersion = kubejson.Codecs, &schema.GroupVersion{}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(plain, client)
	if err != nil {
		return nil, fmt.Errorf("health: client: %w", err)
	}
	disc, err := discovery.NewDiscoveryClientForConfig(base) // its requests have no context, and need the timeout that it sets itself
	if err != nil {
		return nil, fmt.Errorf("health: discovery client: %w", err)
	}
	return &Tracker{
		log: cfg.Log, linger: cmp.Or(cfg.Linger, DefaultLinger), dynamic: dyn, rest: raw,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disc)),
		wake:   make(chan struct{}, 1), changed: make(chan string), notify: make(chan struct{}, 1),
		bundles: map[string]*bundle{}, owners: map[string]string{}, kinds: map[schema.GroupKind]*kind{},
		checks: map[api.HealthCheck]*check{}, dirty: map[string]bool{},
	}, nil
}

// Changed gives the names of bundles whose Summary may have changed; each name once until it is received.
func (t *Tracker) Changed() <-chan string { return t.changed }

// Set makes the Tracker wait for the objects of a bundle, in the state that the entries name.
// It replaces what was set for the bundle before.
func (t *Tracker) Set(name string, objs []api.InventoryEntry, checks []api.HealthCheck) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(name)
	b := &bundle{entries: slices.Clone(objs), checks: map[schema.GroupKind]*check{}}
	for _, c := range checks {
		k, ok := t.checks[c]
		if !ok {
			compiled := compile(c)
			k = &compiled
			t.checks[c] = k
		}
		b.checks[schema.FromAPIVersionAndKind(c.APIVersion, c.Kind).GroupKind()] = k
	}
	t.bundles[name] = b
	for gk, gvk := range b.watched() {
		k := t.kinds[gk]
		if k == nil {
			k = &kind{gvk: gvk, verdicts: map[string]verdict{}}
			t.kinds[gk] = k
		}
		k.users++
		// What was judged by other expressions has to be seen again.
		if want := b.checks[gk]; t.misjudgedLocked(k, b, gk, want) {
			k.close()
			t.kinds[gk] = &kind{gvk: gvk, verdicts: map[string]verdict{}, users: k.users}
		}
	}
	for _, e := range b.entries {
		t.owners[e.Object.ID()] = name
	}
	t.dirtyLocked(name)
	wake(t.wake)
}

// misjudgedLocked reports whether an object of the bundle was judged by another check than it asks for.
func (t *Tracker) misjudgedLocked(k *kind, b *bundle, gk schema.GroupKind, want *check) bool {
	return slices.ContainsFunc(b.entries, func(e api.InventoryEntry) bool {
		v, ok := k.verdicts[e.Object.ID()]
		return ok && e.Object.GVK().GroupKind() == gk && v.check != want
	})
}

// Remove ends the wait for a bundle.
func (t *Tracker) Remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(name)
	wake(t.wake)
}

func (t *Tracker) removeLocked(name string) {
	b := t.bundles[name]
	if b == nil {
		return
	}
	for gk := range b.watched() {
		if k := t.kinds[gk]; k != nil {
			if k.users--; k.users == 0 {
				k.idle = time.Now()
			}
		}
	}
	for _, e := range b.entries {
		if id := e.Object.ID(); t.owners[id] == name {
			delete(t.owners, id)
		}
	}
	delete(t.bundles, name)
	delete(t.dirty, name)
}

// watched are the kinds that the bundle needs a watch for.
func (b *bundle) watched() map[schema.GroupKind]schema.GroupVersionKind {
	out := map[schema.GroupKind]schema.GroupVersionKind{}
	for _, e := range b.entries {
		gk := e.Object.GVK().GroupKind()
		if b.checks[gk] != nil || !isStill(e.Object) {
			out[gk] = e.Object.GVK()
		}
	}
	return out
}

// Get says how a bundle fares; a bundle that was not set is empty.
func (t *Tracker) Get(name string) Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s Summary
	b := t.bundles[name]
	if b == nil {
		return s
	}
	for _, e := range b.entries {
		s.Total++
		status, message := t.statusLocked(b, e)
		switch status {
		case Ready:
			s.Ready++
		case Failed:
			s.Failed = append(s.Failed, Object{e.Object, status, message})
		default:
			s.InProgress = append(s.InProgress, Object{e.Object, InProgress, message})
			if k := t.kinds[e.Object.GVK().GroupKind()]; k == nil || k.listed == 0 {
				s.Unseen++
			}
		}
	}
	for _, list := range [][]Object{s.InProgress, s.Failed} {
		slices.SortFunc(list, func(x, y Object) int { return api.CompareRefs(x.Ref, y.Ref) })
	}
	return s
}

var jobs = schema.GroupKind{Group: "batch", Kind: "Job"}

func (t *Tracker) statusLocked(b *bundle, e api.InventoryEntry) (Status, string) {
	gk := e.Object.GVK().GroupKind()
	if b.checks[gk] == nil && isStill(e.Object) {
		return Ready, ""
	}
	k := t.kinds[gk]
	if k == nil || k.listed == 0 {
		if k != nil && k.err != nil {
			return InProgress, "cannot be watched: " + k.err.Error()
		}
		return InProgress, "not looked at yet"
	}
	applied, _ := strconv.ParseUint(e.ResourceVersion, 10, 64)
	v, ok := k.verdicts[e.Object.ID()]
	switch {
	case ok && v.gone && gk == jobs && v.status == Ready:
		return Ready, "" // finished, and cleaned up by its time to live
	case !ok && gk == jobs && k.listed >= applied:
		return Ready, "" // only finished Jobs are cleaned up
	case !ok && k.listed < applied, ok && v.version < applied:
		return InProgress, "the last change has not been seen yet"
	case !ok || v.gone:
		return InProgress, "not found"
	}
	return v.status, v.message
}

func (t *Tracker) dirtyLocked(name string) {
	t.dirty[name] = true
	wake(t.notify)
}

// see takes in what a watch showed of an object. It reports false if the object was judged by another check
// than the one that is asked for meanwhile: that says nothing.
func (t *Tracker) see(k *kind, ref api.ObjectRef, v verdict) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !v.gone && v.check != t.checkForLocked(ref) {
		return false
	}
	id := ref.ID()
	old, had := k.verdicts[id]
	if v.gone {
		// Jobs that were done before they were gone stay done.
		v.status, v.check = old.status, old.check
	}
	k.verdicts[id] = v
	owner := t.owners[id]
	if owner != "" && (!had || old != v) {
		t.dirtyLocked(owner)
	}
	return true
}

// checkFor is the check that the bundle which waits for an object has for it.
func (t *Tracker) checkFor(ref api.ObjectRef) *check {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkForLocked(ref)
}

func (t *Tracker) checkForLocked(ref api.ObjectRef) *check {
	if b := t.bundles[t.owners[ref.ID()]]; b != nil {
		return b.checks[ref.GVK().GroupKind()]
	}
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close ends the watch. What its goroutine still sees goes nowhere once the kind is out of Tracker.kinds.
func (k *kind) close() {
	if k.stop != nil {
		k.stop()
		k.stop = nil
	}
}
