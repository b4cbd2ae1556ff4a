package rollout

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

var steps = flag.Int("steps", 12_000, "how many steps TestDecide_invariants takes")

// world is a fleet with its agents, its branch, a hub that restarts and is restored, and a network that loses, repeats and reorders.
type world struct {
	*rand.Rand
	now    time.Time
	spec   api.RolloutSpec
	heads  []head
	agents map[string]*agent
	bad    map[string]bool // contents that never become healthy
	state  *State
	backup []byte
	epoch  int
	wire   []Report
	lost   []Release // releases on their way
	orders []Order
	joined int
	judge  *judge
}

// head is one state of the branch. A revision may come twice, if the branch is set back.
type head struct {
	revision string
	contents map[string]string // cluster -> content; "" is that of all others
}

func (h head) of(cluster string) string {
	if c, ok := h.contents[cluster]; ok {
		return c
	}
	return h.contents[""]
}

type agent struct {
	labels                               map[string]string
	reachable, suspended, healthy, drift bool
	seen                                 int
	seq                                  uint64
	held                                 Release
	applied, forced                      string
	newest                               int // head of the last forward release that was taken
}

func newWorld(seed uint64) *world {
	w := &world{
		Rand: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), agents: map[string]*agent{},
		bad: map[string]bool{}, state: &State{}, heads: []head{{"r0", map[string]string{"": "v0"}}},
	}
	w.spec = w.randomSpec()
	w.judge = newJudge(w)
	for range 4 + w.IntN(6) {
		w.join()
	}
	return w
}

func (w *world) randomSpec() api.RolloutSpec {
	amount := func() *api.Amount {
		switch w.IntN(3) {
		case 0:
			return nil
		case 1:
			return &api.Amount{Number: 1 + w.IntN(2)}
		}
		return &api.Amount{Number: 10 + w.IntN(60), Percent: true}
	}
	s := api.RolloutSpec{
		Bundles: []string{"a"}, Deadline: api.Duration(15 * time.Minute),
		Unreachable: []api.Unreachable{"", api.UnreachableSkip, api.UnreachableWait, api.UnreachableFail}[w.IntN(4)],
		OnFailure:   []api.OnFailure{"", api.OnFailureHalt, api.OnFailureReturn, api.OnFailureReturn}[w.IntN(4)],
	}
	for i := range 2 + w.IntN(3) {
		wave := api.Wave{
			Name: fmt.Sprint("w", i), ClusterSelector: &api.Selector{MatchLabels: map[string]string{"w": fmt.Sprint(i)}},
			MaxParallel: amount(), MaxFailures: amount(), Soak: api.Duration(w.IntN(3)) * api.Duration(10*time.Minute), Approve: w.IntN(4) == 0,
		}
		if i > 1 && w.IntN(2) == 0 {
			wave.After = []string{"w0"}
		}
		s.Waves = append(s.Waves, wave)
	}
	return s
}

func (w *world) join() {
	w.joined++
	wave := w.IntN(len(w.spec.Waves))
	w.agents[fmt.Sprintf("c%02d", w.joined)] = &agent{
		labels: map[string]string{"w": fmt.Sprint(wave)}, reachable: true, healthy: true, seen: len(w.heads) - 1, newest: -1,
	}
}

