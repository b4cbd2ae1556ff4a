// Package upgrade proves that an agent replaces itself by another version from Git.
//
// It runs two builds of the program as processes in the place of Pods, on a real control plane and with the rights of
// the installed service account. It never runs a container: the test is the kubelet of one node.
package upgrade
