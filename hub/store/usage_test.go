package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// recount counts what is kept of each cluster, and of the fleet.
func recount(t *testing.T, s *Store) (of map[string]Usage, fleet Usage) {
	t.Helper()
	of = map[string]Usage{}
	err := s.file.View(func(tx *boltfile.Tx) error {
		add := func(bucket string, count func(u *Usage, size int)) error {
			return tx.Bucket(bucket).Keys(nil, func(k []byte, size int) error {
				u := of[owner(k)]
				count(&u, size)
				of[owner(k)] = u
				return nil
			})
		}
		return errors.Join(
			add(bucketBundles, func(u *Usage, n int) { u.Bundles++; u.BundleBytes += int64(n) }),
			add(bucketHistory, func(u *Usage, n int) { u.HistoryBytes += int64(n) }),
			tx.Bucket(bucketEpisodes).Ascend(nil, func(k, v []byte) error {
				var e api.Episode
				if err := tx.Bucket(bucketEpisodes).Decode(k, v, &e); err != nil {
					return err
				}
				u := of[e.Cluster]
				h := headOf(e)
				switch {
				case e.Open():
					u.Open++
					u.OpenBytes += int64(len(v))
				case !tx.Bucket(bucketEnded).Has(endedKey(h)) || !tx.Bucket(bucketClosed).Has(closedKey(h.End, h.ID)):
					return fmt.Errorf("episode %s is not in both indexes", e.ID)
				default:
					u.Closed++
					u.ClosedBytes += int64(len(v))
				}
				of[e.Cluster] = u
				return nil
			}))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range of {
		fleet.Closed += u.Closed
		fleet.ClosedBytes += u.ClosedBytes
	}
	return of, fleet
}

// agree fails the test where what is counted is not what is kept.
func agree(t *testing.T, s *Store) (of map[string]Usage) {
	t.Helper()
	of, fleet := recount(t, s)
	for _, name := range clusterNames(t, s) {
		c, _, err := s.Cluster(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(of[name], c.Usage); diff != "" {
			t.Errorf("cluster %s: %s", name, diff)
		}
	}
	c, err := s.Counters(t.Context())
	if err != nil || c.ClosedEpisodes != fleet.Closed || c.ClosedBytes != fleet.ClosedBytes {
		t.Errorf("the fleet has %+v, and counts %+v, %v", fleet, c, err)
	}
	return of
}

func clusterNames(t *testing.T, s *Store) []string {
	t.Helper()
	names, err := s.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func open3(t *testing.T, limits Limits) *Store {
	t.Helper()
	s, err := Open(Config{Path: filepath.Join(t.TempDir(), "hub.db"), Now: func() time.Time { return start }, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func episodeOf(cluster string, n int, closed bool, pad int) api.Report {
	e := &api.Episode{
		ID: api.EpisodeID{Cluster: cluster, Store: "abcd", Seq: uint64(n)}.String(), Cluster: cluster, Bundle: "web", Count: 1,
		Onset: start.Add(time.Duration(n) * time.Second), Outcome: api.OutcomePending, Evidence: &api.Evidence{Live: strings.Repeat("x", pad)},
	}
	if closed {
		e.End, e.Outcome = e.Onset.Add(time.Second), api.OutcomeCorrected
	}
	return api.Report{Episode: e}
}

// Random reports of several clusters, snapshots, and clusters that are removed: what is counted is always what is kept,
// and within the limits.
func TestUsage_isWhatIsKept(t *testing.T) {
	limits := Limits{
		ClosedEpisodes: 60, ClosedBytes: 30_000, ClosedPerCluster: 40, ClosedBytesPerCluster: 20_000,
		BundlesPerCluster: 5, BundleBytesPerCluster: 3000, OpenPerCluster: 6, OpenBytesPerCluster: 4000, HistoryPerCluster: 7, HistoryBytesPerCluster: 2000,
	}
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		s := open3(t, limits)
		seq := map[string]uint64{}
		for range 150 {
			name := fmt.Sprint("c", rnd.IntN(4))
			var rs []api.Report
			for range 1 + rnd.IntN(5) {
				rs = append(rs, randomReport(rnd, name))
			}
			switch rnd.IntN(30) {
			case 0:
				if err := s.RemoveCluster(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				seq[name] = 0
			case 1:
				var st api.State
				for i := range 1 + rnd.IntN(12) {
					st.Bundles = append(st.Bundles, *bundleOf(rnd, i).Bundle)
					st.Episodes = append(st.Episodes, *episodeOf(name, 100+rnd.IntN(20), false, rnd.IntN(900)).Episode)
				}
				if err := s.ReplaceSnapshot(t.Context(), name, "a", seq[name], st); err != nil {
					t.Fatal(err)
				}
			default:
				for i := range rs {
					seq[name]++
					rs[i].Seq = seq[name]
				}
				if _, err := s.Apply(t.Context(), name, "a", rs); err != nil {
					t.Fatal(err)
				}
			}
			for name, u := range agree(t, s) {
				if u.Closed > limits.ClosedPerCluster || u.ClosedBytes > limits.ClosedBytesPerCluster || u.Bundles > limits.BundlesPerCluster ||
					u.BundleBytes > limits.BundleBytesPerCluster || u.Open > limits.OpenPerCluster || u.OpenBytes > limits.OpenBytesPerCluster ||
					u.HistoryBytes > limits.HistoryBytesPerCluster {
					t.Errorf("cluster %s has %+v", name, u)
				}
			}
			if c, err := s.Counters(t.Context()); err != nil || c.ClosedEpisodes > limits.ClosedEpisodes || c.ClosedBytes > limits.ClosedBytes {
				t.Errorf("the fleet has %+v, %v", c, err)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func bundleOf(rnd *rand.Rand, n int) api.Report {
	return api.Report{Bundle: &api.BundleStatus{
		Name: fmt.Sprint("b", n), Phase: api.PhaseReady, Changed: start.Add(time.Duration(rnd.IntN(9)) * time.Minute),
		ChangedRevision: fmt.Sprint("r", rnd.IntN(9)), Warnings: []string{strings.Repeat("w", rnd.IntN(900))},
	}}
}

func randomReport(rnd *rand.Rand, cluster string) api.Report {
	switch rnd.IntN(10) {
	case 0:
		return api.Report{RemovedBundle: fmt.Sprint("b", rnd.IntN(9))}
	case 1, 2, 3:
		return bundleOf(rnd, rnd.IntN(9))
	case 4:
		return api.Report{Status: &api.ClusterStatus{Cluster: cluster}}
	}
	return episodeOf(cluster, 1+rnd.IntN(200), rnd.IntN(3) > 0, rnd.IntN(900))
}

// Where the fleet has too many, who has most gives, whoever comes last; and it is told.
func TestRetain_whoHasMostGives(t *testing.T) {
	s := open3(t, Limits{ClosedEpisodes: 100})
	seq := map[string]uint64{}
	add := func(cluster string, n int) {
		for range n {
			seq[cluster]++
			r := episodeOf(cluster, int(seq[cluster]), true, 0)
			r.Seq = seq[cluster]
			if _, err := s.Apply(t.Context(), cluster, "a", []api.Report{r}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("small", 20)
	add("large", 200)
	add("small", 10)
	of := agree(t, s)
	if of["small"].Closed != 30 || of["large"].Closed < 65 || of["large"].Closed > 70 {
		t.Errorf("small has %d of 30 and large %d of 200, where 100 may be kept", of["small"].Closed, of["large"].Closed)
	}
	large, err := s.LeftOut(t.Context(), "large")
	if err != nil || large.Dropped == 0 || large.DroppedAt.IsZero() {
		t.Errorf("the cluster that gave is not told: %+v, %v", large, err)
	}
	if small, err := s.LeftOut(t.Context(), "small"); err != nil || small.Dropped != 0 {
		t.Errorf("the other is told: %+v, %v", small, err)
	}
}

// A store of the version before is counted when it is opened.
func TestMigration4(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	f, err := boltfile.Open(boltfile.Config{Path: path, Kind: "hub store", Migrations: []boltfile.Migration{initial(), history(), people()}})
	if err != nil {
		t.Fatal(err)
	}
	err = f.Update(func(tx *boltfile.Tx) error {
		var errs []error
		for i, closed := range []bool{false, true, true} {
			e := *episodeOf("eu", i+1, closed, 10).Episode
			h := headOf(e)
			errs = append(errs, tx.Bucket(bucketEpisodes).Save([]byte(e.ID), e), tx.Bucket(bucketHeads).Save([]byte(e.ID), map[string]any{
				"cl": h.Cluster, "b": h.Bundle, "o": h.Object, "s": h.Onset,
			}))
			if !closed {
				errs = append(errs, tx.Bucket(bucketOpen).Put(clusterKey("eu", e.ID), nil))
				continue
			}
			errs = append(errs, tx.Bucket(bucketClosed).Put(closedKey(h.End, e.ID), nil), tx.Bucket(bucketHeads).Save([]byte(e.ID), map[string]any{
				"cl": h.Cluster, "b": h.Bundle, "o": h.Object, "s": h.Onset, "e": h.End,
			}))
		}
		return errors.Join(append(errs,
			tx.Bucket(bucketBundles).Save(clusterKey("eu", "web"), api.BundleStatus{Name: "web", Phase: api.PhaseReady}),
			tx.Bucket(bucketHistory).Save(historyKey("eu", start, 1, "web"), api.Applied{Cluster: "eu", Bundle: "web"}),
			tx.Bucket(bucketClusters).Save([]byte("eu"), map[string]any{"agentID": "a", "joined": start, "seq": 9, "history": 1}),
			tx.Bucket(bucketMeta).Save(keyCounters, map[string]any{"closedEpisodes": 2, "droppedEpisodes": 7}))...)
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Path: path, Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if u := agree(t, s)["eu"]; u.Open != 1 || u.Closed != 2 || u.Bundles != 1 || u.HistoryBytes == 0 {
		t.Errorf("counted %+v", u)
	}
	if c, _, err := s.Cluster(t.Context(), "eu"); err != nil || c.Seq != 9 || c.AgentID != "a" {
		t.Errorf("%+v, %v", c, err)
	}
	r := episodeOf("eu", 1, true, 0)
	r.Seq = 10
	if _, err := s.Apply(t.Context(), "eu", "a", []api.Report{r}); err != nil {
		t.Fatal(err)
	}
	if u := agree(t, s)["eu"]; u.Open != 0 || u.Closed != 3 {
		t.Errorf("after the open one has ended: %+v", u)
	}
}

// The audit log of the version before is counted by actor when the store is opened.
func TestMigration5(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	f, err := boltfile.Open(boltfile.Config{Path: path, Kind: "hub store", Migrations: []boltfile.Migration{initial(), history(), people(), usage()}})
	if err != nil {
		t.Fatal(err)
	}
	err = f.Update(func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketAudit)
		var errs []error
		for i, actor := range []string{"ann", "bob", "bob", "bob", ""} {
			seq := uint64(i + 1)
			errs = append(errs, b.Save(binary.BigEndian.AppendUint64(nil, seq), AuditEntry{Seq: seq, At: start, Actor: actor, Action: "sync"}), b.SetSequence(seq))
		}
		return errors.Join(append(errs, tx.Bucket(bucketMeta).Save(keyCounters, map[string]any{"auditEntries": 5}))...)
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Path: path, Now: func() time.Time { return start }, Limits: Limits{AuditEntries: 100, AuditPerActor: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, actor := range []string{"bob", "ann"} {
		if err := s.Audit(t.Context(), AuditEntry{Actor: actor, Action: "sync"}); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	es, err := s.AuditLog(t.Context(), AuditFilter{})
	for _, e := range es {
		got = append(got, e.Seq)
	}
	if want := []uint64{7, 6, 5, 4, 1}; err != nil || !slices.Equal(got, want) {
		t.Errorf("entries %v, want %v: %v", got, want, err)
	}
	if gone, err := s.AuditDropped(t.Context()); err != nil || len(gone) != 1 || gone[0].Actor != "bob" || gone[0].Dropped != 2 {
		t.Errorf("dropped: %+v, %v", gone, err)
	}
}

// Writing that failed is believed to work again once nothing has failed for a while; what callers do wrong does not count.
func TestHealth(t *testing.T) {
	h := health{is: Health{Writable: true, Written: start}}
	full := fmt.Errorf("%w: x: no space left on device", ErrNotWritten)
	for i, step := range []struct {
		after    time.Duration
		err      error
		writable bool
		since    time.Duration
	}{
		{after: time.Second, writable: true},
		{after: 2 * time.Second, err: errors.New("of the caller"), writable: true},
		{after: 3 * time.Second, err: full, since: 3 * time.Second},
		{after: 4 * time.Second, since: 3 * time.Second},
		{after: 20 * time.Second, err: full, since: 3 * time.Second},
		{after: 49 * time.Second, since: 3 * time.Second},
		{after: 51 * time.Second, writable: true},
		{after: 60 * time.Second, err: fmt.Errorf("%w: x", ErrDamaged), since: 60 * time.Second},
	} {
		h.note(step.err, start.Add(step.after))
		if h.is.Writable != step.writable || !step.writable && !h.is.Since.Equal(start.Add(step.since)) {
			t.Errorf("step %d: %+v", i, h.is)
		}
		if !step.writable && errors.Is(step.err, full) && h.is.Cause() != "no space left on device" {
			t.Errorf("step %d: cause %q", i, h.is.Cause())
		}
	}
}
