// Package correct is the drift loop: it takes an event of the watch, compares the object with what was applied,
// stores the episode, and corrects the drift where the policy says so.
//
//	watch ──Saw──▶ queue ──▶ decide ──▶ inspect ──▶ judge ──▶ record ──▶ write
//
// An event runs through in that order, and nothing of it goes back up into the reconciler. What the loop has to know of Git
// it is given as values: a bundle's in the home of objects, and the cluster's as a Scope.
// Wherever a bundle is to run again it says so by a Wish, which the scheduler takes when it runs next.
//
// An object is never compared while its bundle is applied (Begin, End), and two workers never look at the same object.
// The evidence of a drift is in the store before a correction is written, and nothing is corrected that a suspension covers.
package correct
