package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// reasons says of the rollout, of each wave and of each cluster what it waits for.
func (d *decision) reasons() []Reason {
	c := d.Candidate
	var out []Reason
	switch name := d.unheard(); {
	case c.Phase != Running:
		out = append(out, Reason{Text: strings.TrimSuffix(string(c.Phase)+": "+c.Why, ": ")})
	case c.Spec.Paused != "":
		out = append(out, Reason{Text: "paused in Git: " + c.Spec.Paused})
	case d.Paused != "":
		out = append(out, Reason{Text: "paused: " + d.Paused})
	case name != "":
		out = append(out, Reason{Text: fmt.Sprintf("the hub was restored, and cluster %q has not reported since", name)})
	}
	for _, w := range c.Waves {
		out = append(out, Reason{Wave: w.Name, Text: d.waveReason(w)})
		for _, name := range w.Members {
			if text := d.memberReason(w, name); text != "" {
				out = append(out, Reason{Wave: w.Name, Cluster: name, Text: text})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.in.Clusters)) {
		switch {
		case c.Members[name] != nil:
		case c.Spec.WaveOf(name, d.in.Clusters[name].Labels) < 0:
			out = append(out, Reason{Cluster: name, Text: "is in no wave"})
		default:
			out = append(out, Reason{Cluster: name, Text: "joined after this candidate had started: it has the last one that was completed"})
		}
	}
	return out
}

func (d *decision) waveReason(w *Wave) string {
	switch {
	case len(w.Members) == 0 && w.Phase == Finished:
		return "finished: no cluster is in it"
	case w.Phase == Waiting:
		var before []string
		for _, i := range w.After {
			if b := d.Candidate.Waves[i]; b.Phase != Finished {
				before = append(before, b.Name)
			}
		}
		return "waits for wave " + strings.Join(before, ", ")
	case w.Phase == Asking:
		return "waits for an approval of candidate " + d.Candidate.ID
	case w.Phase == Soaking:
		var last time.Time
		for _, name := range w.Members {
			if m := d.Candidate.Members[name]; d.counts(name) && m.Good.After(last) {
				last = m.Good
			}
		}
		return "soaks for another " + (w.Soak - d.in.Now.Sub(last)).String()
	}
	return string(w.Phase)
}

func (d *decision) memberReason(w *Wave, name string) string {
	m, k := d.Candidate.Members[name], d.Known[name]
	switch {
	case m.Left:
		return "left"
	case k == nil:
		return "has not reported the rollout yet"
	case k.Suspension != "":
		return "held by suspension " + k.Suspension
	case d.Holds[name] != "":
		return "held: " + d.Holds[name]
	case !d.reachable(name):
		return "unreachable"
	case m.Excused:
		return "failed, and the rollout went on without it"
	case m.Failed:
		return "failed: not healthy in time"
	case m.Return > 0:
		return "returned to what was before"
	case m.Content == "":
		return "its agent has not seen the candidate's commit yet"
	case k.Closed != "" && m.Number > 0 && m.Good.IsZero():
		return "held by " + k.Closed
	case m.Number > 0 && m.Good.IsZero():
		return "released, and not healthy at it yet"
	case m.Number == 0 && (w.Phase == Rolling || w.Phase == Soaking):
		return "waits for a place: " + counted(w.Parallel, "cluster") + " of the wave may change at one time"
	}
	return ""
}
