package store

import (
	"fmt"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Status returns the cluster's status, and whether there is one.
func (s *Store) Status() (st api.ClusterStatus, ok bool, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		ok, err = tx.Bucket(bucketStatus).Load(keyStatus, &st)
		return err
	})
	return st, ok, err
}

// Bundles returns all bundles, sorted by name.
func (s *Store) Bundles() (out []api.BundleRecord, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		b, inv := tx.Bucket(bucketBundles), tx.Bucket(bucketInventory)
		return b.Ascend(nil, func(k, v []byte) error {
			var r api.BundleRecord
			if err := b.Decode(k, v, &r.Status); err != nil {
				return err
			}
			if _, err := inv.Load(k, &r.Inventory); err != nil {
				return err
			}
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// Bundle returns one bundle, and whether there is one of the name.
func (s *Store) Bundle(name string) (r api.BundleRecord, ok bool, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		if ok, err = tx.Bucket(bucketBundles).Load([]byte(name), &r.Status); err != nil || !ok {
			return err
		}
		_, err := tx.Bucket(bucketInventory).Load([]byte(name), &r.Inventory)
		return err
	})
	return r, ok, err
}

// Snapshot is the present state with its place among the reports.
type Snapshot = api.StateAt

// Snapshot returns the present state: what a hub needs that has missed reports.
func (s *Store) Snapshot() (out Snapshot, err error) {
	err = s.file.View(func(tx *boltfile.Tx) error {
		out, err = snapshot(tx)
		return err
	})
	return out, err
}

// Checksum is that of the present state, and the newest report it includes.
func (s *Store) Checksum() (sum string, seq uint64, err error) {
	snap, err := s.Snapshot()
	if err != nil {
		return "", 0, err
	}
	return snap.State.Checksum(), snap.Seq, nil
}

func snapshot(tx *boltfile.Tx) (Snapshot, error) {
	var out Snapshot
	var c Counters
	if _, err := tx.Bucket(bucketMeta).Load(keyCounters, &c); err != nil {
		return out, err
	}
	out.Acked, out.Seq = c.Acked, tx.Bucket(bucketOutbox).Sequence()
	var st api.ClusterStatus
	ok, err := tx.Bucket(bucketStatus).Load(keyStatus, &st)
	if err != nil {
		return out, err
	}
	if ok {
		out.State.Status = &st
	}
	b := tx.Bucket(bucketBundles)
	err = b.Ascend(nil, func(k, v []byte) error {
		var bs api.BundleStatus
		err := b.Decode(k, v, &bs)
		out.State.Bundles = append(out.State.Bundles, bs)
		return err
	})
	if err != nil {
		return out, err
	}
	out.State.Episodes, err = openEpisodes(tx)
	return out, err
}

// verify reads the whole file: every checksum, and whether the indexes, the counters
// and what they are about agree.
func verify(tx *boltfile.Tx) error {
	if err := tx.Verify(); err != nil {
		return err
	}
	var want Counters
	if _, err := tx.Bucket(bucketMeta).Load(keyCounters, &want); err != nil {
		return err
	}
	total, open, closed := 0, 0, 0
	heads := tx.Bucket(bucketHeads)
	err := heads.Ascend(nil, func(k, v []byte) error {
		var h head
		if err := heads.Decode(k, v, &h); err != nil {
			return err
		}
		n, err := numberOf(k)
		if err != nil {
			return err
		}
		total++
		listed := tx.Bucket(bucketOpen).Has(k)
		if h.End.IsZero() {
			open++
		} else {
			closed++
			listed = tx.Bucket(bucketClosed).Has(closedKey(h.End, n))
		}
		if !listed || !tx.Bucket(bucketEpisodes).Has(k) || !tx.Bucket(bucketObjects).Has(objectKey(h.Object, n)) {
			return fmt.Errorf("%w: episode %d is not where its head says", ErrDamaged, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	reports, size := 0, int64(0)
	err = tx.Bucket(bucketOutbox).Keys(nil, func(_ []byte, n int) error {
		reports, size = reports+1, size+int64(n)
		return nil
	})
	if err != nil {
		return err
	}
	got := []int{
		count(tx, bucketEpisodes), count(tx, bucketObjects), count(tx, bucketOpen), count(tx, bucketClosed),
		closed, reports, int(size), int(tx.Bucket(bucketOutbox).Sequence()),
	}
	for i, n := range []int{
		total, total, open, closed,
		want.ClosedEpisodes, want.OutboxReports, int(want.OutboxBytes), int(want.Last),
	} {
		if got[i] != n {
			return fmt.Errorf("%w: count %d is %d, and should be %d", ErrDamaged, i, got[i], n)
		}
	}
	return nil
}

func count(tx *boltfile.Tx, bucket string) int {
	n := 0
	_ = tx.Bucket(bucket).Keys(nil, func([]byte, int) error { n++; return nil }) // the function never fails
	return n
}
