package hub_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
)

// What a continued episode was before reaches the hub, stays there, and is in JSON and on the page.
// Of an episode from before there were rounds, it is said that they are not known.
func TestEarlierRounds(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	now := time.Now()
	e := drift(a, "web")
	e.Onset, e.Reopened, e.Count = now.Add(-10*time.Minute), now, 3
	e.Rounds = []api.Round{
		{
			Began: e.Onset, Ended: e.Onset.Add(time.Second), Class: api.ClassChanged, By: e.By, Outcome: api.OutcomeCorrected, Revision: rev1,
			Fields: []api.FieldDiff{{Path: "/spec/replicas", Class: api.ClassChanged, Desired: "2", Live: "4711", By: e.By}}, FieldsOmitted: 2,
		},
		{Began: now.Add(-5 * time.Minute), Ended: now.Add(-4 * time.Minute), Class: api.ClassMissing, By: e.By, Outcome: api.OutcomeResolved},
	}
	a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	old := drift(a, "old")
	old.Count = 4
	a.Commit(agentstore.Batch{Episodes: []api.Episode{old}})
	delivered(t, a)
	for _, when := range []string{"at once", "after a restart"} {
		one := hubtest.Get[api.Episode](h, "/api/v1/drift/"+e.ID)
		if len(one.Rounds) != 2 || one.Rounds[0].Fields[0].Live != "4711" || !one.Reopened.Equal(e.Reopened) {
			t.Errorf("%s: %+v", when, one)
		}
		list := hubtest.Get[episodes](h, "/api/v1/drift?object="+"apps/Deployment/podinfo/web")
		if len(list.Items) != 1 || len(list.Items[0].Rounds) != 2 {
			t.Errorf("%s, in the list: %+v", when, list)
		}
		for id, want := range map[string][]string{
			e.ID:   {"Earlier times", "4711", "and 2 fields more", "The whole object", "resolved"},
			old.ID: {"Earlier times", "3 earlier times not kept in detail"},
		} {
			status, page := h.Do(http.MethodGet, "/drift/"+id, "")
			for _, w := range want {
				if status != http.StatusOK || !strings.Contains(string(page), w) {
					t.Errorf("%s: page of %s: %d, %q is not in\n%s", when, id, status, w, page)
				}
			}
		}
		a.Stop()
		h.Stop()
		h.Restart()
	}
}
