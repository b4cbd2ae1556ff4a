package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// ErrNeedSnapshot says that the reports do not continue what is stored, because some are missing
// between, or the agent's store was begun anew. ReplaceSnapshot puts it right.
var ErrNeedSnapshot = errors.New("a snapshot is needed")

// Apply stores reports of a cluster's agent, in order, all or none.
// It returns the number of the last report that is now stored, also with ErrNeedSnapshot.
// What was applied before is left out.
func (s *Store) Apply(ctx context.Context, cluster, agentID string, reports []api.Report) (ack uint64, err error) {
	if err := checkReports(cluster, agentID, reports); err != nil {
		return 0, err
	}
	err = s.update(ctx, func(tx *boltfile.Tx) error {
		w, err := s.begin(tx, cluster)
		if err != nil {
			return err
		}
		if w.rec.AgentID == "" {
			w.rec.AgentID = agentID
		}
		if w.rec.AgentID != agentID {
			ack = 0
			return fmt.Errorf("%w: agent %q is new on cluster %q", ErrNeedSnapshot, agentID, cluster)
		}
		ack = w.rec.Seq
		for _, r := range reports {
			if !r.Follows(max(w.rec.Seq, w.rec.StateSeq)) {
				return fmt.Errorf("%w: report %d of cluster %q does not follow report %d", ErrNeedSnapshot, r.Seq, cluster, w.rec.Seq)
			}
			if r.Seq <= w.rec.Seq {
				continue
			}
			if err := w.apply(r); err != nil {
				return err
			}
			w.rec.Seq = r.Seq
		}
		if err := w.end(); err != nil {
			return err
		}
		ack = w.rec.Seq
		return nil
	})
	return ack, err
}

// checkReports refuses what no honest agent sends, before anything is touched.
func checkReports(cluster, agentID string, reports []api.Report) error {
	if !api.ValidName(cluster) || agentID == "" {
		return denied("BadReport", fmt.Errorf("cluster %q, agent %q: both need a name", cluster, agentID))
	}
	for _, r := range reports {
		if err := r.Validate(); err != nil {
			return denied("BadReport", err)
		}
		if r.Status != nil && r.Status.Cluster != cluster {
			return denied("BadReport", fmt.Errorf("report %d of cluster %q speaks for %q", r.Seq, cluster, r.Status.Cluster))
		}
		if r.Episode != nil {
			if err := checkEpisode(cluster, *r.Episode); err != nil {
				return denied("BadReport", fmt.Errorf("report %d: %w", r.Seq, err))
			}
		}
	}
	return nil
}

func checkEpisode(cluster string, e api.Episode) error {
	id, err := api.ParseEpisodeID(e.ID)
	if err != nil {
		return err
	}
	if id.Cluster != cluster || e.Cluster != cluster {
		return fmt.Errorf("cluster %q sends episode %q of %q", cluster, e.ID, e.Cluster)
	}
	return nil
}

// ReplaceSnapshot replaces a cluster's present state by that of its agent, as after report seq.
// Do not acknowledge seq for it: the agent goes on with what its outbox holds behind Position.
// Of reports that the snapshot includes, only those of closed episodes are then taken.
// Episodes that were open and are not in the snapshot have ended; how, may come with those reports.
func (s *Store) ReplaceSnapshot(ctx context.Context, cluster, agentID string, seq uint64, state api.State) error {
	if !api.ValidName(cluster) || agentID == "" {
		return denied("BadReport", fmt.Errorf("cluster %q, agent %q: both need a name", cluster, agentID))
	}
	if err := checkState(cluster, state); err != nil {
		return denied("BadSnapshot", err)
	}
	return s.update(ctx, func(tx *boltfile.Tx) error {
		w, err := s.begin(tx, cluster)
		if err != nil {
			return err
		}
		if w.rec.AgentID != agentID {
			w.rec.AgentID, w.rec.Seq = agentID, 0
		}
		// A store that was put back from a copy counts on from where the copy was made.
		w.rec.Seq = min(w.rec.Seq, seq)
		w.rec.StateSeq = seq
		w.rec.Partial, w.rec.Whole = false, w.at
		if err := w.replace(state); err != nil {
			return err
		}
		return w.end()
	})
}

