package reconciler

import (
	"math/rand/v2"
	"time"

	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// retryDelay says how long to wait before try number attempt (from 1) after an error.
// The second result is false when trying again is pointless until an input changes.
func retryDelay(err error, attempt int) (time.Duration, bool) {
	return lifecycle.DelayAfter(err, attempt, rand.Float64())
}
