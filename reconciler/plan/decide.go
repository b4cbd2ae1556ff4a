package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// ReasonNotKnown is the reason of a step about an object of ours of which it is not known what was last applied.
const ReasonNotKnown = "not known as applied"

// ReasonDeclaredTwice is the reason of the error about an object that several bundles declare.
const ReasonDeclaredTwice = "DeclaredTwice"

// The words of api.AnnotationSSA.
const (
	ssaIfNotPresent = "IfNotPresent"
	ssaMerge        = "Merge"
)

// Decide says what to do with one desired object.
// It is asked with Sight NotSeen first; where the answer is Look (or a TryCreate that found an object),
// it is asked again with what was seen.
func Decide(in Input) Step {
	s := Step{Object: api.RefOf(in.Desired)}
	switch {
	case len(in.Declared) > 1 && in.Declared[0] != in.Bundle:
		return s.denied(ReasonDeclaredTwice, fmt.Errorf("%s is declared by bundle %q, too, which has it", s.Object, in.Declared[0]),
			"leave it in one of them")
	case in.Held != nil:
		return s.skipped(heldReason(*in.Held))
	case annotated(in.Desired, api.AnnotationReconcile, api.ValueDisabled):
		return s.skipped(api.AnnotationReconcile + ": disabled in Git")
	case in.Sight == NotSeen:
		return unseen(in, s)
	case in.Sight == Unknown:
		return s.unread(in.Cause)
	case in.Sight == Absent:
		return absent(in, s)
	case in.Live == nil:
		return s.unread(errors.New("present, but not given"))
	}
	return present(in, s)
}

func unseen(in Input, s Step) Step {
	if in.Entry == nil {
		s.Next, s.Action, s.Reason = TryCreate, api.Created, "new in Git"
		return s
	}
	if in.Compare == CompareChanged && sameAsApplied(in) {
		s.Action, s.Reason = api.Unchanged, "as last applied"
		return s
	}
	s.Next = Look
	if writableUnseen(in) {
		s.Next, s.Action, s.Reason = TryUpdate, api.Updated, "changed in Git"
	}
	return s
}

// writableUnseen reports whether nothing can be on the live object that would have a say in what Git has changed:
// it is as it was left, and nothing was then.
func writableUnseen(in Input) bool {
	e := in.Entry
	switch {
	case in.AsLeft == "", !e.Plain, e.UID == "", e.Digest == "", in.Compare != CompareChanged, sameAsApplied(in):
		return false
	case annotation(in.Desired, api.AnnotationSSA) != "", len(RulesFor(api.RefOf(in.Desired), in.Drift)) > 0:
		return false
	case !MayLeave(in.Desired):
		return true
	}
	// The live replicas are those that were applied: nobody else's, as long as Git does not change them.
	return !e.Scaled && in.Applied != nil && onlyReplicas(in.Desired) && onlyReplicas(in.Applied) &&
		equality.Semantic.DeepEqual(replicas(in.Desired), replicas(in.Applied))
}

// Plain is api.InventoryEntry.Plain for an object of the bundle as the API server has it.
func Plain(live metav1.Object, bundle string, policy api.Drift) bool {
	annotations := live.GetAnnotations()
	for _, key := range []string{api.AnnotationReconcile, api.AnnotationSSA, api.AnnotationDrift} {
		if annotations[key] != "" {
			return false
		}
	}
	return live.GetLabels()[api.LabelPartOf] == ApplySetID(bundle) && live.GetDeletionTimestamp() == nil &&
		!slices.ContainsFunc(live.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return Adopted(e, policy) || otherScale(e) })
}

