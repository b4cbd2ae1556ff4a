package store

import (
	"fmt"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Resend reports all closed episodes that are kept once more, except those whose report is still in the outbox:
// a hub that was put back from a copy, or begun anew, has lost what was acknowledged since.
// A hub that has an episode already is not changed by its report. It returns how many there were.
func (s *Store) Resend() (n int, err error) {
	err = s.file.Update(func(tx *boltfile.Tx) error {
		n = 0
		w, err := s.begin(tx)
		if err != nil {
			return err
		}
		reported := map[string]bool{}
		all, err := w.waiting()
		if err != nil {
			return err
		}
		for _, r := range all {
			reported[r.subject] = true
		}
		var closed []uint64
		err = tx.Bucket(bucketClosed).Keys(nil, func(k []byte, _ int) error {
			number, err := numberOf(k)
			closed = append(closed, number)
			return err
		})
		if err != nil {
			return err
		}
		for _, number := range closed {
			var e api.Episode
			found, err := tx.Bucket(bucketEpisodes).Load(numberKey(number), &e)
			if err == nil && !found {
				err = fmt.Errorf("%w: episode %d is listed and missing", ErrDamaged, number)
			}
			if err != nil {
				return err
			}
			r := api.Report{Episode: &e}
			if reported[subjectOf(r, number)] {
				continue
			}
			if err := w.report(r, number); err != nil {
				return err
			}
			n++
		}
		return w.end()
	})
	return n, err
}
