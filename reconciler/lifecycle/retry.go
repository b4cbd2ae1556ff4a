package lifecycle

import (
	"errors"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of the wait after an error, by its kind.
const (
	retryFirst   = time.Second
	RetryLongest = 5 * time.Minute
	// retryWaiting is for a waiting error that does not say how long.
	retryWaiting        = 2 * time.Second
	retryWaitingLongest = 30 * time.Second
)

// Failure is the event of a run that ended with an error. The jitter is a random number from [0, 1).
func Failure(err error, jitter float64) Failed {
	f := Failed{Kind: api.KindOf(err), Jitter: jitter}
	if e, ok := errors.AsType[*api.Error](err); ok {
		f.After = e.After
	}
	return f
}

// DelayAfter is Delay for an error.
func DelayAfter(err error, attempt int, jitter float64) (time.Duration, bool) {
	f := Failure(err, jitter)
	return Delay(f.Kind, f.After, attempt, f.Jitter)
}

// Delay says how long to wait before try number attempt (from 1) after an error of that kind.
// after is the wait that the error itself asks for, and jitter a random number from [0, 1).
// The second result is false when trying again is pointless until an input changes.
func Delay(kind api.ErrorKind, after time.Duration, attempt int, jitter float64) (time.Duration, bool) {
	spread := func(d time.Duration) time.Duration { return time.Duration(jitter * float64(d)) }
	switch kind {
	case api.Stalled:
		return 0, false
	case api.Waiting:
		d := retryWaiting
		if after > 0 {
			d = after
		}
		// What takes long is asked for less and less often.
		d = min(d*time.Duration(1+max(attempt-1, 0)/4), max(d, retryWaitingLongest))
		return d + spread(d/8), true
	case api.Forbidden:
		if attempt <= 1 {
			// The API server may not have heard yet of a right, a class or a quota that came a moment ago.
			return retryFirst + spread(retryFirst/8), true
		}
		// What was denied may be allowed by a change on the cluster that nobody tells us of.
		return RetryLongest, true
	case api.Transient, api.Internal:
	}
	d := RetryLongest
	if attempt < 10 {
		d = min(retryFirst<<max(attempt-1, 0), RetryLongest)
	}
	// Full jitter over the upper half keeps a fleet from coming back in step.
	return d/2 + spread(d/2), true
}
