package reconciler

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// recorder writes to the store what changed, in as few transactions as possible: a transaction waits for the disk,
// and everything that changes meanwhile, and shortly after it, goes into the next one together.
// It notes names, and reads what is so when it writes: what is stored is never older than what was stored before.
type recorder struct {
	r    *Reconciler
	wake chan struct{}
	// commit is held from reading the state until it is stored, so that records are stored in order.
	// It is taken before Reconciler.mu.
	commit sync.Mutex
	// next is what the next transaction holds. Reconciler.mu guards it.
	next *batch
	// failure is the error of the last transaction; it points to nil if that was stored.
	failure atomic.Pointer[error]
}

// Stored returns the error of the last transaction on the store; nil if that was stored, or if there was none yet.
func (r *Reconciler) Stored() error {
	if err := r.recorder.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// batch is what goes into one transaction.
type batch struct {
	dirty    map[string]bool // names of bundles
	removed  map[string]bool
	episodes []api.Episode
	any      bool // there is something to store, if only the status of the cluster

	stored bool // under recorder.commit
	err    error
}

const (
	// recordSpacing is how long what nobody waits for is collected after a transaction.
	recordSpacing = 50 * time.Millisecond
	// recordRetry is how soon a transaction that failed is tried again.
	recordRetry = 5 * time.Second
)

func newRecorder(r *Reconciler) *recorder {
	return &recorder{r: r, wake: make(chan struct{}, 1), next: newBatch()}
}

func newBatch() *batch { return &batch{dirty: map[string]bool{}, removed: map[string]bool{}} }

// recordLocked has the status of the cluster stored soon, with what else is given.
// The batch that it returns can be waited for.
func (r *Reconciler) recordLocked(b *bundle, episodes ...api.Episode) *batch {
	next := r.recorder.next
	if b != nil {
		next.dirty[b.name] = true
		delete(next.removed, b.name)
	}
	next.episodes = append(next.episodes, episodes...)
	next.any = true
	wake(r.recorder.wake)
	return next
}

// recordRemovedLocked has a bundle forgotten by the store.
func (r *Reconciler) recordRemovedLocked(name string, episodes ...api.Episode) {
	next := r.recordLocked(nil, episodes...)
	delete(next.dirty, name)
	next.removed[name] = true
}

// run stores until ctx ends. What is noted later is stored by flush.
func (rec *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-rec.wake:
		}
		pause := recordSpacing
		if err := rec.flush(); err != nil {
			pause = recordRetry
			wake(rec.wake)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// flush stores what is noted up to now.
func (rec *recorder) flush() error {
	rec.commit.Lock()
	defer rec.commit.Unlock()
	return rec.storeLocked().err
}

// wait returns when the batch is stored, and stores it itself if need be.
func (rec *recorder) wait(b *batch) error {
	rec.commit.Lock()
	defer rec.commit.Unlock()
	if !b.stored {
		rec.storeLocked() // nothing but b can be next
	}
	return b.err
}

// storeLocked stores the next batch; commit is held.
func (rec *recorder) storeLocked() *batch {
	r := rec.r
	r.mu.Lock()
	b := rec.next
	if !b.any {
		r.mu.Unlock()
		return b
	}
	rec.next = newBatch()
	status := r.status
	out := Record{Status: &status, Episodes: b.episodes}
	for name := range b.dirty {
		if known := r.bundles[name]; known != nil {
			out.Bundles = append(out.Bundles, known.record())
		}
	}
	for name := range b.removed {
		out.RemovedBundles = append(out.RemovedBundles, name)
	}
	r.mu.Unlock()
	slices.SortFunc(out.Bundles, func(x, y api.BundleRecord) int { return cmp.Compare(x.Status.Name, y.Status.Name) })
	slices.Sort(out.RemovedBundles)
	b.err, b.stored = r.Store.Commit(out), true
	rec.failure.Store(&b.err)
	if b.err != nil {
		r.Log.Error("store", "error", b.err)
		rec.again(b)
		return b
	}
	r.Recorded()
	r.publish.report()
	return b
}

// again puts what a batch that failed holds into the next one, its episodes before those that came later:
// who waits for one is told, and does not act on it, but an end that is not stored would leave a drift open for ever.
func (rec *recorder) again(b *batch) {
	rec.r.mu.Lock()
	defer rec.r.mu.Unlock()
	next := rec.next
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
