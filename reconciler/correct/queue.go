package correct

import (
	"sync"
	"time"
)

// queue holds the IDs of objects to look at, each at most once.
// An ID that is added while it is worked on comes again afterwards,
// so that two workers never look at the same object.
type queue struct {
	mu      sync.Mutex
	ready   *sync.Cond
	order   []string
	waiting map[string]time.Time // ID in order -> when it was added
	working map[string]bool      // ID being worked on -> to be added again
	timers  map[string]timer
	closed  bool
}

// timer adds an ID later.
type timer struct {
	*time.Timer
	at time.Time
}

func newQueue() *queue {
	q := &queue{waiting: map[string]time.Time{}, working: map[string]bool{}, timers: map[string]timer{}}
	q.ready = sync.NewCond(&q.mu)
	return q
}

func (q *queue) add(id string, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(id, now)
}

func (q *queue) addLocked(id string, now time.Time) {
	if q.closed {
		return
	}
	if _, ok := q.working[id]; ok {
		q.working[id] = true
		return
	}
	if _, ok := q.waiting[id]; ok {
		return
	}
	q.waiting[id] = now
	q.order = append(q.order, id)
	q.ready.Signal()
}

// addAfter adds the ID later, unless it is already to be added sooner.
func (q *queue) addAfter(id string, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	at := time.Now().Add(d)
	if t, ok := q.timers[id]; ok {
		if t.at.Before(at) {
			return
		}
		t.Stop()
	}
	q.timers[id] = timer{at: at, Timer: time.AfterFunc(d, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.timers[id].at.Equal(at) {
			delete(q.timers, id)
		}
		q.addLocked(id, time.Now())
	})}
}

// get blocks for the next ID and says when it was added; false means closed.
func (q *queue) get() (string, time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) == 0 && !q.closed {
		q.ready.Wait()
	}
	if q.closed {
		return "", time.Time{}, false
	}
	id := q.order[0]
	q.order = q.order[1:]
	at := q.waiting[id]
	delete(q.waiting, id)
	q.working[id] = false
	return id, at, true
}

// done ends the work that get began.
func (q *queue) done(id string, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.working[id]
	delete(q.working, id)
	if again {
		q.addLocked(id, now)
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, t := range q.timers {
		t.Stop()
	}
	q.ready.Broadcast()
}
