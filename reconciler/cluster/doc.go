// Package cluster keeps what flotilla itself has on a cluster: its CRDs, a BundleDeployment for each bundle,
// the agent's report and identity, the orders to sync, the Lease, the Suspensions and the Events.
//
// It promises that a cluster tells whoever asks it, without the hub and without the agent, what the agent knew last,
// and that the inventory can be made anew from the cluster alone. Nothing is written that would change nothing.
// It never writes an object that is in Git; package apply does.
//
//	status.go, inventory.go         BundleDeployments, and what their ApplySets hold
//	reports.go                      the agent's report, and the orders to sync
//	events.go, happenings.go        Kubernetes Events, written and read
//	suspensions.go                  Suspensions
//	lease.go, life.go               which agent has the cluster, and whether it lives
//	identity.go                     the agent's identity at the hub, which outlives its disk
//	bootstrap.go, own.go, install.go  CRDs, and other objects that are flotilla's own
package cluster
