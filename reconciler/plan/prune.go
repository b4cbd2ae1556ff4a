package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Await is a next step of Prune alone: it is being deleted, and is to be waited for until it is gone.
const Await Next = "await"

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
	// Stays says why the object is not deleted for now; empty if nothing keeps it.
	Stays string
	// Refused is the guard's word against its deletion; nil if there is none.
	Refused error
}

// Leaves reports whether Prune would not delete an object of the bundle, by what is known of it without a look:
// its entry, the ApplySet that its label names, and the orders on it.
func Leaves(bundle string, e api.InventoryEntry, partOf string, live api.Orders) bool {
	return e.HandsOff || partOf != ApplySetID(bundle) || live.Keep != "" || live.Reconcile == api.ValueDisabled
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
	case in.Stays != "":
		return s.skipped(in.Stays)
	case builtIn(in.Entry.Object):
		s.Forget = true
		return s.skipped("a namespace that the cluster needs is never deleted; it is given up as it is")
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
	case api.Keeps(in.Live.GetAnnotations()) != "":
		return s.skipped(api.Keeps(in.Live.GetAnnotations()) + " on the live object")
	case annotated(in.Live, api.AnnotationReconcile, api.ValueDisabled):
		return s.skipped(api.AnnotationReconcile + ": disabled on the live object")
	case in.Entry.HandsOff:
		return s.skipped(api.AnnotationReconcile + ": disabled was the last that Git said of it")
	case in.Live.GetDeletionTimestamp() != nil:
		// Deleted before, and held up by finalizers: it stays in the inventory until it is gone.
		s = s.skipped("is being deleted" + finalizers(in.Live))
		s.Next = Await
		return s
	case in.Refused != nil:
		s.Action, s.Reason, s.Err = api.Denied, "refused by a guard", in.Refused
		return s
	}
	s.Next, s.Action, s.Reason, s.Forget = Delete, api.Pruned, "left Git", true
	return s
}

// RemoveExtra says what to do with a live object that carries the bundle's labels and is not in Git:
// delete it, or nothing, with the error that says why.
// Unlike with what left Git, no revision says that it may go, so a protected kind never does.
func RemoveExtra(bundle string, live *unstructured.Unstructured) Step {
	ref := api.RefOf(live)
	s := Step{Object: ref}
	if Protected(ref) {
		return s.denied(ReasonProtected, fmt.Errorf("%s is not in Git, but with such a kind goes what cannot be brought back", ref),
			"delete it by hand, or remove its label "+api.LabelPartOf+" to keep it")
	}
	if o := metav1.GetControllerOf(live); o != nil {
		return s.denied("NotCorrected", fmt.Errorf("%s is not in Git, but belongs to the controller of %s/%s", ref, o.Kind, o.Name), "")
	}
	out := Prune(PruneInput{Bundle: bundle, Entry: api.InventoryEntry{Object: ref}, Sight: Present, Live: live})
	if out.Next == Done {
		return s.denied("NotCorrected", fmt.Errorf("%s: %s", ref, out.Reason), "")
	}
	return out
}

// The groups of kinds in the order in which they are pruned. It is the reverse of the order of application, except
// that instances of CRDs go first of all: whoever has to finalize them is among the rest.
const (
	pruneWebhooks = iota
	pruneInstances
	pruneInstanceClasses // of which the instances are
	pruneRest            // kinds that the order of application does not name
	pruneWorkloads
	pruneSettings
	pruneClasses
	pruneDefinitions
)

// PruneStage says when an object is pruned: what has a lower one goes before.
func PruneStage(ref api.ObjectRef) int {
	switch stage := StageOf(ref); {
	case Custom(ref) && stage == StageClasses:
		return pruneInstanceClasses
	case Custom(ref):
		return pruneInstances
	case stage == StageRest && positionOf(ref.Kind).place == len(rank):
		return pruneRest
	default:
		return map[Stage]int{
			StageWebhooks: pruneWebhooks, StageRest: pruneWorkloads, StageSettings: pruneSettings,
			StageClasses: pruneClasses, StageDefinitions: pruneDefinitions,
		}[stage]
	}
}

// Custom reports whether a kind is not one of Kubernetes' own: some controller may have to finalize it.
func Custom(ref api.ObjectRef) bool {
	switch ref.Group {
	case "", "apps", "batch", "autoscaling", "policy", "extensions":
		return false
	}
	name, own := strings.CutSuffix(ref.Group, ".k8s.io")
	// Groups of others end like that, too, such as gateway.networking.k8s.io.
	return !own || !slices.Contains(ownGroups, name)
}

var ownGroups = []string{
	"admissionregistration", "apiextensions", "apiregistration", "authentication", "authorization", "certificates", "coordination",
	"discovery", "events", "flowcontrol.apiserver", "internal.apiserver", "networking", "node", "rbac.authorization", "resource",
	"scheduling", "storage", "storagemigration",
}

// Stale returns the entries that are not desired any more, in the order in which they are pruned.
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
	slices.SortStableFunc(out, func(a, b api.InventoryEntry) int {
		return cmp.Or(cmp.Compare(PruneStage(a.Object), PruneStage(b.Object)), CompareOrder(b.Object, a.Object))
	})
	return out
}
