// Package store is the hub's memory: what the agents reported, who may join and look,
// and what was done. This implementation keeps it in one file (internal/boltfile).
//
// It promises:
//   - Reports are applied in order, all of a call or none, and applying one twice changes nothing.
//     A gap, or an agent whose store was begun anew, is told (ErrNeedSnapshot) instead of guessed over.
//   - What is acknowledged is on the disk. Calls that come at the same time share one write.
//   - One cluster cannot change, and not even occupy, what belongs to another: each has a share, in number and bytes,
//     and where the fleet has too much, the cluster that has most gives. What did not fit is kept in mind and told.
//   - It is bounded: closed episodes, each cluster's history and the audit log by count and age.
//   - Tokens are kept as hashes. The CA's key is in the file, which only its owner can read.
//
// Nothing that can be computed is stored: no roll-up, no state in a word.
//
// The types here say nothing of files: another implementation with the same methods can stand
// in its place.
//
// Values are JSON; t is a time in nanoseconds since 1970 in 8 bytes big endian,
// n a number in 8 bytes big endian:
//
//	meta          counters       → Counters
//	              probe          → when it was last tried whether anything can be written
//	              aging          → boltfile.Aging: whether what is old is dropped
//	clusters      <cluster>      → which agent, up to which report it was heard, how much it has, what was left out
//	status        <cluster>      → api.ClusterStatus
//	bundles       <cluster> 0 <bundle> → api.BundleStatus
//	seen          <cluster>      → when it was last heard from
//	episodes      <ID>           → api.Episode
//	heads         <ID>           → what lists need of an episode; all are in memory, too
//	open          <cluster> 0 <ID> → nothing: episodes without an end
//	closed        t <ID>         → nothing: episodes by their end, the oldest goes first
//	ended         <cluster> 0 t <ID> → nothing: the same, of each cluster
//	join-tokens   <SHA-256>      → JoinToken
//	api-tokens    nothing: versions 1 and 2 kept the place for tokens of people, which stand in a file
//	certificates  <serial>       → Certificate
//	audit         n              → AuditEntry
//	reported      <cluster> 0 n  → AuditEntry, of what an agent reports; n counts both kinds
//	sessions      <SHA-256>      → Session
//	history       <cluster> 0 t n <bundle> → api.Applied
//	keys          ca.crt, ca.key → the authority, in PEM (not JSON)
package store
