package drift

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Limits say when a fight is a fight: ContestCount corrections within ContestWindow that the same manager undid.
// Zero fields mean the defaults.
type Limits struct {
	// ContestCount is at most maxCorrections; zero means 3.
	ContestCount int
	// ContestWindow is also how long it must be quiet until the fight is forgotten; zero means 15 minutes.
	ContestWindow time.Duration
	// FirstBackoff is how long a contested object is left alone at first; zero means a minute.
	// Each time after that it is twice as long, up to LongestBackoff; zero means 30 minutes.
	FirstBackoff, LongestBackoff time.Duration
}

const (
	longestBackoff = 30 * time.Minute
	stalledBackoff = 5 * time.Minute
	maxCorrections = 8
)

func (l Limits) withDefaults() Limits {
	return Limits{
		ContestCount: min(cmp.Or(l.ContestCount, 3), maxCorrections), ContestWindow: cmp.Or(l.ContestWindow, 15*time.Minute),
		FirstBackoff: cmp.Or(l.FirstBackoff, time.Minute), LongestBackoff: cmp.Or(l.LongestBackoff, longestBackoff),
	}
}

// decide says what is done about a drift now, and notes it in the episode.
func decide(e *api.Episode, o Observation, at time.Time, opened bool) Decision {
	was := e.Outcome
	if opened {
		was = ""
	}
	action := o.Result.Action
	switch {
	case o.Suspension != "":
		if was != api.OutcomeSuspended || e.Suspension != o.Suspension {
			say(e, at, "not corrected: suspended by "+o.Suspension)
		}
		e.Outcome, e.Suspension = api.OutcomeSuspended, o.Suspension
		if action == None {
			return Decision{Reason: "suspended by " + o.Suspension}
		}
		return Decision{Action: Hold, Reason: "suspended by " + o.Suspension}
	case action == None:
		if was != api.OutcomeReported {
			say(e, at, "reported")
		}
		e.Outcome, e.NextCorrection = api.OutcomeReported, time.Time{}
		return Decision{Reason: "the policy says report"}
	}
	if was == api.OutcomeSuspended {
		// Whoever resumed wants it corrected now: what was fought over before is another matter.
		e.Track.Corrections, e.Track.Backoff, e.NextCorrection = nil, 0, time.Time{}
	}
	if was == api.OutcomeFailed {
		if wait := e.NextCorrection.Sub(at); wait > 0 {
			return Decision{Action: Hold, After: wait, Reason: "the last correction failed"}
		}
	}
	limits := o.Limits.withDefaults()
	if contested(e, o.Result.By.Manager, at, opened, limits) {
		return contest(e, at, action, limits)
	}
	e.Outcome, e.NextCorrection, e.Hint = api.OutcomePending, time.Time{}, ""
	return Decision{Action: action, Reason: "the policy says correct"}
}

// retryAfter is how long to leave an object alone after its n-th failed correction in a row.
func retryAfter(kind api.ErrorKind, n int) time.Duration {
	switch kind {
	case api.Stalled, api.Forbidden:
		return stalledBackoff // a human must act; neither a new revision nor a change of the object waits for this
	default:
		return min(time.Second<<min(n-1, 20), longestBackoff)
	}
}

// contested reports whether somebody keeps taking the object back.
func contested(e *api.Episode, manager string, at time.Time, opened bool, l Limits) bool {
	n := 0
	for _, c := range e.Track.Corrections {
		if c.Manager == manager && at.Sub(c.At) <= l.ContestWindow {
			n++
		}
	}
	if opened && n == 0 {
		// They were quiet for as long as it takes to call it a fight: it is over. Or it is not their doing at all.
		e.Track.Backoff = 0
	}
	return n >= l.ContestCount || e.Track.Backoff > 0
}

// contest holds the correction of a contested object back, each time twice as long.
func contest(e *api.Episode, at time.Time, action Action, l Limits) Decision {
	backoff := time.Duration(e.Track.Backoff)
	if e.NextCorrection.IsZero() {
		backoff = min(max(2*backoff, l.FirstBackoff), l.LongestBackoff)
		e.Track.Backoff, e.NextCorrection = api.Duration(backoff), at.Add(backoff)
		say(e, at, fmt.Sprintf("contested by %s: left alone for %s", contestant(e.By), backoff))
	}
	e.Outcome, e.Hint = api.OutcomeContested, contestHint(*e)
	wait := e.NextCorrection.Sub(at)
	if wait > backoff { // only if a clock was moved
		wait = backoff
		e.NextCorrection = at.Add(wait)
	}
	if wait > 0 {
		return Decision{Action: Hold, After: wait, Reason: "contested by " + contestant(e.By)}
	}
	return Decision{Action: action, Reason: "contested, and left alone for long enough"}
}

func contestant(by api.Attribution) string {
	if by.Manager == "" {
		return "somebody who leaves no trace"
	}
	return by.Manager
}

// contestHint names the two ways to end a fight.
func contestHint(e api.Episode) string {
	who := contestant(e.By)
	if e.Class == api.ClassExtra {
		return fmt.Sprintf("%s keeps creating the object: stop it, or remove our ApplySet label from what it creates.", who)
	}
	if len(RuleFor(e).Paths) == 0 {
		return fmt.Sprintf("%s keeps taking away the labels by which the object is known as ours: stop it.", who)
	}
	return fmt.Sprintf("%s keeps taking this back: stop it, or leave the fields to it with this rule below spec of the bundle %q:\n%s",
		who, e.Bundle, strings.TrimRight(RuleYAML(RuleFor(e)), "\n"))
}
