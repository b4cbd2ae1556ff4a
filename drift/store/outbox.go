package store

import (
	"encoding/json"
	"fmt"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Counters is what the store counts.
type Counters struct {
	// ClosedEpisodes are kept now; DroppedEpisodes were dropped by count or age.
	ClosedEpisodes  int    `json:"closedEpisodes"`
	DroppedEpisodes uint64 `json:"droppedEpisodes"`
	// OutboxReports and OutboxBytes wait for the hub.
	OutboxReports int   `json:"outboxReports"`
	OutboxBytes   int64 `json:"outboxBytes"`
	// Acked is the last report that the hub has acknowledged, Last the last that was made.
	Acked uint64 `json:"acked"`
	Last  uint64 `json:"last"`
	// MergedReports were replaced by newer ones before the hub had them;
	// LostEpisodes are closed episodes that the hub will never hear of.
	MergedReports uint64 `json:"mergedReports"`
	LostEpisodes  uint64 `json:"lostEpisodes"`
}

// Counters returns what the store has counted up to now.
func (s *Store) Counters() (c Counters, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		_, err := tx.Bucket(bucketMeta).Load(keyCounters, &c)
		return err
	})
	return c, err
}

const (
	defaultReports = 500
	// maxOutboxBytes bounds one answer of Outbox.
	maxOutboxBytes = 4 << 20
)

// Outbox returns reports with numbers above after, in order: at most limit (zero means 500),
// and at most about 4 MiB, but at least one if there is any.
func (s *Store) Outbox(after uint64, limit int) (out []api.Report, err error) {
	if limit <= 0 {
		limit = defaultReports
	}
	err = s.file.View(func(tx *boltfile.Tx) error {
		var c Counters
		if _, err := tx.Bucket(bucketMeta).Load(keyCounters, &c); err != nil {
			return err
		}
		b, size := tx.Bucket(bucketOutbox), 0
		prev, err := before(b, after, c.Acked)
		if err != nil {
			return err
		}
		return b.Ascend(numberKey(after+1), func(k, v []byte) error {
			if size += len(v); len(out) == limit || len(out) > 0 && size > maxOutboxBytes {
				return boltfile.ErrStop
			}
			var r api.Report
			if err := b.Decode(k, v, &r); err != nil {
				return err
			}
			if prev+1 != r.Seq {
				r.From = prev + 1
			}
			prev = r.Seq
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// before is the number of the last report up to and including one: in the outbox, or acknowledged.
func before(b *boltfile.Bucket, upTo, acked uint64) (uint64, error) {
	prev := acked
	err := b.Descend(numberKey(upTo+1), func(k, _ []byte) error {
		seq, _, err := parseOutboxKey(k)
		if err != nil {
			return err
		}
		prev = seq
		return boltfile.ErrStop
	})
	return prev, err
}

// Grew receives after reports were added, at least once after the last; it is for one receiver.
func (s *Store) Grew() <-chan struct{} { return s.grew }

func (s *Store) announce() {
	select {
	case s.grew <- struct{}{}:
	default:
	}
}

// Ack deletes the reports up to a number from the outbox: the hub has stored them.
func (s *Store) Ack(seq uint64) error {
	return s.file.Update(func(tx *boltfile.Tx) error {
		w, err := s.begin(tx)
		if err != nil {
			return err
		}
		switch last := w.outbox.Sequence(); {
		case seq > last:
			return fmt.Errorf("agent store: report %d is acknowledged, and the last one made is %d", seq, last)
		case seq <= w.count.Acked:
			return nil
		}
		var keys [][]byte
		err = w.outbox.Keys(nil, func(k []byte, size int) error {
			n, _, err := parseOutboxKey(k)
			if err != nil {
				return err
			}
			if n > seq {
				return boltfile.ErrStop
			}
			keys = append(keys, append([]byte(nil), k...))
			w.count.OutboxReports--
			w.count.OutboxBytes -= int64(size)
			return nil
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := w.outbox.Delete(k); err != nil {
				return err
			}
		}
		w.count.Acked = seq
		tx.OnCommit(func() { s.hold(0) })
		return w.tx.Bucket(bucketMeta).Save(keyCounters, w.count)
	})
}

// report appends a report. n is the number of its episode, if it has one.
func (w *writer) report(r api.Report, n uint64) error {
	r.Seq, r.At = w.outbox.Sequence()+1, w.at
	if err := w.outbox.SetSequence(r.Seq); err != nil {
		return err
	}
	w.count.Last = r.Seq
	w.reports++
	return w.putReport(r, subjectOf(r, n))
}

func (w *writer) putReport(r api.Report, subject string) error {
	v, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w.count.OutboxReports++
	w.count.OutboxBytes += int64(len(v))
	return w.outbox.Put(outboxKey(r.Seq, subject), v)
}
