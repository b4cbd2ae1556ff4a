package hub_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// A clock that was wrong for a while, ahead or behind, neither keeps a dead cluster alive nor kills one that lives.
func TestClock_thatIsWrong(t *testing.T) {
	for name, wrong := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var off, passed atomic.Int64
			begin := time.Now()
			mono := func() time.Duration { return time.Since(begin) + time.Duration(passed.Load()) }
			h := hubtest.Start(t, hub.Config{
				UnknownAfter: 10 * time.Minute, Monotonic: mono,
				Now: func() time.Time { return begin.Round(0).Add(mono()).Add(time.Duration(off.Load())) },
			})
			a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
			a.MustJoin(h)
			a.Run()
			a.Commit(hubtest.Status("prod-eu", rev1))
			a.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{Name: "b", Phase: api.PhaseReady}}}})
			state := func() view.State { return hubtest.Get[clusters](h, "/api/v1/clusters").Items[0].State }
			hubtest.Eventually(t, "ready", func() bool { return state() == view.StateReady })

			off.Store(int64(wrong))
			if s := state(); s != view.StateReady {
				t.Errorf("the clock is wrong, and the cluster is %s", s)
			}
			h.Stop() // writes down when the cluster was heard from
			h.Restart()
			hubtest.Eventually(t, "ready after a restart", func() bool { return state() == view.StateReady })
			a.Stop()
			off.Store(0)
			if s := state(); s != view.StateReady {
				t.Errorf("the clock is right again, and the cluster is %s", s)
			}
			passed.Add(int64(11 * time.Minute))
			c := hubtest.Get[clusters](h, "/api/v1/clusters").Items[0]
			if c.State != view.StateUnknown || time.Since(c.LastSeen.Add(-11*time.Minute)).Abs() > 30*time.Minute {
				t.Errorf("silent for 11 minutes, and it is %s, last seen %s", c.State, c.LastSeen)
			}
			// Nor does what was written down with the wrong clock.
			h.Stop()
			h.Restart()
			passed.Add(int64(11 * time.Minute))
			if s := state(); s != view.StateUnknown {
				t.Errorf("after a restart it is %s", s)
			}
		})
	}
}
