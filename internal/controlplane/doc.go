// Package controlplane starts and stops real Kubernetes control planes on this machine, for tests, benchmarks and the demo.
//
// It drives the program built from test/controlplane, which it finds next to the running executable
// or in the bin directory of the source tree, and builds when it is missing there.
// It promises that a control plane ends with the process that started it,
// and that one started again on the same directory has the same address, certificates and data.
// It never touches a cluster that it did not start.
package controlplane
