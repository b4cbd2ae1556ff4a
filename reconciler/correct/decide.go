package correct

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// target is an object to compare, with what it is compared to.
type target struct {
	id       string
	ref      api.ObjectRef
	bundle   string
	rendered api.RenderedBundle
	// desired is never nil: for an object that is extra it holds nothing but the identity.
	desired  *unstructured.Unstructured
	extra    bool
	entry    *api.InventoryEntry // nil for an extra object
	revision string
	// near are the autoscalers that may own its replicas.
	near []*unstructured.Unstructured
}

// sight is what the watch knows of an object.
type sight struct {
	id    string
	ref   api.ObjectRef
	seen  objects.Seen
	there bool
	// synced says that the watch has seen everything of the object's kind.
	synced bool
	// held says that a suspension covers the object.
	held bool
	// version is the version in which the object's kind is known, if the object is not in Git.
	version string
}

// decision is what follows from a sight.
type decision struct {
	// target is what to compare; nil when nothing can have happened:
	// our own write, a change of status only, or an object that an apply is about to take care of.
	target *target
	// orders says that the object's annotations say something else than was known.
	orders bool
	// unsettled has the bundle run again: its last run passed the object over for something that may be gone.
	unsettled bool
	// stray is what we applied and never heard back of; nil if the object is none such. The bundle is to own it, and to run again.
	stray *api.InventoryEntry
	// left ends the open episode: the object has left Git, and a suspension keeps it from being pruned.
	left bool
	// changed has the bundle tried again: the object, which was refused, is not as it was then.
	changed bool
	// looked takes the mark off that has the object compared.
	looked bool
}

// decide says whether an object needs looking at, and what else follows from what the watch knows of it.
func decide(v objects.View, s sight) (d decision) {
	b, o := v.Bundle, v.Object
	d.unsettled = o.Entry != nil && freed(o, s) && passedOver(v)
	if o.Orders != s.seen.Orders && (s.there || o.Entry == nil) {
		d.orders, o.Orders = true, s.seen.Orders
	}
	switch {
	case b.Applied == nil:
		return d
	case v.Claimed != "" && v.Claimed != b.Name:
		return d // it moves to another bundle, whose apply takes care of it
	case o.Baseline == nil && o.Entry != nil:
		return d // left Git; pruning is the apply's business
	case o.Baseline == nil:
		return d.undeclared(v, s)
	case o.Entry == nil:
		return d // not yet applied
	}
	t := &target{
		id: s.id, ref: s.ref, bundle: b.Name, rendered: *b.Applied, desired: o.Baseline, entry: o.Entry, revision: b.AppliedRevision,
	}
	if s.held {
		if want, pending := pending(b, t); pending && want == nil {
			d.left = o.Episode != nil
			return d // Git says nothing of it any more, and a suspension keeps it from being pruned
		}
	}
	return d.declared(o, t, b, s)
}

// declared decides about an object that the bundle was applied with and owns.
func (d decision) declared(o objects.Object, t *target, b objects.Bundle, s sight) decision {
	asked := o.Episode != nil || o.Look || o.Unknown != ""
	switch {
	case s.there && !asked && !changed(*o.Entry, s.seen):
		return d // our own write, or a change of status
	case o.Entry.Digest != "" && o.Entry.Digest != apply.Digest(o.Baseline) && !o.HandsOff():
		d.changed = (s.there || s.synced) && !b.Synced && !tried(o, s.seen)
		return d // its apply failed, and is tried again
	}
	// The mark is taken off before anybody looks: one that is set meanwhile is for another look. A look that fails makes it unknown.
	d.looked = true
	if asked || s.there || s.synced || o.Entry.ResourceVersion == "" {
		d.target = t
	} // else the watch will tell
	return d
}

// undeclared decides about an object that is neither in Git nor owned.
func (d decision) undeclared(v objects.View, s sight) decision {
	b, open := v.Bundle, v.Object.Episode != nil
	switch {
	case !s.there && !open:
		return d
	case v.Claimed != "" || b.Desired == nil:
		return d // another bundle is about to take it over, or all of this one goes
	}
	ref := s.ref
	if s.there {
		ref.Version = s.version
		if d.stray = stray(v, ref, s.seen); d.stray != nil {
			return d // pruning is the apply's business
		}
	}
	if !open && !b.Applied.Spec.Drift.AsksForExtra() {
		return d // controllers copy our labels to what they make; nobody asks
	}
	d.target = &target{
		id: s.id, ref: s.ref, bundle: b.Name, rendered: *b.Applied, desired: identity(ref), extra: true, revision: b.AppliedRevision,
	}
	return d
}

// freed reports whether what an object was passed over for, such as api.AnnotationPrune or api.AnnotationReconcile, may be gone.
func freed(o objects.Object, s sight) bool {
	if s.there {
		return !api.SameLabels(o.Entry.MetaDigest, s.seen.MetaDigest)
	}
	return !o.Unlabelled && s.synced
}

// passedOver reports whether the last run of a bundle passed an object over that the bundle owns.
func passedOver(v objects.View) bool {
	want := v.Object.Baseline
	return v.Bundle.Synced && (want != nil && v.Object.Entry.Digest != apply.Digest(want) || v.DesiredBy == "")
}

// tried reports whether a bundle was tried because of an object as the watch sees it now.
func tried(o objects.Object, seen objects.Seen) bool {
	was := o.Tried
	return was != nil && was.UID == seen.UID && was.Generation == seen.Generation && api.SameMeta(was.MetaDigest, seen.MetaDigest)
}

// stray returns what we applied and never heard back of, because the answer was lost or we were killed,
// if it has left Git since: it is the bundle's to prune. It is nil if the object is none such.
func stray(v objects.View, ref api.ObjectRef, seen objects.Seen) *api.InventoryEntry {
	e := api.InventoryEntry{
		Object: ref, UID: seen.UID, ResourceVersion: seen.ResourceVersion, Generation: seen.Generation, MetaDigest: seen.MetaDigest,
	}
	b := v.Bundle
	if !seen.Applied || b.Desired.Err != nil || v.DesiredBy != "" ||
		plan.Prune(plan.PruneInput{Bundle: b.Name, Entry: e, Spec: b.Desired.Spec}).Next != plan.Look {
		return nil
	}
	return &e
}

// pending returns what a newer revision, which is yet to be applied as a whole, says of an object:
// nil if it has left Git. The second result is false if there is no such revision.
func pending(b objects.Bundle, t *target) (*unstructured.Unstructured, bool) {
	switch {
	case t.extra || b.Synced:
		return nil, false
	case b.Gone:
		return nil, true
	case b.Desired == nil || b.Desired.Err != nil:
		return nil, false
	}
	for _, o := range b.Desired.Objects {
		if api.RefOf(o).ID() == t.id {
			return o, true
		}
	}
	return nil, true
}

// changed reports whether what the watch saw can matter.
func changed(e api.InventoryEntry, s objects.Seen) bool {
	switch {
	case e.ResourceVersion == s.ResourceVersion:
		return false
	case e.UID != s.UID:
		return true
	case objects.Older(s.ResourceVersion, e.ResourceVersion):
		return false // the watch has not yet seen our own write
	case s.Generation == e.Generation && api.SameMeta(e.MetaDigest, s.MetaDigest):
		return false // status only
	default:
		return true
	}
}

func identity(ref api.ObjectRef) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(ref.GVK())
	o.SetNamespace(ref.Namespace)
	o.SetName(ref.Name)
	return o
}
