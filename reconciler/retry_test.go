package reconciler

import (
	"errors"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Each kind of error is tried again in its own time, and a fleet never in step.
func TestRetryDelay(t *testing.T) {
	kind := func(k api.ErrorKind, after time.Duration) error {
		return &api.Error{Kind: k, After: after, Err: errors.New("x")}
	}
	tests := []struct {
		name        string
		err         error
		attempt     int
		least, most time.Duration // 0 and 0: not again
	}{
		{"stalled", kind(api.Stalled, 0), 1, 0, 0},
		{"denied, at first", kind(api.Forbidden, 0), 1, retryFirst, retryFirst * 9 / 8},
		{"denied", kind(api.Forbidden, 0), 2, retryLongest, retryLongest},
		{"transient, at first", kind(api.Transient, 0), 1, time.Second / 2, time.Second},
		{"transient, fourth", kind(api.Transient, 0), 4, 4 * time.Second, 8 * time.Second},
		{"transient, for long", kind(api.Transient, 0), 100, retryLongest / 2, retryLongest},
		{"internal", errors.New("x"), 2, time.Second, 2 * time.Second},
		{"waiting", kind(api.Waiting, 0), 1, retryWaiting, retryWaiting * 9 / 8},
		{"waiting as it says", kind(api.Waiting, 8*time.Second), 1, 8 * time.Second, 9 * time.Second},
		{"waiting for long", kind(api.Waiting, 0), 1000, retryWaitingLongest, retryWaitingLongest * 9 / 8},
		{"waiting longer than that", kind(api.Waiting, time.Hour), 1000, time.Hour, time.Hour * 9 / 8},
	}
	for _, tt := range tests {
		seen := map[time.Duration]bool{}
		for range 200 {
			d, again := retryDelay(tt.err, tt.attempt)
			if again != (tt.most > 0) || d < tt.least || d > tt.most {
				t.Fatalf("%s: %v %v, want %v to %v", tt.name, d, again, tt.least, tt.most)
			}
			seen[d] = true
		}
		if jitter := tt.least != tt.most; jitter != (len(seen) > 100) {
			t.Errorf("%s: %d different delays of 200", tt.name, len(seen))
		}
	}
}
