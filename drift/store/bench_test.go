package store_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
)

func inventory(bundle string, n int) []api.InventoryEntry {
	out := make([]api.InventoryEntry, n)
	for i := range out {
		out[i] = api.InventoryEntry{
			Object: api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: bundle, Name: fmt.Sprint("app-", i)},
			UID:    "0f5c5c4e-6a2c-4f5b-9a55-3f1d5a1b2c3d", Digest: strings.Repeat("ab", 16), ResourceVersion: "123456",
			Generation: 1, MetaDigest: strings.Repeat("cd", 16), Origin: "apps/" + bundle + "/deployment.yaml",
		}
	}
	return out
}

// BenchmarkCommit_bundle commits one bundle whose status and inventory changed, among 1,000.
func BenchmarkCommit_bundle(b *testing.B) {
	for _, objects := range []int{4, 1000, 10_000} {
		b.Run(fmt.Sprint(objects), func(b *testing.B) {
			s := open(b, config(b))
			var all []api.BundleRecord
			for i := range 1000 {
				r := bundle(fmt.Sprint("b", i), api.PhaseReady)
				r.Inventory = inventory(r.Status.Name, 4)
				all = append(all, r)
			}
			commit(b, s, store.Batch{Bundles: all})
			r := bundle("big", api.PhaseReady)
			r.Inventory = inventory("big", objects)
			n := 0
			for b.Loop() {
				n++
				r.Status.Message = fmt.Sprint(n)
				r.Inventory[n%objects].Generation++
				commit(b, s, store.Batch{Bundles: []api.BundleRecord{r}})
			}
		})
	}
}

// BenchmarkCommit_together has 32 bundles finish at the same time.
func BenchmarkCommit_together(b *testing.B) {
	s := open(b, config(b))
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			r := bundle(fmt.Sprint("b", i%32), api.PhaseReady)
			r.Status.Message = fmt.Sprint(i)
			if err := s.Commit(store.Batch{Bundles: []api.BundleRecord{r}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkOpen opens a full store: 10,000 closed episodes of 3 KB, 10,000 objects, 10,000 reports.
func BenchmarkOpen(b *testing.B) {
	cfg := config(b)
	s := full(b, cfg)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := store.Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEpisodes finds the one episode of a manager among 10,000.
func BenchmarkEpisodes(b *testing.B) {
	s := full(b, config(b))
	defer s.Close()
	for b.Loop() {
		if es, err := s.Episodes(store.Filter{Manager: "rare"}); err != nil || len(es) != 1 {
			b.Fatal(len(es), err)
		}
	}
}

func full(b *testing.B, cfg store.Config) *store.Store {
	b.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		var batch store.Batch
		r := bundle(fmt.Sprint("b", i), api.PhaseReady)
		r.Inventory = inventory(r.Status.Name, 100)
		batch.Bundles = []api.BundleRecord{r}
		for j := range 100 {
			e := episode(s, fmt.Sprint("app-", i, "-", j), cfg.Now())
			e.End = cfg.Now()
			e.Evidence = &api.Evidence{ResourceVersion: "1", Live: strings.Repeat("x", 2500)}
			if i == 0 && j == 7 {
				e.By.Manager = "rare"
			}
			batch.Episodes = append(batch.Episodes, e)
		}
		if err := s.Commit(batch); err != nil {
			b.Fatal(err)
		}
	}
	return s
}
