package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// moved places the commit that an agent sees now. from is the one that it saw before; empty if none is known.
//
// The hub does not see Git. That a commit is newer than the candidate's is proved by an agent that went there
// from the last of the candidate's, as an agent follows its branch. Without such a proof the commit may be one that others
// have passed already, also between two of the candidate's: it waits, see consensus.
func (d *decision) moved(r Report, from string) {
	to := r.Newest.Revision
	c := d.Candidate
	switch {
	case to == "":
	case c == nil:
		d.start([]string{to}, r)
	case slices.Contains(c.Revisions, to):
		d.arrived(r, from)
	case slices.Contains(d.Past, to):
		if slices.Contains(c.Revisions, from) && !slices.Contains(d.Turned, to) {
			d.Turned = append(d.Turned, to)
		}
	case from == c.Revisions[len(c.Revisions)-1]:
		d.newer(r)
	}
}

// arrived notes what the candidate is on a cluster whose agent sees one of its commits.
func (d *decision) arrived(r Report, from string) {
	c := d.Candidate
	if from != "" && !slices.Contains(c.Revisions, from) {
		d.passed(from)
	}
	m := c.Members[r.Cluster]
	switch {
	case m == nil:
	case m.Content == "":
		m.Version = r.Newest
	case m.Content != r.Newest.Content:
		d.start(c.Revisions[slices.Index(c.Revisions, r.Newest.Revision):], r)
	}
}

// newer takes a commit that is newer than the candidate's: the same candidate if no cluster has another content there.
func (d *decision) newer(r Report) {
	c := d.Candidate
	to := r.Newest.Revision
	for name, m := range c.Members {
		k := d.Known[name]
		if k != nil && k.Newest.Revision == to && m.Content != "" && m.Content != k.Newest.Content {
			d.start([]string{to}, r)
			return
		}
	}
	c.Revisions = append(c.Revisions, to)
	if len(c.Revisions) > maxPast {
		d.passed(c.Revisions[0])
		c.Revisions = c.Revisions[1:]
	}
	if r.Spec != nil { // the waves stay as they were when the candidate started
		waves := c.Spec.Waves
		c.Spec = *r.Spec
		c.Spec.Waves = waves
	}
	for name, m := range c.Members {
		if k := d.Known[name]; k != nil && k.Newest.Revision == to && m.Content == "" {
			m.Version = k.Newest
		}
	}
}

func (d *decision) passed(revision string) {
	if !slices.Contains(d.Past, revision) {
		d.Past = append(d.Past, revision)
	}
	if len(d.Past) > maxPast {
		d.Past = d.Past[len(d.Past)-maxPast:]
	}
}

// consensus takes a commit that nobody proved to be newer, once no agent that can be reached sees the candidate any more:
// its commit left the branch, or all agents that saw it are away.
func (d *decision) consensus() {
	c := d.Candidate
	if c == nil {
		return
	}
	seen := map[string]int{}
	var first map[string]Report
	for _, name := range slices.Sorted(maps.Keys(d.Known)) {
		k := d.Known[name]
		to := k.Newest.Revision
		switch {
		case !d.reachable(name) || to == "" || !k.Heard:
		case slices.Contains(c.Revisions, to):
			return
		case !slices.Contains(d.Past, to) || slices.Contains(d.Turned, to):
			if first == nil {
				first = map[string]Report{}
			}
			if seen[to]++; seen[to] == 1 {
				first[to] = k.Report
			}
		}
	}
	best := ""
	for _, to := range slices.Sorted(maps.Keys(seen)) {
		if best == "" || seen[to] > seen[best] {
			best = to
		}
	}
	if best != "" {
		d.newer(first[best])
	}
}

// start begins with a candidate at the first wave. Members are all clusters that the hub knows now.
func (d *decision) start(revisions []string, r Report) {
	old := d.Candidate
	if old == nil && r.Spec == nil {
		return
	}
	spec := r.Spec
	if spec == nil {
		spec = &old.Spec
	}
	if old != nil {
		for _, rev := range old.Revisions {
			if !slices.Contains(revisions, rev) {
				d.passed(rev)
			}
		}
	}
	c := &Candidate{
		ID:        api.RolloutContent(map[string]string{"revision": r.Newest.Revision, "content": r.Newest.Content, "cluster": r.Cluster, "started": d.in.Now.UTC().Format(time.RFC3339Nano)})[:12],
		Revisions: slices.Clone(revisions), Spec: *spec, Started: d.in.Now, Phase: Running, Members: map[string]*Member{},
	}
	for i, w := range spec.Waves {
		c.Waves = append(c.Waves, &Wave{Name: w.Name, After: spec.Before(i), Soak: time.Duration(w.Soak), Approve: w.Approve, Phase: Waiting})
	}
	for _, name := range slices.Sorted(maps.Keys(d.in.Clusters)) {
		i := spec.WaveOf(name, d.in.Clusters[name].Labels)
		if i < 0 {
			continue
		}
		c.Waves[i].Members = append(c.Waves[i].Members, name)
		m := &Member{}
		if k := d.Known[name]; k != nil && slices.Contains(revisions, k.Newest.Revision) {
			m.Version = k.Newest
		}
		c.Members[name] = m
	}
	for i, w := range c.Waves {
		w.Parallel, w.Failures = spec.Waves[i].Parallel(len(w.Members)), spec.Waves[i].Failures(len(w.Members))
	}
	d.Candidate, d.Turned = c, nil
}
