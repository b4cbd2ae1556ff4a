package store

import (
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
				page = append(page, brief(e))
			}
		}
		return nil
	})
	return page, total, err
}

// maxBrief is how many bytes of fields and earlier rounds lists show of one episode.
const maxBrief = 16 << 10

// brief is an episode as lists show it: without evidence, timeline and bookkeeping, and with the fields and earlier rounds that there is room for.
func brief(e api.Episode) api.Episode {
	e.Evidence, e.Timeline, e.Track = nil, nil, nil
	room := maxBrief
	for i, f := range e.Fields {
		if room -= len(f.Path) + len(f.Desired) + len(f.Live); room < 0 && i > 0 {
			e.FieldsOmitted += len(e.Fields) - i
			e.Fields = slices.Clone(e.Fields[:i])
			break
		}
	}
	e.Rounds = api.FewerRounds(e.Rounds, api.MaxRounds, room)
	return e
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

// endedKey is an episode's place among those of its cluster that have ended.
func endedKey(h *head) []byte { return clusterKey(h.Cluster, string(closedKey(h.End, h.ID))) }

// putEpisode stores an episode as far as the cluster's share goes.
func (w *writer) putEpisode(e api.Episode) error {
	key := []byte(e.ID)
	old := &head{ID: e.ID}
	known, err := w.tx.Bucket(bucketHeads).Load(key, old)
	if err != nil {
		return err
	}
	if known {
		if old.Onset.Before(e.Onset) { // it was seen before: a time that was moved moves no further
			e.Onset = old.Onset
		}
		if err := w.unindex(old); err != nil {
			return err
		}
	}
	data, err := w.fitEpisode(&e)
	if err != nil {
		return err
	}
	if data == nil {
		return w.forgetEpisode(e.ID)
	}
	if err := w.tx.Bucket(bucketEpisodes).Put(key, data); err != nil {
		return err
	}
	h := headOf(e)
	h.Size = len(data)
	if err := w.tx.Bucket(bucketHeads).Save(key, h); err != nil {
		return err
	}
	w.heads[e.ID] = h.interned()
	return w.index(h)
}

// index notes an episode in the indexes, and counts it.
func (w *writer) index(h *head) error {
	if h.End.IsZero() {
		w.rec.Usage.Open++
		w.rec.Usage.OpenBytes += int64(h.Size)
		return w.tx.Bucket(bucketOpen).Put(clusterKey(h.Cluster, h.ID), nil)
	}
	w.count.ClosedEpisodes++
	w.count.ClosedBytes += int64(h.Size)
	w.rec.Usage.Closed++
	w.rec.Usage.ClosedBytes += int64(h.Size)
	if err := w.tx.Bucket(bucketEnded).Put(endedKey(h), nil); err != nil {
		return err
	}
	return w.tx.Bucket(bucketClosed).Put(closedKey(h.End, h.ID), nil)
}

// unindex removes an episode from the indexes and counts, but not its head.
func (w *writer) unindex(h *head) error {
	rec, err := w.recordOf(h.Cluster)
	if err != nil {
		return err
	}
	if h.End.IsZero() {
		rec.Usage.Open--
		rec.Usage.OpenBytes -= int64(h.Size)
		return w.tx.Bucket(bucketOpen).Delete(clusterKey(h.Cluster, h.ID))
	}
	w.count.ClosedEpisodes--
	w.count.ClosedBytes -= int64(h.Size)
	rec.Usage.Closed--
	rec.Usage.ClosedBytes -= int64(h.Size)
	if err := w.tx.Bucket(bucketEnded).Delete(endedKey(h)); err != nil {
		return err
	}
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
	return w.forgetEpisode(id)
}

// forgetEpisode removes what is left of an episode that is in no index.
func (w *writer) forgetEpisode(id string) error {
	w.heads[id] = nil
	if err := w.tx.Bucket(bucketHeads).Delete([]byte(id)); err != nil {
		return err
	}
	return w.tx.Bucket(bucketEpisodes).Delete([]byte(id))
}
