// Package record writes to the store what changed, in as few transactions as possible: a transaction waits for the disk,
// and everything that changes meanwhile, and shortly after it, goes into the next one together.
//
// It notes the names of bundles, and reads their state when it writes: what is stored is never older than what was stored before.
// Episodes are noted as values and stored in the order in which they came.
// It never drops an episode, and never tells that something is stored before it is.
package record

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Transaction is what one transaction of the store keeps.
type Transaction struct {
	Status *api.ClusterStatus
	// Bundles are in the order of their names.
	Bundles        []api.BundleRecord
	RemovedBundles []string
	Episodes       []api.Episode
}

// Store keeps transactions, each as a whole or not at all.
type Store interface {
	Commit(t Transaction) error
}

// Config is what a Recorder is made of. Every field is required.
type Config struct {
	Store Store
	// Read returns the state of the cluster and of the bundles that choose names, sorted by name, as they are at one moment.
	// It calls choose once, in that moment: nothing that is noted with a change of state may come between the two.
	Read func(choose func() []string) (api.ClusterStatus, []api.BundleRecord)
	Log  *slog.Logger
	// Stored is called after each transaction that was stored.
	Stored func()
}

// Recorder writes to the store. Make it with New, and run it.
type Recorder struct {
	Config

	wake chan struct{}
	// commit is held from reading the state until it is stored, so that records are stored in order.
	// It is taken before every other lock.
	commit sync.Mutex
	// failure is the error of the last transaction; it points to nil if that was stored.
	failure atomic.Pointer[error]

	mu sync.Mutex // nothing is locked while it is held
	// next is what the next transaction holds.
	next *Batch
}

// Batch is what goes into one transaction.
type Batch struct {
	dirty    map[string]bool // names of bundles
	removed  map[string]bool
	episodes []api.Episode
	any      bool // there is something to store, if only the status of the cluster

	stored bool // under Recorder.commit
	err    error
}

const (
	// Spacing is how long what nobody waits for is collected after a transaction.
	Spacing = 50 * time.Millisecond
	// Retry is how soon a transaction that failed is tried again.
	Retry = 5 * time.Second
)

// New makes a recorder.
func New(cfg Config) *Recorder {
	return &Recorder{Config: cfg, wake: make(chan struct{}, 1), next: newBatch()}
}

func newBatch() *Batch { return &Batch{dirty: map[string]bool{}, removed: map[string]bool{}} }

// Failure returns the error of the last transaction; nil if that was stored, or if there was none yet.
func (r *Recorder) Failure() error {
	if err := r.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Note has the status of the cluster stored soon, with a bundle (empty for none) and episodes.
// The batch that it returns can be waited for.
func (r *Recorder) Note(bundle string, episodes ...api.Episode) *Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noteLocked(bundle, episodes)
}

func (r *Recorder) noteLocked(bundle string, episodes []api.Episode) *Batch {
	next := r.next
	if bundle != "" {
		next.dirty[bundle] = true
		delete(next.removed, bundle)
	}
	next.episodes = append(next.episodes, episodes...)
	next.any = true
	r.poke()
	return next
}

// Removed has a bundle forgotten by the store.
func (r *Recorder) Removed(bundle string, episodes ...api.Episode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.noteLocked("", episodes)
	delete(next.dirty, bundle)
	next.removed[bundle] = true
}

func (r *Recorder) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run stores until ctx ends. What is noted later is stored by Flush.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		pause := Spacing
		if err := r.Flush(); err != nil {
			pause = Retry
			r.poke()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Flush stores what is noted up to now.
func (r *Recorder) Flush() error {
	r.commit.Lock()
	defer r.commit.Unlock()
	return r.storeLocked()
}

// Wait returns when the batch is stored, and stores it itself if need be.
// No lock may be held that Read takes.
func (r *Recorder) Wait(b *Batch) error {
	r.commit.Lock()
	defer r.commit.Unlock()
	if !b.stored {
		_ = r.storeLocked() // nothing but b can be next
	}
	return b.err
}

// take begins the next batch, and returns the one before; nil if that holds nothing.
func (r *Recorder) take() *Batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.next.any {
		return nil
	}
	b := r.next
	r.next = newBatch()
	return b
}

// storeLocked stores the next batch; commit is held.
func (r *Recorder) storeLocked() error {
	var b *Batch
	status, bundles := r.Read(func() (names []string) {
		if b = r.take(); b == nil {
			return nil
		}
		for name := range b.dirty {
			names = append(names, name)
		}
		return names
	})
	if b == nil {
		return nil
	}
	out := Transaction{Status: &status, Bundles: bundles, Episodes: b.episodes}
	for name := range b.removed {
		out.RemovedBundles = append(out.RemovedBundles, name)
	}
	slices.Sort(out.RemovedBundles)
	b.err, b.stored = r.Store.Commit(out), true
	r.failure.Store(&b.err)
	if b.err != nil {
		r.Log.Error("store", "error", b.err)
		r.again(b)
		return b.err
	}
	r.Stored()
	return nil
}

// again puts what a batch that failed holds into the next one, its episodes before those that came later:
// who waits for one is told, and does not act on it, but an end that is not stored would leave a drift open for ever.
func (r *Recorder) again(b *Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.next
	next.any = true
	next.episodes = append(b.episodes, next.episodes...)
	for name := range b.dirty {
		if !next.removed[name] {
			next.dirty[name] = true
		}
	}
	for name := range b.removed {
		if !next.dirty[name] {
			next.removed[name] = true
		}
	}
}
