package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Usage is how much the store keeps of one cluster.
type Usage struct {
	Bundles      int   `json:"bundles"`
	BundleBytes  int64 `json:"bundleBytes"`
	Open         int   `json:"open"`
	OpenBytes    int64 `json:"openBytes"`
	Closed       int   `json:"closed"`
	ClosedBytes  int64 `json:"closedBytes"`
	HistoryBytes int64 `json:"historyBytes"`
}

// omit notes that a part of the present state was not kept.
func (w *writer) omit(reason, format string, args ...any) {
	w.rec.Partial = true
	w.rec.LeftOut = intake.Sum(w.rec.LeftOut, w.at, []intake.Omission{{Reason: reason, What: fmt.Sprintf(format, args...)}})
}

// fitEpisode encodes an episode that is in no index. It returns nil if the cluster has no room for it;
// an open episode then goes without evidence and timeline first.
func (w *writer) fitEpisode(e *api.Episode) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil || !e.Open() {
		return data, err
	}
	u, most := w.rec.Usage, w.limits.OpenBytesPerCluster
	if u.Open >= w.limits.OpenPerCluster {
		w.omit(intake.TooMany, "an open episode: a cluster may have %d", w.limits.OpenPerCluster)
		return nil, nil
	}
	if u.OpenBytes+int64(len(data)) <= most {
		return data, nil
	}
	w.omit(intake.TooLong, "what is known of an open episode: those of a cluster may have %d bytes", most)
	*e = brief(*e)
	if data, err = json.Marshal(e); err != nil || u.OpenBytes+int64(len(data)) > most {
		return nil, err
	}
	return data, nil
}

// fitBundle encodes a bundle's status. It returns nil if the cluster has no room for it, whose usage is then u
// without the bundle; the changes and warnings go first.
func (w *writer) fitBundle(b api.BundleStatus, u Usage) ([]byte, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	most := w.limits.BundleBytesPerCluster
	if u.Bundles >= w.limits.BundlesPerCluster {
		w.omit(intake.TooMany, "a bundle: a cluster may have %d", w.limits.BundlesPerCluster)
		return nil, nil
	}
	if u.BundleBytes+int64(len(data)) <= most {
		return data, nil
	}
	w.omit(intake.TooLong, "what is known of a bundle: those of a cluster may have %d bytes", most)
	b.ChangesOmitted += len(b.Changes)
	b.ExemptOmitted += len(b.Exempt)
	b.Changes, b.Exempt, b.Warnings, b.Contested, b.Uncorrected = nil, nil, nil, nil, nil
	if data, err = json.Marshal(b); err != nil || u.BundleBytes+int64(len(data)) > most {
		return nil, err
	}
	return data, nil
}

// recordOf is a cluster's record within the transaction; end and publish store it.
func (w *writer) recordOf(cluster string) (*record, error) {
	if cluster == w.cluster {
		return &w.rec, nil
	}
	if r := w.others[cluster]; r != nil {
		return r, nil
	}
	r := &record{}
	if _, err := w.tx.Bucket(bucketClusters).Load([]byte(cluster), r); err != nil {
		return nil, err
	}
	w.others[cluster] = r
	return r, nil
}

// retain drops closed episodes: those that are too old, of this cluster what is beyond its share,
// and of the fleet what is beyond the limits. Those that ended first go before the others.
func (w *writer) retain() error {
	if err := w.retainByAge(); err != nil {
		return err
	}
	l, u := w.limits, &w.rec.Usage
	err := w.dropOldest(w.cluster, func() bool { return u.Closed > l.ClosedPerCluster || u.ClosedBytes > l.ClosedBytesPerCluster })
	if err != nil {
		return err
	}
	// What is dropped for the fleet is dropped a hundredth at once: looking for who has most takes a while.
	if w.count.ClosedEpisodes > l.ClosedEpisodes {
		most := l.ClosedEpisodes - l.ClosedEpisodes/100
		err = w.shrink(func() bool { return w.count.ClosedEpisodes > most }, func(u Usage) int64 { return int64(u.Closed) })
	}
	if err == nil && w.count.ClosedBytes > l.ClosedBytes {
		most := l.ClosedBytes - l.ClosedBytes/100
		err = w.shrink(func() bool { return w.count.ClosedBytes > most }, func(u Usage) int64 { return u.ClosedBytes })
	}
	return err
}

