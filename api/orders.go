package api

import (
	"slices"
	"strings"
)

// Orders are the annotations that keep an object from being corrected or deleted, as they stand in Git or on the live object.
// Each is empty where there is none.
type Orders struct {
	// Reconcile, Drift and SSA are AnnotationReconcile, AnnotationDrift and AnnotationSSA.
	Reconcile, Drift, SSA string
	// Keep is the annotation that keeps it from being deleted; see Keeps.
	Keep string
}

// OrdersIn reads the orders among an object's annotations.
func OrdersIn(annotations map[string]string) Orders {
	return Orders{
		Reconcile: annotations[AnnotationReconcile],
		Drift:     annotations[AnnotationDrift],
		SSA:       annotations[AnnotationSSA],
		Keep:      Keeps(annotations),
	}
}

// Annotations of other tools that say an object is not to be deleted.
const (
	AnnotationHelmPolicy = "helm.sh/resource-policy"
	AnnotationArgoSync   = "argocd.argoproj.io/sync-options"
	AnnotationFluxPrune  = "kustomize.toolkit.fluxcd.io/prune"
)

// OrderAnnotations are the annotations that OrdersIn reads.
func OrderAnnotations() []string {
	return []string{
		AnnotationReconcile, AnnotationDrift, AnnotationSSA, AnnotationPrune,
		AnnotationHelmPolicy, AnnotationArgoSync, AnnotationFluxPrune,
	}
}

// Keeps names the annotation that keeps an object from being deleted, with its value; empty if none does.
// AnnotationPrune goes over those of other tools, so that its "enabled" lets an object go that they would keep.
func Keeps(annotations map[string]string) string {
	switch {
	case annotations[AnnotationPrune] == ValueDisabled:
		return AnnotationPrune + ": " + ValueDisabled
	case annotations[AnnotationPrune] == ValueEnabled:
		return ""
	case strings.EqualFold(strings.TrimSpace(annotations[AnnotationHelmPolicy]), "keep"):
		return AnnotationHelmPolicy + ": keep"
	case annotations[AnnotationFluxPrune] == ValueDisabled:
		return AnnotationFluxPrune + ": " + ValueDisabled
	}
	for option := range strings.SplitSeq(annotations[AnnotationArgoSync], ",") {
		if option = strings.TrimSpace(option); slices.Contains(argoKeeps, option) {
			return AnnotationArgoSync + ": " + option
		}
	}
	return ""
}

// argoKeeps are the options of Argo CD that keep an object, or have somebody confirm first that it goes.
var argoKeeps = []string{"Delete=false", "Prune=false", "Delete=confirm", "Prune=confirm"}
