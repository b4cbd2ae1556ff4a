// Package api holds the nouns of flotilla:
// what a fleet repository says (Fleet, Cluster, Bundle, Rollout, Window),
// what a human orders (Suspension),
// what a pass did (Change, ChangeSet),
// what was found (Episode)
// and what an agent reports (Report).
//
// It is data and validation only.
// It imports nothing else of flotilla, reads no clock, opens no file and talks to nobody,
// so every other package may import it.
package api
