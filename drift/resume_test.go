package drift

import (
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Whoever resumes wants a correction now, though the object was fought over before it was suspended.
func TestDecide_afterASuspension(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	fought := func(outcome api.Outcome) *api.Episode {
		by := api.Correction{At: at.Add(-time.Minute), Manager: "kubectl"}
		return &api.Episode{
			Outcome: outcome, By: api.Attribution{Manager: "kubectl"}, Suspension: "break-glass",
			Track: &api.Track{Corrections: []api.Correction{by, by, by}, Backoff: api.Duration(time.Minute)},
		}
	}
	o := Observation{Result: Result{Action: Correct, By: api.Attribution{Manager: "kubectl"}}}
	if d := decide(fought(api.OutcomePending), o, at, false); d.Action != Hold {
		t.Errorf("contested: %+v", d)
	}
	if d := decide(fought(api.OutcomeSuspended), o, at, false); d.Action != Correct {
		t.Errorf("resumed: %+v", d)
	}
}
