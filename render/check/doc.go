// Package check says what is wrong, or suspicious, in a fleet repository, from what it renders to for every cluster.
//
// A finding has a stable reason, the clusters that it is about, where it comes from, and what to do.
// It promises that the same renderings give the same findings in the same order, that what may be made by somebody else
// than Git is no finding, and that no value of a Secret, and no text that was decrypted, is in a finding.
//
// It asks no cluster. It reads the tree for lines, comments, overlays that nothing uses, and values of Secrets in plain text.
// A fleet without findings may still be refused: by admission, by quotas, by what is live.
package check
