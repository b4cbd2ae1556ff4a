package git

import (
	"container/list"
	"sync"
)

// lru keeps the values used last, bounded by what they cost together.
// It is safe for concurrent use.
type lru[K comparable, V any] struct {
	limit int

	mu    sync.Mutex
	cost  int
	order list.List // of lruEntry, used last in front
	items map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(key K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(lruEntry[K, V]).value, true
}

// add keeps a value, unless it alone would take a quarter of the room.
func (c *lru[K, V]) add(key K, value V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok || cost > c.limit/4 {
		return
	}
	c.items[key] = c.order.PushFront(lruEntry[K, V]{key, value, cost})
	c.cost += cost
	for c.cost > c.limit {
		last := c.order.Remove(c.order.Back()).(lruEntry[K, V])
		delete(c.items, last.key)
		c.cost -= last.cost
	}
}

// bases adapts an lru to what a pack needs.
type bases struct{ *lru[baseKey, object] }

func (b bases) put(key baseKey, o object) { b.add(key, o, len(o.data)+96) }