// Exempt names what on the live object, and not in Git, keeps it from being looked at or corrected:
// the annotations, with their values. It is empty where nothing does, or no more than Git and the policy do themselves.
func Exempt(git, live api.Orders, policy api.Drift) string {
	var out []string
	hides := func(o api.Orders) bool { return o.Drift == string(api.DriftIgnore) || o.SSA == ssaIfNotPresent }
	reports := func(o api.Orders) bool { return o.Drift == string(api.DriftReport) }
	hidden := policy.Mode == api.DriftIgnore || hides(git)
	reported := hidden || policy.Mode == api.DriftReport || reports(git)
	if !hidden && policy.Heeds(api.AnnotationDrift) && (live.Drift == string(api.DriftIgnore) || !reported && reports(live)) {
		out = append(out, api.AnnotationDrift+": "+live.Drift)
	}
	// Where Git has this one itself, its word counts.
	if !hidden && policy.Heeds(api.AnnotationSSA) && git.SSA == "" && live.SSA == ssaIfNotPresent {
		out = append(out, api.AnnotationSSA+": "+live.SSA)
	}
	if live.Reconcile == api.ValueDisabled && git.Reconcile != api.ValueDisabled {
		out = append(out, api.AnnotationReconcile+": "+live.Reconcile)
	}
	return strings.Join(out, ", ")
}

// absent is about an object that Git wants and that is not there.
func absent(in Input, s Step) Step {
	if sameAsApplied(in) && !corrects(in) {
		return s.skipped("missing, and drift is only reported")
	}
	if sameAsApplied(in) && api.Expires(in.Desired) {
		s.Action, s.Reason = api.Unchanged, "its ttlSecondsAfterFinished is over"
		return s
	}
	if in.Entry != nil && leftAsAWhole(in) {
		return s.skipped("missing, and an ignore rule leaves the whole object to others")
	}
	s.Next, s.Action, s.Reason = Write, api.Created, "new in Git"
	if in.Entry != nil {
		s.Reason = "missing on the cluster"
	}
	return s
}

// leftAsAWhole reports whether an ignore rule covers the whole object, its absence included.
func leftAsAWhole(in Input) bool {
	return slices.ContainsFunc(RulesFor(api.RefOf(in.Desired), in.Drift), func(r api.IgnoreRule) bool { return slices.Contains(r.Paths, "/") })
}

// present is about an object that Git wants and that is there.
func present(in Input, s Step) Step {
	owner := ownerOf(in.Live, in.Bundle)
	if owner.bundle != "" && !owner.ours && in.MayTake != nil && !in.MayTake(owner.bundle) {
		s.Forget = in.Entry == nil
		return s.denied(api.ReasonTenantDenied, fmt.Errorf("%s belongs to bundle %q, and no tenant takes what is another's", s.Object, owner.bundle),
			"it can be had once that bundle has given it up")
	}
	if annotated(in.Live, api.AnnotationReconcile, api.ValueDisabled) {
		s.pass(in, owner)
		return s.skipped(api.AnnotationReconcile + ": disabled on the live object")
	}
	if owner.foreign {
		s.Forget = true
		return s.denied("OwnedByOther", fmt.Errorf("%s belongs to the ApplySet %q of another tool", s.Object, owner.applySet),
			fmt.Sprintf("remove its label %s to hand it over", api.LabelPartOf))
	}
	if in.Live.GetDeletionTimestamp() != nil {
		s.Action, s.Reason = api.Failed, "it is being deleted"
		s.Err = &api.Error{
			Kind: api.Waiting, Reason: "Terminating", After: 5 * time.Second,
			Err: fmt.Errorf("%s is being deleted%s", s.Object, finalizers(in.Live)),
		}
		return s
	}
	if ssaMode(in) == ssaIfNotPresent {
		s.pass(in, owner)
		return s.skipped("it exists, and " + api.AnnotationSSA + " is IfNotPresent")
	}
	if sameAsApplied(in) && (!corrects(in) || in.Entry.UID == string(in.Live.GetUID()) && owner.ours) {
		return settled(in, s)
	}
	s.Next, s.Action, s.TakeOver = Write, api.Updated, TakeShared
	switch {
	case owner.bundle != "" && !owner.ours:
		s.Reason = fmt.Sprintf("moved here from bundle %q", owner.bundle)
	case in.Entry == nil && owner.ours:
		s.Reason = "found again by its label"
	case !owner.ours && in.Entry != nil && in.Entry.UID == string(in.Live.GetUID()):
		s.Reason = "its label " + api.LabelPartOf + " was removed"
	case !owner.ours:
		s.Reason, s.TakeOver = "existed before, taken over", TakeAll
	case in.Entry.UID != "" && in.Entry.UID != string(in.Live.GetUID()):
		s.Reason, s.TakeOver = "recreated by somebody else", TakeAll
	case in.Entry.Digest == "":
		s.Reason = ReasonNotKnown
	default:
		s.Reason = "changed in Git"
	}
	if ssaMode(in) == ssaMerge {
		s.TakeOver = TakeNothing
	}
	return s
}

