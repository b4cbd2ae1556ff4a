package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
)

// What was acknowledged is reported once more, and what waits anyway is not reported twice.
func TestResend(t *testing.T) {
	s, err := store.Open(store.Config{Path: filepath.Join(t.TempDir(), "agent.db"), Cluster: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := time.Now()
	commit := func(n int, ended bool) {
		for i := range n {
			e := api.Episode{ID: s.NextEpisodeID(), Cluster: "eu", Onset: at, Outcome: api.OutcomePending, Object: api.ObjectRef{Kind: "ConfigMap", Name: fmt.Sprint(i)}}
			if ended {
				e.End, e.Outcome = at.Add(time.Second), api.OutcomeCorrected
			}
			if err := s.Commit(store.Batch{Episodes: []api.Episode{e}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit(5, true)
	commit(2, false)
	c, err := s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ack(c.Last); err != nil {
		t.Fatal(err)
	}
	commit(3, true)
	if n, err := s.Resend(); err != nil || n != 5 {
		t.Errorf("%d are reported again, %v; want the 5 that were acknowledged", n, err)
	}
	if n, err := s.Resend(); err != nil || n != 0 {
		t.Errorf("%d are reported a third time, %v", n, err)
	}
	out, err := s.Outbox(c.Last, 0)
	if err != nil || len(out) != 8 {
		t.Fatalf("%d reports wait, %v; want 8", len(out), err)
	}
	seen := map[string]bool{}
	last := c.Last
	for _, r := range out {
		if !r.Follows(last) || r.Episode == nil || r.Episode.Open() || seen[r.Episode.ID] {
			t.Errorf("report %d after %d: %+v", r.Seq, last, r.Episode)
		}
		seen[r.Episode.ID], last = true, r.Seq
	}
}
