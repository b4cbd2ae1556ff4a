package reconciler

import (
	"fmt"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

// The scheduler goes through all bundles each time one has ended: with a thousand that wait for a place,
// for a dependency or for nothing.
func BenchmarkSchedule(b *testing.B) {
	for name, prepare := range map[string]func(r *Reconciler, one *bundle, i int){
		"settled": func(_ *Reconciler, one *bundle, _ int) { one.settled = true },
		"no place": func(r *Reconciler, _ *bundle, _ int) {
			r.running = r.Workers
		},
		"blocked": func(_ *Reconciler, one *bundle, i int) {
			one.stalled = i == 0
			one.desired.Spec.DependsOn = []string{"b0"}
		},
		"all go": func(_ *Reconciler, one *bundle, i int) {
			one.desired, one.gone = nil, true
			one.status.DependsOn = []string{fmt.Sprint("b", i+1)}
			one.stalled = i == 0
		},
	} {
		b.Run(name, func(b *testing.B) {
			r := recorderOf(&failing{})
			r.Workers, r.Applier, r.started = DefaultWorkers, modelApplier{}, true
			for i := range 1000 {
				one := newBundle(fmt.Sprint("b", i))
				one.desired = &api.RenderedBundle{Name: one.name}
				r.bundles[one.name] = one
				prepare(r, one, i)
			}
			for b.Loop() {
				r.schedule(b.Context())
			}
		})
	}
}
