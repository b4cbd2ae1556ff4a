package reconciler

import (
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Until the fleet's limit is known, as after a start whose first revision is refused, no order that holds is cut off.
func TestSuspendMax(t *testing.T) {
	r := &Reconciler{}
	if got := r.SuspendMax(); got != api.LongestSuspension {
		t.Errorf("before a revision is known: %s", got)
	}
	r.rendering = &api.Rendering{}
	if got := r.SuspendMax(); got != api.DefaultSuspendMax {
		t.Errorf("where the fleet says nothing: %s", got)
	}
	r.rendering.Fleet.Spec.SuspendMax = api.Duration(time.Hour)
	if got := r.SuspendMax(); got != time.Hour {
		t.Errorf("where it says 1h: %s", got)
	}
}
