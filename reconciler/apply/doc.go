// Package apply is the only writer of what is in Git.
//
// It carries out what package plan decides, with server-side apply under the field manager "flotilla":
// Apply and Prune for a bundle in a pass, Inspect and Correct for drift, Diff for people.
// What flotilla itself has on a cluster, the BundleDeployments among it, is kept by package cluster.
//
// It promises
//   - about one request per new object, and none for an object that Git did not change;
//   - that a failed read is never taken for "there is none";
//   - that a dry run never deletes anything;
//   - that one bad object fails only itself, and that every error names its object;
//   - that only what carries the bundle's ApplySet label is ever deleted.
//
// It never decides: whether an object is written, recreated or deleted is asked of package plan.
// It never waits for workloads; it waits only for CRDs, for Helm hooks, and for deletions in its way.
package apply
