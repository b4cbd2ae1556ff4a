package watch

import (
	"context"
	"time"
)

// relistWithin is how long the next kind waits for one that is being seen anew.
const relistWithin = 30 * time.Second

// Relist has everything seen anew, one kind after the other, in case a watch has missed something.
// It returns at once. What is known stays until then; events come for what differs from it, and Relisted is called.
// Each kind costs a new watch that begins with what is there, and a list only where the server cannot do that.
// When it is called again before the end, everything is seen once more.
func (w *Watcher) Relist() {
	select {
	case w.relist <- struct{}{}:
	default:
	}
}

// relistLoop does what Relist asks for.
func (w *Watcher) relistLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.relist:
		}
		if w.orders != nil {
			w.orders.source.again()
		}
		for _, k := range w.all() {
			before, _ := k.timesSeen()
			if k.source.again() {
				w.seenAgain(ctx, k, before)
			}
		}
	}
}

// seenAgain waits until everything of a kind was seen more often than before.
func (w *Watcher) seenAgain(ctx context.Context, k *kind, before int) {
	ctx, cancel := context.WithTimeout(ctx, relistWithin)
	defer cancel()
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		if n, stopped := k.timesSeen(); n > before || stopped {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
