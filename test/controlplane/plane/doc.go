// Package plane runs one Kubernetes control plane as a group of processes in a directory of its own.
//
// It promises the same ports, certificates and data every time it is started on the same directory,
// a line "ready KUBECONFIG" once a Deployment can become available,
// and no process left behind.
// It never listens outside the loopback interface, and it never runs a container: nodes and pods are simulated by kwok.
//
// The directory:
//
//	DIR/kubeconfig        the administrator's (group system:masters)
//	DIR/lock              held as long as any process of the control plane lives
//	DIR/ports.json        {"apiServer": 23456, "etcd": 23457}
//	DIR/pki/              CA, serving and client certificates, service-account key
//	DIR/components/       kubeconfigs and settings of the components
//	DIR/etcd/             data
//	DIR/logs/NAME.log     and NAME.log.previous of the run before
//	DIR/run/NAME.pid      process id of each component, and controlplane.pid of their parent
package plane
