package drift

import (
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

// An edit of our field and an addition at once: the correction of the one does not make the other forgotten.
func TestChangedAndAddedAtOnce(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("drift: {extra: report}"), "app/cm.yaml": configMap("settings", "one")}))
	r.editAs("k9s", "cm/settings", `{"data":{"key":"two","other":"mine"}}`)
	r.is("cm/settings", "data.key", "one")
	e := r.open("cm/settings", outcome(api.OutcomeReported))
	if e.Class != api.ClassAdded || len(e.Fields) != 1 || e.Fields[0].Path != "/data/other" || e.By.Manager != "k9s" {
		t.Errorf("what was added: %+v", e)
	}
	r.stays("cm/settings", "data.other", "mine")
	r.Commit(files{"app/bundle.yaml": bundle("drift: {extra: remove}")})
	r.is("cm/settings", "data.other", "<nil>")
	r.drifted(0)
	r.editAs("k9s", "cm/settings", `{"data":{"key":"two","other":"mine"}}`)
	r.is("cm/settings", "data.key", "one")
	r.is("cm/settings", "data.other", "<nil>")
	r.drifted(0)
}

// What was added before a commit writes the object is found after it, although the write itself hides that anything happened.
func TestAddedBeforeACommit(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("drift: {extra: report}"), "app/cm.yaml": configMap("settings", "one")}))
	r.Stop()
	r.editAs("k9s", "cm/settings", `{"data":{"other":"mine"}}`)
	r.Commit(files{"app/cm.yaml": configMap("settings", "two")})
	r.Start()
	r.is("cm/settings", "data.key", "two")
	if e := r.open("cm/settings", outcome(api.OutcomeReported)); e.Class != api.ClassAdded || e.Fields[0].Path != "/data/other" || e.By.Manager != "k9s" {
		t.Errorf("what was added: %+v", e)
	}
}
