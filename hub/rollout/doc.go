// Package rollout decides which cluster may have which content of a rollout's bundles, and when.
//
// Decide is a function of values: what the hub knew, what agents and people said since, and the time.
//
//	wave:    Waiting ──waves before finished──▶ Asking ──approved──▶ Rolling ──all good──▶ Soaking ──time──▶ Finished
//	member:  Unseen ──its agent saw the commit──▶ Pending ──▶ Released ──▶ Good ◀──▶ Bad ──deadline──▶ Failed
//	change:  Running ──▶ Completed;  Running ──failures──▶ Halted or Returned;  any ──newer content──▶ another change
//
// It promises the rules of docs/decisions/0014: TestDecide_invariants checks them with a judge of its own.
// It never reads a clock, a store or the network, never sees Git, and releases nothing but what an agent reported to have in Git.
package rollout
