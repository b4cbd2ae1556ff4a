// Package drift decides whether a live object differs from what Git says, in which fields, who did it,
// and what is to be done about it.
//
// Compare is given both sides as the API server sees them: the live object, and the answer to a
// server-side dry run of what we would apply. So defaulting, conversion, canonical quantities and most
// admission have been at work on both, and what is left is compared only in fields that we own.
// What is known to look like drift and is not is in builtin.go; what the fleet repository says
// to leave alone is in rule.go.
//
// Observe moves an object's episode on: it opens, repeats, is contested, flaps and ends.
//
// The package is pure: it reads no clock, asks nobody and writes nothing.
// It never guesses: a difference without a field is no drift, a field without an owner has no name,
// and a dry run that is not there makes a result unknown.
// It never lets the value of a Secret out: see mask.go.
package drift
