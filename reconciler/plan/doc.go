// Package plan decides what is to be done to every object: it is pure.
//
// Decide looks at what Git wants, what is live, what was applied before and what humans ordered,
// and answers with a Step: what to do, and why in words.
// Prune does the same for an object that left Git, Rejected for a write that the API server refused,
// and Guard for all deletions of a pass together.
// The agent, the correction of drift and flotilla diff all ask these same functions.
//
// It reads no clock, opens no connection and logs nothing:
// the same values in give the same steps out.
package plan
