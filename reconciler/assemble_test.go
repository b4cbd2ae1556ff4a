package reconciler

import (
	"errors"
	"log/slog"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// failing is a store that fails as often as it is told to.
type failing struct {
	Store
	fails int
}

func (f *failing) Commit(record.Transaction) error {
	if f.fails > 0 {
		f.fails--
		return errors.New("no space left on device")
	}
	return nil
}

// assembled is as much of a reconciler as its parts need.
func assembled(st Store, change ...func(*Config)) *Reconciler {
	cfg := Config{
		Store: st, Log: slog.New(slog.DiscardHandler), Now: time.Now, Recorded: func() {}, Adopted: func(api.FleetSpec) {}, Metrics: NewMetrics(nil),
	}
	for _, f := range change {
		f(&cfg)
	}
	return assemble(cfg)
}

// has adds a bundle to a reconciler.
func (r *Reconciler) has(b *bundle) {
	r.bundles[b.name] = b
	r.shareLocked(b)
}
