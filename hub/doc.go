// Package hub collects what the agents report and shows the fleet.
//
// Agents dial in, over mutual TLS, and keep one stream open:
// their reports are stored once, however often they come, and acknowledged by number.
// People and scripts use another listener: pages, a JSON API, metrics.
//
//	agents ──Connect, mTLS──▶ Hub ──▶ hub/store (bbolt)
//	people ──HTTP, token────▶ Hub ──▶ hub/view ──▶ hub/web, JSON
//
// The hub never dials a cluster, holds no Kubernetes credentials and links no Kubernetes client:
// what it wants of a cluster it asks over the stream that the agent opened.
package hub
