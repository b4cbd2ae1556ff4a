package drift

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

// Drift that begins again stays one episode. What it was before is kept: in the agent's store, and in what the cluster tells.
func TestEarlierRounds(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/cm.yaml": configMap("settings", "git")})
	r.edit("cm/settings", `{"data":{"key":"first"}}`)
	r.open("cm/settings", outcome(api.OutcomeReported))
	r.edit("cm/settings", `{"data":{"key":"git"}}`)
	r.ended()
	r.edit("cm/settings", `{"data":{"key":"second"}}`)
	again := func(e api.Episode) error {
		if e.Count != 2 || len(e.Fields) != 1 || !strings.Contains(e.Fields[0].Live, "second") {
			return fmt.Errorf("not the second round: %+v", e)
		}
		return nil
	}
	told := r.open("cm/settings", again)
	kept := r.closed()
	if len(kept) != 1 || again(kept[0]) != nil {
		t.Fatalf("episodes are %+v", kept)
	}
	for where, e := range map[string]api.Episode{"cluster": told, "store": kept[0]} {
		if len(e.Rounds) != 1 {
			t.Fatalf("%s: rounds are %+v", where, e.Rounds)
		}
		first := e.Rounds[0]
		if first.Outcome != api.OutcomeResolved || first.By.Manager != "kubectl-edit" || len(first.Fields) != 1 || first.Fields[0].Live != `"first"` ||
			!first.Began.Equal(e.Onset) || e.Began().Before(first.Ended) {
			t.Errorf("%s: from %v, again %v, the first round is %+v", where, e.Onset, e.Reopened, first)
		}
	}
}
