package store

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// memory is the heads of all episodes, so that a filter reads from the disk only what it returns.
// It is changed only after the disk was, in the same order.
type memory struct {
	mu    sync.RWMutex
	heads map[string]*head // episode ID → never changed in place
	order []*head          // by onset and ID, oldest first
}

// head is what lists need of an episode.
type head struct {
	ID      string    `json:"-"`
	Cluster string    `json:"cl"`
	Bundle  string    `json:"b,omitempty"`
	Object  string    `json:"o"`
	Class   api.Class `json:"c,omitempty"`
	// Who is the managers and persons named.
	Who   []string  `json:"w,omitempty"`
	Onset time.Time `json:"s"`
	End   time.Time `json:"e,omitzero"`
	// Outcome is what was done about it, Size the episode's bytes.
	Outcome api.Outcome `json:"out,omitempty"`
	Size    int         `json:"n,omitempty"`
}

func headOf(e api.Episode) *head {
	h := &head{
		ID: e.ID, Cluster: e.Cluster, Bundle: e.Bundle, Object: e.Object.ID(), Class: e.Class,
		Onset: e.Onset.UTC(), End: e.End.UTC(), Outcome: e.Outcome,
	}
	add := func(a api.Attribution) {
		for _, who := range []string{a.Manager, a.Person} {
			if who != "" && !slices.Contains(h.Who, who) {
				h.Who = append(h.Who, who)
			}
		}
	}
	add(e.By)
	for _, f := range e.Fields {
		add(f.By)
	}
	return h
}

// interned shares the strings that repeat over thousands of heads.
func (h *head) interned() *head {
	share := func(s string) string { return unique.Make(s).Value() }
	h.Cluster, h.Bundle, h.Class = share(h.Cluster), share(h.Bundle), api.Class(share(string(h.Class)))
	h.Outcome = api.Outcome(share(string(h.Outcome)))
	for i := range h.Who {
		h.Who[i] = share(h.Who[i])
	}
	return h
}

func compareHeads(a, b *head) int {
	return cmp.Or(a.Onset.Compare(b.Onset), cmp.Compare(a.ID, b.ID))
}

// load reads all heads from the disk.
func (m *memory) load(tx *boltfile.Tx) error {
	m.heads = map[string]*head{}
	heads := tx.Bucket(bucketHeads)
	err := heads.Ascend(nil, func(k, v []byte) error {
		h := &head{ID: string(k)}
		if err := heads.Decode(k, v, h); err != nil {
			return err
		}
		m.heads[h.ID] = h.interned()
		return nil
	})
	m.order = slices.SortedFunc(maps.Values(m.heads), compareHeads)
	return err
}

// apply publishes the heads that a transaction changed; nil means that the episode was dropped.
func (m *memory) apply(changed map[string]*head) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, h := range changed {
		m.setHead(id, h)
	}
}

// setHead needs the lock.
func (m *memory) setHead(id string, h *head) {
	old := m.heads[id]
	if old != nil {
		i, ok := slices.BinarySearchFunc(m.order, old, compareHeads)
		switch {
		case ok && h != nil && h.Onset.Equal(old.Onset):
			m.order[i], m.heads[id] = h, h
			return
		case ok:
			m.order = slices.Delete(m.order, i, i+1)
		}
		delete(m.heads, id)
	}
	if h == nil {
		return
	}
	i, _ := slices.BinarySearchFunc(m.order, h, compareHeads)
	m.order = slices.Insert(m.order, i, h)
	m.heads[id] = h
}
