package store_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

// model is what a store should hold, in plain maps, and a hub that reads its outbox.
type model struct {
	t     *testing.T
	cfg   store.Config
	clock *clock
	s     *store.Store

	status   *api.ClusterStatus
	bundles  map[string]api.BundleRecord
	episodes map[string]api.Episode
	order    []string // IDs of episodes in the order in which they began
	reports  []string // what the outbox should hold if it is never compacted
	last     uint64
	dropped  int

	hub hubModel
}

// hubModel follows an outbox as a hub does.
type hubModel struct {
	seq    uint64
	state  api.State
	closed map[string]bool
	lost   int
}

func newModel(t *testing.T, limits store.Limits) *model {
	c := newClock()
	m := &model{t: t, clock: c, bundles: map[string]api.BundleRecord{}, episodes: map[string]api.Episode{}}
	m.cfg = config(t)
	m.cfg.Now, m.cfg.Limits = c.now, limits
	m.hub.closed = map[string]bool{}
	m.open()
	t.Cleanup(func() {
		if err := m.s.Close(); err != nil {
			t.Error(err)
		}
		boltfiletest.Check(t, m.cfg.Path)
	})
	return m
}

func (m *model) open() {
	s, err := store.Open(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s = s
}

func (m *model) expect(format string, args ...any) {
	m.last++
	m.reports = append(m.reports, fmt.Sprintf("%d ", m.last)+fmt.Sprintf(format, args...))
}

// step does one operation; pick returns a number below n.
func (m *model) step(pick func(n int) int) {
	m.clock.add(time.Duration(pick(100)) * time.Millisecond)
	switch pick(12) {
	case 0:
		if err := m.s.Close(); err != nil {
			m.t.Fatal(err)
		}
		m.open()
	case 1:
		m.follow(pick(20))
	default:
		m.commit(pick)
	}
}

func (m *model) commit(pick func(n int) int) {
	b := m.batch(pick, "")
	if err := m.s.Commit(b); err != nil {
		m.t.Fatal(err)
	}
	m.retain()
}

// batch makes up a batch, and what the store should hold once it is committed. With a revision it is surely one that is reported.
func (m *model) batch(pick func(n int) int, revision string) (b store.Batch) {
	if revision != "" || pick(3) == 0 {
		b.Status = status(cmp.Or(revision, fmt.Sprint("r", pick(3))))
		b.Status.Fetched = m.clock.now()
		if m.status == nil || m.status.DesiredRevision != b.Status.DesiredRevision {
			m.expect("status %s", b.Status.DesiredRevision)
		}
		m.status = b.Status
	}
	touched := map[string]bool{}
	for range pick(3) {
		r := bundle(fmt.Sprint("b", pick(4)), []api.BundlePhase{api.PhaseReady, api.PhaseFailed}[pick(2)])
		if touched[r.Status.Name] {
			continue
		}
		touched[r.Status.Name] = true
		r.Inventory[0].Generation = int64(pick(3))
		b.Bundles = append(b.Bundles, r)
		if old, ok := m.bundles[r.Status.Name]; !ok || old.Status.Phase != r.Status.Phase {
			m.expect("%s %s", r.Status.Name, r.Status.Phase)
		}
		m.bundles[r.Status.Name] = r
	}
	if name := fmt.Sprint("b", pick(8)); !touched[name] && pick(4) == 0 {
		b.RemovedBundles = append(b.RemovedBundles, name)
		if _, ok := m.bundles[name]; ok {
			m.expect("removed %s", name)
			delete(m.bundles, name)
		}
	}
	for range pick(3) {
		e := m.episode(pick)
		if slices.ContainsFunc(b.Episodes, func(o api.Episode) bool { return o.ID == e.ID }) {
			continue
		}
		b.Episodes = append(b.Episodes, e)
		old, ok := m.episodes[e.ID]
		if !ok {
			m.order = append(m.order, e.ID)
		}
		if !ok || gocmp.Diff(old.Content(), e.Content()) != "" {
			m.expect("%s %s", e.Object.Name, e.Outcome)
		}
		m.episodes[e.ID] = e
	}
	return b
}

// episode makes a new one, or changes, ends or begins again one that is there.
func (m *model) episode(pick func(n int) int) api.Episode {
	if len(m.order) == 0 || pick(2) == 0 {
		return episode(m.s, fmt.Sprint("app-", pick(5)), m.clock.now())
	}
	e := m.episodes[m.order[pick(len(m.order))]]
	e.LastSeen = m.clock.now()
	switch pick(4) {
	case 0:
		e.Count++
	case 1, 2:
		e.End, e.Outcome = m.clock.now(), api.OutcomeCorrected
	case 3:
		e.End, e.Outcome = time.Time{}, api.OutcomePending
	}
	return e
}

func (m *model) retain() {
	closed := m.closed()
	slices.SortFunc(closed, func(a, b api.Episode) int {
		return cmp.Or(a.End.Compare(b.End), slices.Index(m.order, a.ID)-slices.Index(m.order, b.ID))
	})
	over := len(closed) - m.cfg.Limits.ClosedEpisodes
	for i, e := range closed {
		if i < over || e.End.Before(m.clock.now().Add(-m.cfg.Limits.ClosedAge)) {
			delete(m.episodes, e.ID)
			m.order = slices.DeleteFunc(m.order, func(id string) bool { return id == e.ID })
			m.dropped++
		}
	}
}

func (m *model) closed() []api.Episode {
	var out []api.Episode
	for _, e := range m.episodes {
		if !e.Open() {
			out = append(out, e)
		}
	}
	return out
}

// follow has the hub read some reports, and acknowledge them or not.
func (m *model) follow(limit int) {
	rs := must[[]api.Report](m.t)(m.s.Outbox(m.hub.seq, limit+1))
	for _, r := range rs {
		if err := r.Validate(); err != nil {
			m.t.Fatal(err)
		}
		if !r.Follows(m.hub.seq) || r.Seq <= m.hub.seq {
			m.t.Fatalf("report %d (from %d) does not follow %d", r.Seq, r.From, m.hub.seq)
		}
		m.hub.apply(r)
	}
	if limit%2 == 0 {
		if err := m.s.Ack(m.hub.seq); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (h *hubModel) apply(r api.Report) {
	h.seq = r.Seq
	drop := func(name string) {
		h.state.Bundles = slices.DeleteFunc(h.state.Bundles, func(b api.BundleStatus) bool { return b.Name == name })
	}
	switch {
	case r.Status != nil:
		h.state.Status = r.Status
	case r.Bundle != nil:
		drop(r.Bundle.Name)
		h.state.Bundles = append(h.state.Bundles, *r.Bundle)
	case r.RemovedBundle != "":
		drop(r.RemovedBundle)
	case r.Compacted != nil:
		h.lost += r.Compacted.Episodes
	default:
		id := r.Episode.ID
		h.state.Episodes = slices.DeleteFunc(h.state.Episodes, func(e api.Episode) bool { return e.ID == id })
		delete(h.closed, id)
		if r.Episode.Open() {
			h.state.Episodes = append(h.state.Episodes, *r.Episode)
		} else {
			h.closed[id] = true
		}
	}
}

// check compares all that the store answers with the model.
func (m *model) check() {
	t := m.t
	t.Helper()
	diff := func(what string, want, got any) {
		t.Helper()
		if d := gocmp.Diff(want, got); d != "" {
			t.Fatalf("%s (-want +got):\n%s", what, d)
		}
	}
	var st *api.ClusterStatus
	if v, ok, err := m.s.Status(); err != nil {
		t.Fatal(err)
	} else if ok {
		st = &v
	}
	diff("status", m.status, st)
	var bundles []api.BundleRecord
	for _, name := range slices.Sorted(maps.Keys(m.bundles)) {
		bundles = append(bundles, m.bundles[name])
	}
	diff("bundles", bundles, must[[]api.BundleRecord](t)(m.s.Bundles()))
	var all, open []api.Episode
	latest := map[string]string{}
	for _, id := range m.order {
		e := m.episodes[id]
		all = append(all, e)
		latest[e.Object.ID()] = id
		if e.Open() {
			open = append(open, e)
		}
	}
	diff("open episodes", open, must[[]api.Episode](t)(m.s.OpenEpisodes()))
	slices.Reverse(all)
	diff("episodes", all, must[[]api.Episode](t)(m.s.Episodes(store.Filter{Limit: 10_000})))
	for i := range 5 {
		object := api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "web", Name: fmt.Sprint("app-", i)}.ID()
		e, _, err := m.s.LatestEpisode(object)
		if err != nil || e.ID != latest[object] {
			t.Fatalf("latest episode of %s is %q, want %q (%v)", object, e.ID, latest[object], err)
		}
	}
	n := must[store.Counters](t)(m.s.Counters())
	if n.ClosedEpisodes != len(m.closed()) || int(n.DroppedEpisodes) != m.dropped || n.Last != m.last {
		t.Fatalf("counters %+v; want %d closed, %d dropped, last report %d", n, len(m.closed()), m.dropped, m.last)
	}
}

// checkOutbox compares the reports, for a store whose outbox is never compacted.
func (m *model) checkOutbox() {
	m.t.Helper()
	n := must[store.Counters](m.t)(m.s.Counters())
	want := m.reports[n.Acked:]
	var got []string
	for _, r := range must[[]api.Report](m.t)(m.s.Outbox(0, 100_000)) {
		got = append(got, kinds([]api.Report{r}))
	}
	if d := gocmp.Diff(append([]string(nil), want...), got); d != "" {
		m.t.Fatalf("outbox (-want +got):\n%s", d)
	}
}

// checkHub has the hub catch up, and compares what it then knows.
func (m *model) checkHub(ever int) {
	m.t.Helper()
	m.follow(100_000)
	snap := must[store.Snapshot](m.t)(m.s.Snapshot())
	if m.hub.lost > 0 {
		// The ends of some episodes are lost; but every open one must be known.
		open := func(e api.Episode) bool {
			return slices.ContainsFunc(snap.State.Episodes, func(o api.Episode) bool { return o.ID == e.ID })
		}
		m.hub.state.Episodes = slices.DeleteFunc(m.hub.state.Episodes, func(e api.Episode) bool {
			ended := !open(e)
			if ended {
				m.hub.closed[e.ID] = true
			}
			return ended
		})
	}
	if m.hub.seq != snap.Seq || m.hub.state.Checksum() != snap.State.Checksum() {
		m.t.Fatalf("at report %d the hub knows another state than the store at %d (-store +hub):\n%s",
			m.hub.seq, snap.Seq, gocmp.Diff(snap.State, m.hub.state))
	}
	if known := len(m.hub.closed) + len(m.hub.state.Episodes) + m.hub.lost; known < ever {
		m.t.Fatalf("the hub knows of %d episodes, %d of them lost, and there were %d", known, m.hub.lost, ever)
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			m := newModel(t, store.Limits{ClosedEpisodes: 10 + int(seed), ClosedAge: 5 * time.Second})
			for i := range 200 {
				m.step(rnd.IntN)
				if i%8 == 0 {
					m.check()
					m.checkOutbox()
				}
			}
			m.check()
			m.checkOutbox()
			m.checkHub(len(m.order) + m.dropped)
		})
	}
}

func TestModel_compacted(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			limits := store.Limits{ClosedEpisodes: 1000, ClosedAge: time.Hour, OutboxReports: 20 + int(seed)*3}
			if seed%2 == 1 {
				limits.OutboxBytes = 10_000
			}
			m := newModel(t, limits)
			for i := range 200 {
				m.step(rnd.IntN)
				if i%16 == 0 {
					m.check()
				}
			}
			m.check()
			m.checkHub(len(m.order))
		})
	}
}

// FuzzStore lets the fuzzer choose the operations.
func FuzzStore(f *testing.F) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		b := make([]byte, 200)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		ops = ops[:min(len(ops), 300)]
		pick := func(n int) int {
			if len(ops) == 0 {
				return 0
			}
			v := int(ops[0]) % n
			ops = ops[1:]
			return v
		}
		m := newModel(t, store.Limits{ClosedEpisodes: 1000, ClosedAge: time.Hour, OutboxReports: 12})
		for len(ops) > 0 {
			m.step(pick)
		}
		m.check()
		m.checkHub(len(m.order))
	})
}
