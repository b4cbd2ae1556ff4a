package api

import (
	"fmt"
	"strings"
	"time"
)

// Hours are the windows and the freeze of one file.
type Hours struct {
	Windows []Window
	Freeze  *Freeze
}

// Opening says whether changes from Git may be applied.
type Opening struct {
	Open bool
	// Reason says in words what makes it so.
	Reason string
	// Until is when the answer changes. Zero means that it does not, as far as was looked: see Open.
	Until time.Time
}

// Bounds of how far Open looks for the moment at which its answer changes.
const (
	openHorizon = 2 * 366 * 24 * time.Hour
	openSteps   = 500
)

// Open says whether changes may be applied at a moment on a cluster with these labels: all files must allow it.
// In a file, a freeze goes before all windows, a window that denies before all that allow,
// and where there is a window that allows, changes are applied in such windows only.
//
// A window begins when the clock of its time zone shows what its schedule says, and lasts its duration in time that passes.
// A beginning that the clock skips is at the moment of the change. One that the clock shows twice counts twice.
// Schedules and zones must have been validated: a window that cannot be read denies.
func Open(now time.Time, labels map[string]string, files ...Hours) Opening {
	var all []hours
	for _, f := range files {
		all = append(all, f.read(labels))
	}
	out := openAt(now, all)
	for t, steps := now, 0; steps < openSteps && t.Sub(now) < openHorizon; steps++ {
		t = nextEdge(t, all)
		if t.IsZero() {
			break
		}
		if openAt(t, all).Open != out.Open {
			out.Until = t
			break
		}
	}
	return out
}

// hours are Hours that were read, for one cluster.
type hours struct {
	freeze  *Freeze
	windows []readWindow
	// allowing is set where some window allows.
	allowing bool
}

type readWindow struct {
	Window
	schedule schedule
	zone     *time.Location
	// bad is why the window cannot be read.
	bad error
}

func (h Hours) read(labels map[string]string) hours {
	out := hours{freeze: h.Freeze}
	for _, w := range h.Windows {
		if w.ClusterSelector != nil && !w.ClusterSelector.Matches(labels) {
			continue
		}
		r := readWindow{Window: w}
		r.zone, r.bad = zone(w.TimeZone)
		if r.bad == nil {
			r.schedule, r.bad = parseSchedule(w.Schedule)
		}
		out.windows = append(out.windows, r)
		out.allowing = out.allowing || w.Kind == WindowAllow
	}
	return out
}

func openAt(now time.Time, all []hours) Opening {
	out := Opening{Open: true, Reason: "nothing holds changes back"}
	for _, h := range all {
		o := h.at(now)
		if !o.Open {
			return o
		}
		if h.allowing {
			out = o
		}
	}
	return out
}

func (h hours) at(now time.Time) Opening {
	if h.freeze != nil && now.Before(h.freeze.Until) {
		return Opening{Reason: "frozen: " + h.freeze.Reason}
	}
	out := Opening{Open: !h.allowing, Reason: "no window is open that allows changes"}
	for _, w := range h.windows {
		switch {
		case w.bad != nil:
			return Opening{Reason: fmt.Sprintf("a window cannot be read: %v", w.bad)}
		case !w.open(now):
		case w.Kind == WindowDeny:
			return Opening{Reason: w.describe()}
		case !out.Open:
			out = Opening{Open: true, Reason: w.describe()}
		}
	}
	return out
}

func (w readWindow) describe() string {
	zone := w.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	verb := "allows"
	if w.Kind == WindowDeny {
		verb = "forbids"
	}
	s := fmt.Sprintf("a window %s changes (%s, %s, %s)", verb, strings.Join(strings.Fields(w.Schedule), " "), zone, w.Duration)
	if w.Reason != "" {
		s += ": " + w.Reason
	}
	return s
}

// open reports whether the window began within its duration.
func (w readWindow) open(now time.Time) bool {
	begin := w.next(now.Add(-time.Duration(w.Duration)))
	return !begin.IsZero() && !begin.After(now)
}

// nextEdge is the first moment after t at which a window begins or ends, or a freeze ends. Zero if there is none.
func nextEdge(t time.Time, all []hours) time.Time {
	var first time.Time
	add := func(edge time.Time) {
		if edge.After(t) && (first.IsZero() || edge.Before(first)) {
			first = edge
		}
	}
	for _, h := range all {
		if h.freeze != nil {
			add(h.freeze.Until)
		}
		for _, w := range h.windows {
			if w.bad != nil {
				continue
			}
			if begin := w.next(t); !begin.IsZero() {
				add(begin)
			}
			if begin := w.next(t.Add(-time.Duration(w.Duration))); !begin.IsZero() {
				add(begin.Add(time.Duration(w.Duration)))
			}
		}
	}
	return first
}

// next is the first beginning after a moment. Zero if none is near: see Open.
//
// Between two changes of the zone's clock the time on the wall and the time that passes run alike,
// so each such span is looked through by itself.
func (w readWindow) next(after time.Time) time.Time {
	for t := after; t.Sub(after) <= openHorizon; {
		offset := offsetAt(t, w.zone)
		wall := w.schedule.Next(wallOf(t, offset))
		_, end := t.In(w.zone).ZoneBounds()
		begin := wall.Add(-offset)
		switch {
		case end.IsZero() && wall.IsZero():
			return time.Time{}
		case !wall.IsZero() && (end.IsZero() || begin.Before(end)):
			return begin.UTC()
		}
		// The clock goes from last to first: forward, and what is between them is not shown; or back.
		last, first := wallOf(end, offset), wallOf(end, offsetAt(end, w.zone))
		if last.After(first) {
			last = first
		}
		if wall := w.schedule.Next(last.Add(-time.Nanosecond)); !wall.IsZero() && !wall.After(first) {
			return end.UTC()
		}
		t = end
	}
	return time.Time{}
}

func offsetAt(t time.Time, zone *time.Location) time.Duration {
	_, seconds := t.In(zone).Zone()
	return time.Duration(seconds) * time.Second
}

// wallOf is what a clock with that offset shows, written as a time in UTC.
func wallOf(t time.Time, offset time.Duration) time.Time { return t.UTC().Add(offset) }
