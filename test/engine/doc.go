// Package engine holds tests of the whole agent on a real control plane: what it applies, in which order,
// what it refuses and what it leaves alone. The tests of the parts are with the parts;
// here is what a user of Flux, Argo CD or Config Sync would file a bug about.
// Tests run one after the other on one control plane, each with an agent and a repository of its own.
package engine
