package drift

import (
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Flapping is judged over the latest maxStates outcomes: an object that changed between drift and match
// in at least enterFlapping percent of the steps flaps, until it is at most leaveFlapping.
// Newer steps weigh up to newest, older ones down to oldest.
const (
	maxStates     = 21
	enterFlapping = 30
	leaveFlapping = 15
	oldest        = 0.8
	newest        = 1.2
	// quietState is the time without an event that counts as one more match.
	quietState = 5 * time.Minute
)

// record adds an outcome and judges the flapping anew.
func record(e *api.Episode, s byte) {
	states := e.Track.States + string(s)
	if n := len(states); n > maxStates {
		states = states[n-maxStates:]
	}
	e.Track.States = states
	switch p := changePercent(states); {
	case p >= enterFlapping:
		e.Flapping = true
	case p <= leaveFlapping:
		e.Flapping = false
	}
}

// changePercent is the weighted share of steps between two outcomes that were changes.
// Steps that have not happened yet count as old ones without a change.
func changePercent(states string) float64 {
	const steps = maxStates - 1
	sum := 0.0
	for i := 1; i < len(states); i++ {
		if states[i] != states[i-1] {
			place := steps - (len(states) - 1 - i) // 1 is the oldest step, steps the newest
			sum += oldest + (newest-oldest)*float64(place-1)/float64(steps-1)
		}
	}
	return sum / steps * 100
}
