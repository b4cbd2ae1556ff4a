package hub_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
)

// A hub that was put back from a copy, or begun anew, has again what agents still hold: also what it had acknowledged since.
func TestBackup_isPutBack(t *testing.T) {
	h := hubtest.Start(t, hub.Config{Tokens: []hub.Token{
		{Name: "admin", Value: hubtest.Token, Role: hub.Admin}, {Name: "op", Value: "token-of-an-operator", Role: hub.Operator},
	}})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	add := func(n int) {
		for range n {
			e := drift(a, "podinfo")
			a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
			e.End, e.Outcome = time.Now(), api.OutcomeCorrected
			a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
		}
		delivered(t, a)
	}
	closed := func() int { return hubtest.Get[episodes](h, "/api/v1/drift?state=closed").Total }
	add(10)
	if status, body := h.DoAs("token-of-an-operator", http.MethodGet, "/api/v1/backup", ""); status != http.StatusForbidden {
		t.Errorf("an operator gets a copy: %d, %d bytes", status, len(body))
	}
	status, copied := h.Do(http.MethodGet, "/api/v1/backup", "")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, copied)
	}
	hubtest.Eventually(t, "an entry in the audit log", func() bool {
		return len(hubtest.Get[auditLog](h, "/api/v1/audit?action=backup").Items) == 1
	})
	add(15)
	if n := closed(); n != 25 {
		t.Fatalf("%d closed episodes before, of 25", n)
	}
	h.Stop()
	if err := os.WriteFile(filepath.Join(h.DataDir(), "hub.db"), copied, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Restart()
	hubtest.Eventually(t, "all closed episodes are there again", func() bool { return closed() == 25 })
	delivered(t, a)
	// What goes on afterwards is counted once, as ever.
	h.Stop()
	h.Restart()
	add(5)
	if n := closed(); n != 30 {
		t.Errorf("%d closed episodes in the end, of 30", n)
	}
}
