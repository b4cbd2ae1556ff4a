package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// scene is a hub with agents that do at once what they are released, unless a test says otherwise.
type scene struct {
	*testing.T
	state   *State
	in      Input
	reports map[string]*Report
	out     []Release
	reasons []Reason
}

func newScene(t *testing.T, waves string, change func(*api.RolloutSpec)) *scene {
	s := &scene{T: t, state: &State{}, reports: map[string]*Report{}, in: Input{
		Epoch: "1", Clusters: map[string]Cluster{}, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}}
	r, err := api.DecodeRollout("rollout.yaml", []byte("apiVersion: flotilla.dev/v1alpha1\nkind: Rollout\nmetadata: {name: a}\nspec:\n  bundles: [a]\n  waves: ["+waves+"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&r.Spec)
	}
	for _, w := range r.Spec.Waves {
		for _, name := range w.Clusters {
			s.in.Clusters[name] = Cluster{Reachable: true}
			s.reports[name] = &Report{Cluster: name, Spec: &r.Spec, Epoch: "1"}
		}
	}
	s.commit("r1", "one")
	for range 10 {
		s.turn(time.Hour)
	}
	if s.state.Candidate.Phase != Completed {
		t.Fatalf("the first candidate is %s: %v", s.state.Candidate.Phase, s.reasons)
	}
	return s
}

func (s *scene) commit(revision, content string) {
	for _, r := range s.reports {
		r.Newest = Version{revision, content}
	}
}

// turn has every agent report, the hub decide, and the agents take what is released.
func (s *scene) turn(d time.Duration) {
	s.in.Now = s.in.Now.Add(d)
	s.in.Reports = nil
	for _, r := range s.reports {
		if r.Seq++; s.in.Clusters[r.Cluster].Reachable {
			s.in.Reports = append(s.in.Reports, *r)
		}
	}
	slices.SortFunc(s.in.Reports, func(a, b Report) int { return strings.Compare(a.Cluster, b.Cluster) })
	s.out, s.reasons = Decide(s.state, s.in)
	s.in.Orders = nil
	for _, r := range s.out {
		at := s.reports[r.Cluster]
		at.Held = r
		if at.Suspension == "" {
			at.Applied, at.Healthy = r.Content, !strings.HasPrefix(r.Content, "bad")
		}
	}
}

// released is what the last turn released, such as "a=two".
func (s *scene) released() string {
	var out []string
	for _, r := range s.out {
		out = append(out, r.Cluster+"="+r.Content)
	}
	return strings.Join(out, " ")
}

func (s *scene) want(released string) {
	s.Helper()
	if got := s.released(); got != released {
		s.Errorf("released %q, want %q: %v", got, released, s.reasons)
	}
}

func (s *scene) says(text string) {
	s.Helper()
	if got := fmt.Sprint(s.reasons); !strings.Contains(got, text) {
		s.Errorf("%q is not among %s", text, got)
	}
}

const twoWaves = "{name: canary, clusters: [a], soak: 10m}, {name: rest, clusters: [b, c], maxParallel: 1}"

func TestDecide_waves(t *testing.T) {
	s := newScene(t, twoWaves, nil)
	s.commit("r2", "two")
	s.turn(0)
	s.want("a=two")
	s.turn(time.Minute)
	s.want("")
	s.says("soaks for another 10m0s")
	s.commit("r3", "two") // an unrelated push changes nothing
	s.turn(9 * time.Minute)
	s.want("")
	s.says("soaks for another 1m0s")
	s.turn(time.Minute)
	s.want("b=two")
	s.says("waits for a place")
	s.turn(time.Minute)
	s.want("c=two")
	s.turn(time.Minute)
	s.says("completed")
}

func TestDecide_soakStartsAgain(t *testing.T) {
	for name, change := range map[string]func(*Report){
		"health": func(r *Report) { r.Healthy = !r.Healthy },
		"drift":  func(r *Report) { r.Drift = !r.Drift },
	} {
		s := newScene(t, twoWaves, nil)
		s.commit("r2", "two")
		s.turn(0)
		s.turn(time.Minute)
		change(s.reports["a"])
		s.turn(8 * time.Minute)
		change(s.reports["a"])
		s.turn(time.Minute)
		s.turn(9 * time.Minute)
		if s.released() != "" {
			t.Errorf("%s: released %q in the soak", name, s.released())
		}
		s.turn(time.Minute)
		s.want("b=two")
	}
}

func TestDecide_failure(t *testing.T) {
	s := newScene(t, twoWaves, nil)
	s.commit("r2", "bad")
	s.turn(0)
	s.turn(15 * time.Minute)
	s.turn(time.Hour)
	s.want("")
	s.says("halted: wave canary: 1 cluster failed")
	s.commit("r3", "fix") // is the fix, and nobody is asked
	s.turn(0)
	s.want("a=fix")
}

func TestDecide_returns(t *testing.T) {
	s := newScene(t, twoWaves, func(s *api.RolloutSpec) { s.OnFailure = api.OnFailureReturn })
	s.commit("r2", "bad")
	s.turn(0)
	s.turn(15 * time.Minute)
	s.want("a=one")
	if s.out[0].Instead != "bad" || s.out[0].Revision != "r1" {
		t.Errorf("returned by %+v", s.out[0])
	}
	s.commit("r3", "bad") // the same content
	s.turn(time.Hour)
	s.want("")
	s.commit("r4", "two")
	s.turn(time.Hour)
	s.want("a=two")
}

func TestDecide_unreachable(t *testing.T) {
	for _, tt := range []struct {
		how      api.Unreachable
		released string
		says     string
	}{
		{"", "c=two", "unreachable"},
		{api.UnreachableWait, "", "unreachable"},
		{api.UnreachableFail, "", "halted"},
	} {
		s := newScene(t, "{name: canary, clusters: [a, b]}, {name: rest, clusters: [c]}", func(s *api.RolloutSpec) { s.Unreachable = tt.how })
		s.commit("r2", "two")
		s.in.Clusters["b"] = Cluster{}
		s.turn(0)
		s.turn(time.Minute)
		s.want(tt.released)
		s.says(tt.says)
	}
}

func TestDecide_suspended(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a, b]}, {name: rest, clusters: [c]}", nil)
	s.commit("r2", "two")
	s.reports["b"].Suspension = "incident"
	s.turn(0)
	s.want("a=two")
	s.says("held by suspension incident")
	s.turn(time.Minute)
	s.want("c=two")
	s.reports["b"].Suspension = ""
	s.turn(time.Minute)
	s.want("b=two") // it waits for its own release
}