func (w *writer) retainByAge() error {
	tooOld := closedKey(w.old, "")
	var drop []string
	err := w.tx.Bucket(bucketClosed).Keys(nil, func(k []byte, _ int) error {
		if bytes.Compare(k, tooOld) >= 0 {
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

// shrink drops closed episodes while there are too many: always of the cluster that has most by a measure,
// until the next one has as much.
func (w *writer) shrink(over func() bool, measure func(Usage) int64) error {
	for over() {
		name, next, err := w.most(measure)
		if err != nil || name == "" {
			return err
		}
		rec, err := w.recordOf(name)
		if err != nil {
			return err
		}
		before := rec.Usage.Closed
		if err := w.dropOldest(name, func() bool { return over() && measure(rec.Usage) >= next && rec.Usage.Closed > 0 }); err != nil {
			return err
		}
		if rec.Usage.Closed == before {
			return fmt.Errorf("%w: cluster %q has %d closed episodes, and none is found", ErrDamaged, name, before)
		}
	}
	return nil
}

// most is the cluster that has most by a measure, and how much the next one has. No cluster has nothing.
func (w *writer) most(measure func(Usage) int64) (name string, next int64, err error) {
	best := int64(0)
	see := func(cluster string, u Usage) {
		switch n := measure(u); {
		case n > best:
			name, best, next = cluster, n, best
		case n > next:
			next = n
		}
	}
	clusters := w.tx.Bucket(bucketClusters)
	err = clusters.Ascend(nil, func(k, v []byte) error {
		cluster := string(k)
		if cluster == w.cluster || w.others[cluster] != nil {
			return nil
		}
		var r struct {
			Usage Usage `json:"usage"`
		}
		err := clusters.Decode(k, v, &r)
		see(cluster, r.Usage)
		return err
	})
	see(w.cluster, w.rec.Usage)
	for cluster, r := range w.others {
		see(cluster, r.Usage)
	}
	return name, next, err
}

// dropOldest drops closed episodes of a cluster, those that ended first before the others, while there are too many.
func (w *writer) dropOldest(cluster string, over func() bool) error {
	const some = 1000 // at once: keys cannot be deleted while they are walked
	for over() {
		prefix := clusterKey(cluster, "")
		var ids []string
		err := w.tx.Bucket(bucketEnded).Keys(prefix, func(k []byte, _ int) error {
			if !bytes.HasPrefix(k, prefix) || len(ids) == some {
				return boltfile.ErrStop
			}
			ids = append(ids, string(k[min(len(prefix)+8, len(k)):]))
			return nil
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := w.dropWhile(cluster, ids, over); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) dropWhile(cluster string, ids []string, over func() bool) error {
	rec, err := w.recordOf(cluster)
	if err != nil {
		return err
	}
	n := 0
	for _, id := range ids {
		if !over() {
			break
		}
		if err := w.dropEpisode(id); err != nil {
			return err
		}
		n++
	}
	w.count.DroppedEpisodes += uint64(n)
	rec.Dropped = saturated(rec.Dropped, uint64(n))
	rec.DroppedAt = w.at
	return nil
}

func saturated(a, b uint64) uint64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// LeftOut is what the store did not keep of a cluster, or not as it was sent.
type LeftOut struct {
	// Sums are by reason.
	Sums []intake.LeftOut
	// Dropped counts closed episodes that went because the cluster, or the fleet, had too many; DroppedAt is when last.
	Dropped   uint64
	DroppedAt time.Time
	// Partial says that the present state is not all there, since Whole, when the agent last sent all of it.
	Partial bool
	Whole   time.Time
}

// leftOut is what a record says of it.
func (r record) leftOut() LeftOut {
	return LeftOut{Sums: r.LeftOut, Dropped: r.Dropped, DroppedAt: r.DroppedAt, Partial: r.Partial, Whole: r.Whole}
}

// LeftOut returns what was not kept of a cluster; of one that is not known, nothing was left out.
func (s *Store) LeftOut(ctx context.Context, cluster string) (LeftOut, error) {
	var r record
	err := s.view(ctx, func(tx *boltfile.Tx) error {
		_, err := tx.Bucket(bucketClusters).Load([]byte(cluster), &r)
		return err
	})
	return r.leftOut(), err
}
