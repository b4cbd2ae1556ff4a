package hub

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// gather is how long changes are gathered before they are sent to the browsers.
	gather = 60 * time.Millisecond
	// pulse is how often an idle event stream says that it lives.
	pulse = 5 * time.Second
)

// broker tells browsers which clusters changed.
type broker struct {
	// instance changes at every start, so that browsers see a restart.
	instance string

	mu   sync.Mutex
	subs map[*subscriber]struct{}
	// published counts changes.
	published uint64
}

type subscriber struct {
	// changed are the names of clusters that changed since the last take.
	changed map[string]struct{}
	wake    chan struct{}
}

func newBroker() *broker {
	return &broker{instance: rand.Text(), subs: map[*subscriber]struct{}{}}
}

// publish tells of clusters that changed. Call it after the change can be read.
func (b *broker) publish(clusters ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published++
	for s := range b.subs {
		for _, c := range clusters {
			s.changed[c] = struct{}{}
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// mark names the changes so far: what is read after it shows them all.
// A page carries the mark that it was read after, and the stream those that it has told of,
// so that a browser knows when it has missed one in between.
func (b *broker) mark() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.markLocked()
}

func (b *broker) markLocked() string { return fmt.Sprintf("%s.%d", b.instance, b.published) }

// subscribe returns the mark from which on the subscriber is told.
func (b *broker) subscribe() (s *subscriber, mark string) {
	s = &subscriber{changed: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[s] = struct{}{}
	return s, b.markLocked()
}

func (b *broker) unsubscribe(s *subscriber) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

// take returns what changed since the last time, and the mark up to which that is all.
func (b *broker) take(s *subscriber) (names []string, mark string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names = slices.Sorted(maps.Keys(s.changed))
	clear(s.changed)
	return names, b.markLocked()
}

// serveEvents streams, as long as what let the request in is good, the names of changed clusters as server-sent events:
// "changed" with a JSON list of names, and "pulse" at once and while nothing happens. Their id is the mark up to which all was told.
func (h *Hub) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	sub, mark := h.events.subscribe()
	defer h.events.unsubscribe(sub)

	send := func(event string, data any) bool {
		b, err := json.Marshal(data)
		if err != nil {
			return false
		}
		// A browser that does not read for long is gone.
		_ = rc.SetWriteDeadline(time.Now().Add(4 * pulse))
		if _, err := fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", mark, event, b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	if !send("pulse", h.events.instance) {
		return
	}
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	ended := h.auth.ended.heard()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-h.stopping:
			return
		case <-ended:
			ended = h.auth.ended.heard()
			if !h.auth.holds(r) {
				return
			}
		case <-tick.C:
			if !h.auth.holds(r) || !send("pulse", h.events.instance) {
				return
			}
		case <-sub.wake:
			select {
			case <-r.Context().Done():
				return
			case <-time.After(gather):
			}
			var names []string
			if names, mark = h.events.take(sub); len(names) > 0 && !send("changed", names) {
				return
			}
		}
	}
}
