package view_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

var now = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// healthy is a cluster with nothing wrong; tests change one thing.
func healthy() view.Input {
	return view.Input{
		Name: "prod-eu", LastSeen: now.Add(-time.Second), Connected: true,
		Status: api.ClusterStatus{Cluster: "prod-eu", DesiredRevision: "b", AppliedRevision: "b"},
		Bundles: []api.BundleStatus{
			{Name: "cert-manager", Phase: api.PhaseReady}, {Name: "podinfo", Phase: api.PhaseReady},
		},
	}
}

func TestStateOfACluster(t *testing.T) {
	suspension := api.Suspension{Name: "s", Scope: api.Scope{All: true}, Reason: "INC-1", Until: now.Add(time.Minute)}
	open := api.Episode{ID: "prod-eu-x-1", Outcome: api.OutcomeReported}
	held := api.Episode{ID: "prod-eu-x-2", Outcome: api.OutcomeSuspended}
	for _, tc := range []struct {
		name   string
		change func(*view.Input)
		state  view.State
		reason string
		ready  bool
	}{
		{"healthy", func(*view.Input) {}, view.StateReady, "matches Git", true},
		{"never reported", func(in *view.Input) { in.LastSeen = time.Time{} }, view.StateUnknown, "has never reported", false},
		{"silent, whatever its last state", func(in *view.Input) {
			in.LastSeen, in.Status.Error = now.Add(-14*time.Minute), &api.StatusError{Message: "x"}
		}, view.StateUnknown, "last seen 14 m ago", false},
		{"cluster error", func(in *view.Input) { in.Status.Error = &api.StatusError{Message: "no such branch"} }, view.StateFailed, "no such branch", false},
		{"failed bundle", func(in *view.Input) {
			in.Bundles[1].Phase, in.Bundles[1].Error = api.PhaseFailed, &api.StatusError{Message: "x"}
			in.Open = []api.Episode{open}
		}, view.StateFailed, "bundle podinfo failed", false},
		{"drift", func(in *view.Input) { in.Open = []api.Episode{open} }, view.StateDrifted, "1 object drifted", true},
		{"drift that a suspension holds", func(in *view.Input) {
			in.Status.Suspensions, in.Open = []api.Suspension{suspension}, []api.Episode{held}
		}, view.StateSuspended, "INC-1", true},
		{"drift besides", func(in *view.Input) {
			in.Status.Suspensions, in.Open = []api.Suspension{suspension}, []api.Episode{held, open}
		}, view.StateDrifted, "2 objects drifted", true},
		{"a suspension that is over", func(in *view.Input) {
			suspension := suspension
			suspension.Until = now
			in.Status.Suspensions = []api.Suspension{suspension}
		}, view.StateReady, "matches Git", true},
		{"bundle not ready", func(in *view.Input) { in.Bundles[0].Phase = api.PhaseProgressing }, view.StateProgressing, "1 of 2 bundles ready", false},
		{"behind", func(in *view.Input) { in.Status.DesiredRevision = "c" }, view.StateProgressing, "applying c", false},
		{"what an annotation takes out", func(in *view.Input) { in.Bundles[1].Exempt, in.Bundles[1].ExemptOmitted = []string{"ConfigMap/a"}, 2 }, view.StateReady, "matches Git, 3 objects exempt", true},
		{"nothing fetched", func(in *view.Input) { in.Status = api.ClusterStatus{}; in.Bundles = nil }, view.StateProgressing, "has not fetched the fleet repository yet", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := healthy()
			tc.change(&in)
			c := view.Of(in, now, 20*time.Second)
			if c.State != tc.state || c.Reason != tc.reason || c.Ready != tc.ready {
				t.Errorf("%s, %q, ready %v; want %s, %q, %v", c.State, c.Reason, c.Ready, tc.state, tc.reason, tc.ready)
			}
		})
	}
}

func TestQueriesSelectSortAndPage(t *testing.T) {
	cs := []view.Cluster{
		{Name: "a", State: view.StateReady, Labels: map[string]string{"env": "prod"}},
		{Name: "b", State: view.StateFailed, Labels: map[string]string{"env": "dev"}, DriftOpen: 2},
		{Name: "ab", State: view.StateUnknown, Labels: map[string]string{"env": "prod"}, DriftOpen: 1},
	}
	for query, want := range map[string][]string{
		"":                      {"b", "ab", "a"},
		"sort=name":             {"a", "ab", "b"},
		"sort=-name":            {"b", "ab", "a"},
		"sort=drift":            {"b", "ab", "a"},
		"q=a":                   {"ab", "a"},
		"q=env%3Dprod":          {"ab", "a"},
		"q=a+env%3Dprod+b":      {"ab"},
		"state=ready,failed":    {"b", "a"},
		"state=ready&state=all": {"a"},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := view.ParseQuery(v)
		if err != nil {
			t.Errorf("%q: %v", query, err)
			continue
		}
		var got []string
		for _, c := range q.Select(cs) {
			got = append(got, c.Name)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", query, d)
		}
	}
	l := view.ListClusters(cs, view.Query{Page: 9, Size: 2})
	if l.Page != 2 || l.Pages != 2 || len(l.Items) != 1 || l.Total != 3 || l.Fleet.Drift != 3 {
		t.Errorf("%+v", l)
	}
}

func TestSentence(t *testing.T) {
	for want, states := range map[string][]view.State{
		"No cluster has joined yet":                         nil,
		"1 cluster · 1 matches Git":                         {view.StateReady},
		"2 clusters · all match Git":                        {view.StateReady, view.StateReady},
		"3 clusters · 1 matches Git · 1 failed · 1 unknown": {view.StateReady, view.StateFailed, view.StateUnknown},
	} {
		var cs []view.Cluster
		for _, s := range states {
			cs = append(cs, view.Cluster{State: s})
		}
		if got := view.Sum(cs).Sentence(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
