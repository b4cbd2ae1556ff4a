package git

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	errSilent = errors.New("the server said nothing for too long")
	errSlow   = errors.New("the server took too long to send what was asked for")
)

// watchdog ends a context when a server is silent for too long.
type watchdog struct {
	timer   *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

func newWatchdog(ctx context.Context, timeout time.Duration) (*watchdog, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{timeout: timeout, cancel: cancel}
	w.timer = time.AfterFunc(timeout, func() { cancel(errSilent) })
	return w, ctx
}

// heard starts the time anew.
func (w *watchdog) heard() { w.timer.Reset(w.timeout) }

// pause is for the time in which nothing is asked of the server.
func (w *watchdog) pause() { w.timer.Stop() }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// watched tells a watchdog of every byte.
type watched struct {
	r io.Reader
	w *watchdog
}

func (r *watched) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.w.heard()
	}
	return n, err
}
