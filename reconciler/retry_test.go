package reconciler

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// An error is tried again by its kind and by the wait that it asks for, wherever they stand in its chain, and a fleet never in step.
func TestRetryDelay(t *testing.T) {
	asks := fmt.Errorf("bundle a: %w", &api.Error{Kind: api.Waiting, After: 8 * time.Second, Err: errors.New("x")})
	seen := map[time.Duration]bool{}
	for range 200 {
		d, again := retryDelay(asks, 1)
		if !again || d < 8*time.Second || d > 9*time.Second {
			t.Fatalf("%v %v, want 8s to 9s", d, again)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("%d different delays of 200", len(seen))
	}
	if _, again := retryDelay(&api.Error{Kind: api.Stalled, Err: errors.New("x")}, 1); again {
		t.Error("what is stalled is tried again")
	}
	if d, again := retryDelay(errors.New("x"), 100); !again || d < lifecycle.RetryLongest/2 {
		t.Errorf("an error without a kind: %v %v", d, again)
	}
}
