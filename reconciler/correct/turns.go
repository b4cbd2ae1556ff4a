package correct

import (
	"maps"
	"slices"
	"sync"
)

// turns keeps a bundle from being applied while one of its objects is compared, and the other way round.
// Who applies waits, and goes before comparisons that come later. What is not compared for that is deferred.
type turns struct {
	mu    sync.Mutex
	ended *sync.Cond // a comparison or an apply has
	of    map[string]*turn
}

// turn is how it stands with one bundle.
type turn struct {
	applying  bool
	comparing int
	deferred  map[string]bool // IDs of objects
}

func newTurns() *turns {
	t := &turns{of: map[string]*turn{}}
	t.ended = sync.NewCond(&t.mu)
	return t
}

func (t *turns) turnLocked(bundle string) *turn {
	x := t.of[bundle]
	if x == nil {
		x = &turn{}
		t.of[bundle] = x
	}
	return x
}

// begin waits for its turn to apply a bundle.
func (t *turns) begin(bundle string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.turnLocked(bundle).applying {
		t.ended.Wait()
	}
	x := t.turnLocked(bundle)
	x.applying = true
	for x.comparing > 0 {
		t.ended.Wait()
	}
}

// end ends an apply, and returns the objects whose comparison was deferred.
func (t *turns) end(bundle string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	deferred := slices.Sorted(maps.Keys(t.of[bundle].deferred))
	delete(t.of, bundle)
	t.ended.Broadcast()
	return deferred
}

// compare begins a comparison, which done ends. While the bundle is applied it defers the object, and reports false.
func (t *turns) compare(bundle, id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.turnLocked(bundle)
	if !x.applying {
		x.comparing++
		return true
	}
	if x.deferred == nil {
		x.deferred = map[string]bool{}
	}
	x.deferred[id] = true
	return false
}

func (t *turns) done(bundle string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.of[bundle]
	if x.comparing--; x.comparing == 0 {
		t.ended.Broadcast()
		if !x.applying {
			delete(t.of, bundle)
		}
	}
}