func (w *world) names() []string {
	var out []string
	for name := range w.agents {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (w *world) pick() (string, *agent) {
	names := w.names()
	name := names[w.IntN(len(names))]
	return name, w.agents[name]
}

// headOf is the newest head of a revision, up to one.
func (w *world) headOf(revision string, upTo int) int {
	for i := upTo; i >= 0; i-- {
		if w.heads[i].revision == revision {
			return i
		}
	}
	return -1
}

func (w *world) commit() {
	last := w.heads[len(w.heads)-1]
	next := head{fmt.Sprint("r", len(w.heads)), map[string]string{}}
	maps.Copy(next.contents, last.contents)
	switch n := w.IntN(10); {
	case n < 4: // nothing of the rollout's
	case n < 6:
		name, _ := w.pick()
		next.contents[name] = "only-" + next.revision
	case n < 7:
		next.contents = map[string]string{"": "removed"}
	case n < 8 && len(w.heads) > 2: // the branch is set back
		next = w.heads[len(w.heads)-1-w.IntN(2)]
	default:
		next.contents = map[string]string{"": "v" + next.revision}
		w.bad[next.contents[""]] = w.IntN(3) == 0
	}
	w.heads = append(w.heads, next)
}

func (w *world) send(name string) {
	a := w.agents[name]
	if !a.reachable {
		return
	}
	a.seq++
	h := w.heads[a.seen]
	r := Report{
		Cluster: name, Seq: a.seq, Epoch: fmt.Sprint(w.epoch), Newest: Version{h.revision, h.of(name)}, Spec: &w.spec, Held: a.held,
		Applied: a.applied, Healthy: a.healthy, Drift: a.drift, Forced: a.forced,
	}
	if a.suspended {
		r.Suspension = "s"
	}
	w.wire = append(w.wire, r)
}

func (w *world) work(name string, a *agent) {
	if a.suspended {
		return
	}
	want := a.held.Content
	if a.forced != "" {
		want = a.forced
	}
	switch {
	case want != "" && a.applied != want:
		a.applied, a.healthy = want, false
	default:
		a.healthy = !w.bad[a.applied]
	}
	w.send(name)
}

// take has an agent take a release, as docs/decisions/0014 says.
func (w *world) take(r Release) {
	a := w.agents[r.Cluster]
	if a == nil || !a.reachable || r.Number <= a.held.Number {
		return
	}
	if a.suspended {
		a.held = Release{Number: r.Number}
		return
	}
	at := w.headOf(r.Revision, a.seen)
	if r.Content == "" { // it fetches the commit, if it has to
		at = w.headOf(r.Revision, len(w.heads)-1)
		a.seen = max(a.seen, at)
		r.Content = w.heads[at].of(r.Cluster)
	} else if r.Instead == "" {
		if at < a.newest {
			w.judge.broken(11, "%s went back from head %d to %d", r.Cluster, a.newest, at)
		}
		a.newest = at
	}
	a.held, a.forced = r, ""
	w.send(r.Cluster)
}

func (w *world) suspend(a *agent) {
	a.suspended, a.held, a.forced = true, Release{Number: a.held.Number}, ""
}

func (w *world) step() {
	name, a := w.pick()
	switch n := w.IntN(100); {
	case n < 4:
		w.commit()
	case n < 20:
		a.seen = min(len(w.heads)-1, a.seen+w.IntN(3))
		w.send(name)
	case n < 50:
		w.work(name, a)
	case n < 53:
		a.healthy = false
		w.send(name)
	case n < 55:
		a.drift = !a.drift
		w.send(name)
	case n < 57:
		w.suspend(a)
		w.send(name)
	case n < 61:
		a.suspended = false
		w.send(name)
	case n < 63:
		a.reachable = false
	case n < 67:
		a.reachable = true
		w.send(name)
	case n < 68 && len(w.agents) < 14:
		w.join()
	case n < 69 && len(w.agents) > 3:
		delete(w.agents, name)
	case n < 84:
		w.now = w.now.Add(time.Duration(w.IntN(400)) * time.Second)
	case n < 90:
		w.order(name)
	case n < 91 && w.state.Epoch != "": // a hub that never decided is new, and not restored
		w.backup, _ = json.Marshal(w.state)
	case n < 92 && w.backup != nil && w.IntN(4) == 0:
		w.epoch++
		w.restart(w.backup)
		w.orders = nil
		w.judge.restored()
		for _, name := range w.names() {
			w.send(name)
		}
	case n < 94:
		text, _ := json.Marshal(w.state)
		w.restart(text)
	case n < 95 && a.reachable && !a.suspended:
		a.forced = w.heads[a.seen].of(name)
		w.judge.forced(name)
		w.send(name)
	default:
		w.send(name)
	}
}

func (w *world) restart(text []byte) {
	w.state = &State{}
	if err := json.Unmarshal(text, w.state); err != nil {
		panic(err)
	}
}

func (w *world) order(name string) {
	id, phase := "", Phase("")
	if c := w.state.Candidate; c != nil {
		id, phase = c.ID, c.Phase
	}
	if w.IntN(5) == 0 {
		id = "stale"
	}
	o := Order{Cluster: name, Candidate: id, Wave: fmt.Sprint("w", w.IntN(len(w.spec.Waves))), Reason: "because"}
	o.Kind = []OrderKind{Approve, Approve, Approve, Pause, Resume, Resume, Return, Hold, Unhold, Unhold, Force}[w.IntN(11)]
	if o.Kind == Resume && w.judge.unsure() || o.Kind == Return && phase != Running {
		return
	}
	w.orders = append(w.orders, o)
}

// decide delivers some of what is on its way, and has the judge look at what the hub makes of it.
func (w *world) decide(all bool) {
	in := Input{Epoch: fmt.Sprint(w.epoch), Clusters: map[string]Cluster{}, Now: w.now, Orders: w.orders}
	w.orders = nil
	for name, a := range w.agents {
		in.Clusters[name] = Cluster{Labels: a.labels, Reachable: a.reachable}
	}
	if !all {
		w.Shuffle(len(w.wire), func(i, j int) { w.wire[i], w.wire[j] = w.wire[j], w.wire[i] })
	}
	var later []Report
	for _, r := range w.wire {
		switch n := w.IntN(10); {
		case all || n < 5:
			in.Reports = append(in.Reports, r)
		case n < 6: // repeated
			in.Reports = append(in.Reports, r)
			later = append(later, r)
		case n < 9:
			later = append(later, r)
		}
	}
	w.wire = later
	before := w.judge.before(w.state)
	out, _ := Decide(w.state, in)
	w.judge.look(before, in, w.state, out)
	w.lost = append(w.lost, out...)
	var still []Release
	for _, r := range w.lost {
		switch n := w.IntN(10); {
		case all || n < 5:
			w.take(r)
		case n < 6:
			w.take(r)
			still = append(still, r)
		default: // the hub sends again what is not acknowledged
			still = append(still, r)
		}
	}
	w.lost = still
}

// calm heals everything, and the change must come to its end.
func (w *world) calm(t *testing.T) {
	for name, a := range w.agents {
		a.reachable, a.suspended, a.drift = true, false, false
		w.orders = append(w.orders, Order{Kind: Unhold, Cluster: name})
	}
	for i := range 60 {
		for _, name := range w.names() {
			a := w.agents[name]
			a.seen = len(w.heads) - 1
			w.work(name, a)
			w.send(name)
		}
		w.decide(true)
		if c := w.state.Candidate; i > 0 && c != nil && (c.Phase == Halted && w.spec.OnFailure == "" || w.state.Paused != "") {
			w.orders = append(w.orders, Order{Kind: Resume})
		}
		if c := w.state.Candidate; c != nil {
			for _, wave := range c.Waves {
				w.orders = append(w.orders, Order{Kind: Approve, Candidate: c.ID, Wave: wave.Name})
			}
		}
		w.now = w.now.Add(4 * time.Minute)
	}
	c := w.state.Candidate
	if c == nil {
		t.Fatal("no candidate in the end")
	}
	failing := false
	for name, m := range c.Members {
		failing = failing || w.bad[w.heads[len(w.heads)-1].of(name)]
		if !m.Left && m.Content != w.heads[len(w.heads)-1].of(name) {
			w.judge.broken(7, "the candidate is not what Git says on %s: %q, Git %q", name, m.Content, w.heads[len(w.heads)-1].of(name))
		}
	}
	if c.Phase == Running && !failing {
		w.judge.broken(0, "the change does not end: %+v", c)
	}
}

func TestDecide_invariants(t *testing.T) {
	done := 0
	for seed := uint64(1); done < *steps && !t.Failed(); seed++ {
		w := newWorld(seed)
		for range 300 {
			w.step()
			if w.IntN(2) == 0 {
				w.decide(false)
			}
			done++
		}
		w.calm(t)
		done += 60
		for rule, text := range w.judge.bad {
			t.Errorf("seed %d: rule %d: %s", seed, rule, text)
		}
	}
	t.Logf("%d steps", done)
}
