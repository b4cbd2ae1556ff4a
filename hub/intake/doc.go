// Package intake decides what a hub takes of an agent's report.
// A hub must not believe an agent: the cluster may be in the wrong hands, and what it says stands on pages,
// in commands that people copy, and in the memory that all clusters share.
//
// It promises:
//   - A report that Decode and Take let through has a bounded size, and holds only names, words and times
//     that a cluster can have.
//   - Of what it does not take, as little as possible is left out: one bad field of an episode does not
//     cost the episode, and one bad report does not cost those beside it.
//   - Nothing is left out without a word: Take says what it was, for the cluster's page and for the agent.
//
// It is pure: the time is given. Whose report it is, and how many there may be, the store knows.
package intake
