// Package adopt turns drift into a change of the fleet repository: the live values become what Git says.
//
// It promises that a change is proven before it is written: the repository is rendered for every cluster
// before and after, and exactly the adopted fields may differ. Whatever cannot be proven is refused with a reason.
// Files keep their comments and their layout (see internal/yamledit). Nothing is ever written about a Secret.
// It never renders by itself: the request brings the renderer, so that drift and render stay siblings.
//
//	method.go            which files say the field: plain YAML, or the overlay's kustomization
//	verify.go            the proof
//	plan.go, write.go    the whole
package adopt
