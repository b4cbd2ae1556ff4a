package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

func suspension(name string, change func(*api.Suspension)) api.Suspension {
	s := api.Suspension{
		Name: name, Scope: api.Scope{Bundles: []string{"web"}}, Reason: "INC-1", Actor: "dana", Created: t0.Add(-time.Minute), Until: t0.Add(time.Hour),
	}
	if change != nil {
		change(&s)
	}
	return s
}

func suspended(cluster string, ss ...api.Suspension) api.Report {
	return api.Report{Status: &api.ClusterStatus{Cluster: cluster, Suspensions: ss}}
}

// told is the audit log in short, oldest first.
func told(t *testing.T, s *store.Store, f store.AuditFilter) (out []string) {
	t.Helper()
	f.Limit = 10_000
	es, err := s.AuditLog(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		by := e.ReportedBy
		if by != "" {
			by = " by " + by + " via " + e.Via
		}
		out = append([]string{strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s%s", e.Cluster, e.Actor, e.Action, e.Name, e.Scope, by))}, out...)
	}
	return out
}

// What people did on a cluster, by the CLI or by Git, is in the audit log as the agent reports it.
func TestAuditLog_reportedSuspensions(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now = func() time.Time { return now }
	s := open2(t, cfg)
	seq := uint64(0)
	report := func(ss ...api.Suspension) {
		t.Helper()
		seq++
		apply(t, s, "eu", numbered(seq, suspended("eu", ss...)))
	}
	inc := suspension("inc-1", nil)
	git := suspension("git", func(g *api.Suspension) { g.Scope, g.Actor = api.Scope{All: true}, "git" })
	report()
	report(inc)
	report(inc)
	report(suspension("inc-1", func(s *api.Suspension) { s.Until = s.Until.Add(3 * time.Second) })) // the agent's clock was set
	report(inc, git)
	if err := s.Audit(t.Context(), store.AuditEntry{Actor: "ann", Action: "sync", Cluster: "eu", Result: "ok"}); err != nil {
		t.Fatal(err)
	}
	longer := suspension("inc-1", func(s *api.Suspension) { s.Until = s.Until.Add(time.Hour) })
	report(longer, git)
	report(git)
	now = t0.Add(time.Hour)
	report()
	want := strings.Join([]string{
		"eu dana suspend inc-1 bundles [web] by agent-eu via object",
		"eu git suspend git everything by agent-eu via git",
		"eu ann sync",
		"eu dana suspend inc-1 bundles [web] by agent-eu via object",
		"eu  resume inc-1 bundles [web] by agent-eu via object",
		"eu  suspension-ended git everything by agent-eu via git",
	}, "\n")
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		if got := strings.Join(told(t, s, store.AuditFilter{}), "\n"); got != want {
			t.Errorf("the log says\n%s\nwant\n%s", got, want)
		}
		if got := told(t, s, store.AuditFilter{Cluster: "us"}); len(got) != 0 {
			t.Errorf("of another cluster: %q", got)
		}
		if got := told(t, s, store.AuditFilter{Actor: "git"}); len(got) != 1 {
			t.Errorf("by git: %q", got)
		}
		// Page by page it is the same, with no entry twice.
		var pages []string
		for before := uint64(0); ; {
			es, err := s.AuditLog(t.Context(), store.AuditFilter{Before: before, Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			if len(es) == 0 {
				break
			}
			for _, e := range es {
				pages = append(pages, fmt.Sprint(e.Seq))
			}
			before = es[len(es)-1].Seq
		}
		if got := strings.Join(pages, " "); got != "6 5 4 3 2 1" {
			t.Errorf("pages of two: %s", got)
		}
	})
}

// An agent that reports suspensions without end drives out neither people's entries nor another cluster's.
func TestAuditLog_reportedAreBounded(t *testing.T) {
	cfg := config(t)
	cfg.Limits.AuditEntries = 10
	s := open(t, cfg)
	if err := s.Audit(t.Context(), store.AuditEntry{Actor: "ann", Action: "revoke", Cluster: "us", Result: "ok"}); err != nil {
		t.Fatal(err)
	}
	apply(t, s, "us", numbered(1, suspended("us", suspension("inc-1", nil))))
	for i := range 30 {
		var many []api.Suspension
		for j := range 40 {
			many = append(many, suspension(fmt.Sprintf("s-%d-%d", i, j), func(s *api.Suspension) { s.Reason = strings.Repeat("r", 5000) }))
		}
		apply(t, s, "eu", numbered(uint64(i+1), suspended("eu", many...)))
	}
	if got := told(t, s, store.AuditFilter{Cluster: "us"}); len(got) != 2 {
		t.Errorf("of the other cluster the log has %q", got)
	}
	es, err := s.AuditLog(t.Context(), store.AuditFilter{Cluster: "eu", Limit: 10_000})
	if err != nil || len(es) != 200 {
		t.Fatalf("%d entries of the cluster that reports without end, want 200, %v", len(es), err)
	}
	counted := false
	for _, e := range es {
		if len(e.Reason) > 1100 || e.ReportedBy != "agent-eu" || e.Cluster != "eu" {
			t.Errorf("entry of %d bytes by %q on %q", len(e.Reason), e.ReportedBy, e.Cluster)
		}
		counted = counted || strings.Contains(e.Result, "are not listed")
	}
	if !counted {
		t.Error("what was left out is not told")
	}
	if err := s.RemoveCluster(t.Context(), "eu"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, "eu", numbered(1, status("eu", "r1")))
	if got := told(t, s, store.AuditFilter{Cluster: "eu"}); len(got) != 0 {
		t.Errorf("a cluster that was removed left %d entries", len(got))
	}
}
