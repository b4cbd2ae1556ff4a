package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// changed is a bundle of which a pass changed objects some minutes after t0.
func changed(name string, minute int, objects ...string) api.Report {
	b := &api.BundleStatus{Name: name, Phase: api.PhaseReady, Changed: t0.Add(time.Duration(minute) * time.Minute), ChangedRevision: fmt.Sprint("r", minute)}
	for _, o := range objects {
		b.Changes = append(b.Changes, api.Change{Object: api.ObjectRef{Kind: "ConfigMap", Namespace: name, Name: o}, Action: api.Updated})
	}
	return api.Report{Bundle: b}
}

// past shows a history, newest first: "bundle@revision:objects", and "-bundle" for one that was removed.
func past(t *testing.T, s *store.Store, f store.HistoryFilter) []string {
	t.Helper()
	list, err := s.History(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, a := range list {
		if a.Removed {
			out = append(out, a.Cluster+" -"+a.Bundle+"@"+a.Revision)
			continue
		}
		var names []string
		for _, c := range a.Changes {
			names = append(names, c.Object.Name)
		}
		out = append(out, a.Cluster+" "+a.Bundle+"@"+a.Revision+":"+strings.Join(names, ","))
	}
	return out
}

func TestHistory(t *testing.T) {
	cfg := config(t)
	s := open2(t, cfg)
	removed := api.Report{RemovedBundle: "db", At: t0.Add(6 * time.Minute)}
	apply(t, s, "eu", numbered(1,
		status("eu", "r1"), changed("web", 1, "x", "y"), changed("db", 2, "d"), bundle("idle", api.PhaseReady),
		changed("web", 1, "x", "y"), // another phase, nothing changed since
		changed("web", 3, "y"), changed("db", 5, "d"), status("eu", "r6"), removed))
	apply(t, s, "us", numbered(1, status("us", "r1"), changed("web", 4, "x")))
	twice(t, cfg, s, func(t *testing.T, s *store.Store) {
		for name, tt := range map[string]struct {
			f    store.HistoryFilter
			want []string
		}{
			"all":           {store.HistoryFilter{}, []string{"eu -db@r6", "eu db@r5:d", "us web@r4:x", "eu web@r3:y", "eu db@r2:d", "eu web@r1:x,y"}},
			"the newest":    {store.HistoryFilter{Limit: 3}, []string{"eu -db@r6", "eu db@r5:d", "us web@r4:x"}},
			"the next":      {store.HistoryFilter{Limit: 2, Skip: 3}, []string{"eu web@r3:y", "eu db@r2:d"}},
			"beyond":        {store.HistoryFilter{Skip: 6}, []string{}},
			"cluster":       {store.HistoryFilter{Cluster: "us"}, []string{"us web@r4:x"}},
			"no cluster":    {store.HistoryFilter{Cluster: "u"}, []string{}},
			"bundle":        {store.HistoryFilter{Bundle: "db"}, []string{"eu -db@r6", "eu db@r5:d", "eu db@r2:d"}},
			"object":        {store.HistoryFilter{Object: "/ConfigMap/web/x"}, []string{"us web@r4:x", "eu web@r1:x"}},
			"any group":     {store.HistoryFilter{Object: "*/ConfigMap/web/y"}, []string{"eu web@r3:y", "eu web@r1:y"}},
			"since, closed": {store.HistoryFilter{Since: t0.Add(4 * time.Minute)}, []string{"eu -db@r6", "eu db@r5:d", "us web@r4:x"}},
		} {
			if d := cmp.Diff(tt.want, past(t, s, tt.f)); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		}
	})
}

// What fails again and again is told once.
func TestHistory_ofFailures(t *testing.T) {
	s := open(t, config(t))
	for i, message := range []string{"no CRD", "no CRD", "no CRD", "not allowed"} {
		r := changed("web", i)
		r.Bundle.ChangedRevision = "r0"
		r.Bundle.Changes = []api.Change{{Object: api.ObjectRef{Kind: "Thing", Name: message}, Action: api.Failed, Error: message}}
		apply(t, s, "eu", numbered(uint64(i+1), r))
	}
	if d := cmp.Diff([]string{"eu web@r0:not allowed", "eu web@r0:no CRD"}, past(t, s, store.HistoryFilter{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A cluster's history is bounded, whatever the others do, and goes with the cluster.
func TestHistory_isBounded(t *testing.T) {
	cfg := config(t)
	now := t0
	cfg.Now, cfg.Limits.HistoryPerCluster = func() time.Time { return now }, 3
	s := open(t, cfg)
	apply(t, s, "us", numbered(1, changed("web", 0, "x")))
	for i := range 5 {
		apply(t, s, "eu", numbered(uint64(i+1), changed("web", i, "x")))
	}
	if d := cmp.Diff([]string{"eu web@r4:x", "eu web@r3:x", "eu web@r2:x", "us web@r0:x"}, past(t, s, store.HistoryFilter{})); d != "" {
		t.Errorf("by count (-want +got):\n%s", d)
	}
	now = t0.Add(89*24*time.Hour + 3*time.Minute + time.Second)
	apply(t, s, "eu", numbered(6, bundle("web", api.PhaseReady)))
	now = now.Add(24 * time.Hour)
	apply(t, s, "eu", numbered(7, changed("web", 60*24*80, "x")))
	if d := cmp.Diff([]string{"eu web@r115200:x", "eu web@r4:x"}, past(t, s, store.HistoryFilter{Cluster: "eu"})); d != "" {
		t.Errorf("by age (-want +got):\n%s", d)
	}
	if err := s.RemoveCluster(t.Context(), "eu"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"us web@r0:x"}, past(t, s, store.HistoryFilter{})); d != "" {
		t.Errorf("of a cluster that was removed (-want +got):\n%s", d)
	}
}
