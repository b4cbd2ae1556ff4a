package reconciler

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// retryDelay says how long to wait before try number attempt (from 1) after an error.
// The second result is false when trying again is pointless until an input changes.
func retryDelay(err error, attempt int) (time.Duration, bool) {
	f := failure(err)
	return lifecycle.Delay(f.Kind, f.After, attempt, f.Jitter)
}

// failure is the event of a run that ended with an error.
func failure(err error) lifecycle.Failed {
	f := lifecycle.Failed{Kind: api.KindOf(err), Jitter: rand.Float64()}
	if e, ok := errors.AsType[*api.Error](err); ok {
		f.After = e.After
	}
	return f
}
