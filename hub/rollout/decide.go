package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Decide takes what is new into the state, and returns the releases to send now and what everything else waits for.
// The state is changed in place: a caller keeps a copy until the new one is stored.
func Decide(s *State, in Input) ([]Release, []Reason) {
	d := &decision{State: s, in: in}
	d.prepare()
	d.clusters()
	for _, r := range in.Reports {
		d.report(r)
	}
	d.consensus()
	if s.Candidate == nil {
		return nil, []Reason{{Text: "no agent has reported the rollout yet"}}
	}
	for _, o := range in.Orders {
		d.order(o)
	}
	d.observe()
	d.waves()
	d.release()
	return d.out, d.reasons()
}

type decision struct {
	*State
	in  Input
	out []Release
}

func (d *decision) prepare() {
	if d.Holds == nil {
		d.Holds = map[string]string{}
	}
	if d.Known == nil {
		d.Known = map[string]*Known{}
	}
	if d.Flights == nil {
		d.Flights = map[string]*Flight{}
	}
	if d.Epoch == d.in.Epoch {
		return
	}
	if d.Epoch != "" { // restored: what happened since the backup is not known
		d.Last, d.LastID, d.LastRevision, d.Restored = nil, "", "", true
		for _, k := range d.Known {
			k.Heard = false
		}
		if c := d.Candidate; c != nil {
			for _, m := range c.Members {
				m.Good = time.Time{}
			}
		}
	}
	d.Epoch = d.in.Epoch
}

// clusters notes who has left. A member that left is out of this candidate, also when it comes back.
func (d *decision) clusters() {
	for name := range d.Known {
		if _, here := d.in.Clusters[name]; !here {
			delete(d.Known, name)
			delete(d.Flights, name)
		}
	}
	if d.Candidate == nil {
		return
	}
	for name, m := range d.Candidate.Members {
		if _, here := d.in.Clusters[name]; !here {
			m.Left, m.Good = true, time.Time{}
		}
	}
}

func (d *decision) reachable(name string) bool { return d.in.Clusters[name].Reachable }

func (d *decision) report(r Report) {
	_, here := d.in.Clusters[r.Cluster]
	k := d.Known[r.Cluster]
	if !here || k != nil && r.Seq <= k.Seq {
		return
	}
	from := ""
	if k == nil {
		k = &Known{}
		d.Known[r.Cluster] = k
	} else {
		from = k.Newest.Revision
	}
	k.Report, k.Heard = r, k.Heard || r.Epoch == d.Epoch
	d.moved(r, from)
	d.Number = max(d.Number, r.Held.Number)
	f := d.Flights[r.Cluster]
	underway := r.Held.Content != "" && (r.Applied != r.Held.Content || !r.Healthy)
	if d.Restored && underway && (f == nil || f.Number < r.Held.Number) {
		d.Flights[r.Cluster] = &Flight{r.Held.Number, r.Held.Content, d.due(), true}
	}
	if d.Candidate != nil {
		d.adopt(r)
		d.judge(r.Cluster)
	}
}

// adopt learns from an agent what was released without this hub's knowing: on the cluster itself, or before a restore.
func (d *decision) adopt(r Report) {
	c := d.Candidate
	m := c.Members[r.Cluster]
	if m == nil || m.Content == "" || m.Left || r.Suspension != "" {
		return
	}
	released := r.Held.Number > max(m.Number, m.Return) && r.Held.Content == m.Content && r.Held.Candidate == c.ID
	if released || r.Forced == m.Content && m.Number == 0 {
		m.Number, m.Had, m.Forced = max(r.Held.Number, 1), true, !released
		m.Due = d.due()
		d.Flights[r.Cluster] = &Flight{m.Number, m.Content, m.Due, !released}
	}
	if r.Held.Number > max(m.Number, m.Return) && r.Held.Instead == m.Content && c.Phase != Returned {
		c.Phase, c.Why = Returned, "it was returned before the hub was restored"
		m.Number, m.Had, m.Return = 1, true, r.Held.Number
	}
}

// judge notes whether a cluster is good, after each report: what was bad between two decisions is a break, too.
func (d *decision) judge(name string) {
	m, k := d.Candidate.Members[name], d.Known[name]
	if f := d.Flights[name]; f != nil && d.settled(k, f) {
		delete(d.Flights, name)
	}
	if m == nil || k == nil || m.Left {
		return
	}
	// A suspension voids a release, also one that ended before the hub heard of it.
	voided := m.Number > 0 && !m.Forced && k.Held.Number >= m.Number && k.Held.Content == ""
	if k.Suspension != "" || voided {
		m.Number, m.Return, m.Good, m.Due = 0, 0, time.Time{}, time.Time{}
		delete(d.Flights, name)
		return
	}
	if m.Forced && k.Forced != m.Content { // it was forced on the cluster, and is no more: it gets a release of its own
		m.Number, m.Forced = 0, false
	}
	released := m.Number > 0 && m.Return == 0 && (k.Held.Number >= m.Number && k.Held.Content == m.Content || k.Forced == m.Content)
	good := released && d.reachable(name) && k.Heard && k.Applied == m.Content && k.Healthy && !k.Drift
	switch {
	case good && m.Good.IsZero():
		m.Good, m.Due, m.Failed, m.Excused = d.in.Now, time.Time{}, false, false
	case !good && !m.Good.IsZero():
		m.Good, m.Due = time.Time{}, d.due()
	}
	if k.Stalled && m.Number > 0 && k.Held.Number >= m.Number && !good {
		m.Failed = true
		delete(d.Flights, name)
	}
}

