package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// judge holds the rules of docs/decisions/0014 against what a hub was told and what it released. It decides nothing as Decide does:
// it keeps a book for each candidate, which no restart and no restore takes away.
type judge struct {
	w       *world
	bad     map[int]string
	last    map[string]Report
	away    map[string]bool
	books   map[string]*book
	flights map[string]Flight
	paused  bool
	holds   map[string]bool
	// heard are clusters that reported since the last restore; nil if there was none.
	heard map[string]bool
	// failed: content that was returned -> the head at which it was.
	failed map[string]int
	free   map[string]bool // forced on the cluster itself
}

type book struct {
	members  map[string]int
	own      map[string]uint64
	content  map[string]string
	good     map[string]time.Time
	due      map[string]time.Time
	late     map[string]bool
	excused  map[string]bool
	done     map[int]bool
	approved map[string]bool
}

func newJudge(w *world) *judge {
	return &judge{
		w: w, bad: map[int]string{}, last: map[string]Report{}, away: map[string]bool{}, books: map[string]*book{},
		flights: map[string]Flight{}, holds: map[string]bool{}, failed: map[string]int{}, free: map[string]bool{},
	}
}

func (j *judge) broken(rule int, format string, args ...any) {
	if j.bad[rule] == "" {
		j.bad[rule] = fmt.Sprintf(format, args...)
	}
}

func (j *judge) restored() {
	j.heard, j.paused, j.holds = map[string]bool{}, false, map[string]bool{}
	for name := range j.w.state.Holds {
		j.holds[name] = true
	}
	j.paused = j.w.state.Paused != ""
}

// unsure reports whether a hub that was restored has not heard of all since.
func (j *judge) unsure() bool {
	if j.heard == nil {
		return false
	}
	for name := range j.w.agents {
		if !j.heard[name] {
			return true
		}
	}
	return false
}

func (j *judge) forced(name string) { j.free[name] = true }

type earlier struct {
	id        string
	revisions []string
	epoch     string
	phase     Phase
}

func (j *judge) before(s *State) earlier {
	if s.Candidate == nil {
		return earlier{}
	}
	return earlier{s.Candidate.ID, slices.Clone(s.Candidate.Revisions), s.Epoch, s.Candidate.Phase}
}

func (j *judge) look(was earlier, in Input, s *State, out []Release) {
	c := s.Candidate
	if c == nil {
		return
	}
	b := j.books[c.ID]
	// A branch that was set back brings a candidate back. One that began at the moment of the backup may begin anew.
	again := was.id != "" && was.id != c.ID && was.epoch == s.Epoch
	if b == nil || again || was.id != c.ID && len(b.members) != len(c.Members) {
		b = j.open(in, c)
		j.books[c.ID] = b
	}
	j.sameMembers(b, c)
	if was.id != "" && was.id != c.ID {
		j.restarted(was, in, c)
	}
	j.reports(b, in)
	j.orders(b, in, c)
	j.waves(b, in, c)
	forced := map[string]bool{}
	for _, o := range in.Orders {
		if o.Kind == Force {
			forced[o.Cluster] = true
		}
	}
	for _, r := range out {
		j.release(b, in, s, r, forced[r.Cluster])
	}
	if c.Phase == Halted && len(out) > len(forced) {
		j.broken(8, "a halted candidate was released")
	}
}

func (j *judge) open(in Input, c *Candidate) *book {
	b := &book{
		members: map[string]int{}, own: map[string]uint64{}, content: map[string]string{}, good: map[string]time.Time{}, due: map[string]time.Time{},
		late: map[string]bool{}, excused: map[string]bool{}, done: map[int]bool{}, approved: map[string]bool{},
	}
	for name, cl := range in.Clusters {
		for i := range j.w.spec.Waves {
			if cl.Labels["w"] == fmt.Sprint(i) {
				b.members[name] = i
			}
		}
	}
	for i, w := range c.Waves {
		n, free := 0, false
		for name, wave := range b.members {
			if wave == i {
				n++
				free = free || j.free[name]
			}
		}
		if p := j.parallel(i, n); p != w.Parallel {
			j.broken(5, "wave %d of %d: %d in parallel, not %d", i, n, w.Parallel, p)
		}
		f := 0
		if a := j.w.spec.Waves[i].MaxFailures; a != nil {
			f = a.Number
			if a.Percent {
				f = (n*a.Number + 99) / 100
			}
		}
		if f != w.Failures {
			j.broken(5, "wave %d of %d: %d failures, not %d", i, n, w.Failures, f)
		}
		if w.Phase == Finished && n > 0 && !free {
			j.broken(7, "a candidate began with wave %d finished", i)
		}
	}
	return b
}

func (j *judge) parallel(wave, n int) int {
	a := j.w.spec.Waves[wave].MaxParallel
	switch {
	case a == nil:
		return max(n, 1)
	case a.Percent:
		return max(n*a.Number/100, 1)
	}
	return a.Number
}

