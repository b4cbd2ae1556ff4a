package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func config(t testing.TB) store.Config {
	return store.Config{
		Path: filepath.Join(t.TempDir(), "hub.db"), Now: func() time.Time { return t0 }, LockTimeout: 50 * time.Millisecond,
	}
}

// open opens a store that is closed and checked when the test ends.
func open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		boltfiletest.Check(t, cfg.Path)
	})
	return s
}

// twice runs a check on a store, and again after it was closed and opened.
func twice(t *testing.T, cfg store.Config, s *store.Store, check func(t *testing.T, s *store.Store)) {
	t.Helper()
	t.Run("at once", func(t *testing.T) { check(t, s) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("reopened", func(t *testing.T) { check(t, open(t, cfg)) })
}

func status(cluster, revision string) api.Report {
	return api.Report{Status: &api.ClusterStatus{Cluster: cluster, DesiredRevision: revision}}
}

func bundle(name string, phase api.BundlePhase) api.Report {
	return api.Report{Bundle: &api.BundleStatus{Name: name, Phase: phase}}
}

func episode(cluster string, n int, change func(*api.Episode)) api.Report {
	e := &api.Episode{
		ID: api.EpisodeID{Cluster: cluster, Store: "abcd", Seq: uint64(n)}.String(), Cluster: cluster, Bundle: "web",
		Object: api.ObjectRef{Kind: "ConfigMap", Namespace: "web", Name: fmt.Sprint("x", n)},
		Class:  api.ClassChanged, Onset: t0.Add(time.Duration(n) * time.Minute), Count: 1, Outcome: api.OutcomePending,
		By:       api.Attribution{Manager: "kubectl-edit", Confidence: api.ConfidenceTool},
		Evidence: &api.Evidence{ResourceVersion: "1", Live: "{}"},
	}
	if change != nil {
		change(e)
	}
	return api.Report{Episode: e}
}

// refused is an episode whose correction failed.
func refused(e *api.Episode) {
	e.Outcome, e.Error, e.NextCorrection = api.OutcomeFailed, "no", e.Onset.Add(time.Hour)
}

func closed(e *api.Episode) { e.End, e.Outcome = e.Onset.Add(30*time.Second), api.OutcomeCorrected }

// numbered gives reports the numbers from first on.
func numbered(first uint64, rs ...api.Report) []api.Report {
	for i := range rs {
		rs[i].Seq = first + uint64(i)
	}
	return rs
}

func apply(t testing.TB, s *store.Store, cluster string, rs []api.Report) {
	t.Helper()
	if _, err := s.Apply(t.Context(), cluster, "agent-"+cluster, rs); err != nil {
		t.Fatal(err)
	}
}

func cluster(t testing.TB, s *store.Store, name string) store.Cluster {
	t.Helper()
	c, ok, err := s.Cluster(t.Context(), name)
	if err != nil || !ok {
		t.Fatalf("cluster %q: %v %v", name, ok, err)
	}
	return c
}

// sum shows a cluster in a line.
func sum(c store.Cluster) string {
	out := fmt.Sprintf("%s@%d", c.AgentID, c.Seq)
	if c.Status != nil {
		out += " " + c.Status.DesiredRevision
	}
	for _, b := range c.Bundles {
		out += fmt.Sprintf(" %s=%s", b.Name, b.Phase)
	}
	for _, e := range c.Open {
		out += " drift:" + e.Object.Name
	}
	return out
}

func TestApply_inOrderAndOnce(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	ctx := t.Context()
	first := numbered(1, status("eu", "r1"), bundle("web", api.PhaseReady), bundle("db", api.PhaseReady), episode("eu", 1, nil))
	const want = "agent-eu@4 r1 db=ready web=ready drift:x1"
	for range 3 {
		ack, err := s.Apply(ctx, "eu", "agent-eu", first)
		if err != nil || ack != 4 {
			t.Fatalf("ack %d, %v", ack, err)
		}
		if got := sum(cluster(t, s, "eu")); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	// One that was applied, with one that was not.
	second := append(first[3:], numbered(5, api.Report{RemovedBundle: "db"}, bundle("web", api.PhaseFailed), episode("eu", 1, closed))...)
	if ack, err := s.Apply(ctx, "eu", "agent-eu", second); err != nil || ack != 7 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	// An old one on its own changes nothing.
	if ack, err := s.Apply(ctx, "eu", "agent-eu", first[1:2]); err != nil || ack != 7 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	// A gap is told, and nothing behind or before it is stored.
	gap := append(numbered(8, status("eu", "r2")), numbered(10, status("eu", "r3"))...)
	if ack, err := s.Apply(ctx, "eu", "agent-eu", gap); !errors.Is(err, store.ErrNeedSnapshot) || ack != 7 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	// So is another agent's store.
	if ack, err := s.Apply(ctx, "eu", "another", numbered(1, status("eu", "r9"))); !errors.Is(err, store.ErrNeedSnapshot) || ack != 0 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		if got, want := sum(cluster(t, s, "eu")), "agent-eu@7 r1 web=failed"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		agent, seq, err := s.Position(t.Context(), "eu")
		if err != nil || agent != "agent-eu" || seq != 7 {
			t.Errorf("position %q %d %v", agent, seq, err)
		}
		if agent, seq, err := s.Position(t.Context(), "none"); err != nil || agent != "" || seq != 0 {
			t.Errorf("position of an unknown cluster %q %d %v", agent, seq, err)
		}
	})
}

// open2 opens a store that the test closes itself.
func open2(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApply_takesCompacted(t *testing.T) {
	s := open(t, config(t))
	apply(t, s, "eu", numbered(1, status("eu", "r1"), bundle("web", api.PhaseReady)))
	rs := []api.Report{
		{Seq: 9, From: 2, Compacted: &api.Compacted{From: 2, To: 9, Episodes: 3}},
		{Seq: 12, From: 10, Bundle: &api.BundleStatus{Name: "web", Phase: api.PhaseFailed}},
	}
	for range 2 {
		if ack, err := s.Apply(t.Context(), "eu", "agent-eu", rs); err != nil || ack != 12 {
			t.Fatalf("ack %d, %v", ack, err)
		}
	}
	if c, err := s.Counters(t.Context()); err != nil || c.LostEpisodes != 3 {
		t.Errorf("counters %+v, %v", c, err)
	}
}

func TestApply_refusesWhatSpeaksForOthers(t *testing.T) {
	s := open(t, config(t))
	apply(t, s, "prod-eu", numbered(1, episode("prod-eu", 1, nil)))
	for name, r := range map[string]api.Report{
		"status of another":              status("prod-eu", "r"),
		"episode of another":             episode("prod-eu", 2, nil),
		"ID of another":                  episode("prod-eu", 1, func(e *api.Episode) { e.Cluster = "prod" }),
		"ID that reads like another's":   episode("prod", 1, func(e *api.Episode) { e.ID = "prod-eu-abcd-9" }),
		"ID without a number":            episode("prod", 1, func(e *api.Episode) { e.ID = "prod-abcd-x" }),
		"nothing":                        {},
		"two things":                     {Status: &api.ClusterStatus{Cluster: "prod"}, RemovedBundle: "web"},
		"a bundle without name":          {Bundle: &api.BundleStatus{}},
		"compacted that ends elsewhere":  {Compacted: &api.Compacted{From: 1, To: 77}},
		"stands for those from the next": {From: 3, RemovedBundle: "web"},
	} {
		good := numbered(1, status("prod", "r1"))
		r.Seq = 2
		_, err := s.Apply(t.Context(), "prod", "agent-prod", append(good, r))
		if api.KindOf(err) != api.Forbidden {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, _, err := s.Cluster(t.Context(), "prod"); err != nil {
		t.Error(err)
	}
	if names, err := s.Clusters(t.Context()); err != nil || strings.Join(names, " ") != "prod-eu" {
		t.Errorf("part of a refused call was stored: clusters %v, %v", names, err)
	}
	for _, name := range []string{"", "Bad_Name"} {
		if _, err := s.Apply(t.Context(), name, "a", nil); api.KindOf(err) != api.Forbidden {
			t.Errorf("cluster %q: %v", name, err)
		}
	}
}

func TestReplaceSnapshot(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	ctx := t.Context()
	apply(t, s, "eu", numbered(1, status("eu", "r1"), bundle("old", api.PhaseReady), bundle("web", api.PhaseReady),
		episode("eu", 1, nil), episode("eu", 2, refused), episode("eu", 3, nil)))

	// The agent went on to report 20 meanwhile; 2 and 3 are over, 4 is new.
	state := api.State{
		Status:   status("eu", "r5").Status,
		Bundles:  []api.BundleStatus{*bundle("web", api.PhaseFailed).Bundle},
		Episodes: []api.Episode{*episode("eu", 1, nil).Episode, *episode("eu", 4, nil).Episode},
	}
	if err := s.ReplaceSnapshot(ctx, "eu", "agent-eu", 20, state); err != nil {
		t.Fatal(err)
	}
	// Its outbox still has some of the reports: those of the present are old, an end is news.
	rs := numbered(15, status("eu", "r4"), bundle("web", api.PhaseReady), episode("eu", 3, closed), episode("eu", 4, closed), episode("eu", 5, nil))
	if ack, err := s.Apply(ctx, "eu", "agent-eu", rs); err != nil || ack != 19 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	if ack, err := s.Apply(ctx, "eu", "agent-eu", numbered(20, bundle("web", api.PhaseReady), bundle("web", api.PhaseApplying))); err != nil || ack != 21 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		c := cluster(t, s, "eu")
		if got, want := sum(c), "agent-eu@21 r5 web=applying drift:x1 drift:x4"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		for n, want := range map[int]api.Outcome{2: api.OutcomeResolved, 3: api.OutcomeCorrected} {
			e, ok, err := s.Episode(t.Context(), fmt.Sprintf("eu-abcd-%d", n))
			if err != nil || !ok || e.Open() || e.Outcome != want || e.Error != "" || !e.NextCorrection.IsZero() {
				t.Errorf("episode %d: %v %v, outcome %s, end %v, error %q, next %v; want %s", n, ok, err, e.Outcome, e.End, e.Error, e.NextCorrection, want)
			}
		}
	})
}

func TestReplaceSnapshot_newAndRestoredAgent(t *testing.T) {
	s := open(t, config(t))
	ctx := t.Context()
	apply(t, s, "eu", numbered(1, status("eu", "r1"), bundle("web", api.PhaseReady), episode("eu", 1, nil)))
	state := api.State{Status: status("eu", "r2").Status}
	if err := s.ReplaceSnapshot(ctx, "eu", "another", 2, state); err != nil {
		t.Fatal(err)
	}
	if got, want := sum(cluster(t, s, "eu")), "another@0 r2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if ack, err := s.Apply(ctx, "eu", "another", numbered(1, status("eu", "r1"), status("eu", "r2"), status("eu", "r3"))); err != nil || ack != 3 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	// An agent whose disk was put back counts from an earlier number again.
	if err := s.ReplaceSnapshot(ctx, "eu", "another", 1, state); err != nil {
		t.Fatal(err)
	}
	if ack, err := s.Apply(ctx, "eu", "another", numbered(2, status("eu", "r7"))); err != nil || ack != 2 {
		t.Fatalf("ack %d, %v", ack, err)
	}
	if got, want := sum(cluster(t, s, "eu")), "another@2 r7"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for name, st := range map[string]api.State{
		"other cluster":  {Status: status("us", "r").Status},
		"closed":         {Episodes: []api.Episode{*episode("eu", 1, closed).Episode}},
		"foreign":        {Episodes: []api.Episode{*episode("us", 1, nil).Episode}},
		"without a name": {Bundles: []api.BundleStatus{{}}},
	} {
		if err := s.ReplaceSnapshot(ctx, "eu", "another", 9, st); api.KindOf(err) != api.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDrift_filtersAndPages(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	for _, c := range []string{"eu", "us"} {
		var rs []api.Report
		for n := 1; n <= 6; n++ {
			rs = append(rs, episode(c, n, func(e *api.Episode) {
				e.Object.Name = fmt.Sprint(c, n)
				if c == "us" {
					e.Onset = e.Onset.Add(time.Second)
				}
				if n%2 == 0 {
					closed(e)
				}
				if n == 3 {
					e.Class, e.Bundle = api.ClassMissing, "db"
				}
				if n == 4 {
					e.By = api.Attribution{Person: "ann"}
				}
				if n == 5 {
					e.Fields = []api.FieldDiff{{Path: "/x", By: api.Attribution{Manager: "hpa"}}}
				}
			}))
		}
		apply(t, s, c, numbered(1, rs...))
	}
	object := api.ObjectRef{Kind: "ConfigMap", Namespace: "web", Name: "us2"}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		for _, tt := range []struct {
			name  string
			f     store.DriftFilter
			want  string
			total int
		}{
			{"all", store.DriftFilter{}, "us6 eu6 us5 eu5 us4 eu4 us3 eu3 us2 eu2 us1 eu1", 12},
			{"second page", store.DriftFilter{Limit: 5, Offset: 5}, "eu4 us3 eu3 us2 eu2", 12},
			{"page behind the last", store.DriftFilter{Offset: 50}, "", 12},
			{"open", store.DriftFilter{State: store.OpenEpisode, Limit: 2}, "us5 eu5", 6},
			{"closed of a cluster", store.DriftFilter{State: store.ClosedEpisode, Cluster: "eu"}, "eu6 eu4 eu2", 3},
			{"bundle", store.DriftFilter{Bundle: "db"}, "us3 eu3", 2},
			{"class", store.DriftFilter{Class: api.ClassMissing, Cluster: "us"}, "us3", 1},
			{"manager of a field", store.DriftFilter{Manager: "hpa"}, "us5 eu5", 2},
			{"person", store.DriftFilter{Manager: "ann"}, "us4 eu4", 2},
			{"object", store.DriftFilter{Object: object.ID()}, "us2", 1},
			{"object in any group", store.DriftFilter{Object: "*/" + object.Kind + "/" + object.Namespace + "/" + object.Name}, "us2", 1},
			{"object of another name in any group", store.DriftFilter{Object: "*/" + object.Kind + "/" + object.Namespace + "/" + object.Name + "x"}, "", 0},
			{"since", store.DriftFilter{State: store.ClosedEpisode, Since: t0.Add(5 * time.Minute)}, "us6 eu6", 2},
		} {
			es, total, err := s.Drift(t.Context(), tt.f)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range es {
				got = append(got, e.Object.Name)
				if e.Evidence != nil {
					t.Errorf("%s: a list with evidence", tt.name)
				}
			}
			if strings.Join(got, " ") != tt.want || total != tt.total {
				t.Errorf("%s: %v of %d, want %q of %d", tt.name, got, total, tt.want, tt.total)
			}
		}
		if e, ok, err := s.Episode(t.Context(), "eu-abcd-1"); err != nil || !ok || e.Evidence == nil {
			t.Errorf("one episode: %v %v %v", ok, err, e)
		}
		if _, ok, err := s.Episode(t.Context(), "nonsense"); err != nil || ok {
			t.Errorf("no episode: %v %v", ok, err)
		}
	})
}

func TestRetention(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now = func() time.Time { return now }
	cfg.Limits = store.Limits{ClosedEpisodes: 4, ClosedAge: time.Hour}
	s := open2(t, cfg)
	for _, c := range []string{"eu", "us"} {
		rs := []api.Report{episode(c, 9, nil)}
		for n := 1; n <= 4; n++ {
			rs = append(rs, episode(c, n, closed))
		}
		apply(t, s, c, numbered(1, rs...))
	}
	now = t0.Add(1000 * time.Hour) // a clock that leaps is not believed at once
	apply(t, s, "us", numbered(6, status("us", "r1")))
	now = t0.Add(time.Hour + 3*time.Minute)
	apply(t, s, "us", numbered(7, status("us", "r2")))
	if _, total, err := s.Drift(t.Context(), store.DriftFilter{}); err != nil || total != 6 {
		t.Errorf("after the clock leapt %d are left, %v", total, err)
	}
	now = t0.Add(time.Hour + 4*time.Minute)
	apply(t, s, "us", numbered(8, status("us", "r3")))
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		es, total, err := s.Drift(t.Context(), store.DriftFilter{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range es {
			got = append(got, e.ID)
		}
		// By count 3 and 4 of both were left, by age 4.
		if want := "us-abcd-9 eu-abcd-9 us-abcd-4 eu-abcd-4"; strings.Join(got, " ") != want || total != 4 {
			t.Errorf("left %v of %d, want %s", got, total, want)
		}
		if c, err := s.Counters(t.Context()); err != nil || c.ClosedEpisodes != 2 || c.DroppedEpisodes != 6 {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
}

func TestClusters_addSeenRemove(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	ctx := t.Context()
	for _, c := range []string{"prod", "prod-eu", "new"} {
		if err := s.AddCluster(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, s, "prod", numbered(1, status("prod", "r1"), bundle("web", api.PhaseReady), episode("prod", 1, nil), episode("prod", 2, closed)))
	apply(t, s, "prod-eu", numbered(1, status("prod-eu", "r1"), bundle("web", api.PhaseReady), episode("prod-eu", 1, nil), episode("prod-eu", 2, closed)))
	if err := s.AddCluster(ctx, "prod-eu"); err != nil {
		t.Fatal(err)
	}
	if err := s.AddCluster(ctx, "No Name"); api.KindOf(err) != api.Forbidden {
		t.Errorf("a bad name: %v", err)
	}
	later := t0.Add(-time.Minute)
	for _, at := range []time.Time{t0.Add(time.Hour), later, t0.Add(-time.Hour)} { // the first was of a clock that was wrong
		if err := s.Seen(ctx, map[string]time.Time{"prod-eu": at, "new": t0, "nobody": t0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveCluster(ctx, "prod"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveCluster(ctx, "nobody"); err != nil {
		t.Fatal(err)
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		names, err := s.Clusters(t.Context())
		if err != nil || strings.Join(names, " ") != "new prod-eu" {
			t.Errorf("clusters %v, %v", names, err)
		}
		c := cluster(t, s, "prod-eu")
		if got, want := sum(c), "agent-prod-eu@4 r1 web=ready drift:x1"; got != want || !c.LastSeen.Equal(later) || !c.Joined.Equal(t0) {
			t.Errorf("%q seen %v joined %v, want %q", got, c.LastSeen, c.Joined, want)
		}
		if c := cluster(t, s, "new"); c.Status != nil || c.AgentID != "" || !c.LastSeen.Equal(t0) {
			t.Errorf("new cluster %+v", c)
		}
		if _, ok, err := s.Cluster(t.Context(), "prod"); ok || err != nil {
			t.Errorf("removed cluster is there: %v", err)
		}
		es, total, err := s.Drift(t.Context(), store.DriftFilter{})
		if err != nil || total != 2 || len(es) != 2 {
			t.Errorf("%d of %d episodes left, %v", len(es), total, err)
		}
		if c, err := s.Counters(t.Context()); err != nil || c.ClosedEpisodes != 1 {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
}

func TestJoinTokens(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	ctx := t.Context()
	const secret, other = "0123456789abcdef", "fedcba9876543210"
	tok, err := s.CreateJoinToken(ctx, store.JoinToken{Cluster: "eu", Created: t0, Expires: t0.Add(time.Hour), MaxUses: 2}, secret)
	if err != nil || tok.ID == "" {
		t.Fatalf("token %+v, %v", tok, err)
	}
	if _, err := s.CreateJoinToken(ctx, store.JoinToken{Created: t0.Add(1), Expires: t0.Add(time.Minute)}, other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateJoinToken(ctx, store.JoinToken{Expires: t0}, "short"); err == nil {
		t.Error("a short token is accepted")
	}
	if _, err := s.CreateJoinToken(ctx, store.JoinToken{}, secret+"x"); err == nil {
		t.Error("a token without an end is accepted")
	}
	for _, tt := range []struct {
		name, secret, cluster string
		at                    time.Time
		want                  error
	}{
		{"unknown", "0123456789abcdeX", "eu", t0, store.ErrTokenUnknown},
		{"empty", "", "eu", t0, store.ErrTokenUnknown},
		{"other cluster", secret, "us", t0, store.ErrTokenCluster},
		{"at its end", secret, "eu", t0.Add(time.Hour), store.ErrTokenExpired},
		{"first use", secret, "eu", t0, nil},
		{"any cluster", other, "us", t0, nil},
		{"second use", secret, "eu", t0, nil},
		{"third use", secret, "eu", t0, store.ErrTokenUsed},
		{"any number of times", other, "asia", t0, nil},
	} {
		_, check := s.CheckJoinToken(ctx, tt.secret, tt.cluster, tt.at)
		got, use := s.UseJoinToken(ctx, tt.secret, tt.cluster, tt.at)
		for _, err := range []error{check, use} {
			if !errors.Is(err, tt.want) || tt.want != nil && api.KindOf(err) != api.Forbidden {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
		}
		if use != nil && got != (store.JoinToken{}) {
			t.Errorf("%s: a refused token is shown: %+v", tt.name, got)
		}
	}
	file, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte(secret)) || bytes.Contains(file, []byte(other)) {
		t.Error("a token is in the file")
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		all, err := s.JoinTokens(t.Context())
		if err != nil || len(all) != 2 || all[0].Uses != 2 || all[1].Uses != 2 || all[0].ID != tok.ID {
			t.Errorf("tokens %+v, %v", all, err)
		}
	})
	s = open2(t, cfg)
	for _, want := range []bool{true, false} {
		if found, err := s.DeleteJoinToken(ctx, tok.ID); err != nil || found != want {
			t.Errorf("delete: %v %v, want %v", found, err, want)
		}
	}
	if _, err := s.UseJoinToken(ctx, secret, "eu", t0); !errors.Is(err, store.ErrTokenUnknown) {
		t.Errorf("a deleted token: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A token for one use is used once, however many ask at the same time.
func TestUseJoinToken_race(t *testing.T) {
	s := open(t, config(t))
	const secret = "0123456789abcdef"
	if _, err := s.CreateJoinToken(t.Context(), store.JoinToken{Expires: t0.Add(time.Hour), MaxUses: 1}, secret); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	used := 0
	for range 20 {
		wg.Go(func() {
			_, err := s.UseJoinToken(t.Context(), secret, "eu", t0)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				used++
			} else if !errors.Is(err, store.ErrTokenUsed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if used != 1 {
		t.Errorf("used %d times", used)
	}
}

func TestCertificates(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now = func() time.Time { return now }
	s := open2(t, cfg)
	ctx := t.Context()
	add := func(serial, cluster string, end time.Time) {
		t.Helper()
		err := s.AddCertificate(ctx, store.Certificate{Serial: serial, Cluster: cluster, AgentID: "a", NotBefore: end.Add(-time.Hour), NotAfter: end})
		if err != nil {
			t.Fatal(err)
		}
	}
	add("01", "eu", t0.Add(time.Hour))
	add("02", "eu", t0.Add(2*time.Hour))
	add("03", "us", t0.Add(time.Hour))
	if err := s.AddCertificate(ctx, store.Certificate{Serial: "01", Cluster: "us"}); err == nil {
		t.Error("a serial was issued twice")
	}
	if err := s.RevokeCertificate(ctx, "01", t0, "lost"); err != nil {
		t.Fatal(err)
	}
	if err := s.RevokeCertificate(ctx, "99", t0, "lost"); !errors.Is(err, store.ErrNoCertificate) {
		t.Errorf("revoked what was never issued: %v", err)
	}
	if n, err := s.RevokeCluster(ctx, "eu", t0.Add(time.Minute), "gone"); err != nil || n != 2 {
		t.Errorf("revoked %d, %v", n, err)
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		for serial, want := range map[string]string{"01": "lost", "02": "gone", "03": ""} {
			c, ok, err := s.Certificate(t.Context(), serial)
			if err != nil || !ok || c.Reason != want || c.Revoked.IsZero() != (want == "") {
				t.Errorf("certificate %s: %+v %v %v", serial, c, ok, err)
			}
		}
		if _, ok, err := s.Certificate(t.Context(), "99"); ok || err != nil {
			t.Errorf("certificate that was never issued: %v", err)
		}
		if cs, err := s.Certificates(t.Context(), "eu"); err != nil || len(cs) != 2 || cs[0].Serial != "01" {
			t.Errorf("certificates %+v, %v", cs, err)
		}
	})
	s = open2(t, cfg)
	now = t0.Add(30*24*time.Hour + 90*time.Minute)
	add("04", "us", now.Add(time.Hour))
	if cs, err := s.Certificates(ctx, ""); err != nil || len(cs) != 2 || cs[0].Serial != "02" {
		t.Errorf("after a month %+v, %v", cs, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAudit(t *testing.T) {
	cfg := config(t)
	cfg.Limits.AuditEntries, cfg.Limits.AuditPerActor = 5, 5
	s := open2(t, cfg)
	for i := range 8 {
		e := store.AuditEntry{Actor: "ann", Action: "suspend", Cluster: []string{"eu", "us"}[i%2], Result: "ok"}
		if i == 7 {
			e.Actor, e.At = "bob", t0.Add(time.Hour)
		}
		if err := s.Audit(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		for _, tt := range []struct {
			f    store.AuditFilter
			want []uint64
		}{
			{store.AuditFilter{}, []uint64{8, 7, 6, 5, 4}},
			{store.AuditFilter{Limit: 2}, []uint64{8, 7}},
			{store.AuditFilter{Limit: 2, Before: 7}, []uint64{6, 5}},
			{store.AuditFilter{Cluster: "eu"}, []uint64{7, 5}},
			{store.AuditFilter{Actor: "bob"}, []uint64{8}},
			{store.AuditFilter{Action: "join"}, nil},
		} {
			es, err := s.AuditLog(t.Context(), tt.f)
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			for _, e := range es {
				got = append(got, e.Seq)
				if e.At.IsZero() {
					t.Errorf("entry %d has no time", e.Seq)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("%+v (-want +got):\n%s", tt.f, d)
			}
		}
		if c, err := s.Counters(t.Context()); err != nil || c.AuditEntries != 5 || c.DroppedEntries != 3 {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
}

func TestCA(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	if cert, key, err := s.CA(t.Context()); cert != nil || key != nil || err != nil {
		t.Errorf("a CA before it was set: %q %q %v", cert, key, err)
	}
	if err := s.SetCA(t.Context(), []byte("cert"), []byte("key")); err != nil {
		t.Fatal(err)
	}
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		cert, key, err := s.CA(t.Context())
		if err != nil || string(cert) != "cert" || string(key) != "key" {
			t.Errorf("%q %q %v", cert, key, err)
		}
	})
	info, err := os.Stat(cfg.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the key has mode %v, %v", info.Mode(), err)
	}
}

func TestStore_endedContext(t *testing.T) {
	s := open(t, config(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ctx, "eu", "a", numbered(1, status("eu", "r"))); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v", err)
	}
	if _, err := s.Clusters(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("clusters: %v", err)
	}
}

func TestOpen_lockedAndDamaged(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	if _, err := store.Open(cfg); !errors.Is(err, store.ErrLocked) {
		t.Errorf("second process: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Path, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(cfg); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("damaged: %v", err)
	}
}

func TestAudit_isBounded(t *testing.T) {
	s := open(t, config(t))
	long := strings.Repeat("ä", 1<<20)
	e := store.AuditEntry{Actor: long, Remote: long, Action: long, Cluster: long, Name: long, Scope: long, Reason: long, Result: long}
	if err := s.Audit(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	log, err := s.AuditLog(t.Context(), store.AuditFilter{})
	if err != nil || len(log) != 1 {
		t.Fatal(len(log), err)
	}
	got := log[0]
	for _, text := range []string{got.Actor, got.Remote, got.Action, got.Cluster, got.Name, got.Scope, got.Reason, got.Result} {
		if len(text) > 1100 || !strings.HasSuffix(text, "(2097152 bytes)") {
			t.Errorf("a text of %d bytes is kept, ending in %q", len(text), text[len(text)-20:])
		}
	}
}
