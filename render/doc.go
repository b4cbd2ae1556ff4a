// Package render turns a snapshot of the fleet repository and the name of a cluster
// into the objects that belong on that cluster.
//
// It promises:
//   - the same input gives the same bytes, in the same order;
//   - nothing is dropped in silence: a document that is no object, a bundle file that cannot be read
//     and a value that is still encrypted are errors, because what disappears would be pruned;
//   - an error of one bundle stays in that bundle, and one that concerns all fails the whole rendering;
//   - a bundle whose inputs did not change costs a comparison of digests, and returns the same objects.
//
// The objects, hooks and maps of a Rendering are shared between renderings: treat them as read-only.
//
// It never writes a file, never talks to a cluster,
// and reaches a network only through Config.Charts.
//
// # How a bundle is found
//
// fleet.yaml at the root, clusters/<name>/cluster.yaml, and bundle.yaml anywhere,
// except below a directory that begins with a dot and below a chart (a directory with a Chart.yaml).
// clusters/<name>/kustomization.yaml is an implicit bundle named "cluster" on that cluster only,
// unless a bundle.yaml stands beside it.
//
// # How a bundle that cannot be read is treated
//
// A bundle.yaml that does not decode, but whose name can still be told, is on every cluster, with its error:
// whether it belongs there is not known, and taking it away would prune what it owns.
// One without a readable name fails the rendering.
package render
