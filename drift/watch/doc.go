// Package watch sees what happens to the objects that we own, from metadata alone.
//
// It keeps one watch per kind, filtered by our labels, and of each object only what tells
// whether a change can matter: uid, resource version, generation, a digest of the metadata (api.MetaDigest),
// and the ApplySet. Changes arrive within milliseconds, per object in order.
// A watch that was lost is resumed where it ended, or everything is seen anew; Relisted says so. Relist has everything
// seen anew in any case.
// A kind that the cluster does not have (yet) is asked for again until it is there.
//
// Suspensions are watched whole, and the set in force is handed over at every change.
// One that cannot be read still suspends: a human wanted correction to stop.
//
// The package never writes to the cluster, and never reads an object's spec, Suspensions excepted.
package watch
