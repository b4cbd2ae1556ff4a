package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
)

func outbox(t testing.TB, s *store.Store) string {
	t.Helper()
	return kinds(must[[]api.Report](t)(s.Outbox(0, 0)))
}

func TestOutbox_ackAndPages(t *testing.T) {
	s := open(t, config(t))
	for i := range 6 {
		commit(t, s, store.Batch{Status: status(fmt.Sprint("r", i+1))})
	}
	select {
	case <-s.Grew():
	default:
		t.Error("nobody told that the outbox grew")
	}
	if got, want := kinds(must[[]api.Report](t)(s.Outbox(2, 3))), "3 status r3, 4 status r4, 5 status r5"; got != want {
		t.Errorf("page %q, want %q", got, want)
	}
	if err := s.Ack(4); err != nil {
		t.Fatal(err)
	}
	if got, want := outbox(t, s), "5 status r5, 6 status r6"; got != want {
		t.Errorf("after the ack %q, want %q", got, want)
	}
	if err := s.Ack(3); err != nil {
		t.Errorf("a late ack: %v", err)
	}
	if err := s.Ack(7); err == nil {
		t.Error("an ack of what was never sent is no error")
	}
	if err := s.Ack(6); err != nil {
		t.Fatal(err)
	}
	commit(t, s, store.Batch{Status: status("r7")})
	rs := must[[]api.Report](t)(s.Outbox(6, 0))
	if got := kinds(rs); got != "7 status r7" || !rs[0].Follows(6) || rs[0].Follows(5) {
		t.Errorf("after all was acknowledged: %q", got)
	}
	n := must[store.Counters](t)(s.Counters())
	if n.OutboxReports != 1 || n.Acked != 6 || n.Last != 7 || n.OutboxBytes <= 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestOutbox_boundsOneAnswer(t *testing.T) {
	s := open(t, config(t))
	big := strings.Repeat("m", 3<<20)
	for i := range 3 {
		st := status(fmt.Sprint("r", i))
		st.Subject = big
		commit(t, s, store.Batch{Status: st})
	}
	if got := len(must[[]api.Report](t)(s.Outbox(0, 0))); got != 1 {
		t.Errorf("%d reports of 3 MiB in one answer", got)
	}
}

func TestOutbox_compactsByMerging(t *testing.T) {
	cfg := config(t)
	cfg.Limits.OutboxReports = 8
	s := open(t, cfg)
	commit(t, s, store.Batch{Bundles: []api.BundleRecord{bundle("web", api.PhaseReady), bundle("db", api.PhaseReady)}})
	commit(t, s, store.Batch{RemovedBundles: []string{"db"}})
	for i := range 5 {
		commit(t, s, store.Batch{Status: status(fmt.Sprint("r", i))})
	}
	if n := must[store.Counters](t)(s.Counters()); n.OutboxReports != 8 {
		t.Fatalf("compacted too early: %+v", n)
	}
	commit(t, s, store.Batch{Status: status("r9")})
	rs := must[[]api.Report](t)(s.Outbox(0, 0))
	if got, want := kinds(rs), "1 web ready, 3(from 2) removed db, 8(from 4) compacted 2-8 lost 0, 9 status r9"; got != want {
		t.Errorf("outbox %q, want %q", got, want)
	}
	last := uint64(0)
	for _, r := range rs {
		if !r.Follows(last) {
			t.Errorf("report %d does not follow %d", r.Seq, last)
		}
		last = r.Seq
	}
	if n := must[store.Counters](t)(s.Counters()); n.MergedReports != 6 || n.LostEpisodes != 0 || n.OutboxReports != 4 {
		t.Errorf("counters %+v", n)
	}
	// What the hub had before, and asks for the rest, is told where it goes on.
	if got, want := kinds(must[[]api.Report](t)(s.Outbox(5, 0))), "8(from 4) compacted 2-8 lost 0, 9 status r9"; got != want {
		t.Errorf("outbox after 5 %q, want %q", got, want)
	}
}

func TestOutbox_compactsByDroppingOldClosedEpisodes(t *testing.T) {
	cfg := config(t)
	cfg.Limits.OutboxReports = 16
	s := open(t, cfg)
	stays := episode(s, "open", cfg.Now())
	commit(t, s, store.Batch{Episodes: []api.Episode{stays}})
	for i := range 20 {
		e := episode(s, fmt.Sprintf("app-%d", i), cfg.Now())
		commit(t, s, store.Batch{Episodes: []api.Episode{e}})
		e.End, e.Outcome = cfg.Now().Add(time.Second), api.OutcomeCorrected
		commit(t, s, store.Batch{Episodes: []api.Episode{e}})
	}
	rs := must[[]api.Report](t)(s.Outbox(0, 0))
	if len(rs) > 16 {
		t.Errorf("%d reports in an outbox of 16", len(rs))
	}
	last, lost, told, ended := uint64(0), 0, 0, map[string]bool{}
	for _, r := range rs {
		if !r.Follows(last) {
			t.Errorf("report %d does not follow %d", r.Seq, last)
		}
		last = r.Seq
		switch {
		case r.Compacted != nil:
			told++
			lost += r.Compacted.Episodes
		case !r.Episode.Open():
			ended[r.Episode.Object.Name] = true
		}
	}
	n := must[store.Counters](t)(s.Counters())
	if told != 1 || lost != 20-len(ended) || uint64(lost) != n.LostEpisodes || lost == 0 {
		t.Errorf("%d reports tell of %d lost episodes, %d arrive, counters %+v", told, lost, len(ended), n)
	}
	if rs[0].Episode == nil || rs[0].Episode.ID != stays.ID {
		t.Errorf("the open episode's report was dropped: %s", kinds(rs))
	}
	if !ended["app-19"] || ended["app-0"] {
		t.Errorf("the newest were dropped before the oldest: %s", kinds(rs))
	}
	if got := len(must[[]api.Episode](t)(s.Episodes(store.Filter{}))); got != 21 {
		t.Errorf("%d episodes in the store, want all 21", got)
	}
}

// What is so now is never dropped, even where it alone is more than the limit.
func TestOutbox_keepsThePresentState(t *testing.T) {
	cfg := config(t)
	cfg.Limits.OutboxReports = 5
	s := open(t, cfg)
	for round := range 3 {
		for i := range 20 {
			b := bundle(fmt.Sprintf("b-%02d", i), api.PhaseReady)
			b.Status.Message = fmt.Sprint(round)
			commit(t, s, store.Batch{Bundles: []api.BundleRecord{b}})
		}
	}
	newest := map[string]string{}
	for _, r := range must[[]api.Report](t)(s.Outbox(0, 0)) {
		if r.Bundle != nil {
			newest[r.Bundle.Name] = r.Bundle.Message
		}
	}
	for i := range 20 {
		if name := fmt.Sprintf("b-%02d", i); newest[name] != "2" {
			t.Errorf("bundle %s: newest report says round %q", name, newest[name])
		}
	}
	if n := must[store.Counters](t)(s.Counters()); n.OutboxReports > 40 {
		t.Errorf("merged too late: %+v", n)
	}
}

func TestOutbox_compactsByBytes(t *testing.T) {
	cfg := config(t)
	cfg.Limits.OutboxBytes = 20_000
	s := open(t, cfg)
	for i := range 30 {
		st := status(fmt.Sprint("r", i))
		st.Subject = strings.Repeat("m", 1000)
		commit(t, s, store.Batch{Status: st})
		if n := must[store.Counters](t)(s.Counters()); n.OutboxBytes > 20_000 {
			t.Fatalf("outbox of %d bytes", n.OutboxBytes)
		}
	}
}