func checkState(cluster string, state api.State) error {
	if st := state.Status; st != nil && st.Cluster != cluster {
		return fmt.Errorf("the snapshot of cluster %q speaks for %q", cluster, st.Cluster)
	}
	for _, b := range state.Bundles {
		if b.Name == "" {
			return fmt.Errorf("the snapshot of cluster %q has a bundle without name", cluster)
		}
	}
	for _, e := range state.Episodes {
		if err := checkEpisode(cluster, e); err != nil {
			return err
		}
		if !e.Open() {
			return fmt.Errorf("the snapshot of cluster %q has episode %q, which is closed", cluster, e.ID)
		}
	}
	return nil
}

// writer is one transaction's view of one cluster.
type writer struct {
	*Store
	tx      *boltfile.Tx
	at      time.Time
	old     time.Time // what was before is dropped; see boltfile.Aging
	cluster string
	rec     record
	count   Counters
	heads   map[string]*head // changed; nil: dropped
	// others are the records of other clusters that gave way.
	others map[string]*record
}

func (s *Store) begin(tx *boltfile.Tx, cluster string) (*writer, error) {
	w := &writer{Store: s, tx: tx, at: s.now().UTC(), cluster: cluster, heads: map[string]*head{}, others: map[string]*record{}}
	known, err := tx.Bucket(bucketClusters).Load([]byte(cluster), &w.rec)
	if err != nil {
		return nil, err
	}
	if !known {
		w.rec.Joined = w.at
	}
	meta := tx.Bucket(bucketMeta)
	if _, err = meta.Load(keyCounters, &w.count); err != nil {
		return nil, err
	}
	w.old, err = boltfile.TooOld(meta, keyAging, w.at, s.limits.ClosedAge)
	return w, err
}

// end stores what follows from any change.
func (w *writer) end() error {
	if err := w.retain(); err != nil {
		return err
	}
	if err := w.tx.Bucket(bucketClusters).Save([]byte(w.cluster), w.rec); err != nil {
		return err
	}
	return w.publish()
}

// publish stores the counters, and has memory follow the disk.
func (w *writer) publish() error {
	if len(w.heads) > 0 {
		w.tx.OnCommit(func() { w.mem.apply(w.heads) })
	}
	for cluster, rec := range w.others {
		if err := w.tx.Bucket(bucketClusters).Save([]byte(cluster), rec); err != nil {
			return err
		}
	}
	return w.tx.Bucket(bucketMeta).Save(keyCounters, w.count)
}

// apply stores one report that is new.
func (w *writer) apply(r api.Report) error {
	if r.Compacted != nil {
		w.count.LostEpisodes = saturated(w.count.LostEpisodes, uint64(max(0, r.Compacted.Episodes)))
		return nil
	}
	if r.Seq <= w.rec.StateSeq {
		return w.applyPast(r)
	}
	switch {
	case r.Status != nil:
		return w.putStatus(*r.Status)
	case r.Bundle != nil:
		return w.putBundle(*r.Bundle)
	case r.RemovedBundle != "":
		return w.removeBundle(r.RemovedBundle, r.At)
	}
	return w.putEpisode(*r.Episode)
}

// applyPast takes from a report that is older than the present state only how an episode ended.
func (w *writer) applyPast(r api.Report) error {
	if r.Episode == nil || r.Episode.Open() ||
		w.tx.Bucket(bucketOpen).Has(clusterKey(w.cluster, r.Episode.ID)) {
		return nil
	}
	return w.putEpisode(*r.Episode)
}

func (w *writer) putStatus(st api.ClusterStatus) error {
	var old api.ClusterStatus
	if _, err := w.tx.Bucket(bucketStatus).Load([]byte(w.cluster), &old); err != nil {
		return err
	}
	if err := w.witness(old, st); err != nil {
		return err
	}
	return w.tx.Bucket(bucketStatus).Save([]byte(w.cluster), st)
}

