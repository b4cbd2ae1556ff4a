package lifecycle

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// outcome is what became of the last run, in so far as it still counts: an input that changes makes it nothing.
type outcome uint8

const (
	nothing outcome = iota
	done            // what Git said was done
	later           // time alone leads to another try
	final           // only an input leads to another try
)

// ledger keeps, beside a State and without asking it, what is owed to one bundle: which runs, and which marks on them.
type ledger struct {
	// git and digest are what Git says, and doing is what the run under way, which has begun, read of it.
	git         Git
	digest      string
	doing       target
	placed, ran bool
	// asked is set when something asked for a run in the middle of another.
	asked bool
	last  outcome
	// until ends the wait of an outcome that is later; zero before anybody asked for it.
	until time.Time
	// force and anew are the marks of the next run, and grace is owed to the next refusal.
	force, anew, grace bool
	failed             bool
	kept, undeclared   bool
	// failures counts those in a row that the next backoff depends on.
	failures int
}

func (l *ledger) target() target { return target{l.git, l.digest} }

// ask has the bundle run, whatever the last run came to.
func (l *ledger) ask() {
	if l.placed {
		l.asked = true
	} else {
		l.last = nothing
	}
}

// askIf has it run if that is what the last run came to.
func (l *ledger) askIf(outcomes ...outcome) {
	for _, o := range outcomes {
		if l.last == o && !l.placed {
			l.last = nothing
		}
	}
}

func (l *ledger) says(git Git, digest string) {
	switch {
	case l.git == Unread && git == Declared && l.last == done && digest == l.digest:
		l.git = git // as it was before the restart
	case git != l.git || digest != l.digest || git == Broken:
		l.git, l.digest, l.failed, l.failures = git, digest, git == Broken, 0
		l.askIf(done, later, final)
	case git == Removed:
		l.askIf(done, final) // a removal is tried at each adoption, unless it waits
	}
}

// note takes an event, as somebody would who has read the documentation of the events.
func (l *ledger) note(e Event) {
	switch e := e.(type) {
	case Recalled:
		l.undeclared = e.Undeclared
		if l.git == Unread && !l.force {
			l.last, l.digest = done, e.Digest
		}
	case Rendered:
		l.says(Declared, e.Digest)
	case Unrenderable:
		l.says(Broken, "")
	case RemovedFromGit:
		l.says(Removed, "")
	case Adopted:
		if e.Commit || e.Allowed {
			l.askIf(later)
			l.failures = 0
		}
		if l.undeclared {
			l.askIf(done)
		}
		if l.kept && e.Whole {
			l.ask()
		}
	case Ordered:
		l.force, l.failures = true, 0
		l.ask()
	case Overwritten, Unsettled:
		l.force = l.force || e == Event(Overwritten{})
		l.askIf(done)
		l.asked = l.asked || l.placed
	case SuspensionsChanged:
		l.askIf(later, final)
	case ObjectChanged:
		l.askIf(later, final)
		if l.placed || l.last != done {
			l.failures = 0
		}
	case Reopened:
		if l.placed || l.failed && l.last != done {
			l.anew, l.grace, l.failures = true, true, 0
			l.askIf(later, final)
		}
	case Sorted:
		l.kept, l.undeclared = e.Kept > 0, e.Undeclared
	case Placed:
		l.placed = l.placed || l.due()
	default:
		l.run(e)
	}
}

// due reports whether a run is owed now, apart from waits that have ended.
func (l *ledger) due() bool {
	return !l.placed && l.last == nothing && (l.git == Declared || l.git == Removed)
}

// run takes the events of a run.
func (l *ledger) run(e Event) {
	if e == Event(Began{}) && l.placed {
		l.asked, l.last = false, nothing
		if l.git == Broken {
			l.placed, l.ran = false, false
			return
		}
		l.ran, l.doing, l.force, l.anew = true, l.target(), false, false
	}
	if !l.ran {
		return
	}
	switch e := e.(type) {
	case Succeeded:
		l.ended(done)
		l.failed, l.grace, l.failures = false, false, 0
	case Failed:
		l.failures++
		switch {
		case e.Kind != api.Stalled:
			l.ended(later)
		case l.grace:
			l.anew = true
			l.ended(later)
		default:
			l.ended(final)
		}
		if l.last == nothing {
			l.failures = 0 // what it was about is over
		}
		l.failed, l.grace = true, false
	case HeldBack:
		l.failed = false
		if e.Active {
			l.ended(final)
		} else {
			l.ended(nothing)
		}
	case Stopped:
		l.ended(nothing)
	}
}

func (l *ledger) ended(o outcome) {
	if l.asked || l.doing != l.target() {
		o = nothing
	}
	l.placed, l.ran, l.asked, l.last, l.until = false, false, false, o, time.Time{}
}

