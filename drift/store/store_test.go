package store_test

import (
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
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

// clock is a time that tests move by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	return c.t
}

func config(t testing.TB) store.Config {
	return store.Config{
		Path: filepath.Join(t.TempDir(), "agent.db"), Cluster: "prod-eu", Now: newClock().now,
		LockTimeout: 50 * time.Millisecond,
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

func commit(t testing.TB, s *store.Store, b store.Batch) {
	t.Helper()
	if err := s.Commit(b); err != nil {
		t.Fatal(err)
	}
}

// must unwraps a result in tests.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func episode(s *store.Store, name string, onset time.Time) api.Episode {
	return api.Episode{
		ID: s.NextEpisodeID(), Cluster: "prod-eu", Bundle: "web",
		Object: api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "web", Name: name},
		Class:  api.ClassChanged, Onset: onset, LastSeen: onset, Count: 1, Outcome: api.OutcomePending,
		By:     api.Attribution{Manager: "kubectl-edit", Confidence: api.ConfidenceTool},
		Fields: []api.FieldDiff{{Path: "/spec/replicas", Class: api.ClassChanged, Desired: "2", Live: "3"}},
	}
}

func bundle(name string, phase api.BundlePhase) api.BundleRecord {
	return api.BundleRecord{
		Status: api.BundleStatus{Name: name, Phase: phase, Objects: 1},
		Inventory: []api.InventoryEntry{
			{Object: api.ObjectRef{Kind: "ConfigMap", Namespace: name, Name: "x"}, UID: "u", Generation: 3},
		},
	}
}

func status(revision string) *api.ClusterStatus {
	return &api.ClusterStatus{Cluster: "prod-eu", DesiredRevision: revision}
}

