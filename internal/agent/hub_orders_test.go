package agent_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// Whoever suspends, through the hub, by an object on the cluster or by Git, is in the hub's audit log,
// and ending what is not there is an error that says what is.
func TestAgent_suspensionsInTheHubsLog(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	r := newJoinRig(t, controlplanetest.New(t, controlplane.Config{}))
	r.give(r.material(h))
	r.Start()
	order := func(verb, body string) (int, string) {
		t.Helper()
		status, answer := h.Do(http.MethodPost, "/api/v1/clusters/one/"+verb, body)
		return status, string(answer)
	}
	hubtest.Eventually(t, "the agent takes orders", func() bool {
		status, _ := order("sync", "")
		return status == http.StatusOK
	})
	if status, answer := order("resume", `{"name": "nothing-like-that"}`); status != http.StatusNotFound || !strings.Contains(answer, "nothing is suspended") {
		t.Errorf("resume of nothing: %d %s", status, answer)
	}
	if status, answer := order("sync", `{"bundle": "nothing-like-that"}`); status != http.StatusNotFound {
		t.Errorf("sync of nothing: %d %s", status, answer)
	}
	for body, want := range map[string]string{
		`{"scope": {"bundles": ["` + r.NS + `-ap"]}, "reason": "INC-0", "for": "10m"}`:                                 "do you mean " + r.NS + "-app?",
		`{"scope": {"objects": [{"kind": "Widget", "namespace": "x", "name": "y"}]}, "reason": "INC-0", "for": "10m"}`: "flotilla has no object Widget/x/y",
	} {
		hubtest.Eventually(t, "a refusal that says "+want, func() bool { // the first pass may not have come yet
			status, answer := order("suspend", body)
			return status == http.StatusNotFound && strings.Contains(answer, want)
		})
	}
	if status, answer := order("suspend", `{"scope": {"bundles": ["later"]}, "reason": "INC-0", "for": "10m", "force": true}`); status != http.StatusOK {
		t.Errorf("suspend of what is to come: %d %s", status, answer)
	}
	status, answer := order("suspend", `{"scope": {"all": true}, "reason": "INC-1", "for": "10m"}`)
	var made struct{ Result api.Suspension }
	if err := json.Unmarshal([]byte(answer), &made); status != http.StatusOK || err != nil {
		t.Fatalf("suspend: %d %s", status, answer)
	}
	byObject, err := r.Applier.Suspend(t.Context(), api.Suspension{
		Name: "inc-2", Scope: api.Scope{Bundles: []string{r.NS + "-app"}}, Reason: "INC-2", Actor: "dana@laptop", Until: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := order("resume", `{"name": "nothing-like-that"}`); status != http.StatusNotFound || !strings.Contains(answer, "inc-2") {
		t.Errorf("resume of one that is not there: %d %s", status, answer)
	}
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	r.Commit(map[string]string{"clusters/one/cluster.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: one, labels: {env: test}}\nspec: {suspend: {reason: INC-3, until: " + until + "}}\n"})

	entry := func(match func(store.AuditEntry) bool) func() bool {
		return func() bool {
			return slices.ContainsFunc(hubtest.Get[struct{ Items []store.AuditEntry }](h, "/api/v1/audit?cluster=one").Items, match)
		}
	}
	reported := func(e store.AuditEntry) bool { return e.ReportedBy != "" && e.Remote == "" && !e.Until.IsZero() }
	hubtest.Eventually(t, "the order through the hub", entry(func(e store.AuditEntry) bool {
		return e.ReportedBy == "" && e.Action == "suspend" && e.Actor == "test" && e.Remote != "" && e.Name == made.Result.Name && e.Reason == "INC-1" && e.Scope == "everything" && !e.Until.IsZero()
	}))
	hubtest.Eventually(t, "the one by an object", entry(func(e store.AuditEntry) bool {
		return reported(e) && e.Action == "suspend" && e.Actor == "dana@laptop" && e.Name == "inc-2" && e.Reason == "INC-2" && e.Via == store.ViaObject && e.Ordered.Equal(byObject.Created)
	}))
	hubtest.Eventually(t, "the one in Git", entry(func(e store.AuditEntry) bool {
		return reported(e) && e.Action == "suspend" && e.Name == api.GitSuspension && e.Reason == "INC-3" && e.Via == store.ViaGit
	}))
	if status, answer := order("resume", `{"name": "git"}`); status != http.StatusNotFound || !strings.Contains(answer, "cluster.yaml") {
		t.Errorf("resume of the one in Git: %d %s", status, answer)
	}
	if status, answer := order("resume", ""); status != http.StatusOK || !strings.Contains(answer, "inc-2") || !strings.Contains(answer, made.Result.Name) {
		t.Errorf("resume all: %d %s", status, answer)
	}
	hubtest.Eventually(t, "its end, as the cluster tells", entry(func(e store.AuditEntry) bool {
		return reported(e) && e.Action == "resume" && e.Name == "inc-2" && e.Actor == ""
	}))
}
