package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/client"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

type clusters = view.List[view.Cluster]

type episodes = view.List[api.Episode]

const (
	rev1 = "1111111111111111111111111111111111111111"
	rev2 = "2222222222222222222222222222222222222222"
)

func TestReportsReachTheAPI(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	if c := hubtest.Get[clusters](h, "/api/v1/clusters"); c.Total != 1 || c.Items[0].State != view.StateUnknown {
		t.Errorf("after joining: %+v, want one unknown cluster", c.Items)
	}
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	a.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{
		Name: "podinfo", Phase: api.PhaseReady, DesiredRevision: rev1, AppliedRevision: rev1, Objects: 3, ReadyObjects: 3,
	}}}})
	hubtest.Eventually(t, "the cluster is ready", func() bool {
		c := hubtest.Get[clusters](h, "/api/v1/clusters").Items[0]
		return c.State == view.StateReady && c.Ready && c.Connected && c.AppliedRevision == rev1
	})

	e := drift(a, "podinfo")
	a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	hubtest.Eventually(t, "the drift is open", func() bool {
		return hubtest.Get[episodes](h, "/api/v1/drift?state=open&cluster=prod-eu").Total == 1
	})
	got := hubtest.Get[api.Episode](h, "/api/v1/drift/"+e.ID)
	if got.Evidence == nil || got.By.Manager != "kubectl-edit" {
		t.Errorf("episode %+v, want evidence and the manager", got)
	}
	d := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/prod-eu")
	if d.State != view.StateDrifted || len(d.Drift) != 1 || d.Drift[0].Evidence != nil {
		t.Errorf("cluster %+v, want it drifted, with one episode without evidence", d)
	}

	e.End, e.Outcome = time.Now(), api.OutcomeCorrected
	a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	hubtest.Eventually(t, "the drift is closed", func() bool {
		return hubtest.Get[episodes](h, "/api/v1/drift?state=closed").Total == 1 &&
			hubtest.Get[episodes](h, "/api/v1/drift?state=open").Total == 0
	})
}

func drift(a *hubtest.Agent, name string) api.Episode {
	by := api.Attribution{Manager: "kubectl-edit", Operation: "Update", Confidence: api.ConfidenceTool, Time: time.Now()}
	return api.Episode{
		ID: a.Store.NextEpisodeID(), Cluster: a.Cluster, Bundle: "podinfo", Class: api.ClassChanged, Revision: rev1,
		Object: api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "podinfo", Name: name},
		Fields: []api.FieldDiff{{Path: "/spec/replicas", Class: api.ClassChanged, Desired: "2", Live: "5", By: by}},
		By:     by, Onset: time.Now(), LastSeen: time.Now(), Count: 1, Outcome: api.OutcomePending,
		Evidence: &api.Evidence{ResourceVersion: "42", Live: `{"kind":"Deployment"}`},
		Timeline: []api.Moment{{At: time.Now(), What: "seen"}},
	}
}

// delivered waits until the hub has acknowledged everything.
func delivered(t *testing.T, a *hubtest.Agent) {
	t.Helper()
	hubtest.Eventually(t, "everything is acknowledged", func() bool {
		c, err := a.Store.Counters()
		return err == nil && c.OutboxReports == 0
	})
}

func reasonOf(err error) string {
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.Forbidden {
		return fmt.Sprintf("no refusal: %v", err)
	}
	return e.Reason
}

