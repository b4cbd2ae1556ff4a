// Package drift holds tests of the whole agent on a real control plane about drift:
// what is seen, what it is called, what is done about it, what is left alone, and what is never shown.
// The tests of the parts are with the parts.
// Tests run one after the other on one control plane, each with an agent and a repository of its own.
package drift
