package reconciler

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of the retry after an error, by its kind.
const (
	retryFirst   = time.Second
	retryLongest = 5 * time.Minute
	// retryWaiting is for a waiting error that does not say how long.
	retryWaiting        = 2 * time.Second
	retryWaitingLongest = 30 * time.Second
)

// retryDelay says how long to wait before try number attempt (from 1) after an error.
// The second result is false when trying again is pointless until an input changes.
func retryDelay(err error, attempt int) (time.Duration, bool) {
	switch api.KindOf(err) {
	case api.Stalled:
		return 0, false
	case api.Waiting:
		d := retryWaiting
		var e *api.Error
		if errors.As(err, &e) && e.After > 0 {
			d = e.After
		}
		// What takes long is asked for less and less often.
		d = min(d*time.Duration(1+max(attempt-1, 0)/4), max(d, retryWaitingLongest))
		return d + rand.N(d/8+1), true
	case api.Forbidden:
		if attempt <= 1 {
			// The API server may not have heard yet of a right, a class or a quota that came a moment ago.
			return retryFirst + rand.N(retryFirst/8+1), true
		}
		// What was denied may be allowed by a change on the cluster that nobody tells us of.
		return retryLongest, true
	case api.Transient, api.Internal:
	}
	d := retryLongest
	if attempt < 10 {
		d = min(retryFirst<<max(attempt-1, 0), retryLongest)
	}
	// Full jitter over the upper half keeps a fleet from coming back in step.
	return d/2 + rand.N(d/2+1), true
}