func TestJoinRefusals(t *testing.T) {
	var ahead atomic.Int64
	h := hubtest.Start(t, hub.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	token := func(r hub.JoinTokenRequest) string {
		m, err := h.CreateJoinToken(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return m.Token
	}
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})

	if got := reasonOf(a.Join(h, "flj-wrong-wrong-wrong")); got != "TokenUnknown" {
		t.Errorf("wrong token: %s", got)
	}
	if got := reasonOf(a.Join(h, token(hub.JoinTokenRequest{Cluster: "other"}))); got != "TokenCluster" {
		t.Errorf("token of another cluster: %s", got)
	}
	old := token(hub.JoinTokenRequest{})
	ahead.Store(int64(2 * time.Hour))
	if got := reasonOf(a.Join(h, old)); got != "TokenExpired" {
		t.Errorf("expired token: %s", got)
	}
	once := token(hub.JoinTokenRequest{})
	if err := a.Join(h, once); err != nil {
		t.Fatal(err)
	}
	b := hubtest.NewAgent(t, "staging", hubtest.AgentOptions{})
	if got := reasonOf(b.Join(h, once)); got != "TokenUsed" {
		t.Errorf("used-up token: %s", got)
	}

	second := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	err := second.Join(h, token(hub.JoinTokenRequest{}))
	if got := reasonOf(err); got != "SecondAgent" {
		t.Errorf("second agent: %s", got)
	}
	if !strings.Contains(err.Error(), "POST /api/v1/clusters/prod-eu/revoke") {
		t.Errorf("the refusal %q does not say what to do", err)
	}
	// The same agent may join again, and after a revocation the other may.
	if err := a.Join(h, token(hub.JoinTokenRequest{})); err != nil {
		t.Errorf("the same agent again: %v", err)
	}
	if _, err := h.Revoke(t.Context(), "prod-eu", "moved"); err != nil {
		t.Fatal(err)
	}
	if err := second.Join(h, token(hub.JoinTokenRequest{})); err != nil {
		t.Errorf("second agent after the revocation: %v", err)
	}

	bad := hubtest.NewAgent(t, "prod-us", hubtest.AgentOptions{})
	_, err = client.Join(t.Context(), client.JoinConfig{
		URL: h.AgentURL(), Token: token(hub.JoinTokenRequest{}), CAHash: "sha256:" + strings.Repeat("0", 64),
		Cluster: "prod-us", AgentID: bad.Store.AgentID(), Dir: t.TempDir(),
	})
	if err == nil || !strings.Contains(err.Error(), "does not have the CA") {
		t.Errorf("wrong CA hash: %v", err)
	}
}

func TestRefusalsOfAStream(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	h := hubtest.Start(t, hub.Config{Now: now, CertificateLife: time.Hour})
	refusal := func(a *hubtest.Agent, want string) {
		t.Helper()
		hubtest.Eventually(t, want, func() bool {
			st := a.Client.Status()
			return !st.Connected && reasonOf(st.Err) == want
		})
	}
	connected := func(a *hubtest.Agent) {
		t.Helper()
		hubtest.Eventually(t, "connected", func() bool { return a.Client.Status().Connected })
	}

	// Revoked while connected: out at once, and it stays out.
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	connected(a)
	begin := time.Now()
	if n, err := h.Revoke(t.Context(), "prod-eu", "lost laptop"); n != 1 || err != nil {
		t.Fatalf("revoked %d certificates, %v", n, err)
	}
	refusal(a, "CertificateRevoked")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the revocation took effect after %s", took)
	}
	if err := a.Client.Status().Err; !strings.Contains(err.Error(), "lost laptop") {
		t.Errorf("the refusal %q does not say why", err)
	}
	if hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/prod-eu").Connected {
		t.Error("the cluster is still shown as connected")
	}
	a.Stop()
	h.Stop()
	h.Restart()
	a.Run()
	refusal(a, "CertificateRevoked")

	// Joining again lets it in.
	a.MustJoin(h)
	a.Stop()
	a.Run()
	connected(a)
	a.Stop()

	// Another store's agent with a stolen identity is a second agent.
	thief := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	thief.UseIdentityOf(a)
	thief.Run()
	refusal(thief, "SecondAgent")

	// So is one that says it is another cluster.
	wrong := hubtest.NewAgent(t, "prod-us", hubtest.AgentOptions{})
	wrong.UseIdentityOf(a)
	wrong.Run()
	hubtest.Eventually(t, "refuses itself", func() bool {
		return strings.Contains(fmt.Sprint(wrong.Client.Status().Err), `that of cluster prod-eu`)
	})

	// An expired certificate: the agent's clock stands still, so it does not renew in time.
	ahead.Store(int64(2 * time.Hour))
	a.Run()
	refusal(a, "CertificateExpired")
	a.Stop()

	// Nor does it get a new certificate for the expired one.
	hc := a.HTTPClient(h)
	defer hc.CloseIdleConnections()
	_, err := hubv1.NewAgentServiceClient(hc, h.AgentURL()).Renew(t.Context(), connect.NewRequest(&hubv1.RenewRequest{}))
	if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("renewing with an expired certificate: %v", err)
	}
	// And one of another hub, or none, is not looked at any further.
	other := hubtest.Start(t, hub.Config{})
	b := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	b.MustJoin(other)
	foreign := b.HTTPClient(h)
	defer foreign.CloseIdleConnections()
	_, err = hubv1.NewAgentServiceClient(foreign, h.AgentURL()).Renew(t.Context(), connect.NewRequest(&hubv1.RenewRequest{}))
	if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "not issued by this hub") {
		t.Errorf("another hub's certificate: %v", err)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	h := hubtest.Start(t, hub.Config{CertificateLife: 10 * time.Second})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	before, err := client.LoadIdentity(a.IdentityDir())
	if err != nil {
		t.Fatal(err)
	}
	a.Run()
	hubtest.Eventually(t, "a later end", func() bool {
		id, err := client.LoadIdentity(a.IdentityDir())
		return err == nil && id.NotAfter.After(before.NotAfter.Add(5*time.Second))
	})
	a.Commit(hubtest.Status("prod-eu", rev1))
	hubtest.Eventually(t, "reports still arrive", func() bool {
		return hubtest.Get[clusters](h, "/api/v1/clusters").Items[0].AppliedRevision == rev1
	})
}

