package store

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// Filter selects episodes; zero fields select all.
type Filter struct {
	State  EpisodeState
	Bundle string
	// Object is an api.ObjectRef's ID.
	Object string
	// Manager is a field manager or person, of the episode or one of its fields.
	Manager string
	Class   api.Class
	// Since leaves out what had ended before.
	Since time.Time
	// Limit is how many to return at most; zero means 100.
	Limit int
	// After is the ID of the last episode of the page before.
	After string
}

// defaultLimit is that of Filter.Limit.
const defaultLimit = 100

// head is what filters and indexes need of an episode.
type head struct {
	Bundle string    `json:"b,omitempty"`
	Object string    `json:"o"`
	Class  api.Class `json:"c,omitempty"`
	// Who is the managers and persons named.
	Who []string  `json:"w,omitempty"`
	End time.Time `json:"e,omitzero"`
}

func headOf(e api.Episode) head {
	h := head{Bundle: e.Bundle, Object: e.Object.ID(), Class: e.Class, End: e.End.UTC()}
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

func (f Filter) matches(h head) bool {
	return (f.State == AnyEpisode || (f.State == OpenEpisode) == h.End.IsZero()) &&
		(f.Bundle == "" || f.Bundle == h.Bundle) &&
		(f.Object == "" || f.Object == h.Object) &&
		(f.Class == "" || f.Class == h.Class) &&
		(f.Manager == "" || slices.Contains(h.Who, f.Manager)) &&
		(f.Since.IsZero() || h.End.IsZero() || !h.End.Before(f.Since))
}

// Episode returns the episode with an ID, and whether there is one.
func (s *Store) Episode(id string) (e api.Episode, ok bool, err error) {
	n, mine := s.episodeNumber(id)
	if !mine {
		return e, false, nil
	}
	err = s.file.View(func(tx *boltfile.Tx) error {
		ok, err = tx.Bucket(bucketEpisodes).Load(numberKey(n), &e)
		return err
	})
	return e, ok, err
}

// OpenEpisodes returns those without an end, oldest first.
func (s *Store) OpenEpisodes() (out []api.Episode, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		out, err = openEpisodes(tx)
		return err
	})
	return out, err
}

func openEpisodes(tx *boltfile.Tx) ([]api.Episode, error) {
	var out []api.Episode
	err := tx.Bucket(bucketOpen).Keys(nil, func(k []byte, _ int) error {
		e, err := indexed(tx, k)
		out = append(out, e)
		return err
	})
	return out, err
}

// LatestEpisode returns an object's newest episode, and whether it has one.
// The object is an api.ObjectRef's ID.
func (s *Store) LatestEpisode(objectID string) (e api.Episode, ok bool, err error) {
	prefix := objectPrefix(objectID)
	err = s.file.View(func(tx *boltfile.Tx) error {
		// The key just behind the object's last possible one.
		return tx.Bucket(bucketObjects).Descend(append([]byte(objectID), 1), func(k, _ []byte) error {
			if len(k) != len(prefix)+8 || !bytes.HasPrefix(k, prefix) {
				return boltfile.ErrStop
			}
			ok = true
			if e, err = indexed(tx, k); err != nil {
				return err
			}
			return boltfile.ErrStop
		})
	})
	return e, ok, err
}

// indexed returns the episode that an index's key ends with.
func indexed(tx *boltfile.Tx, k []byte) (api.Episode, error) {
	var e api.Episode
	n, err := numberOf(k)
	if err != nil {
		return e, err
	}
	ok, err := tx.Bucket(bucketEpisodes).Load(numberKey(n), &e)
	if err == nil && !ok {
		err = fmt.Errorf("%w: episode %d is listed and missing", ErrDamaged, n)
	}
	return e, err
}

