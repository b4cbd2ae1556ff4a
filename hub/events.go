package hub

import (
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
	mu   sync.Mutex
	subs map[*subscriber]struct{}
}

type subscriber struct {
	mu sync.Mutex
	// names of clusters that changed since the last take
	changed map[string]struct{}
	wake    chan struct{}
}

func newBroker() *broker { return &broker{subs: map[*subscriber]struct{}{}} }

func (b *broker) publish(clusters ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.add(clusters)
	}
}

func (b *broker) subscribe() *subscriber {
	s := &subscriber{changed: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[s] = struct{}{}
	return s
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

func (s *subscriber) add(clusters []string) {
	s.mu.Lock()
	for _, c := range clusters {
		s.changed[c] = struct{}{}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Sorted(maps.Keys(s.changed))
	clear(s.changed)
	return out
}

// serveEvents streams the names of changed clusters as server-sent events:
// "changed" with a JSON list of names, and "pulse" while nothing happens.
func (h *Hub) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	sub := h.events.subscribe()
	defer h.events.unsubscribe(sub)

	send := func(event string, data any) bool {
		b, err := json.Marshal(data)
		if err != nil {
			return false
		}
		// A browser that does not read for long is gone.
		_ = rc.SetWriteDeadline(time.Now().Add(4 * pulse))
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	if !send("pulse", h.instance) {
		return
	}
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-h.stopping:
			return
		case <-tick.C:
			if !send("pulse", h.instance) {
				return
			}
		case <-sub.wake:
			select {
			case <-r.Context().Done():
				return
			case <-time.After(gather):
			}
			if names := sub.take(); len(names) > 0 && !send("changed", names) {
				return
			}
		}
	}
}
