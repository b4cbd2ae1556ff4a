// Package health says whether the objects of a bundle are healthy: by kstatus,
// and for kinds that a bundle says it about, by its CEL expressions.
//
// It learns what is live from watches, one per kind, filtered by our labels, and never polls.
// A watch is open only while somebody waits for an object of its kind;
// kinds without a status need none, and are healthy as soon as they exist.
// It keeps verdicts, not objects, and it writes nothing.
//
// An object is judged by what the watch has seen of the state that was applied, or a later one:
// what was healthy before the last change does not count.
package health
