// Package objects is the one home of what an agent knows of each object: which bundles declare it, which one owns it,
// what it was last applied as, what the API server returned, and its open drift episode.
//
// The reconciler publishes here what Git says of a bundle and how far that is applied, as one value for each bundle.
// An apply replaces inventories and baselines, and the drift loop keeps what it finds.
// Every method of Home holds Home's own lock for as long as it runs, so each is one step for everybody else.
//
// It decides nothing, writes nothing, and asks neither Git nor the cluster.
package objects
