// Package compare says what differs between the renderings of a whole fleet: between its clusters, and between two revisions.
//
// It promises that the same renderings give the same answer, in the same order, and that no value of a Secret,
// and no text that was decrypted for a bundle, is in any answer.
//
// It is pure: renderings in, differences out. It reads no file, and it never asks a cluster:
// what is live may differ from either revision.
package compare
