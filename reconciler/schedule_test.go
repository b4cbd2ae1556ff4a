package reconciler

import (
	"fmt"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
)

// The scheduler goes through all bundles each time one has ended: with a thousand that wait for a place,
// for a dependency or for nothing.
func BenchmarkSchedule(b *testing.B) {
	stall := func(one *bundle, i int) {
		if i > 0 {
			return
		}
		for _, e := range []lifecycle.Event{lifecycle.Placed{}, lifecycle.Began{}, lifecycle.Failed{Kind: api.Stalled}} {
			one.life, _ = lifecycle.Next(one.life, time.Time{}, e)
		}
	}
	for name, prepare := range map[string]func(r *Reconciler, one *bundle, i int){
		"settled": func(_ *Reconciler, one *bundle, _ int) {
			one.life = lifeAfter(lifecycle.Recalled{}, lifecycle.Rendered{})
		},
		"no place": func(r *Reconciler, _ *bundle, _ int) {
			r.running = r.Workers
		},
		"blocked": func(_ *Reconciler, one *bundle, i int) {
			stall(one, i)
			one.desired.Spec.DependsOn = []string{"b0"}
		},
		"all go": func(_ *Reconciler, one *bundle, i int) {
			one.desired, one.life = nil, lifeAfter(lifecycle.RemovedFromGit{})
			one.status.DependsOn = []string{fmt.Sprint("b", i+1)}
			stall(one, i)
		},
	} {
		b.Run(name, func(b *testing.B) {
			r := assembled(&failing{}, func(c *Config) { c.Workers, c.Applier = DefaultWorkers, modelApplier{} })
			r.started = true
			for i := range 1000 {
				one := newBundle(fmt.Sprint("b", i))
				one.desired, one.life = &api.RenderedBundle{Name: one.name}, lifeAfter(lifecycle.Rendered{})
				r.has(one)
				prepare(r, one, i)
			}
			for b.Loop() {
				r.schedule(b.Context())
			}
		})
	}
}
