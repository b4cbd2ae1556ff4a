package reconciler

import (
	"context"
	"errors"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// errOld ends the rendering of a revision when the repository has a newer one.
var errOld = errors.New("the repository has a newer revision")

// maxOld is how many renderings in a row a newer revision may end: where commits come faster than a rendering takes,
// one of them must take effect at last. What a rendering was ended in had rendered is not rendered again unless it changes.
const maxOld = 3

// renderUnlessOld renders a snapshot, and asks the repository meanwhile: a newer revision ends the rendering with errOld,
// and begins the next pass.
func (r *Reconciler) renderUnlessOld(ctx context.Context, snap api.Snapshot, facts api.ClusterFacts) (api.Rendering, error) {
	if r.old >= maxOld {
		r.old = 0
		return r.render(ctx, snap, facts)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if r.awaitNewer(ctx) {
			cancel(errOld)
		}
	}()
	rendering, err := r.render(ctx, snap, facts)
	cancel(nil) // no more questions; errOld stays if it came first, and then what is rendered may not be whole
	<-asked
	if !errors.Is(context.Cause(ctx), errOld) {
		r.old = 0
		return rendering, err
	}
	r.old++
	r.Log.Info("a newer revision ends a rendering", "revision", snap.Revision)
	wake(r.sync)
	return rendering, errOld
}

// awaitNewer asks the repository at every poll, and reports true once it has a newer revision than the last that was fetched.
func (r *Reconciler) awaitNewer(ctx context.Context) bool {
	poll := time.NewTicker(r.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
		}
		if newer, err := r.Source.Changed(ctx); newer && err == nil && ctx.Err() == nil {
			return true
		}
	}
}
