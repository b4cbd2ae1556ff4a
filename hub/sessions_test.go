package hub

import (
	"context"
	"errors"
	"testing"

	"github.com/flotilla-fleet/flotilla/hub/pki"
)

// A stream that begins while the hub stops would hold up its end.
func TestSessions_stop(t *testing.T) {
	open := func(ss *sessions, cluster string) (context.Context, error) {
		ctx, end := context.WithCancelCause(t.Context())
		return ctx, ss.open(&session{id: pki.Identity{Cluster: cluster}, end: end, done: make(chan struct{})})
	}
	ss := &sessions{live: map[string]*session{}}
	ctx, err := open(ss, "one")
	if err != nil {
		t.Fatal(err)
	}
	ss.stop()
	if err := context.Cause(ctx); !errors.Is(err, errStopping) {
		t.Errorf("the stream that was there ended with %v", err)
	}
	if _, err := open(ss, "two"); !errors.Is(err, errStopping) {
		t.Errorf("a stream after it: %v", err)
	}
}
