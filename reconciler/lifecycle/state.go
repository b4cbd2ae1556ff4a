package lifecycle

import (
	"math"
	"time"
)

// Phase says what a bundle's own life asks for. The zero value is Due.
type Phase uint8

// The phases.
const (
	// Due is to run now, if Git says anything that can be applied.
	Due Phase = iota
	// Running is being applied, pruned or removed.
	Running
	// BackingOff failed, and is tried again at State.Until.
	BackingOff
	// Stalled failed, and is not tried again until one of its inputs changes.
	Stalled
	// Held could not do all that Git says because of a suspension, and waits for the suspensions to change.
	Held
	// Synced is as Git says, in so far as an apply can see to that. Whether its objects are healthy is another matter.
	Synced
)

// Git is what the adopted revision says of a bundle. The zero value is Unread.
type Git uint8

// What Git can say.
const (
	// Unread is before the first revision takes effect.
	Unread Git = iota
	// Declared has the bundle, with the contents of State.Want.
	Declared
	// Broken has the bundle, but its contents cannot be rendered.
	Broken
	// Removed does not have the bundle any more.
	Removed
)

// target is what a run works towards. It is the same only where both fields are.
type target struct {
	git    Git
	digest string
}

// State is the life of one bundle up to now. The zero value is a bundle of which nothing is known.
// Only Next makes a new State.
type State struct {
	Phase Phase
	Git   Git
	// Want is the digest of what Git says. It is empty unless Git is Declared,
	// or Unread and the bundle is Synced with what was applied before a restart.
	Want string
	// Began is when the bundle was last given a worker's place; zero if it was not since Git changed it.
	Began time.Time

	// Until is when a bundle that is BackingOff is tried again.
	Until time.Time
	// Attempt counts the failures in a row that the length of the next backoff depends on.
	Attempt int
	// Failed is set when the last run, or the rendering of what Git says, failed.
	Failed bool
	// Unanswered is set when a failed write may have succeeded all the same; a run without error ends it.
	Unanswered bool

	// Force has the next run look at every object, whatever is known of it.
	Force bool
	// RetryRefused has the next run send objects again that the API server refused before.
	RetryRefused bool
	// Grace treats the next failure as transient once: the API server may hear late of what has changed.
	Grace bool

	// Kept counts the objects that left Git and stay until every bundle that may hold them can be rendered.
	Kept int
	// Undeclared is set when the bundle owns objects that it does not declare: Kept ones, or some that another bundle is to take over.
	Undeclared bool

	// Deadline is when waiting for health ends; zero when nothing is waited for.
	Deadline time.Time
	// TimedOut is set when the deadline has passed and the objects are still not healthy.
	TimedOut bool

	// doing is what the run under way works towards.
	doing target
	// again is set when something during a run asks for another one.
	again bool
}

// Never is the wait of a bundle that only another event makes run.
const Never = time.Duration(math.MaxInt64)

// Event is something that happens to a bundle. The events are the types of events.go.
type Event interface {
	next(s State, now time.Time) State
}

// Next returns the state after an event that happens at now, and the wait of that state.
func Next(s State, now time.Time, e Event) (State, time.Duration) {
	s = e.next(s, now)
	return s, s.Wait(now)
}

// Wait is how long until the bundle is to run, by its own life alone: zero for now, and Never if only an event changes that.
func (s State) Wait(now time.Time) time.Duration {
	if s.Git == Unread || s.Git == Broken {
		return Never
	}
	switch s.Phase {
	case Due:
		return 0
	case BackingOff:
		return max(0, s.Until.Sub(now))
	case Running, Stalled, Held, Synced:
	}
	return Never
}

// Patience is how long until the wait for health ends: Never if nothing is waited for, or while the bundle runs.
func (s State) Patience(now time.Time) time.Duration {
	if s.Phase == Running || s.Deadline.IsZero() || s.TimedOut {
		return Never
	}
	return max(0, s.Deadline.Sub(now))
}

// Current reports whether what the run under way works towards is still what Git says.
func (s State) Current() bool { return s.doing == s.target() }

// Wants reports whether contents of that digest are what the bundle is to have already, by Git or as it was before a restart.
func (s State) Wants(digest string) bool {
	return s.Want == digest && (s.Git == Declared || s.Git == Unread && s.Phase == Synced)
}

func (s State) target() target { return target{s.Git, s.Want} }

// due has the bundle run at the next chance, after the run under way if there is one.
func (s State) due() State {
	if s.Phase == Running {
		s.again = true
		return s
	}
	s.Phase, s.Until = Due, time.Time{}
	return s
}

// inputChanged ends every wait for another try. A run under way goes on, and a bundle that is synced stays so.
func (s State) inputChanged() State {
	switch s.Phase {
	case BackingOff, Stalled, Held:
		s.Phase, s.Until = Due, time.Time{}
	case Due, Running, Synced:
	}
	return s
}
