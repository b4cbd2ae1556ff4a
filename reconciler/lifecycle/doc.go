// Package lifecycle is the life of one bundle as a value: whether it is to run, and when.
//
// A State says what Git says of the bundle, what became of its last run, and which marks its next run bears.
// Next is the only way from one State to another: it takes an event and returns the State after it,
// with the time until the bundle is to run.
//
//	Due ──Placed──▶ Running ──Succeeded──▶ Synced ──Declared, Ordered, Unsettled, …──▶ Due
//	 ▲                 ├──────Failed─────▶ BackingOff ──time, a commit, …────────────▶ Due
//	 │                 ├──────Failed─────▶ Stalled ──an input changed──────────────▶ Due
//	 │                 └──────HeldBack───▶ Held ──the suspensions changed──────────▶ Due
//	 └── what was asked for during a run has the bundle run once more
//
// The package promises that no order of events loses a run that is due, lets a bundle wait after a new commit,
// or runs a bundle that is stalled. What holds up a bundle that is due (a suspension, a bundle it depends on,
// a free worker) is the caller's business.
// The package never reads a clock, draws a random number, talks to a cluster, or knows what a bundle holds.
package lifecycle