// kinds shows reports in one line: number, what they are about.
func kinds(rs []api.Report) string {
	var out []string
	for _, r := range rs {
		s := fmt.Sprint(r.Seq)
		if r.From != 0 {
			s += fmt.Sprintf("(from %d)", r.From)
		}
		switch {
		case r.Status != nil:
			s += " status " + r.Status.DesiredRevision
		case r.Bundle != nil:
			s += " " + r.Bundle.Name + " " + string(r.Bundle.Phase)
		case r.RemovedBundle != "":
			s += " removed " + r.RemovedBundle
		case r.Episode != nil:
			s += " " + r.Episode.Object.Name + " " + string(r.Episode.Outcome)
		case r.Compacted != nil:
			s += fmt.Sprintf(" compacted %d-%d lost %d", r.Compacted.From, r.Compacted.To, r.Compacted.Episodes)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func TestCommit_storesAndReports(t *testing.T) {
	cfg := config(t)
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	at := cfg.Now()
	e := episode(s, "app", at)
	commit(t, s, store.Batch{
		Status: status("r1"), Bundles: []api.BundleRecord{bundle("web", api.PhaseReady), bundle("db", api.PhaseApplying)},
		Episodes: []api.Episode{e},
	})
	agent := s.AgentID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, cfg)
	if s.AgentID() != agent || len(agent) < 20 {
		t.Errorf("agent ID %q became %q", agent, s.AgentID())
	}
	if st, ok, err := s.Status(); err != nil || !ok || st.DesiredRevision != "r1" {
		t.Errorf("status %v %v %v", st, ok, err)
	}
	want := []api.BundleRecord{bundle("db", api.PhaseApplying), bundle("web", api.PhaseReady)}
	if d := cmp.Diff(want, must[[]api.BundleRecord](t)(s.Bundles())); d != "" {
		t.Errorf("bundles (-want +got):\n%s", d)
	}
	if r, ok, err := s.Bundle("web"); err != nil || !ok || len(r.Inventory) != 1 {
		t.Errorf("bundle %v %v %v", r, ok, err)
	}
	if _, ok, err := s.Bundle("none"); err != nil || ok {
		t.Errorf("bundle that is not there: %v %v", ok, err)
	}
	got, ok, err := s.Episode(e.ID)
	if err != nil || !ok {
		t.Fatalf("episode %v %v", ok, err)
	}
	if d := cmp.Diff(e, got); d != "" {
		t.Errorf("episode (-want +got):\n%s", d)
	}
	rs := must[[]api.Report](t)(s.Outbox(0, 0))
	if got, want := kinds(rs), "1 status r1, 2 web ready, 3 db applying, 4 app pending"; got != want {
		t.Errorf("outbox %q, want %q", got, want)
	}
	for _, r := range rs {
		if err := r.Validate(); err != nil || !r.At.Equal(at) {
			t.Errorf("report %d: %v at %v", r.Seq, err, r.At)
		}
	}
}

func TestCommit_reportsOnlyNews(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	at := cfg.Now()
	e := episode(s, "app", at)
	all := func() store.Batch {
		return store.Batch{Status: status("r1"), Bundles: []api.BundleRecord{bundle("web", api.PhaseReady)}, Episodes: []api.Episode{e}}
	}
	commit(t, s, all())
	last := func() uint64 { return must[store.Counters](t)(s.Counters()).Last }
	if last() != 3 {
		t.Fatalf("last report %d, want 3", last())
	}
	info := must[os.FileInfo](t)(os.Stat(cfg.Path))
	commit(t, s, all())
	if now := must[os.FileInfo](t)(os.Stat(cfg.Path)); !now.ModTime().Equal(info.ModTime()) {
		t.Errorf("storing the same again wrote to the file")
	}

	// Bookkeeping, another time zone for the same time, and the inventory are kept, but are no news.
	b := all()
	later := at.Add(time.Minute)
	b.Status.Fetched, b.Bundles[0].Status.Updated = later, later
	b.Bundles[0].Inventory[0].ResourceVersion = "77"
	b.Episodes[0].LastSeen = later
	b.Episodes[0].Onset = at.In(time.FixedZone("x", 3600))
	commit(t, s, b)
	if last() != 3 {
		t.Errorf("bookkeeping was reported: %s", kinds(must[[]api.Report](t)(s.Outbox(3, 0))))
	}
	r, _, _ := s.Bundle("web")
	got, _, _ := s.Episode(e.ID)
	st, _, _ := s.Status()
	if r.Inventory[0].ResourceVersion != "77" || !r.Status.Updated.Equal(later) || !got.LastSeen.Equal(later) || !st.Fetched.Equal(later) {
		t.Errorf("bookkeeping was not stored: %v %v %v", r, got, st)
	}

	b.Status.DesiredRevision = "r2"
	b.Bundles[0].Status.Phase = api.PhaseFailed
	b.Episodes[0].Outcome = api.OutcomeCorrected
	commit(t, s, b)
	if got, want := kinds(must[[]api.Report](t)(s.Outbox(3, 0))), "4 status r2, 5 web failed, 6 app corrected"; got != want {
		t.Errorf("outbox %q, want %q", got, want)
	}
	for range 2 {
		commit(t, s, store.Batch{RemovedBundles: []string{"web", "never-there"}})
	}
	if got, want := kinds(must[[]api.Report](t)(s.Outbox(6, 0))), "7 removed web"; got != want {
		t.Errorf("outbox %q, want %q", got, want)
	}
	if r, ok, _ := s.Bundle("web"); ok || r.Inventory != nil {
		t.Errorf("removed bundle is still there: %v", r)
	}
}

func TestCommit_refusesAsAWhole(t *testing.T) {
	s := open(t, config(t))
	foreign := episode(s, "app", time.Now())
	foreign.ID = "prod-us-abcd-1"
	otherStore := episode(s, "app", time.Now())
	otherStore.ID = "prod-eu-zzzz-1"
	for name, b := range map[string]store.Batch{
		"other cluster":        {Status: &api.ClusterStatus{Cluster: "prod-us"}},
		"foreign episode":      {Episodes: []api.Episode{foreign}},
		"other store":          {Episodes: []api.Episode{otherStore}},
		"bundle without name":  {Bundles: []api.BundleRecord{{}}},
		"twice":                {Bundles: []api.BundleRecord{bundle("web", ""), bundle("web", "")}},
		"stored and removed":   {Bundles: []api.BundleRecord{bundle("web", "")}, RemovedBundles: []string{"web"}},
		"removed without name": {RemovedBundles: []string{""}},
	} {
		b.Bundles = append(b.Bundles, bundle("innocent", api.PhaseReady))
		if err := s.Commit(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := must[[]api.BundleRecord](t)(s.Bundles()); len(got) != 0 {
		t.Errorf("part of a refused batch was stored: %v", got)
	}
}

func TestOpen_lockForeignAndDamage(t *testing.T) {
	cfg := config(t)
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, store.Batch{Bundles: []api.BundleRecord{bundle("web", api.PhaseReady)}})
	first, tag := s.AgentID(), s.NextEpisodeID()
	if _, err := store.Open(cfg); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("second process: %v", err)
	}
	if _, aside, err := store.OpenOrReplace(cfg, time.Now()); !errors.Is(err, store.ErrLocked) || aside != "" {
		t.Errorf("a store in use was replaced: %q %v", aside, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Cluster = "prod-us"
	if _, err := store.Open(other); !errors.Is(err, store.ErrForeign) || !strings.Contains(err.Error(), `"prod-eu"`) {
		t.Errorf("store of another cluster: %v", err)
	}

	// One value changed by one bit, behind bbolt's back.
	data := must[[]byte](t)(os.ReadFile(cfg.Path))
	i := strings.LastIndex(string(data), `"phase":"ready"`)
	if i < 0 {
		t.Fatal("the value is not in the file")
	}
	for at := strings.Index(string(data), `"phase":"ready"`); at >= 0 && at <= i; {
		data[at+10] ^= 1
		next := strings.Index(string(data[at:]), `"phase":"ready"`)
		if next < 0 {
			break
		}
		at += next
	}
	if err := os.WriteFile(cfg.Path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(cfg); !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("a changed value: %v", err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, aside, err := store.OpenOrReplace(cfg, at)
	if err != nil || aside != cfg.Path+".damaged-20260102T030405Z" {
		t.Fatalf("aside %q, %v", aside, err)
	}
	defer s.Close()
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
	if s.AgentID() == first || s.NextEpisodeID() == tag {
		t.Errorf("a new store gives the IDs of the old: %q, %q", first, tag)
	}
	if got := must[[]api.BundleRecord](t)(s.Bundles()); len(got) != 0 {
		t.Errorf("a new store has %v", got)
	}
}

func TestNextEpisodeID_neverTwice(t *testing.T) {
	cfg := config(t)
	cfg.Limits.ClosedEpisodes = 1
	seen := map[string]bool{}
	for range 3 {
		s, err := store.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			e := episode(s, "app", cfg.Now())
			if seen[e.ID] {
				t.Fatalf("%s was given twice", e.ID)
			}
			seen[e.ID] = true
			e.End = cfg.Now()
			commit(t, s, store.Batch{Episodes: []api.Episode{e}})
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEpisodes_filtersAndPages(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	t0 := cfg.Now()
	names := map[string]string{}
	for i := range 12 {
		e := episode(s, fmt.Sprintf("app-%d", i%3), t0.Add(time.Duration(i)*time.Minute))
		if i%2 == 0 {
			e.End = e.Onset.Add(30 * time.Second)
		}
		if i >= 6 {
			e.Bundle = "db"
		}
		if i == 4 {
			e.Class = api.ClassMissing
			e.By = api.Attribution{Person: "ann", Confidence: api.ConfidencePerson}
		}
		if i == 5 {
			e.Fields = append(e.Fields, api.FieldDiff{Path: "/x", By: api.Attribution{Manager: "hpa"}})
		}
		names[e.ID] = fmt.Sprint(i)
		commit(t, s, store.Batch{Episodes: []api.Episode{e}})
	}
	list := func(f store.Filter) string {
		var out []string
		for {
			es := must[[]api.Episode](t)(s.Episodes(f))
			for _, e := range es {
				out = append(out, names[e.ID])
				f.After = e.ID
			}
			if len(es) < max(f.Limit, 1) {
				return strings.Join(out, " ")
			}
			if f.Limit == 0 {
				return strings.Join(out, " ")
			}
		}
	}
	object := api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "web", Name: "app-1"}
	for _, tt := range []struct {
		name string
		f    store.Filter
		want string
	}{
		{"all", store.Filter{}, "11 10 9 8 7 6 5 4 3 2 1 0"},
		{"pages", store.Filter{Limit: 5}, "11 10 9 8 7 6 5 4 3 2 1 0"},
		{"open", store.Filter{State: store.OpenEpisode}, "11 9 7 5 3 1"},
		{"closed", store.Filter{State: store.ClosedEpisode}, "10 8 6 4 2 0"},
		{"bundle, pages", store.Filter{Bundle: "db", Limit: 2}, "11 10 9 8 7 6"},
		{"object", store.Filter{Object: object.ID()}, "10 7 4 1"},
		{"class", store.Filter{Class: api.ClassMissing}, "4"},
		{"person", store.Filter{Manager: "ann"}, "4"},
		{"manager of a field", store.Filter{Manager: "hpa"}, "5"},
		{"since", store.Filter{Since: t0.Add(8*time.Minute + 30*time.Second)}, "11 10 9 8 7 5 3 1"},
		{"nothing", store.Filter{Bundle: "none"}, ""},
	} {
		if got := list(tt.f); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := s.Episodes(store.Filter{After: "nonsense"}); err == nil {
		t.Error("a bad cursor is no error")
	}
	e, ok, err := s.LatestEpisode(object.ID())
	if err != nil || !ok || names[e.ID] != "10" {
		t.Errorf("latest of %s: %v %v %v", object, names[e.ID], ok, err)
	}
	// A name that another begins with is another object.
	object.Name = "app"
	if e, ok, err := s.LatestEpisode(object.ID()); err != nil || ok {
		t.Errorf("latest of %s: %v %v %v", object, e, ok, err)
	}
	var open []string
	for _, e := range must[[]api.Episode](t)(s.OpenEpisodes()) {
		open = append(open, names[e.ID])
	}
	if got := strings.Join(open, " "); got != "1 3 5 7 9 11" {
		t.Errorf("open %q", got)
	}
	// A closed episode begins again.
	e, _, _ = s.Episode(e.ID)
	e.End, e.Count = time.Time{}, 2
	commit(t, s, store.Batch{Episodes: []api.Episode{e}})
	if got := list(store.Filter{State: store.ClosedEpisode}); got != "8 6 4 2 0" {
		t.Errorf("closed after one began again: %q", got)
	}
}

func TestRetention_dropsWhatEndedFirst(t *testing.T) {
	c := newClock()
	cfg := config(t)
	cfg.Now = c.now
	cfg.Limits = store.Limits{ClosedEpisodes: 5, ClosedAge: 24 * time.Hour}
	s := open(t, cfg)
	stays := episode(s, "open", c.now())
	commit(t, s, store.Batch{Episodes: []api.Episode{stays}})
	var es []api.Episode
	for i := range 8 {
		e := episode(s, fmt.Sprintf("app-%d", i), c.now())
		// The younger they are, the earlier they ended.
		e.End = c.now().Add(-time.Duration(i) * time.Minute)
		es = append(es, e)
	}
	commit(t, s, store.Batch{Episodes: es})
	left := func() string {
		var out []string
		for _, e := range must[[]api.Episode](t)(s.Episodes(store.Filter{})) {
			out = append(out, e.Object.Name)
		}
		return strings.Join(out, " ")
	}
	if got, want := left(), "app-4 app-3 app-2 app-1 app-0 open"; got != want {
		t.Errorf("left %q, want %q", got, want)
	}
	if _, ok, err := s.LatestEpisode(es[7].Object.ID()); ok || err != nil {
		t.Errorf("a dropped episode is still its object's latest: %v", err)
	}
	// A clock that leaps may be wrong, and what is dropped is lost: it is believed once time goes on from there.
	c.add(23*time.Hour + 43*time.Minute + time.Second)
	c.add(30 * 24 * time.Hour)
	commit(t, s, store.Batch{Status: status("r1")})
	c.add(-30 * 24 * time.Hour)
	commit(t, s, store.Batch{Status: status("r2")})
	if got, want := left(), "app-4 app-3 app-2 app-1 app-0 open"; got != want {
		t.Errorf("left after the clock leapt %q, want %q", got, want)
	}
	c.add(15 * time.Minute)
	commit(t, s, store.Batch{Status: status("r3")})
	if got, want := left(), "app-1 app-0 open"; got != want {
		t.Errorf("left after a day %q, want %q", got, want)
	}
	n := must[store.Counters](t)(s.Counters())
	if n.DroppedEpisodes != 6 || n.ClosedEpisodes != 2 {
		t.Errorf("counters %+v", n)
	}
}

func TestSnapshot(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	empty, seq, err := s.Checksum()
	if err != nil || seq != 0 || empty != (api.State{}).Checksum() {
		t.Errorf("checksum of nothing %q at %d, %v", empty, seq, err)
	}
	open, closed := episode(s, "open", cfg.Now()), episode(s, "closed", cfg.Now())
	closed.End = cfg.Now()
	commit(t, s, store.Batch{
		Status: status("r1"), Bundles: []api.BundleRecord{bundle("web", api.PhaseReady)}, Episodes: []api.Episode{open, closed},
	})
	if err := s.Ack(2); err != nil {
		t.Fatal(err)
	}
	got := must[store.Snapshot](t)(s.Snapshot())
	want := store.Snapshot{Seq: 4, Acked: 2, State: api.State{
		Status: status("r1"), Bundles: []api.BundleStatus{bundle("web", api.PhaseReady).Status}, Episodes: []api.Episode{open},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("snapshot (-want +got):\n%s", d)
	}
	sum, seq, err := s.Checksum()
	if err != nil || seq != 4 || sum != want.State.Checksum() || sum == empty {
		t.Errorf("checksum %q at %d, %v", sum, seq, err)
	}
}