func (d *decision) settled(k *Known, f *Flight) bool {
	return k != nil && k.Held.Number >= f.Number && k.Applied == f.Content && k.Healthy && d.reachable(k.Cluster)
}

func (d *decision) due() time.Time {
	if d.Candidate == nil {
		return d.in.Now.Add(api.DefaultDeadline)
	}
	return d.in.Now.Add(d.Candidate.Spec.HealthDeadline())
}

// observe looks at every member once more: time has passed, and clusters were lost and found.
func (d *decision) observe() {
	c := d.Candidate
	for name, m := range c.Members {
		d.judge(name)
		k := d.Known[name]
		if k != nil && k.Closed != "" && !m.Due.IsZero() {
			m.Due = d.due()
			if f := d.Flights[name]; f != nil {
				f.Due = m.Due
			}
		}
		lost := !d.reachable(name)
		switch {
		case m.Left:
		case lost && c.Spec.Unreachable == api.UnreachableFail && d.active(name):
			m.Failed = true
		case lost && c.Spec.Unreachable == api.UnreachableWait:
		case !m.Due.IsZero() && !d.in.Now.Before(m.Due) && !lost:
			m.Failed = true
		}
	}
	for name, f := range d.Flights {
		if !d.in.Now.Before(f.Due) {
			delete(d.Flights, name)
		}
	}
}

// active reports whether the cluster's wave has begun and has not finished.
func (d *decision) active(name string) bool {
	return slices.ContainsFunc(d.Candidate.Waves, func(w *Wave) bool {
		return (w.Phase == Rolling || w.Phase == Soaking) && slices.Contains(w.Members, name)
	})
}

// counts reports whether a wave waits for a member: one that left, is suspended, held or excused does not count,
// nor one that is unreachable and skipped.
func (d *decision) counts(name string) bool {
	m, k := d.Candidate.Members[name], d.Known[name]
	skip := !d.reachable(name) && (d.Candidate.Spec.Unreachable == "" || d.Candidate.Spec.Unreachable == api.UnreachableSkip)
	return !m.Left && (k == nil || k.Suspension == "") && d.Holds[name] == "" && !m.Excused && !skip
}

// waves moves every wave on as far as it goes, those before first: the graph has no cycle.
func (d *decision) waves() {
	c := d.Candidate
	if c.Phase != Running {
		return
	}
	for range c.Waves {
		for _, w := range c.Waves {
			d.step(w)
		}
	}
	for _, w := range c.Waves {
		if n := d.failures(w); n > w.Failures && w.Phase != Finished {
			d.fail(w.Name, n)
			return
		}
	}
	if !slices.ContainsFunc(c.Waves, func(w *Wave) bool { return w.Phase != Finished }) {
		c.Phase = Completed
		d.Last, d.LastID, d.LastRevision = map[string]Version{}, c.ID, c.Revisions[len(c.Revisions)-1]
		for name, m := range c.Members {
			if m.Content != "" {
				d.Last[name] = m.Version
			}
		}
	}
}

func (d *decision) failures(w *Wave) int {
	n := 0
	for _, name := range w.Members {
		if m := d.Candidate.Members[name]; m.Failed && !m.Excused && !m.Left {
			n++
		}
	}
	return n
}

func (d *decision) step(w *Wave) {
	if w.Phase == Waiting && !slices.ContainsFunc(w.After, func(i int) bool { return d.Candidate.Waves[i].Phase != Finished }) {
		w.Phase = Asking
	}
	here := slices.ContainsFunc(w.Members, func(name string) bool { return !d.Candidate.Members[name].Left })
	if w.Phase == Asking && !here {
		w.Phase = Finished
	}
	if w.Phase == Asking && (!w.Approve || w.Approved) {
		w.Phase = Rolling
	}
	if w.Phase != Rolling && w.Phase != Soaking {
		return
	}
	if !here {
		w.Phase = Finished
		return
	}
	good, last, all := 0, time.Time{}, true
	for _, name := range w.Members {
		m := d.Candidate.Members[name]
		switch {
		case !d.counts(name) || m.Failed:
		case m.Good.IsZero():
			all = false
		default:
			good++
			if m.Good.After(last) {
				last = m.Good
			}
		}
	}
	switch {
	case !all || good == 0 || d.failures(w) > w.Failures:
		w.Phase = Rolling
	case d.in.Now.Sub(last) >= w.Soak:
		w.Phase = Finished
	default:
		w.Phase = Soaking
	}
}

func (d *decision) fail(wave string, n int) {
	c := d.Candidate
	c.Phase, c.Why = Halted, "wave "+wave+": "+counted(n, "cluster")+" failed"
	if c.Spec.OnFailure == api.OnFailureReturn && d.Last != nil {
		c.Phase = Returned
	}
}

