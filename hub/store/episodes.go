package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// EpisodeState selects episodes by whether they have ended.
type EpisodeState string

// The states.
const (
	AnyEpisode EpisodeState = ""
	// OpenEpisode: the drift still stands.
	OpenEpisode EpisodeState = "open"
	// ClosedEpisode: it has ended.
	ClosedEpisode EpisodeState = "closed"
)

// DriftFilter selects episodes; zero fields select all.
type DriftFilter struct {
	State   EpisodeState
	Cluster string
	Bundle  string
	// Object is an api.ObjectRef's ID; with "*" in the place of its group, that kind in any group.
	Object string
	// Manager is a field manager or person, of the episode or one of its fields.
	Manager string
	Class   api.Class
	// Since leaves out what had ended before.
	Since time.Time
	// Offset leaves out the newest; Limit is how many to return at most, zero means 100.
	Offset, Limit int
}

func (f DriftFilter) matches(h *head) bool {
	return (f.State == AnyEpisode || (f.State == OpenEpisode) == h.End.IsZero()) &&
		(f.Cluster == "" || f.Cluster == h.Cluster) &&
		(f.Bundle == "" || f.Bundle == h.Bundle) &&
		about(f.Object, h.Object) &&
		(f.Class == "" || f.Class == h.Class) &&
		(f.Manager == "" || slices.Contains(h.Who, f.Manager)) &&
		(f.Since.IsZero() || h.End.IsZero() || !h.End.Before(f.Since))
}

// Drift returns a page of the fleet's episodes, newest first by onset, without evidence
// and timeline. Total counts all that match.
func (s *Store) Drift(ctx context.Context, f DriftFilter) (page []api.Episode, total int, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	ids, total := s.mem.find(f)
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		for _, id := range ids {
			var e api.Episode
			ok, err := tx.Bucket(bucketEpisodes).Load([]byte(id), &e)
			if err != nil {
				return err
			}
			if ok { // else it was dropped a moment ago
				e.Evidence, e.Timeline = nil, nil
				page = append(page, e)
			}
		}
		return nil
	})
	return page, total, err
}

func (m *memory) find(f DriftFilter) (ids []string, total int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, h := range slices.Backward(m.order) {
		if !f.matches(h) {
			continue
		}
		if total++; total > f.Offset && len(ids) < f.Limit {
			ids = append(ids, h.ID)
		}
	}
	return ids, total
}

// Episode returns the episode with an ID, and whether there is one.
func (s *Store) Episode(ctx context.Context, id string) (e api.Episode, ok bool, err error) {
	if id == "" {
		return e, false, nil
	}
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		ok, err = tx.Bucket(bucketEpisodes).Load([]byte(id), &e)
		return err
	})
	return e, ok, err
}

func closedKey(end time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(0, end.UnixNano()))), id...)
}

func (w *writer) putEpisode(e api.Episode) error {
	b, key := w.tx.Bucket(bucketEpisodes), []byte(e.ID)
	var old api.Episode
	ok, err := b.Load(key, &old)
	if err != nil {
		return err
	}
	if ok {
		if err := w.unindex(headOf(old)); err != nil {
			return err
		}
	}
	if err := b.Save(key, e); err != nil {
		return err
	}
	h := headOf(e)
	if err := w.tx.Bucket(bucketHeads).Save(key, h); err != nil {
		return err
	}
	w.heads[e.ID] = h.interned()
	if h.End.IsZero() {
		return w.tx.Bucket(bucketOpen).Put(clusterKey(w.cluster, e.ID), nil)
	}
	w.count.ClosedEpisodes++
	return w.tx.Bucket(bucketClosed).Put(closedKey(h.End, e.ID), nil)
}

// unindex removes an episode from the indexes, but not its head.
func (w *writer) unindex(h *head) error {
	if h.End.IsZero() {
		return w.tx.Bucket(bucketOpen).Delete(clusterKey(h.Cluster, h.ID))
	}
	w.count.ClosedEpisodes--
	return w.tx.Bucket(bucketClosed).Delete(closedKey(h.End, h.ID))
}

// dropEpisode removes an episode altogether.
func (w *writer) dropEpisode(id string) error {
	h := &head{ID: id}
	if ok, err := w.tx.Bucket(bucketHeads).Load([]byte(id), h); err != nil || !ok {
		return err
	}
	if err := w.unindex(h); err != nil {
		return err
	}
	w.heads[id] = nil
	if err := w.tx.Bucket(bucketHeads).Delete([]byte(id)); err != nil {
		return err
	}
	return w.tx.Bucket(bucketEpisodes).Delete([]byte(id))
}

// retain drops closed episodes beyond the limits, those that ended first before the others.
func (w *writer) retain() error {
	over := w.count.ClosedEpisodes - w.limits.ClosedEpisodes
	tooOld := closedKey(w.old, "")
	var drop []string
	err := w.tx.Bucket(bucketClosed).Keys(nil, func(k []byte, _ int) error {
		if len(drop) >= over && bytes.Compare(k, tooOld) >= 0 {
			return boltfile.ErrStop
		}
		drop = append(drop, string(k[min(8, len(k)):]))
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range drop {
		if err := w.dropEpisode(id); err != nil {
			return err
		}
	}
	w.count.DroppedEpisodes += uint64(len(drop))
	return nil
}