func TestOutageLosesNothing(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	want := map[string]bool{}
	add := func(n int) {
		for range n {
			e := drift(a, "podinfo")
			a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
			e.End, e.Outcome = time.Now(), api.OutcomeCorrected
			a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
			want[e.ID] = true
		}
	}
	add(5)
	for range 3 {
		h.Stop() // whatever is under way is cut off
		add(20)
		h.Restart()
		add(5)
	}
	delivered(t, a)
	got := hubtest.Get[episodes](h, "/api/v1/drift?state=closed&size=1000")
	seen := map[string]bool{}
	for _, e := range got.Items {
		if seen[e.ID] || !want[e.ID] {
			t.Errorf("episode %s is double or unknown", e.ID)
		}
		seen[e.ID] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%d episodes arrived of %d", len(seen), len(want))
	}
}

func TestDaysAwayAreCompacted(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{Limits: agentstore.Limits{OutboxReports: 60}})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	hubtest.Eventually(t, "the first report", func() bool {
		return hubtest.Get[clusters](h, "/api/v1/clusters").Items[0].AppliedRevision == rev1
	})
	h.Stop()
	for i := range 300 {
		a.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{
			Name: "podinfo", Phase: api.PhaseReady, AppliedRevision: rev1, Objects: i,
		}}}})
		e := drift(a, "podinfo")
		e.End = time.Now()
		a.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	}
	open := drift(a, "stays")
	a.Commit(agentstore.Batch{Episodes: []api.Episode{open}})
	counts, err := a.Store.Counters()
	if err != nil || counts.LostEpisodes == 0 {
		t.Fatalf("the outbox dropped nothing: %+v, %v", counts, err)
	}
	h.Restart()
	hubtest.Eventually(t, "the present state", func() bool {
		d := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/prod-eu")
		return len(d.BundleStatus) == 1 && d.BundleStatus[0].Objects == 299 && d.DriftOpen == 1
	})
	delivered(t, a)
	got := hubtest.Get[episodes](h, "/api/v1/drift?state=closed&size=1000")
	if got.Total+int(counts.LostEpisodes) != 300 {
		t.Errorf("%d closed episodes arrived and %d were dropped, of 300", got.Total, counts.LostEpisodes)
	}
}