func (d *decision) order(o Order) {
	c := d.Candidate
	switch o.Kind {
	case Approve:
		for _, w := range c.Waves {
			if w.Name == o.Wave && o.Candidate == c.ID {
				w.Approved = true
			}
		}
	case Pause:
		d.Paused = o.Reason
	case Resume:
		d.resume()
	case Return:
		if (c.Phase == Running || c.Phase == Halted) && d.Last != nil {
			c.Phase, c.Why = Returned, o.Reason
		}
	case Hold:
		d.Holds[o.Cluster] = o.Reason
	case Unhold:
		delete(d.Holds, o.Cluster)
	case Force:
		m, k := c.Members[o.Cluster], d.Known[o.Cluster]
		if m != nil && m.Content != "" && m.Number == 0 && k != nil && k.Suspension == "" && k.Heard && d.reachable(o.Cluster) && !m.Left {
			d.give(o.Cluster, m.seen(k))
			m.Number, m.Had, m.Due = d.Number, true, d.due()
		}
	}
}

func (d *decision) resume() {
	d.Paused, d.Restored = "", false
	for _, k := range d.Known {
		k.Heard = true
	}
	if c := d.Candidate; c.Phase == Halted {
		c.Phase, c.Why = Running, ""
		for _, m := range c.Members {
			m.Excused = m.Excused || m.Failed
		}
	}
}

// unheard is a cluster of the rollout that has not reported since the hub was restored: it may be anywhere.
// One that joined after the backup is no member of the candidate, and will be of the next.
func (d *decision) unheard() string {
	if !d.Restored {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(d.in.Clusters)) {
		k, ofRollout := d.Known[name], d.Candidate.Spec.WaveOf(name, d.in.Clusters[name].Labels) >= 0
		if ofRollout && (k == nil || !k.Heard) {
			return name
		}
	}
	d.Restored = false
	return ""
}

func (d *decision) release() {
	c := d.Candidate
	if d.Paused != "" || c.Spec.Paused != "" || d.unheard() != "" || c.Phase == Halted {
		return
	}
	for _, w := range c.Waves {
		if c.Phase != Returned && w.Phase != Rolling && w.Phase != Soaking && w.Phase != Finished {
			continue
		}
		flying := 0
		for _, name := range w.Members {
			if d.Flights[name] != nil {
				flying++
			}
		}
		// Who is under way already takes no further place.
		for _, underway := range []bool{true, false} {
			for _, name := range w.Members {
				f, taken := d.Flights[name], 0
				if f != nil && f.Guess {
					taken = 1
				}
				if (f != nil && !f.Guess) != underway || !underway && flying-taken >= w.Parallel {
					continue
				}
				if d.next(name) && !underway {
					flying += 1 - taken
				}
			}
		}
	}
	if c.Phase != Returned {
		d.joiners()
	}
}

// next releases to a member what is next for it, if anything is.
func (d *decision) next(name string) bool {
	c := d.Candidate
	m, k := c.Members[name], d.Known[name]
	if m.Left || k == nil || !d.reachable(name) || k.Suspension != "" || d.Holds[name] != "" {
		return false
	}
	if c.Phase == Returned {
		last, ok := d.Last[name]
		if !m.Had || m.Return > 0 || !ok {
			return false
		}
		d.give(name, last)
		d.out[len(d.out)-1].Instead = m.Content
		m.Return, m.Good, m.Due = d.Number, time.Time{}, time.Time{}
		return true
	}
	if m.Number > 0 || m.Content == "" || !slices.Contains(c.Revisions, k.Newest.Revision) {
		return false
	}
	d.give(name, m.seen(k))
	m.Number, m.Had, m.Due, m.Failed = d.Number, true, d.due(), false
	return true
}

// seen is what the candidate is for a member, in the newest commit that its agent has: an older one of the candidate's
// may be behind what the agent had before.
func (m *Member) seen(k *Known) Version {
	if k.Newest.Content == m.Content {
		return k.Newest
	}
	return m.Version
}

func (d *decision) give(name string, v Version) {
	d.Number++
	d.out = append(d.out, Release{Number: d.Number, Cluster: name, Candidate: d.Candidate.ID, Version: v})
	d.Flights[name] = &Flight{d.Number, v.Content, d.due(), false}
}

// joiners get the last candidate that was completed. Its content on their clusters is not known to the hub: the commit names it.
func (d *decision) joiners() {
	if d.LastID == "" {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(d.Known)) {
		k := d.Known[name]
		if d.Candidate.Members[name] != nil || k.Joined == d.LastID || !d.reachable(name) || !k.Heard || k.Suspension != "" || d.Holds[name] != "" ||
			d.Candidate.Spec.WaveOf(name, d.in.Clusters[name].Labels) < 0 {
			continue
		}
		d.Number++
		d.out = append(d.out, Release{Number: d.Number, Cluster: name, Candidate: d.LastID, Version: Version{Revision: d.LastRevision}})
		k.Joined = d.LastID
	}
}
