package plan

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// PruneInput is all that the decision about an object that left a bundle depends on.
type PruneInput struct {
	Bundle string
	Entry  api.InventoryEntry
	// Spec is the bundle's; for a bundle that left Git, its last known one or the zero value.
	Spec  api.BundleSpec
	Sight Sight
	Live  *unstructured.Unstructured
	Cause error
	Held  *api.Suspension
	// Declared are the bundles that declare this object now.
	Declared []string
}

// Prune says what to do with one object that a bundle owns and no longer declares.
func Prune(in PruneInput) Step {
	s := Step{Object: in.Entry.Object}
	switch {
	case slices.Contains(in.Declared, in.Bundle):
		return s.skipped("the bundle declares it")
	case len(in.Declared) > 0:
		s.Forget = true
		return s.skipped(fmt.Sprintf("moved to bundle %q", in.Declared[0]))
	case in.Held != nil:
		return s.skipped(heldReason(*in.Held))
	case !in.Spec.PruneEnabled():
		return s.skipped("prune is off for the bundle")
	case in.Sight == NotSeen:
		s.Next = Look
		return s
	case in.Sight == Unknown:
		return s.unread(in.Cause)
	case in.Sight == Absent:
		s.Forget, s.Action, s.Reason = true, api.Pruned, "was gone already"
		return s
	case in.Live == nil:
		return s.unread(nil)
	}
	return prunePresent(in, s)
}

func prunePresent(in PruneInput, s Step) Step {
	o := ownerOf(in.Live, in.Bundle)
	switch {
	case !o.ours && o.bundle != "":
		s.Forget = true
		return s.skipped(fmt.Sprintf("belongs to bundle %q now", o.bundle))
	case !o.ours:
		s.Forget = true
		return s.skipped("does not carry the bundle's label " + api.LabelPartOf + " any more")
	case annotated(in.Live, api.AnnotationPrune, api.ValueDisabled):
		return s.skipped(api.AnnotationPrune + ": disabled on the live object")
	case annotated(in.Live, api.AnnotationReconcile, api.ValueDisabled):
		return s.skipped(api.AnnotationReconcile + ": disabled on the live object")
	case in.Live.GetDeletionTimestamp() != nil:
		// Deleted before, and held up by finalizers: it stays in the inventory until it is gone.
		return s.skipped("is being deleted" + finalizers(in.Live))
	}
	s.Next, s.Action, s.Reason, s.Forget = Delete, api.Pruned, "left Git", true
	return s
}

// Stale returns the entries that are not desired any more, in the order in which they are pruned:
// the reverse of the order of application.
// A desired object whose namespace could not be resolved protects every namesake of its kind.
func Stale(entries []api.InventoryEntry, desired, unresolved []api.ObjectRef) []api.InventoryEntry {
	keep := make(map[string]bool, len(desired))
	for _, r := range desired {
		keep[r.ID()] = true
	}
	var out []api.InventoryEntry
	for _, e := range entries {
		if keep[e.Object.ID()] || slices.ContainsFunc(unresolved, func(r api.ObjectRef) bool {
			return r.Group == e.Object.Group && r.Kind == e.Object.Kind && r.Name == e.Object.Name
		}) {
			continue
		}
		// An inventory never names an object twice; if one did, it is still pruned once.
		keep[e.Object.ID()] = true
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b api.InventoryEntry) int { return CompareOrder(b.Object, a.Object) })
	return out
}
