package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	agent "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// link is an agent's store and the hub's, with a connection between them that fails at random.
type link struct {
	t      *testing.T
	rnd    *rand.Rand
	agent  *agent.Store
	config agent.Config
	hub    *store.Store
	cfg    store.Config
	now    time.Time
	open   []api.Episode
	ended  map[string]bool // IDs of episodes that have ended
	lost   bool            // the agent has lost its store
}

// TestReports_betweenStores has a real agent's store report to a hub's while messages are repeated,
// acknowledgements are lost, both sides are restarted and put back, and the outbox is compacted.
// In the end the hub must know what the agent knows.
func TestReports_betweenStores(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := &link{t: t, rnd: rand.New(rand.NewPCG(seed, 9)), now: t0, ended: map[string]bool{}, cfg: config(t)}
			l.cfg.Now = func() time.Time { return l.now }
			l.config = agent.Config{
				Path: filepath.Join(t.TempDir(), "agent.db"), Cluster: "eu", Now: l.cfg.Now,
				Limits: agent.Limits{OutboxReports: 25 + int(seed)*10},
			}
			l.hub = open2(t, l.cfg)
			l.openAgent()
			for range 200 {
				l.step()
			}
			for l.deliver(1000) > 0 {
			}
			l.check()
			if err := errors.Join(l.agent.Close(), l.hub.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func (l *link) openAgent() {
	l.t.Helper()
	s, err := agent.Open(l.config)
	if err != nil {
		l.t.Fatal(err)
	}
	l.agent = s
}

func (l *link) step() {
	t := l.t
	l.now = l.now.Add(time.Duration(l.rnd.IntN(1000)) * time.Millisecond)
	switch l.rnd.IntN(20) {
	case 0:
		if err := l.hub.Close(); err != nil {
			t.Fatal(err)
		}
		l.hub = open2(t, l.cfg)
	case 1:
		if err := l.agent.Close(); err != nil {
			t.Fatal(err)
		}
		if l.rnd.IntN(4) == 0 {
			l.config.Path = filepath.Join(t.TempDir(), "agent.db")
			l.open, l.lost = nil, true
		}
		l.openAgent()
	case 2:
		if l.rnd.IntN(4) == 0 {
			if err := l.hub.RemoveCluster(t.Context(), "eu"); err != nil {
				t.Fatal(err)
			}
			l.lost = true
		}
	case 3, 4, 5:
		l.deliver(1 + l.rnd.IntN(30))
	default:
		l.change()
	}
}

// change has the agent commit something.
func (l *link) change() {
	b := agent.Batch{Status: status("eu", fmt.Sprint("r", l.rnd.IntN(5))).Status}
	for i := range l.rnd.IntN(4) {
		if l.rnd.IntN(5) == 0 {
			b.RemovedBundles = append(b.RemovedBundles, fmt.Sprint("b", i))
			continue
		}
		r := api.BundleRecord{Status: *bundle(fmt.Sprint("b", i), api.PhaseReady).Bundle}
		r.Status.Objects = l.rnd.IntN(4)
		b.Bundles = append(b.Bundles, r)
	}
	if len(l.open) > 0 && l.rnd.IntN(2) == 0 {
		e := l.open[0]
		l.open = l.open[1:]
		e.End, e.Outcome = l.now, api.OutcomeCorrected
		b.Episodes = append(b.Episodes, e)
		l.ended[e.ID] = true
	} else {
		e := *episode("eu", 1, nil).Episode
		e.ID, e.Onset = l.agent.NextEpisodeID(), l.now
		e.Object.Name = e.ID
		l.open = append(l.open, e)
		b.Episodes = append(b.Episodes, e)
	}
	if err := l.agent.Commit(b); err != nil {
		l.t.Fatal(err)
	}
}

// deliver is what agent and hub do on a connection: it returns how many reports were applied.
func (l *link) deliver(limit int) int {
	t, ctx := l.t, l.t.Context()
	holder, seq, err := l.hub.Position(ctx, "eu")
	if err != nil {
		t.Fatal(err)
	}
	if holder != l.agent.AgentID() {
		seq = 0
	}
	rs, err := l.agent.Outbox(seq, limit)
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) > 0 && l.rnd.IntN(3) == 0 {
		rs = append(rs[:1:1], rs...) // sent twice
	}
	if l.rnd.IntN(5) == 0 && len(rs) > 1 {
		rs = rs[1:] // lost on the way
	}
	ack, err := l.hub.Apply(ctx, "eu", l.agent.AgentID(), rs)
	if errors.Is(err, store.ErrNeedSnapshot) {
		l.snapshot()
		return 1
	}
	if err != nil {
		t.Fatal(err)
	}
	if l.rnd.IntN(3) > 0 {
		if err := l.agent.Ack(ack); err != nil {
			t.Fatal(err)
		}
	}
	if len(rs) == 0 && l.differ() {
		l.snapshot()
		return 1
	}
	return len(rs)
}

// differ compares the checksums, as a heartbeat does.
func (l *link) differ() bool {
	l.t.Helper()
	sum, seq, err := l.agent.Checksum()
	if err != nil {
		l.t.Fatal(err)
	}
	c, _, err := l.hub.Cluster(l.t.Context(), "eu")
	if err != nil {
		l.t.Fatal(err)
	}
	return c.Seq == seq && c.State().Checksum() != sum || c.Seq < seq
}

func (l *link) snapshot() {
	l.t.Helper()
	snap, err := l.agent.Snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.hub.ReplaceSnapshot(l.t.Context(), "eu", l.agent.AgentID(), snap.Seq, snap.State); err != nil {
		l.t.Fatal(err)
	}
}

func (l *link) check() {
	t := l.t
	t.Helper()
	snap, err := l.agent.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	c := cluster(t, l.hub, "eu")
	if snap.State.Checksum() != c.State().Checksum() {
		t.Errorf("the hub knows another state (-agent +hub):\n%s", cmp.Diff(snap.State, c.State()))
	}
	open, total, err := l.hub.Drift(t.Context(), store.DriftFilter{State: store.OpenEpisode, Limit: 1000})
	if err != nil || total != len(snap.State.Episodes) || len(open) != total {
		t.Errorf("%d open episodes in the list of drift, want %d (%v)", total, len(snap.State.Episodes), err)
	}
	n, err := l.hub.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for id := range l.ended {
		e, ok, err := l.hub.Episode(t.Context(), id)
		if err != nil || ok && e.Open() {
			t.Errorf("episode %s has ended, and the hub has it open (%v)", id, err)
		}
		if !ok {
			missing++
		}
	}
	// Only what a side has lost, or the outbox has dropped and counted, may be missing.
	if !l.lost && uint64(missing) > n.LostEpisodes {
		t.Errorf("the hub misses %d of %d ended episodes, and was told of %d", missing, len(l.ended), n.LostEpisodes)
	}
}
