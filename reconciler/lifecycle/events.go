package lifecycle

import (
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// What Git says.
type (
	// Recalled tells, once after a restart, that what was applied before has the digest that Git renders now.
	Recalled struct {
		Digest string
		// Undeclared is as in State.
		Undeclared bool
	}
	// Rendered tells that the adopted revision has the bundle, with contents of that digest.
	Rendered struct{ Digest string }
	// Unrenderable tells that the adopted revision has the bundle, and that its contents cannot be rendered.
	Unrenderable struct{}
	// RemovedFromGit tells that the adopted revision does not have the bundle.
	RemovedFromGit struct{}
	// Adopted tells that a revision took effect. It comes after what the revision says of the bundle.
	Adopted struct {
		// Commit is set when the revision is another commit than the last.
		Commit bool
		// Allowed is set when the bundle's last error was the refusal of a guard or of another bundle, which the revision may have lifted.
		Allowed bool
		// Whole is set when every bundle can be rendered that an object of this one may have moved into.
		Whole bool
	}
)

func (e Recalled) next(s State, _ time.Time) State {
	s.Undeclared = e.Undeclared
	if s.Git == Unread && s.Phase == Due && !s.Force {
		s.Phase, s.Want = Synced, e.Digest
	}
	return s
}

func (e Rendered) next(s State, _ time.Time) State {
	if s.Wants(e.Digest) {
		s.Git = Declared
		return s
	}
	s.Git, s.Want, s.Failed = Declared, e.Digest, false
	return s.fresh()
}

func (Unrenderable) next(s State, _ time.Time) State {
	s.Git, s.Want, s.Failed = Broken, "", true
	return s.fresh()
}

// fresh begins anew with what Git says now. A run under way ends by itself, and another one follows if it was for something else.
func (s State) fresh() State {
	s.Attempt, s.Began = 0, time.Time{}
	s.Deadline, s.TimedOut = time.Time{}, false
	if s.Phase != Running {
		s.Phase, s.Until = Due, time.Time{}
	}
	return s
}

func (RemovedFromGit) next(s State, _ time.Time) State {
	if s.Git != Removed {
		s.Git, s.Want, s.Failed = Removed, "", false
		s.Attempt, s.Began = 0, time.Time{}
		return s.inputChanged().reopened()
	}
	if s.Phase == Stalled || s.Phase == Held {
		s = s.inputChanged()
	}
	return s.reopened()
}

// reopened has a bundle that is synced run again.
func (s State) reopened() State {
	if s.Phase == Synced {
		s.Phase = Due
	}
	return s
}

func (e Adopted) next(s State, _ time.Time) State {
	if e.Commit || e.Allowed {
		s.Attempt = 0 // the backoff was for another revision
		if s.Phase == BackingOff {
			s.Phase, s.Until = Due, time.Time{}
		}
	}
	if s.Undeclared && s.Phase == Synced || s.Kept > 0 && e.Whole {
		return s.due() // the revision may say that what is kept goes
	}
	return s
}

// What asks for another run, beside Git.
type (
	// Ordered tells that somebody ordered the bundle to be compared and applied anew.
	Ordered struct{}
	// Overwritten tells that another bundle wrote, or labelled as its own, an object that is this one's.
	Overwritten struct{}
	// Unsettled tells that something changed which the last run passed over, or did not know of.
	Unsettled struct{}
	// ObjectChanged tells that an object which was refused is not as it was then.
	ObjectChanged struct{}
	// Reopened tells that another bundle changed what this one may have failed for.
	Reopened struct{}
	// SuspensionsChanged tells that a suspension came, went or changed.
	SuspensionsChanged struct{}
)

func (Ordered) next(s State, _ time.Time) State {
	s.Force, s.Attempt = true, 0
	return s.due()
}

func (Overwritten) next(s State, _ time.Time) State {
	s.Force = true
	return s.reopened()
}

func (Unsettled) next(s State, _ time.Time) State {
	if s.Phase == Running {
		s.again = true
	}
	return s.reopened()
}

func (ObjectChanged) next(s State, _ time.Time) State {
	if s.Phase != Synced {
		s.Attempt = 0
	}
	return s.inputChanged()
}

func (Reopened) next(s State, _ time.Time) State {
	if s.Phase == Synced || !s.Failed && s.Phase != Running {
		return s
	}
	s.Attempt, s.RetryRefused, s.Grace = 0, true, true
	return s.inputChanged()
}

func (SuspensionsChanged) next(s State, _ time.Time) State { return s.inputChanged() }

// How a run goes.
type (
	// Placed tells that the bundle, which is due, was given a worker's place.
	Placed struct{}
	// Began tells that the run reads what Git says: what comes from here on is for another run.
	Began struct{}
	// Sorted tells what a run found of objects that the bundle does not declare. See State.
	Sorted struct {
		Kept       int
		Undeclared bool
	}
	// Succeeded tells that everything was applied, pruned and recorded.
	Succeeded struct {
		// Timeout is how long the objects have to become healthy. Zero means that none are waited for.
		Timeout time.Duration
	}
	// Failed tells that the run ended with an error.
	Failed struct {
		Kind api.ErrorKind
		// After is the wait that an error of kind Waiting asks for; zero if it asks for none.
		After time.Duration
		// Jitter is a random number from [0, 1) that spreads the next tries of a fleet.
		Jitter float64
	}
	// HeldBack tells that a suspension kept the run from doing all that Git says.
	HeldBack struct {
		// Active is set when that suspension still holds.
		Active bool
	}
	// Stopped tells that the agent stops, and the run with it.
	Stopped struct{}
)

func (Placed) next(s State, now time.Time) State {
	if s.Wait(now) > 0 {
		return s
	}
	s.Phase, s.Until, s.Began = Running, time.Time{}, now
	s.doing, s.again = s.target(), false
	return s
}

func (Began) next(s State, _ time.Time) State {
	switch {
	case s.Phase != Running:
		return s
	case s.Git == Broken:
		s.Phase = Due // there is nothing to apply any more
		return s
	}
	s.doing, s.again = s.target(), false
	s.Force, s.RetryRefused = false, false
	return s
}

func (e Sorted) next(s State, _ time.Time) State {
	s.Kept, s.Undeclared = e.Kept, e.Undeclared
	return s
}

// ended takes the place back. It reports whether the bundle has to run once more, whatever came of this run.
func (s State) ended() (State, bool) {
	more := s.again || s.Force || !s.Current()
	s.Phase, s.doing, s.again = Due, target{}, false
	return s, more
}

func (e Succeeded) next(s State, now time.Time) State {
	if s.Phase != Running {
		return s
	}
	s, more := s.ended()
	s.Attempt, s.Failed, s.Grace, s.Unanswered = 0, false, false, false
	if e.Timeout > 0 {
		s.Deadline, s.TimedOut = now.Add(e.Timeout), false
	}
	if !more {
		s.Phase = Synced
	}
	return s
}

func (e Failed) next(s State, now time.Time) State {
	if s.Phase != Running {
		return s
	}
	s, more := s.ended()
	s.Attempt++
	d, again := Delay(e.Kind, e.After, s.Attempt, e.Jitter)
	if !again && s.Grace {
		d, again, s.RetryRefused = retryFirst, true, true
	}
	s.Failed, s.Unanswered, s.Grace = true, true, false
	switch {
	case more:
		s.Attempt = 0 // the error is that of a revision, or of a try, that is over
	case again:
		s.Phase, s.Until = BackingOff, now.Add(d)
	default:
		s.Phase = Stalled
	}
	return s
}

func (e HeldBack) next(s State, _ time.Time) State {
	if s.Phase != Running {
		return s
	}
	s, more := s.ended()
	s.Failed, s.Unanswered = false, false
	if e.Active && !more {
		s.Phase = Held
	}
	return s
}

func (Stopped) next(s State, _ time.Time) State {
	if s.Phase != Running {
		return s
	}
	s, _ = s.ended()
	return s
}

// How the objects fare after a run.
type (
	// Healthy tells that every object is healthy.
	Healthy struct{}
	// Unhealthy tells that some object is not healthy. It has Timeout from now on, unless a deadline runs already.
	Unhealthy struct{ Timeout time.Duration }
	// Excused tells that nobody may do anything about what is not healthy: a suspension covers it.
	Excused struct{}
	// Overdue tells that the deadline has passed.
	Overdue struct{}
)

func (Healthy) next(s State, _ time.Time) State {
	s.Deadline, s.TimedOut = time.Time{}, false
	return s
}

func (e Unhealthy) next(s State, now time.Time) State {
	if s.Deadline.IsZero() && s.Git == Declared {
		s.Deadline = now.Add(e.Timeout)
	}
	return s
}

func (Excused) next(s State, _ time.Time) State {
	s.Deadline = time.Time{}
	return s
}

func (Overdue) next(s State, now time.Time) State {
	if s.Patience(now) == 0 {
		s.TimedOut = true
	}
	return s
}
