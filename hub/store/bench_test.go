package store_test

import (
	"fmt"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// fleet fills a store with 1,000 clusters of 50 bundles and 50 episodes each.
func fleet(b *testing.B, s *store.Store) {
	b.Helper()
	for c := range 1000 {
		name := fmt.Sprint("cluster-", c)
		rs := []api.Report{status(name, "r1")}
		for i := range 50 {
			rs = append(rs, bundle(fmt.Sprint("b", i), api.PhaseReady), episode(name, i+1, func(e *api.Episode) {
				if i > 0 {
					closed(e)
				}
			}))
		}
		apply(b, s, name, numbered(1, rs...))
	}
}

// BenchmarkFleet measures a hub of 1,000 clusters.
func BenchmarkFleet(b *testing.B) {
	cfg := config(b)
	s := open2(b, cfg)
	fleet(b, s)
	b.Run("apply one report", func(b *testing.B) {
		n := uint64(101)
		for b.Loop() {
			n++
			apply(b, s, "cluster-500", numbered(n, bundle("b1", api.BundlePhase(fmt.Sprint(n)))))
		}
	})
	b.Run("one cluster", func(b *testing.B) {
		for b.Loop() {
			cluster(b, s, "cluster-7")
		}
	})
	b.Run("drift of the fleet", func(b *testing.B) {
		for b.Loop() {
			es, total, err := s.Drift(b.Context(), store.DriftFilter{State: store.OpenEpisode, Offset: 800})
			if err != nil || len(es) != 100 || total != 1000 {
				b.Fatal(len(es), total, err)
			}
		}
	})
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if err := open2(b, cfg).Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