func (j *judge) sameMembers(b *book, c *Candidate) {
	if len(c.Members) != len(b.members) {
		j.broken(4, "members were %d and are %d", len(b.members), len(c.Members))
	}
	for name := range c.Members {
		if _, ok := b.members[name]; !ok {
			j.broken(4, "%s became a member", name)
		}
	}
}

// restarted checks that a candidate was not replaced by the same.
func (j *judge) restarted(was earlier, in Input, c *Candidate) {
	if was.phase == "" {
		return
	}
	old, now := j.w.headOf(was.revisions[len(was.revisions)-1], len(j.w.heads)-1), j.w.headOf(c.Revisions[0], len(j.w.heads)-1)
	for name := range j.books[was.id].members {
		if j.w.heads[old].of(name) != j.w.heads[now].of(name) {
			return
		}
	}
	// An agent may have told of a commit between the two that has another content, and of the next one, since the last decision.
	for _, r := range in.Reports {
		between := j.w.headOf(r.Newest.Revision, len(j.w.heads)-1) > old
		if _, member := j.books[was.id].members[r.Cluster]; member && between && r.Newest.Content != j.w.heads[old].of(r.Cluster) {
			return
		}
	}
	// Its last commit may have the same content again, after one that did not.
	for _, rev := range was.revisions {
		for name := range j.books[was.id].members {
			if j.w.heads[j.w.headOf(rev, len(j.w.heads)-1)].of(name) != j.w.heads[now].of(name) {
				return
			}
		}
	}
	j.broken(7, "candidate of %v was replaced by %v, which is the same", was.revisions, c.Revisions)
}

func (j *judge) reports(b *book, in Input) {
	for name, cl := range in.Clusters { // who is no member is released the last candidate
		j.away[name] = !cl.Reachable
	}
	for name := range b.members {
		cl, here := in.Clusters[name]
		j.away[name] = !cl.Reachable
		if !here {
			delete(j.flights, name)
		}
		if !cl.Reachable {
			b.late[name] = b.late[name] || j.w.spec.Unreachable == api.UnreachableFail
			b.good[name] = time.Time{}
		}
	}
	for _, r := range in.Reports {
		if _, here := in.Clusters[r.Cluster]; !here || r.Seq <= j.last[r.Cluster].Seq {
			continue
		}
		j.last[r.Cluster] = r
		if j.heard != nil {
			j.heard[r.Cluster] = true
		}
		j.note(b, in, r.Cluster)
	}
	for name := range b.members {
		j.note(b, in, name)
	}
	for name, f := range j.flights {
		if !in.Now.Before(f.Due) {
			delete(j.flights, name)
		}
	}
	for name, due := range b.due {
		if !due.IsZero() && !in.Now.Before(due) {
			b.late[name] = true
		}
	}
}

func (j *judge) note(b *book, in Input, name string) {
	r := j.last[name]
	voided := r.Held.Number > 0 && r.Held.Content == "" // a suspension came and went
	if f, ok := j.flights[name]; ok && (r.Suspension != "" || voided && r.Held.Number >= f.Number || !j.away[name] && r.Held.Number >= f.Number && r.Applied == f.Content && r.Healthy) {
		delete(j.flights, name)
	}
	if r.Suspension != "" || voided && r.Held.Number >= b.own[name] {
		b.own[name] = 0
	}
	good := (b.own[name] > 0 && r.Held.Number >= b.own[name] && r.Applied == b.content[name] || j.free[name] && r.Forced != "" && r.Applied == r.Forced) &&
		r.Healthy && !r.Drift && r.Suspension == "" && !j.away[name]
	switch {
	case !good:
		b.good[name] = time.Time{}
	case b.good[name].IsZero():
		b.good[name] = in.Now
	}
}

func (j *judge) orders(b *book, in Input, c *Candidate) {
	for _, o := range in.Orders {
		switch o.Kind {
		case Approve:
			if o.Candidate == c.ID {
				b.approved[o.Wave] = true
			}
		case Pause:
			j.paused = true
		case Resume:
			j.paused = false
			for name, m := range c.Members {
				b.excused[name] = m.Excused
			}
		case Hold:
			j.holds[o.Cluster] = true
		case Unhold:
			delete(j.holds, o.Cluster)
		default:
		}
	}
}

// waves holds each wave that has just finished against what was reported.
func (j *judge) waves(b *book, in Input, c *Candidate) {
	for i, w := range c.Waves {
		before, now := true, true
		for _, p := range j.preceding(i) {
			before, now = before && b.done[p], now && c.Waves[p].Phase == Finished
		}
		left := true
		for name, wave := range b.members {
			if wave == i && !c.Members[name].Left {
				left = false
			}
		}
		if left && now && c.Phase == Running && w.Phase != Finished {
			j.broken(6, "wave %d has no cluster, and does not pass", i)
		}
		if w.Phase != Finished || b.done[i] {
			continue
		}
		if !before {
			j.broken(1, "wave %d finished before those before it", i)
		}
		b.done[i] = true
		if !left {
			j.finished(b, in, c, i)
		}
	}
}

