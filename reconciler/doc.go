// Package reconciler keeps one cluster equal to a fleet repository.
//
// A pass fetches, renders, gates, plans, applies, prunes, waits, records and reports.
// Passes are level-triggered: each looks at everything, events only say "sooner",
// and what did not change costs nothing.
// Bundles run as a dependency graph; independent ones run in parallel,
// one that fails is tried again by itself, and waiting for health holds no worker.
// Whether a bundle is to run, and when, is a value (reconciler/lifecycle): onLocked is the one place that changes it.
//
// Between passes the watch is answered by the drift loop (reconciler/correct), which is given what it has to know of Git as values.
// What is known of single objects has one home (reconciler/objects), and what is to survive goes through one recorder (reconciler/record).
//
// The stages (sources, render, drift, hub) never import each other.
// They meet here, through the small interfaces of stages.go, which internal/agent satisfies.
// The package never talks to Kubernetes itself (reconciler/apply does),
// and decides nothing about a single object (reconciler/plan and drift do).
package reconciler
