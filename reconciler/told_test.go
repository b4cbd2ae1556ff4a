package reconciler

import (
	"fmt"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

// A few objects are named, and the others counted.
func TestTold_countsTheRest(t *testing.T) {
	b := newBundle("a")
	for i := range api.MaxContested + 2 {
		ref := api.ObjectRef{Kind: "ConfigMap", Name: fmt.Sprint(i)}
		b.objects.setEpisode(ref.ID(), api.Episode{Object: ref, Outcome: api.OutcomeFailed, Error: "no"})
	}
	if lines, omitted := b.uncorrected(); len(lines) != api.MaxContested || omitted != 2 || lines[0] != "ConfigMap/0: no" {
		t.Errorf("%q and %d more", lines, omitted)
	}
	if lines, omitted := b.contested(); len(lines) != 0 || omitted != 0 {
		t.Errorf("%q and %d more", lines, omitted)
	}
}