// A wave whose clusters are all excused proves nothing.
func TestDecide_noProof(t *testing.T) {
	s := newScene(t, twoWaves, nil)
	s.commit("r2", "two")
	s.in.Clusters["a"] = Cluster{}
	for range 5 {
		s.turn(time.Hour)
		s.want("")
	}
}

func TestDecide_emptyWave(t *testing.T) {
	s := newScene(t, "{name: canary, clusterSelector: {matchLabels: {no: one}}, soak: 1h}, {name: rest, clusters: [a]}", nil)
	s.commit("r2", "two")
	s.turn(0)
	s.want("a=two")
	s.says("no cluster is in it")
}

func TestDecide_orders(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusters: [b], after: [canary]}", nil)
	order := func(o Order) { s.in.Orders = []Order{o} }
	order(Order{Kind: Pause, Reason: "INC-1"})
	s.commit("r2", "two")
	s.turn(0)
	s.want("")
	s.says("paused: INC-1")
	order(Order{Kind: Force, Cluster: "b", Reason: "INC-2"})
	s.turn(0)
	s.want("b=two")
	order(Order{Kind: Resume})
	s.turn(0)
	s.want("a=two")
	order(Order{Kind: Hold, Cluster: "a", Reason: "x"})
	s.commit("r3", "three")
	s.turn(0)
	s.want("")
	s.says("held: x")
	order(Order{Kind: Unhold, Cluster: "a"})
	s.turn(0)
	s.want("a=three")
}

func TestDecide_approval(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusters: [b]}", nil)
	for _, r := range s.reports {
		spec := *r.Spec
		spec.Waves = slices.Clone(spec.Waves)
		spec.Waves[1].Approve = true
		r.Spec = &spec
	}
	s.commit("r2", "two")
	s.turn(0)
	s.turn(time.Minute)
	s.want("")
	s.says("waits for an approval of candidate " + s.state.Candidate.ID)
	s.in.Orders = []Order{{Kind: Approve, Wave: "rest", Candidate: "another"}}
	s.turn(time.Minute)
	s.want("")
	s.in.Orders = []Order{{Kind: Approve, Wave: "rest", Candidate: s.state.Candidate.ID}}
	s.turn(time.Minute)
	s.want("b=two")
}

// A freeze or a window on the cluster is no failure, however long it lasts.
func TestDecide_closedWindow(t *testing.T) {
	s := newScene(t, twoWaves, nil)
	s.commit("r2", "two")
	s.turn(0)
	a := s.reports["a"]
	a.Applied, a.Closed = "one", "a freeze"
	for range 10 {
		s.turn(14 * time.Minute)
	}
	s.says("held by a freeze")
	a.Closed, a.Applied = "", "two"
	s.turn(time.Minute)
	s.turn(10 * time.Minute)
	s.want("b=two")
}

func TestDecide_joinsAndLeaves(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a, d]}, {name: rest, clusters: [b, c]}", nil)
	s.commit("r2", "two")
	s.turn(0)
	s.want("a=two d=two")
	delete(s.in.Clusters, "d")
	gone := s.reports["d"]
	delete(s.reports, "d")
	s.turn(time.Minute)
	s.want("b=two c=two")
	s.says("left")
	s.turn(time.Minute)
	s.commit("r3", "three")
	s.turn(0)
	s.want("a=three")
	s.in.Clusters["d"], s.reports["d"] = Cluster{Reachable: true}, gone
	gone.Newest, gone.Applied, gone.Held = Version{"r3", "three"}, "", Release{}
	s.turn(0)
	s.says("joined after")
	for _, r := range s.out { // its wave has begun without it
		if r.Cluster == "d" && (r.Revision != "r2" || r.Content != "") {
			t.Errorf("who joined got %+v", r)
		}
	}
	if !strings.Contains(s.released(), "d=") {
		t.Error("who joined got nothing")
	}
}

