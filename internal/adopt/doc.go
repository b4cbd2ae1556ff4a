// Package adopt turns drift into a change of the fleet repository: the live values become what Git says.
//
// It promises that a change is proven before it is written: the repository is rendered for every cluster
// before and after, and exactly the adopted fields may differ. Whatever cannot be proven is refused with a reason.
// Files keep their comments and their layout. Nothing is ever written about a Secret.
//
//	edit.go, splice.go   one YAML file, edited in place
//	method.go            which files say the field: plain YAML, or the overlay's kustomization
//	verify.go            the proof
//	plan.go, write.go    the whole
package adopt