// event makes one of a byte.
func event(b byte) Event {
	kinds := []api.ErrorKind{api.Stalled, api.Stalled, api.Waiting, api.Forbidden, api.Transient, api.Internal}
	switch n := b % 64; {
	case n < 4:
		return Rendered{fmt.Sprint("digest", n%2)}
	case n < 6:
		return Unrenderable{}
	case n < 8:
		return RemovedFromGit{}
	case n < 16:
		return Adopted{Commit: n&1 > 0, Allowed: n == 8, Whole: n&2 > 0}
	case n < 26:
		return []Event{
			Ordered{}, Overwritten{}, Unsettled{}, Unsettled{}, ObjectChanged{}, Reopened{}, Reopened{}, SuspensionsChanged{}, Overwritten{}, Reopened{},
		}[n-16]
	case n < 27:
		return Recalled{Digest: "digest0", Undeclared: b > 128}
	case n < 30:
		return Sorted{Kept: int(n & 1), Undeclared: n&3 > 0}
	case n < 36:
		return Failed{Kind: kinds[n-30], Jitter: float64(b) / 256}
	case n < 40:
		return []Event{HeldBack{Active: true}, HeldBack{}, Stopped{}, Failed{Kind: api.Waiting, After: time.Duration(b) * time.Second}}[n-36]
	case n < 44:
		return []Event{Healthy{}, Unhealthy{time.Minute}, Excused{}, Overdue{}}[n-40]
	case n < 50:
		return Succeeded{Timeout: time.Minute}
	case n < 57:
		return Placed{}
	default:
		return Began{}
	}
}

// longest bounds the wait after any error that the fuzz makes.
const longest = RetryLongest * 9 / 8

// check holds a state against the ledger.
func (l *ledger) check(t *testing.T, s State, now time.Time, e Event) {
	t.Helper()
	wait := s.Wait(now)
	runnable := l.git == Declared || l.git == Removed
	switch {
	case (s.Phase == Running) != l.placed:
		t.Fatalf("after %T it runs: %t, want %t", e, s.Phase == Running, l.placed)
	case l.due() && wait != 0:
		t.Fatalf("after %T a run that is due is lost: %+v", e, s)
	case l.placed && wait != Never:
		t.Fatalf("after %T it runs twice: %+v", e, s)
	case !runnable && wait != Never:
		t.Fatalf("after %T it runs with nothing to apply: %+v", e, s)
	case runnable && !l.placed && l.last == final && wait != Never:
		t.Fatalf("after %T a stalled bundle runs: %+v", e, s)
	case runnable && !l.placed && l.last == done && wait != Never:
		t.Fatalf("after %T a bundle that is as Git says runs: %+v", e, s)
	case s.Force != l.force || s.RetryRefused != l.anew:
		t.Fatalf("after %T the marks are %t, %t, want %t, %t", e, s.Force, s.RetryRefused, l.force, l.anew)
	case s.Attempt != l.failures:
		t.Fatalf("after %T there are %d failures, want %d: %+v", e, s.Attempt, l.failures, s)
	}
	if commit, ok := e.(Adopted); ok && commit.Commit && wait > 0 && wait != Never {
		t.Fatalf("after a commit it waits %v: %+v", wait, s)
	}
	if runnable && !l.placed && l.last == later {
		if l.until.IsZero() {
			l.until = now.Add(wait)
			if wait <= 0 || wait > longest {
				t.Fatalf("after %T it waits %v: %+v", e, wait, s)
			}
		}
		if want := max(0, l.until.Sub(now)); wait != want {
			t.Fatalf("after %T it waits %v, want %v: %+v", e, wait, want, s)
		}
	}
	l.health(t, s, now, e)
}

// health holds the deadline against the last event.
func (l *ledger) health(t *testing.T, s State, now time.Time, e Event) {
	t.Helper()
	if s.Phase == Running && s.Patience(now) != Never {
		t.Fatalf("after %T the time to become healthy runs out during a run: %+v", e, s)
	}
	switch e.(type) {
	case Healthy, Unrenderable:
		if !s.Deadline.IsZero() || s.TimedOut {
			t.Fatalf("after %T a time runs: %+v", e, s)
		}
	case Unhealthy:
		if l.git == Declared && s.Deadline.IsZero() {
			t.Fatalf("it may be unhealthy for ever: %+v", s)
		}
	case Overdue:
		if s.Patience(now) == 0 {
			t.Fatalf("it is overdue again and again: %+v", s)
		}
	}
}

// FuzzNext plays events in any order, with time between them, and holds each state against the promises of the package.
func FuzzNext(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 4000 {
		data := make([]byte, 60)
		for i := range data {
			data[i] = byte(r.IntN(256))
		}
		if n%4 == 0 {
			data[0] = 26 // an agent that starts again
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, l, now := State{}, &ledger{}, start
		for _, b := range data {
			now = now.Add(time.Duration(b) * 50 * time.Millisecond)
			e := event(b)
			if !l.ran && ends(e) {
				continue // a run ends after it has begun
			}
			if l.last == later && s.Wait(now) == 0 {
				l.last = nothing
			}
			s, _ = Next(s, now, e)
			l.note(e)
			l.check(t, s, now, e)
		}
		// Whatever has happened, what Git says at last is run to its end, and then there is rest.
		s, _ = Next(s, now, Rendered{"last"})
		for range 3 {
			now = now.Add(time.Hour)
			s, _ = Next(s, now, Adopted{Commit: true})
			for _, e := range []Event{Placed{}, Began{}, Sorted{}, Succeeded{}} {
				s, _ = Next(s, now, e)
			}
		}
		if s.Phase != Synced || s.Git != Declared || s.Want != "last" || s.Failed || s.Unanswered || s.Attempt > 0 {
			t.Fatalf("it comes to no rest: %+v", s)
		}
	})
}

func ends(e Event) bool {
	switch e.(type) {
	case Succeeded, Failed, HeldBack, Stopped:
		return true
	}
	return false
}