func TestAgentWithANewStoreSendsASnapshot(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	a.Commit(agentstore.Batch{
		Bundles: []api.BundleRecord{
			{Status: api.BundleStatus{Name: "gone", Phase: api.PhaseReady}},
			{Status: api.BundleStatus{Name: "kept", Phase: api.PhaseReady}},
		},
		Episodes: []api.Episode{drift(a, "podinfo")},
	})
	hubtest.Eventually(t, "one open drift", func() bool {
		return hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/prod-eu").DriftOpen == 1
	})
	a.Stop()
	if _, err := h.Revoke(t.Context(), "prod-eu", "the disk was lost"); err != nil {
		t.Fatal(err)
	}

	b := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	b.MustJoin(h)
	b.Commit(hubtest.Status("prod-eu", rev2))
	b.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{Name: "kept", Phase: api.PhaseReady}}}})
	b.Run()
	hubtest.Eventually(t, "the new store's state", func() bool {
		d := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/prod-eu")
		return d.AppliedRevision == rev2 && len(d.BundleStatus) == 1 && d.DriftOpen == 0
	})
	delivered(t, b)
}

func TestCommands(t *testing.T) {
	h := hubtest.Start(t, hub.Config{Tokens: []hub.Token{
		{Name: "admin", Value: hubtest.Token, Role: hub.Admin},
		{Name: "eve", Value: "token-of-a-viewer", Role: hub.Viewer},
	}})
	got := make(chan client.Command, 10)
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{Commands: func(_ context.Context, c client.Command) (any, error) {
		got <- c
		if c.Kind == client.CommandResume {
			return nil, &api.Error{Kind: api.Stalled, Reason: api.ReasonNoSuchSuspension, Err: fmt.Errorf("no suspension %q", c.Name)}
		}
		if c.Suspension != nil {
			c.Suspension.Name = "s-1"
		}
		return c.Suspension, nil
	}})
	const suspend = `{"scope": {"bundles": ["podinfo"]}, "reason": "INC-1", "for": "10m"}`
	if status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/sync", ""); status != http.StatusNotFound {
		t.Errorf("unknown cluster: %d %s", status, body)
	}
	a.MustJoin(h)
	if status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/suspend", suspend); status != http.StatusServiceUnavailable ||
		!strings.Contains(string(body), "NotConnected") {
		t.Errorf("not connected: %d %s", status, body)
	}
	a.Run()
	hubtest.Eventually(t, "connected", func() bool { return a.Client.Status().Connected })

	if status, _ := h.DoAs("token-of-a-viewer", http.MethodPost, "/api/v1/clusters/prod-eu/suspend", suspend); status != http.StatusForbidden {
		t.Errorf("a viewer suspends: %d", status)
	}
	status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/suspend", suspend)
	var res struct{ Result api.Suspension }
	if err := json.Unmarshal(body, &res); status != http.StatusOK || err != nil || res.Result.Name != "s-1" {
		t.Errorf("suspend: %d %s", status, body)
	}
	if c := <-got; c.Actor != "admin" || c.Suspension == nil || c.Suspension.Reason != "INC-1" ||
		c.Suspension.Until.Sub(c.Suspension.Created) != 10*time.Minute {
		t.Errorf("the agent got %+v", c)
	}
	for path, bodies := range map[string][]string{
		"resume":  {`{"name": "../../../../api/v1/namespaces/victim/configmaps/a"}`, `{"name": ".."}`, `{"name": "a/b"}`, `{"name": "A"}`, `{"name": "a%2fb"}`},
		"sync":    {`{"bundle": "../x"}`, `{"bundle": "a\nb"}`},
		"suspend": {`{"scope": {"bundles": ["../x"]}, "reason": "r", "for": "1h"}`, `{"scope": {"objects": [{"kind": "ConfigMap", "namespace": "..", "name": "x"}]}, "reason": "r", "for": "1h"}`},
	} {
		for _, bad := range bodies {
			if status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/"+path, bad); status != http.StatusBadRequest {
				t.Errorf("%s %s: %d %s, and no refusal", path, bad, status, body)
			}
		}
	}
	if status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/resume", `{"name": "x"}`); status != http.StatusNotFound ||
		!strings.Contains(string(body), `no suspension`) {
		t.Errorf("resume: %d %s", status, body)
	}
	for _, bad := range []string{
		`{"scope": {"all": true}, "for": "10m"}`, `{"scope": {"all": true}, "reason": "x"}`,
		`{"scope": {}, "reason": "x", "for": "1m"}`, `{"scop": {}}`, `{`,
	} {
		if status, body := h.Do(http.MethodPost, "/api/v1/clusters/prod-eu/suspend", bad); status != http.StatusBadRequest {
			t.Errorf("suspend %s: %d %s", bad, status, body)
		}
	}
	// Every act is told with all that was said, and what came of it.
	log := hubtest.Get[auditPart](h, "/api/v1/audit?cluster=prod-eu&actor=admin&size=2")
	if len(log.Items) != 2 || log.Next == "" {
		t.Fatalf("audit log: %+v", log)
	}
	resume, suspended := log.Items[0], log.Items[1]
	if resume.Action != "resume" || resume.Name != "x" || !strings.Contains(resume.Result, "no suspension") || resume.Remote == "" {
		t.Errorf("resume: %+v", resume)
	}
	if e := suspended; e.Action != "suspend" || e.Name != "s-1" || e.Scope != "bundles [podinfo]" || e.Reason != "INC-1" ||
		!e.Until.Equal(res.Result.Until) || e.Result != "ok" || e.ReportedBy != "" {
		t.Errorf("suspend: %+v", e)
	}
	if older := hubtest.Get[auditPart](h, log.Next).Items; len(older) != 2 || older[0].Result == "ok" || older[0].Reason != "INC-1" || older[1].Action != "sync" {
		t.Errorf("the part before: %+v", older)
	}
}

