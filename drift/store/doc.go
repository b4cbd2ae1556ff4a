// Package store is the agent's memory on disk: what each bundle owns, the status,
// the episodes, and the outbox of reports for the hub.
//
// It promises:
//   - Commit stores all of a batch or nothing, together with a numbered report for everything
//     that changed, and returns when that is on the disk: it survives kill -9 and power loss.
//     Commits that come at the same time share one write.
//   - What is already stored is neither written nor reported again.
//   - It is bounded: closed episodes by count and age, the outbox by count and bytes,
//     and it counts what it dropped.
//   - Losing the file is harmless: the agent rebuilds the inventory from the cluster.
//     So OpenOrReplace sets a damaged file aside and begins anew.
//
// It stores what it is given. Secret values are masked before they come here.
//
// One process at a time can open the file, even to read: commands about a cluster whose
// agent is running ask the agent, which answers from this package, or read what the agent
// published on the cluster.
//
// The file is an internal/boltfile. Values are JSON, n is a number in 8 bytes big endian,
// t is a time in nanoseconds since 1970 in 8 bytes big endian:
//
//	meta        agent          → {"agent":…,"tag":…,"cluster":…,"holder":…}: who the file belongs to
//	            counters       → Counters, kept in step by every transaction
//	            aging          → boltfile.Aging: whether what is old is dropped
//	status      status         → api.ClusterStatus
//	bundles     <name>         → api.BundleStatus
//	inventory   <name>         → []api.InventoryEntry (apart: it is large and changes less often)
//	episodes    n              → api.Episode; the bucket's sequence is the highest n ever stored
//	heads       n              → what filters need of an episode, so that lists decode few
//	objects     <object ID> 0 n → nothing: an object's episodes
//	open        n              → nothing: episodes without an end
//	closed      t n            → nothing: episodes by their end, the oldest goes first
//	outbox      n <subject>    → api.Report; the bucket's sequence is the last number given.
//	                             The subject is "status", "bundle/<name>", "episode/<n>/open",
//	                             "episode/<n>/closed" or "compacted"
package store
