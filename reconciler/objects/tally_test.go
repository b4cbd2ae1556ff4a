package objects

import (
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// A few objects are named, and the others counted.
func TestTally_countsTheRest(t *testing.T) {
	h := New()
	h.Publish(Bundle{Name: "a"})
	for i := range api.MaxContested + 2 {
		ref := api.ObjectRef{Kind: "ConfigMap", Name: fmt.Sprint(i)}
		h.Keep("a", ref.ID(), api.Episode{Object: ref, Outcome: api.OutcomeFailed, Error: "no"}, time.Time{}, func() {})
	}
	got := h.Tally("a")
	if len(got.Uncorrected) != api.MaxContested || got.UncorrectedOmitted != 2 || got.Uncorrected[0] != "ConfigMap/0: no" {
		t.Errorf("%q and %d more", got.Uncorrected, got.UncorrectedOmitted)
	}
	if len(got.Contested) != 0 || got.ContestedOmitted != 0 || got.Drifted != api.MaxContested+2 {
		t.Errorf("%+v", got)
	}
}