func (w *writer) putBundle(b api.BundleStatus) error {
	bundles, key := w.tx.Bucket(bucketBundles), clusterKey(w.cluster, b.Name)
	var old api.BundleStatus
	before, err := bundles.Get(key)
	if err != nil {
		return err
	}
	u := w.rec.Usage
	if before != nil {
		if err := bundles.Decode(key, before, &old); err != nil {
			return err
		}
		u.Bundles, u.BundleBytes = u.Bundles-1, u.BundleBytes-int64(len(before))
	}
	data, err := w.fitBundle(b, u)
	if err != nil {
		return err
	}
	w.rec.Usage.Bundles, w.rec.Usage.BundleBytes = u.Bundles, u.BundleBytes
	if data == nil { // nothing is better than what is no longer so
		return bundles.Delete(key)
	}
	w.rec.Usage.Bundles++
	w.rec.Usage.BundleBytes += int64(len(data))
	if !b.Changed.IsZero() && !b.Changed.Equal(old.Changed) && news(b, old) {
		if err := w.remember(applied(w.cluster, b)); err != nil {
			return err
		}
	}
	return bundles.Put(key, data)
}

// news reports whether a pass did something, or failed in another way than the one before:
// what fails again and again must not drive everything else out of the history.
func news(b, old api.BundleStatus) bool {
	set := api.ChangeSet{Changes: b.Changes}
	return set.Count(api.Created, api.Updated, api.Recreated, api.Pruned) > 0 || b.ChangedRevision != old.ChangedRevision ||
		!slices.Equal(b.Changes, old.Changes)
}

// removeBundle forgets a bundle, but not that it was there.
func (w *writer) removeBundle(name string, at time.Time) error {
	bundles, key := w.tx.Bucket(bucketBundles), clusterKey(w.cluster, name)
	old, err := bundles.Get(key)
	if old == nil || err != nil {
		return err
	}
	w.rec.Usage.Bundles--
	w.rec.Usage.BundleBytes -= int64(len(old))
	var st api.ClusterStatus
	if _, err := w.tx.Bucket(bucketStatus).Load([]byte(w.cluster), &st); err != nil {
		return err
	}
	a := api.Applied{Cluster: w.cluster, Bundle: name, At: at, Revision: st.DesiredRevision, Removed: true}
	if err := w.remember(a); err != nil {
		return err
	}
	return bundles.Delete(key)
}

// replace makes the present state that of a snapshot. What goes makes room for what comes.
func (w *writer) replace(st api.State) error {
	old, err := readCluster(w.tx, w.cluster, readOpen)
	if err != nil {
		return err
	}
	if st.Status != nil {
		if err := w.putStatus(*st.Status); err != nil {
			return err
		}
	}
	keep, open := map[string]bool{}, map[string]bool{}
	for _, b := range st.Bundles {
		keep[b.Name] = true
	}
	for _, e := range st.Episodes {
		open[e.ID] = true
	}
	for _, b := range old.Bundles {
		if !keep[b.Name] {
			if err := w.removeBundle(b.Name, w.at); err != nil {
				return err
			}
		}
	}
	for _, e := range old.Open {
		if !open[e.ID] {
			if err := w.over(e); err != nil {
				return err
			}
		}
	}
	for _, b := range st.Bundles {
		if err := w.putBundle(b); err != nil {
			return err
		}
	}
	for _, e := range st.Episodes {
		if err := w.putEpisode(e); err != nil {
			return err
		}
	}
	return nil
}

// over ends an episode of which nobody has said how it ended.
func (w *writer) over(e api.Episode) error {
	e.Close(w.at)
	e.Outcome = api.OutcomeResolved
	if e.End.Before(e.Onset) {
		e.End = e.Onset
	}
	if len(e.Timeline) < api.MaxTimeline {
		e.Timeline = append(e.Timeline, api.Moment{At: w.at, What: "was over when the hub heard from the agent again"})
	}
	return w.putEpisode(e)
}

// Note keeps in mind what was not taken of a cluster's reports before they came to the store.
func (s *Store) Note(ctx context.Context, cluster string, omitted []intake.Omission) error {
	if len(omitted) == 0 {
		return nil
	}
	return s.update(ctx, func(tx *boltfile.Tx) error {
		w, err := s.begin(tx, cluster)
		if err != nil {
			return err
		}
		w.rec.Partial = true
		w.rec.LeftOut = intake.Sum(w.rec.LeftOut, w.at, omitted)
		return w.end()
	})
}
