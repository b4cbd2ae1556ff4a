package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// HistoryFilter selects what was applied; zero fields select all.
type HistoryFilter struct {
	Cluster, Bundle string
	// Object is as in DriftFilter.
	Object string
	// Since leaves out what was before.
	Since time.Time
	// Limit is how many to return at most; zero means 100. Skip is how many of the newest to leave out before.
	Limit, Skip int
}

// History returns what passes changed, newest first. Of one with an object only the object's own change is told.
func (s *Store) History(ctx context.Context, f HistoryFilter) (out []api.Applied, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	skip := max(0, f.Skip)
	f.Limit += skip
	clusters := []string{f.Cluster}
	if f.Cluster == "" {
		if clusters, err = s.Clusters(ctx); err != nil {
			return nil, err
		}
	}
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		for _, c := range clusters {
			if err := ctx.Err(); err != nil {
				return err
			}
			of, err := f.of(tx.Bucket(bucketHistory), c)
			if err != nil {
				return err
			}
			// No more than what is asked for is ever held.
			out = append(out, of...)
			slices.SortStableFunc(out, func(a, b api.Applied) int { return b.At.Compare(a.At) })
			out = out[:min(len(out), f.Limit)]
		}
		return nil
	})
	return out[min(skip, len(out)):], err
}

// of returns what matches of one cluster.
func (f HistoryFilter) of(b *boltfile.Bucket, cluster string) (out []api.Applied, err error) {
	prefix, since := clusterKey(cluster, ""), historyKey(cluster, f.Since, 0, "")
	err = b.Descend(append([]byte(cluster), 1), func(k, v []byte) error {
		if !bytes.HasPrefix(k, prefix) || !f.Since.IsZero() && bytes.Compare(k, since) < 0 {
			return boltfile.ErrStop
		}
		if f.Bundle != "" && f.Bundle != string(k[len(prefix)+16:]) {
			return nil
		}
		var a api.Applied
		if err := b.Decode(k, v, &a); err != nil {
			return err
		}
		if f.Object != "" {
			a.Changes, a.Omitted = slices.DeleteFunc(a.Changes, func(c api.Change) bool { return !about(f.Object, c.Object.ID()) }), 0
			if len(a.Changes) == 0 {
				return nil
			}
		}
		if out = append(out, a); len(out) == f.Limit {
			return boltfile.ErrStop
		}
		return nil
	})
	return out, err
}

func historyKey(cluster string, at time.Time, n uint64, bundle string) []byte {
	k := binary.BigEndian.AppendUint64(clusterKey(cluster, ""), uint64(max(0, at.UnixNano())))
	return append(binary.BigEndian.AppendUint64(k, n), bundle...)
}

// remember adds a pass to the history, and drops what is beyond the limits: the cluster's own, oldest first.
func (w *writer) remember(a api.Applied) error {
	b := w.tx.Bucket(bucketHistory)
	n := b.Sequence() + 1
	if err := b.SetSequence(n); err != nil {
		return err
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := b.Put(historyKey(w.cluster, a.At, n, a.Bundle), data); err != nil {
		return err
	}
	w.rec.History++
	w.rec.Usage.HistoryBytes += int64(len(data))
	prefix, tooOld := clusterKey(w.cluster, ""), historyKey(w.cluster, w.old, 0, "")
	var drop [][]byte
	err = b.Keys(prefix, func(k []byte, size int) error {
		over := w.rec.History > w.limits.HistoryPerCluster || w.rec.Usage.HistoryBytes > w.limits.HistoryBytesPerCluster
		if !bytes.HasPrefix(k, prefix) || !over && bytes.Compare(k, tooOld) >= 0 {
			return boltfile.ErrStop
		}
		drop = append(drop, slices.Clone(k))
		w.rec.History--
		w.rec.Usage.HistoryBytes -= int64(size)
		return nil
	})
	if err != nil {
		return err
	}
	return deleteAll(b, drop)
}

// deleteAll deletes the keys that a walk, which must not change the bucket, has collected.
func deleteAll(b *boltfile.Bucket, keys [][]byte) error {
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// applied is what a bundle's status says of the last pass that changed something.
func applied(cluster string, b api.BundleStatus) api.Applied {
	return api.Applied{
		Cluster: cluster, Bundle: b.Name, At: b.Changed, Revision: b.ChangedRevision, Changes: b.Changes, Omitted: b.ChangesOmitted,
	}
}

// about reports whether an object's ID is the wanted one, in which "*" may stand for the group.
func about(want, id string) bool {
	rest, anyGroup := strings.CutPrefix(want, "*")
	if !anyGroup {
		return want == "" || want == id
	}
	_, below, _ := strings.Cut(id, "/")
	return "/"+below == rest
}
