package api_test

import (
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

func state() api.State {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return api.State{
		Status: &api.ClusterStatus{Cluster: "eu", DesiredRevision: "r1", Fetched: at, Suspensions: []api.Suspension{{Name: "s", Until: at}}},
		Bundles: []api.BundleStatus{
			{Name: "a", Phase: api.PhaseReady, Updated: at}, {Name: "b", Phase: api.PhaseFailed},
		},
		Episodes: []api.Episode{{
			ID: "eu-abcd-1", Onset: at, LastSeen: at, By: api.Attribution{Time: at},
			Fields:   []api.FieldDiff{{Path: "/x", By: api.Attribution{Time: at}}},
			Timeline: []api.Moment{{At: at, What: "seen"}},
		}},
	}
}

func TestState_Checksum(t *testing.T) {
	want := state().Checksum()
	zone := time.FixedZone("x", 3600)
	for name, change := range map[string]func(*api.State){
		"nothing":     func(*api.State) {},
		"bookkeeping": func(s *api.State) { s.Status.Fetched, s.Bundles[0].Updated = time.Now(), time.Time{} },
		"last seen":   func(s *api.State) { s.Episodes[0].LastSeen = time.Now() },
		"rounds, which hubs of before do not know": func(s *api.State) {
			s.Episodes[0].Reopened, s.Episodes[0].Rounds = time.Now(), []api.Round{{Began: time.Now()}}
		},
		"order": func(s *api.State) { s.Bundles[0], s.Bundles[1] = s.Bundles[1], s.Bundles[0] },
		"time zone": func(s *api.State) {
			e := &s.Episodes[0]
			e.Onset, e.By.Time = e.Onset.In(zone), e.By.Time.In(zone)
			e.Fields[0].By.Time, e.Timeline[0].At = e.Onset, e.Onset
			s.Status.Suspensions[0].Until = s.Status.Suspensions[0].Until.In(zone)
		},
	} {
		s := state()
		change(&s)
		if got := s.Checksum(); got != want {
			t.Errorf("%s changes the checksum", name)
		}
	}
	for name, change := range map[string]func(*api.State){
		"no status":  func(s *api.State) { s.Status = nil },
		"revision":   func(s *api.State) { s.Status.DesiredRevision = "r2" },
		"suspension": func(s *api.State) { s.Status.Suspensions = nil },
		"phase":      func(s *api.State) { s.Bundles[0].Phase = api.PhaseFailed },
		"one less":   func(s *api.State) { s.Bundles = s.Bundles[:1] },
		"an end":     func(s *api.State) { s.Episodes[0].End = time.Now() },
	} {
		s := state()
		change(&s)
		if got := s.Checksum(); got == want {
			t.Errorf("%s does not change the checksum", name)
		}
	}
	s := state()
	s.Episodes[0].Fields[0].By.Time = s.Episodes[0].Onset.In(zone)
	s.Checksum()
	if s.Episodes[0].Fields[0].By.Time.Location() != zone || s.Status.Fetched.IsZero() {
		t.Error("the checksum changed what it was taken of")
	}
}

func TestEpisodeID(t *testing.T) {
	id := api.EpisodeID{Cluster: "prod-eu", Store: "k7qa", Seq: 42}
	if got, err := api.ParseEpisodeID("prod-eu-k7qa-42"); err != nil || got != id || id.String() != "prod-eu-k7qa-42" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{
		"", "-", "prod", "k7qa-42", "-k7qa-42", "prod--42", "prod-k7qa-0", "prod-k7qa-042", "prod-k7qa-+4", "prod-k7qa-", "prod-k7qa-x",
		"Prod-k7qa-1", "prod-k7qa-99999999999999999999",
	} {
		if got, err := api.ParseEpisodeID(s); err == nil {
			t.Errorf("%q is read as %+v", s, got)
		}
	}
}

func TestReport_Follows(t *testing.T) {
	for _, tt := range []struct {
		seq, from, last uint64
		want            bool
	}{
		{1, 0, 0, true},
		{2, 0, 0, false},
		{2, 0, 1, true},
		{2, 0, 5, true},
		{9, 0, 5, false},
		{9, 6, 5, true},
		{9, 7, 5, false},
		{9, 1, 0, true},
		{9, 2, 20, true},
	} {
		if got := (api.Report{Seq: tt.seq, From: tt.from}).Follows(tt.last); got != tt.want {
			t.Errorf("report %d from %d follows %d: %v", tt.seq, tt.from, tt.last, got)
		}
	}
}
