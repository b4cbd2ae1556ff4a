package store_test

import (
	"fmt"
	"testing"

	"github.com/flotilla-fleet/flotilla/hub/store"
)

// Whoever acts without end drives out nobody else's entries: neither within the log's bound nor beyond it.
func TestAudit_shares(t *testing.T) {
	cfg := config(t)
	cfg.Limits.AuditEntries, cfg.Limits.AuditPerActor = 20, 10
	s := open2(t, cfg)
	audit := func(actor string, n int) {
		t.Helper()
		for i := range n {
			if err := s.Audit(t.Context(), store.AuditEntry{Actor: actor, Action: "sync", Cluster: "eu", Name: fmt.Sprint(i), Result: "ok"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	audit("ann", 3)
	audit("an", 2) // whose name begins another's
	audit("bob", 500)
	audit("", 1)
	audit("carol", 6) // beyond the whole log's bound, those of bob go
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		for actor, want := range map[string]int{"ann": 3, "an": 2, "carol": 6, "bob": 8} {
			es, err := s.AuditLog(t.Context(), store.AuditFilter{Actor: actor, Limit: 100})
			if err != nil || len(es) != want {
				t.Errorf("%d entries of %s, want %d: %v", len(es), actor, want, err)
			}
			if actor == "bob" && len(es) > 0 && es[0].Name != "499" {
				t.Errorf("the newest of bob is %s", es[0].Name)
			}
		}
		if all, err := s.AuditLog(t.Context(), store.AuditFilter{Limit: 100}); err != nil || len(all) != 20 {
			t.Errorf("%d entries, %v", len(all), err)
		}
		if n, err := s.Counters(t.Context()); err != nil || n.AuditEntries != 20 || n.DroppedEntries != 492 {
			t.Errorf("counters %+v, %v", n, err)
		}
		if gone, err := s.AuditDropped(t.Context()); err != nil || len(gone) != 1 || gone[0].Actor != "bob" || gone[0].Dropped != 492 || gone[0].Last.IsZero() {
			t.Errorf("dropped: %+v, %v", gone, err)
		}
	})
}