func (j *judge) preceding(i int) []int {
	switch w := j.w.spec.Waves[i]; {
	case w.After != nil:
		return []int{0}
	case i == 0:
		return nil
	}
	return []int{i - 1}
}

func (j *judge) finished(b *book, in Input, c *Candidate, i int) {
	proofs, failures := 0, 0
	for name, wave := range b.members {
		if wave != i {
			continue
		}
		r, m := j.last[name], c.Members[name]
		skip := j.away[name] && (j.w.spec.Unreachable == "" || j.w.spec.Unreachable == api.UnreachableSkip)
		switch since := b.good[name]; {
		case m.Left || r.Suspension != "" || j.holds[name] || skip || m.Excused:
		case !since.IsZero() && in.Now.Sub(since) >= time.Duration(j.w.spec.Waves[i].Soak):
			proofs++
		case !since.IsZero():
			j.broken(2, "wave %d finished when %s was good for %s", i, name, in.Now.Sub(since))
		case b.late[name] || j.free[name] || j.away[name] && j.w.spec.Unreachable == api.UnreachableFail:
			failures++
		case j.away[name]:
			j.broken(10, "wave %d finished without %s, which is unreachable", i, name)
		default:
			j.broken(1, "wave %d finished without %s: %+v", i, name, r)
		}
	}
	if proofs == 0 {
		j.broken(1, "wave %d finished without any proof", i)
	}
	if failures > c.Waves[i].Failures {
		j.broken(5, "wave %d finished with %d failures", i, failures)
	}
}

func (j *judge) release(b *book, in Input, s *State, r Release, forced bool) {
	name, c := r.Cluster, s.Candidate
	if last := j.last[name]; last.Suspension != "" || j.away[name] {
		j.broken(10, "released to %s, which is suspended or unreachable", name)
	}
	if r.Number <= j.last[name].Held.Number {
		j.broken(11, "release %d to %s, which has %d", r.Number, name, j.last[name].Held.Number)
	}
	wave, member := b.members[name]
	if _, here := in.Clusters[name]; !here {
		j.broken(4, "released to %s, which left", name)
	}
	if !forced && (j.paused || j.holds[name]) {
		j.broken(8, "released to %s while paused or held", name)
	}
	if !forced && j.unsureOf(b) {
		j.broken(11, "released to %s before all reported after a restore", name)
	}
	if !member {
		if r.Content != "" || r.Candidate != s.LastID {
			j.broken(4, "%s joined, and got %+v", name, r)
		}
		return
	}
	_, underway := j.flights[name]
	j.flights[name] = Flight{r.Number, r.Content, in.Now.Add(15 * time.Minute), false}
	if !forced && !underway {
		n := 0
		for other, f := range j.flights {
			if w, ok := b.members[other]; ok && w == wave && f.Number > 0 {
				n++
			}
		}
		if most := j.parallel(wave, j.size(b, wave)); n > most {
			j.broken(3, "wave %d: %d in flight, of %d", wave, n, most)
		}
	}
	if r.Instead != "" {
		for other := range b.members {
			j.failed[c.Members[other].Content] = len(j.w.heads)
		}
		return
	}
	j.forward(b, c, r, forced)
	b.own[name], b.content[name], b.due[name] = r.Number, r.Content, in.Now.Add(15*time.Minute)
}

func (j *judge) forward(b *book, c *Candidate, r Release, forced bool) {
	name, wave := r.Cluster, b.members[r.Cluster]
	if forced {
		return
	}
	if !slices.Contains(c.Revisions, r.Revision) || j.w.heads[j.w.headOf(r.Revision, len(j.w.heads)-1)].of(name) != r.Content {
		j.broken(12, "%s was released what Git does not say: %+v", name, r)
	}
	for _, p := range j.preceding(wave) {
		if !b.done[p] {
			j.broken(1, "released to %s in wave %d before wave %d finished", name, wave, p)
		}
	}
	if w := j.w.spec.Waves[wave]; w.Approve && !b.approved[w.Name] {
		j.broken(9, "released to %s without an approval of %s", name, c.ID)
	}
	if at, ok := j.failed[r.Content]; ok && r.Content != "" && at == len(j.w.heads) {
		j.broken(13, "released %q again to %s", r.Content, name)
	}
}

func (j *judge) unsureOf(b *book) bool {
	if j.heard == nil {
		return false
	}
	for name := range b.members {
		if _, here := j.w.agents[name]; here && !j.heard[name] && j.last[name].Seq > 0 {
			return true
		}
	}
	return false
}

func (j *judge) size(b *book, wave int) int {
	n := 0
	for _, w := range b.members {
		if w == wave {
			n++
		}
	}
	return n
}