type auditPart struct {
	Items []store.AuditEntry
	Next  string
}

// An agent that polls its repository, and finds nothing new, says when it reached it last. A clock that is wrong does not matter.
func TestLastContactWithTheRepository(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	var contact atomic.Pointer[time.Time]
	wrong := func() time.Time { return time.Now().Add(-42 * time.Hour) }
	old := wrong().Add(-19 * time.Minute)
	contact.Store(&old)
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{Now: wrong, Reached: func() time.Time { return *contact.Load() }})
	a.MustJoin(h)
	a.Run()
	status := hubtest.Status("prod-eu", rev1)
	status.Status.Fetched = old
	a.Commit(status)
	ago := func(least, most time.Duration) func() bool {
		return func() bool {
			list := hubtest.Get[clusters](h, "/api/v1/clusters").Items
			d := time.Since(list[0].Fetched)
			return len(list) == 1 && d >= least && d < most
		}
	}
	hubtest.Eventually(t, "the repository was reached 19 minutes ago", ago(19*time.Minute, 20*time.Minute))
	now := wrong()
	contact.Store(&now)
	hubtest.Eventually(t, "it was reached just now, without any report", ago(0, time.Minute))
}

func TestSilentClusterIsUnknown(t *testing.T) {
	h := hubtest.Start(t, hub.Config{UnknownAfter: time.Second})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	a.Commit(agentstore.Batch{Bundles: []api.BundleRecord{{Status: api.BundleStatus{Name: "b", Phase: api.PhaseReady}}}})
	state := func() view.State { return hubtest.Get[clusters](h, "/api/v1/clusters").Items[0].State }
	hubtest.Eventually(t, "ready", func() bool { return state() == view.StateReady })
	a.Stop()
	hubtest.Eventually(t, "unknown", func() bool { return state() == view.StateUnknown })
	h.Stop()
	h.Restart()
	if c := hubtest.Get[clusters](h, "/api/v1/clusters").Items[0]; c.State != view.StateUnknown || c.LastSeen.IsZero() || c.AppliedRevision != rev1 {
		t.Errorf("after a restart: %+v, want it unknown, with what was known", c)
	}
}