// Two agents that see commits in another order, or skip some, set nothing back.
func TestDecide_orderOfCommits(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusters: [b]}", nil)
	s.reports["a"].Newest = Version{"r3", "three"}
	s.reports["b"].Newest = Version{"r2", "two"} // a commit that a has skipped
	s.turn(0)
	s.want("a=three")
	s.turn(time.Minute)
	s.want("")
	s.says("has not seen the candidate's commit")
	s.reports["b"].Newest = Version{"r3", "three"}
	s.turn(time.Minute)
	s.want("b=three")
	s.commit("r1", "one") // the branch is set back
	s.turn(time.Minute)
	s.want("a=one")
}

// A hub that was restored releases nothing before it has heard of everybody, and never a number that is used.
func TestDecide_restored(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusters: [b, c], maxParallel: 1}", nil)
	backup, err := json.Marshal(s.state)
	if err != nil {
		t.Fatal(err)
	}
	s.commit("r2", "two")
	s.turn(0)
	last := s.out[0].Number
	s.state = &State{}
	if err := json.Unmarshal(backup, s.state); err != nil {
		t.Fatal(err)
	}
	s.in.Epoch = "2"
	s.turn(0)
	s.want("")
	s.says("the hub was restored")
	for _, r := range s.reports {
		r.Epoch = "2"
	}
	s.turn(0)
	s.want("b=two") // a has it already
	if s.out[0].Number <= last {
		t.Errorf("release %d after %d", s.out[0].Number, last)
	}
}

// A suspension that came and went while nobody reported it has voided the release: its cluster is not good by what it had before.
func TestDecide_aSuspensionThatNobodyReported(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a], soak: 1h}, {name: rest, clusters: [b]}", nil)
	s.commit("r2", "two")
	s.turn(0)
	s.want("a=two")
	s.turn(time.Minute)
	first := s.reports["a"].Held.Number
	s.reports["a"].Held = Release{Number: first}
	s.turn(2 * time.Hour)
	s.want("a=two")
	if s.out[0].Number <= first {
		t.Errorf("release %d after %d", s.out[0].Number, first)
	}
	s.turn(30 * time.Minute)
	s.want("") // the soak began anew
	s.turn(time.Hour)
	s.want("b=two")
}

// A commit between two of the candidate's is not newer, though an agent goes there from one of them.
func TestDecide_betweenTwoCommits(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusters: [b]}", nil)
	id := s.state.Candidate.ID
	for _, at := range []struct {
		cluster string
		Version
	}{{"a", Version{"r3", "one"}}, {"b", Version{"r2", "two"}}, {"b", Version{"r3", "one"}}} {
		s.reports[at.cluster].Newest = at.Version
		s.turn(time.Minute)
		s.want("")
		if c := s.state.Candidate; c.ID != id || !slices.Equal(c.Revisions, []string{"r1", "r3"}) || c.Phase != Completed {
			t.Fatalf("%s at %s: the candidate is %s of %v, %s", at.cluster, at.Revision, c.ID, c.Revisions, c.Phase)
		}
	}
}

// A hub that was restored waits for clusters, too, that joined after the backup.
func TestDecide_restoredWithoutSomebody(t *testing.T) {
	s := newScene(t, "{name: canary, clusters: [a]}, {name: rest, clusterSelector: {matchLabels: {env: prod}}}", nil)
	s.in.Clusters["b"] = Cluster{Labels: map[string]string{"env": "prod"}, Reachable: true}
	s.in.Epoch = "2"
	s.reports["a"].Epoch = "2"
	s.turn(0)
	s.commit("r2", "two")
	s.turn(0)
	s.want("")
	s.says("the hub was restored")
	s.reports["b"] = &Report{Cluster: "b", Spec: s.reports["a"].Spec, Epoch: "2", Newest: Version{"r2", "two"}}
	s.turn(0)
	s.want("a=two")
}

// A release names the newest commit that its agent has with the content: an older one may be behind what the cluster had.
func TestDecide_releasesTheNewestCommit(t *testing.T) {
	s := newScene(t, twoWaves, nil)
	s.in.Orders = []Order{{Kind: Pause, Reason: "INC-1"}}
	s.commit("r2", "two")
	s.turn(0)
	s.want("")
	s.commit("r3", "two")
	s.in.Orders = []Order{{Kind: Resume}}
	s.turn(0)
	if len(s.out) != 1 || s.out[0].Version != (Version{"r3", "two"}) {
		t.Errorf("released %+v", s.out)
	}
}