// settled is about an object that Git did not change since it was applied.
func settled(in Input, s Step) Step {
	if !corrects(in) {
		s.Action, s.Reason = api.Unchanged, "as last applied; drift is only reported"
		return s
	}
	s.Next, s.Action, s.Reason = Verify, api.Updated, "differs from Git"
	if ssaMode(in) != ssaMerge {
		s.TakeOver = TakeShared
	}
	return s
}

func sameAsApplied(in Input) bool {
	return in.Entry != nil && in.Entry.Digest != "" && in.Entry.Digest == in.Digest
}

// corrects reports whether a difference that Git did not make is written back.
func corrects(in Input) bool {
	if in.Drift.Mode == api.DriftReport || in.Drift.Mode == api.DriftIgnore {
		return false
	}
	for _, said := range []string{annotation(in.Desired, api.AnnotationDrift), liveAnnotation(in, api.AnnotationDrift)} {
		if said == string(api.DriftReport) || said == string(api.DriftIgnore) {
			return false
		}
	}
	return true
}

// liveAnnotation is what an annotation of the live object says, if it has a say: of what is not ours yet every one has.
func liveAnnotation(in Input, key string) string {
	ours := in.Entry != nil || in.Live != nil && ownerOf(in.Live, in.Bundle).bundle != ""
	if ours && !in.Drift.Heeds(key) {
		return ""
	}
	return annotation(in.Live, key)
}

func ssaMode(in Input) string {
	if m := annotation(in.Desired, api.AnnotationSSA); m != "" {
		return m
	}
	return liveAnnotation(in, api.AnnotationSSA)
}

// Merges reports whether the object asks, in Git or on the cluster, that what others added is left to them.
func Merges(in Input) bool { return ssaMode(in) == ssaMerge }

// pass notes that an object is passed over for what its annotations say; what was never ours is no part of the inventory.
func (s *Step) pass(in Input, by owner) {
	if s.Forget = by.bundle == "" && in.Entry == nil; s.Forget {
		s.Orders = api.OrdersIn(in.Live.GetAnnotations())
	}
}

func (s Step) skipped(reason string) Step {
	s.Next, s.Action, s.Reason = Done, api.Skipped, reason
	return s
}

func (s Step) denied(reason string, err error, hint string) Step {
	s.Next, s.Action, s.Reason = Done, api.Denied, err.Error()
	s.Err = &api.Error{Kind: api.Forbidden, Reason: reason, Err: err, Hint: hint}
	return s
}

// unread is the answer about an object whose live state is unknown: nothing is done.
func (s Step) unread(cause error) Step {
	if cause == nil {
		cause = errors.New("no cause given")
	}
	s.Next, s.Action, s.Reason = Done, api.Failed, "the live object could not be read"
	s.Err = fmt.Errorf("%s: %w", s.Object, cause)
	return s
}

func heldReason(h api.Suspension) string {
	return fmt.Sprintf("suspended by %q until %s: %s", h.Name, h.Until.UTC().Format(time.RFC3339), h.Reason)
}

func annotated(o *unstructured.Unstructured, key, value string) bool {
	return annotation(o, key) == value
}

func annotation(o *unstructured.Unstructured, key string) string {
	if o == nil {
		return ""
	}
	v, _, _ := unstructured.NestedString(o.Object, "metadata", "annotations", key)
	return v
}

func label(o *unstructured.Unstructured, key string) string {
	if o == nil {
		return ""
	}
	v, _, _ := unstructured.NestedString(o.Object, "metadata", "labels", key)
	return v
}

func finalizers(o *unstructured.Unstructured) string {
	f := o.GetFinalizers()
	if len(f) == 0 {
		return ""
	}
	return " and waits for its finalizers " + quoted(f)
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}
