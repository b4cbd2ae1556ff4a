package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
)

// A store that is begun anew goes on as the agent whose store was lost, and nothing that it reports has a number that was used.
func TestAdopt(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cfg := store.Config{Path: filepath.Join(t.TempDir(), "agent.db"), Cluster: "one", Now: func() time.Time { return now }}
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	holder := s.HolderID()
	if holder != s.AgentID() {
		t.Errorf("a new store has the ids %q and %q", holder, s.AgentID())
	}
	for range 2 { // a crash may come between this and what follows
		if err := s.Adopt("before"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	if s.AgentID() != "before" || s.HolderID() != holder {
		t.Errorf("the ids are %q and %q, want %q and %q", s.AgentID(), s.HolderID(), "before", holder)
	}
	if err := s.Commit(store.Batch{Status: &api.ClusterStatus{Cluster: "one"}}); err != nil {
		t.Fatal(err)
	}
	at, err := s.Snapshot()
	if err != nil || at.Acked != uint64(now.UnixMilli()) || at.Seq <= at.Acked {
		t.Errorf("the state is at %d, acknowledged %d, %v", at.Seq, at.Acked, err)
	}
	reports, err := s.Outbox(at.Acked, 0)
	if err != nil || len(reports) != 1 || reports[0].From != 0 {
		t.Errorf("reports %+v, %v", reports, err)
	}
	if err := s.Adopt("another"); err == nil {
		t.Error("a store that has made a report became another agent's")
	}
}