// Episodes returns the episodes that match, newest first. To page, repeat the call
// with Filter.After set to the last ID, until fewer than Limit are returned.
func (s *Store) Episodes(f Filter) (out []api.Episode, err error) {
	if f.Limit <= 0 {
		f.Limit = defaultLimit
	}
	var before []byte
	if f.After != "" {
		n, ok := s.episodeNumber(f.After)
		if !ok {
			return nil, fmt.Errorf("agent store: cursor %q is not an episode of this store", f.After)
		}
		before = numberKey(n)
	}
	err = s.file.View(func(tx *boltfile.Tx) error {
		heads := tx.Bucket(bucketHeads)
		return heads.Descend(before, func(k, v []byte) error {
			var h head
			if err := heads.Decode(k, v, &h); err != nil {
				return err
			}
			if !f.matches(h) {
				return nil
			}
			e, err := indexed(tx, k)
			if err != nil {
				return err
			}
			if out = append(out, e); len(out) == f.Limit {
				return boltfile.ErrStop
			}
			return nil
		})
	})
	return out, err
}

// putEpisode stores an episode and its indexes, and reports it, as far as it is new.
func (w *writer) putEpisode(p preparedEpisode) error {
	b, key := w.tx.Bucket(bucketEpisodes), numberKey(p.n)
	old, err := b.Get(key)
	if err != nil || bytes.Equal(old, p.data) {
		return err
	}
	news := true
	if old != nil {
		var prev api.Episode
		if err := b.Decode(key, old, &prev); err != nil {
			return err
		}
		c, err := json.Marshal(prev.Content())
		if err != nil {
			return err
		}
		news = !bytes.Equal(c, p.content)
		if err := w.unindex(p.n, headOf(prev)); err != nil {
			return err
		}
	}
	if err := b.Put(key, p.data); err != nil {
		return err
	}
	if err := b.SetSequence(max(b.Sequence(), p.n)); err != nil {
		return err
	}
	if err := w.index(p.n, p.head); err != nil || !news {
		return err
	}
	return w.report(p.report, p.n)
}

func (w *writer) index(n uint64, h head) error {
	if err := w.tx.Bucket(bucketHeads).Save(numberKey(n), h); err != nil {
		return err
	}
	if err := w.tx.Bucket(bucketObjects).Put(objectKey(h.Object, n), nil); err != nil {
		return err
	}
	if h.End.IsZero() {
		return w.tx.Bucket(bucketOpen).Put(numberKey(n), nil)
	}
	w.count.ClosedEpisodes++
	return w.tx.Bucket(bucketClosed).Put(closedKey(h.End, n), nil)
}

// unindex removes an episode from the indexes, but not its head.
func (w *writer) unindex(n uint64, h head) error {
	if err := w.tx.Bucket(bucketObjects).Delete(objectKey(h.Object, n)); err != nil {
		return err
	}
	if h.End.IsZero() {
		return w.tx.Bucket(bucketOpen).Delete(numberKey(n))
	}
	w.count.ClosedEpisodes--
	return w.tx.Bucket(bucketClosed).Delete(closedKey(h.End, n))
}

// retain drops closed episodes beyond the limits, those that ended first before the others.
func (w *writer) retain() error {
	over := w.count.ClosedEpisodes - w.limits.ClosedEpisodes
	before, err := boltfile.TooOld(w.tx.Bucket(bucketMeta), keyAging, w.at, w.limits.ClosedAge)
	if err != nil {
		return err
	}
	tooOld := closedKey(before, 0)
	var drop []uint64
	err = w.tx.Bucket(bucketClosed).Keys(nil, func(k []byte, _ int) error {
		if len(drop) >= over && bytes.Compare(k, tooOld) >= 0 {
			return boltfile.ErrStop
		}
		n, err := numberOf(k)
		drop = append(drop, n)
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range drop {
		var h head
		key := numberKey(n)
		if _, err := w.tx.Bucket(bucketHeads).Load(key, &h); err != nil {
			return err
		}
		if err := w.unindex(n, h); err != nil {
			return err
		}
		if err := w.tx.Bucket(bucketHeads).Delete(key); err != nil {
			return err
		}
		if err := w.tx.Bucket(bucketEpisodes).Delete(key); err != nil {
			return err
		}
	}
	w.count.DroppedEpisodes += uint64(len(drop))
	return nil
}
