package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// maxTries bounds how often an object that somebody else keeps changing is looked at again.
const maxTries = 5

// object brings one object to what plan decides. It returns the step as it ended,
// and the inventory entry where one is known.
func (a *Applier) object(ctx context.Context, c *kube.Client, in plan.Input, req Request) (plan.Step, *api.InventoryEntry) {
	ref := api.RefOf(in.Desired)
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return failed(ref, err), nil
	}
	body, err := prepare(in.Desired, in.Bundle)
	if err != nil {
		return failed(ref, err), nil
	}
	w := &writer{a: a, c: c, at: at, in: in, body: body, spec: req.Bundle.Spec, left: req.Left, witness: req.Witness}
	for range maxTries {
		s := plan.Decide(w.in)
		if r, ok := w.refusedBefore(ctx, req, s); ok {
			return r, nil
		}
		var again bool
		if s, again = w.step(ctx, plan.Decide(w.in)); !again {
			a.refusals.note(w.in, req.Bundle.Digest, s)
			return s, w.entry
		}
	}
	return failed(ref, apierrors.NewConflict(kube.GroupResource(ref), ref.Name, fmt.Errorf("somebody else changes it all the time"))), nil
}

// writer carries out the steps for one object.
type writer struct {
	a    *Applier
	c    *kube.Client
	at   kube.Place
	in   plan.Input
	body *unstructured.Unstructured
	spec api.BundleSpec
	// left may be nil; see Request.Left.
	left Left
	// witness may be nil; see Request.Witness.
	witness Witness
	// testified says that the witness was told, so that what we do ourselves is not told as somebody's.
	testified bool
	// rooms counts how often what is in the way was to go, and claims are what was claimed before, to be given back if it was for nothing.
	rooms  int
	claims []metav1.ManagedFieldsEntry
	// scaled says that the replicas are an autoscaler's.
	scaled bool
	// entry is what to keep in the inventory.
	entry *api.InventoryEntry
}

// step does what was decided. It reports true if the object has to be decided on again,
// with what was learnt.
func (w *writer) step(ctx context.Context, s plan.Step) (plan.Step, bool) {
	switch s.Next {
	case plan.Look:
		w.look(ctx)
		return s, true
	case plan.TryCreate:
		return w.tryCreate(ctx, s)
	case plan.TryUpdate:
		return w.tryUpdate(ctx, s)
	case plan.Write:
		return w.write(ctx, s)
	case plan.Verify:
		return w.verify(ctx, s)
	default:
		if s.Action == api.Skipped && !s.Forget && w.in.Live != nil {
			w.passOver()
		}
		return s, false
	}
}

// look reads the live object. Anything but an object and "not found" is Unknown, never Absent.
func (w *writer) look(ctx context.Context) {
	accept := kube.MetadataOnly
	if w.needsWhole() {
		accept = ""
	}
	w.lookAt(ctx, accept)
}

// lookAt is look, at as much as accept says.
func (w *writer) lookAt(ctx context.Context, accept string) {
	live, err := w.c.Get(ctx, w.at, accept)
	switch {
	case err == nil && accept != "" && w.left != nil && plan.ScaledElsewhere(live):
		w.lookAt(ctx, "")
	case err == nil:
		w.in.Sight, w.in.Live = plan.Present, live
	case apierrors.IsNotFound(err):
		w.in.Sight, w.in.Live = plan.Absent, nil
	default:
		w.in.Sight, w.in.Live, w.in.Cause = plan.Unknown, nil, err
	}
}

// needsWhole reports whether the metadata alone is not enough to go on.
func (w *writer) needsWhole() bool {
	return w.in.Compare == plan.CompareAll || len(plan.RulesFor(w.at.Ref, w.in.Drift)) > 0 ||
		(w.left != nil && (plan.MayLeave(w.body) || w.in.Entry != nil && w.in.Entry.Scaled))
}

// tryCreate writes the object on the condition that there is none:
// one request for what is new, which is nearly everything that comes here.
func (w *writer) tryCreate(ctx context.Context, s plan.Step) (plan.Step, bool) {
	body, err := marshal(w.body, "", onlyIfAbsent)
	if err != nil {
		return failed(s.Object, err), false
	}
	out, err := w.c.Apply(ctx, w.at, body, kube.Mode{})
	switch {
	case err == nil:
		w.keep(out.Meta)
		return s, false
	case apierrors.IsConflict(err):
		w.look(ctx)
		return s, true
	case w.kindAppears(ctx, err):
		return s, true
	}
	return failed(s.Object, err), false
}

// tryUpdate writes the object on the condition that it is as it was left: one request for what Git has changed.
// A refusal is decided on with what a look shows.
func (w *writer) tryUpdate(ctx context.Context, s plan.Step) (plan.Step, bool) {
	out, err := w.send(ctx, w.body, w.in.Entry.UID, w.in.AsLeft)
	if err != nil {
		if kind, reason := kube.KindOf(err); kind == api.Transient && reason != kube.ReasonConflict {
			return failed(s.Object, err), false // a look would only be more to do for an API server that has too much
		}
		was := w.in.AsLeft
		w.in.AsLeft = ""
		w.look(ctx)
		if w.in.Live != nil && w.in.Live.GetResourceVersion() == was && !w.versionMoved(ctx, err) && !w.madeRoom(ctx, err) {
			return w.rejected(ctx, s, err), false // the same would be refused again
		}
		return s, true
	}
	if out.Meta.ResourceVersion == w.in.AsLeft {
		s.Action, s.Reason = api.Unchanged, "already as in Git"
	}
	w.keep(out.Meta)
	return s, false
}

// write applies the object, after taking over what the step says.
func (w *writer) write(ctx context.Context, s plan.Step) (plan.Step, bool) {
	if err := w.testify(ctx); err != nil {
		return failed(s.Object, err), false
	}
	uid, rv, taken := "", onlyIfAbsent, false
	if w.in.Sight == plan.Present {
		uid, rv = string(w.in.Live.GetUID()), ""
		var err error
		taken, err = w.takeOver(ctx, s.TakeOver)
		if apierrors.IsConflict(err) {
			w.look(ctx)
			return s, true
		}
		if err != nil {
			return failed(s.Object, err), false
		}
		if taken && s.Reason == "" {
			s.Reason = "taken over"
		}
	}
	body, err := w.yielding(ctx)
	if err != nil {
		return failed(s.Object, err), false
	}
	out, err := w.send(ctx, body, uid, rv)
	switch {
	case err == nil:
		if w.in.Live != nil && !taken && out.Meta.ResourceVersion == w.in.Live.GetResourceVersion() {
			s.Action, s.Reason = api.Unchanged, "already as in Git"
		}
		if w.keep(out.Meta); w.in.Sight == plan.Present {
			w.compareSoon()
		}
		return s, false
	case apierrors.IsConflict(err), w.versionMoved(ctx, err), w.madeRoom(ctx, err):
		w.look(ctx)
		return s, true
	case w.kindAppears(ctx, err):
		return s, true
	}
	return w.rejected(ctx, s, err), false
}

// testify has the witness record what somebody else did to the object since it was last applied:
// what is written next destroys the evidence.
func (w *writer) testify(ctx context.Context) error {
	if w.testified || w.witness == nil || w.in.Entry == nil || w.asLeft() {
		return nil
	}
	old := w.witness.Applied(w.at.Ref)
	if old == nil || Digest(old) != w.in.Entry.Digest {
		return nil // what was applied is not known
	}
	in := w.a.inspectAs(ctx, w.c, w.at, w.in.Bundle, old)
	if k := api.KindOf(in.Err); k == api.Transient || k == api.Waiting || ctx.Err() != nil {
		return in.Err
	}
	err := w.witness.Found(ctx, w.at.Ref, in)
	w.testified = err == nil
	return err
}

// asLeft reports whether nothing but its status changed since the object was last known to be as applied.
func (w *writer) asLeft() bool {
	e, live := w.in.Entry, w.in.Live
	switch {
	case live == nil:
		return false
	case e.ResourceVersion == live.GetResourceVersion():
		return true
	}
	return e.UID == string(live.GetUID()) && live.GetGeneration() == e.Generation &&
		api.SameMeta(e.MetaDigest, api.MetaDigest(live))
}

// verify asks with a dry run whether anything would change, and writes only then.
func (w *writer) verify(ctx context.Context, s plan.Step) (plan.Step, bool) {
	body, err := w.yielding(ctx)
	if err != nil {
		return failed(s.Object, err), false
	}
	raw, err := marshal(body, string(w.in.Live.GetUID()), "")
	if err != nil {
		return failed(s.Object, err), false
	}
	out, err := w.c.Apply(ctx, w.at, raw, kube.Mode{DryRun: true, Whole: true})
	if apierrors.IsConflict(err) || w.versionMoved(ctx, err) || w.madeRoom(ctx, err) {
		w.look(ctx)
		return s, true
	}
	if err != nil && plan.Immutable(err) != nil && w.asLeft() {
		// Neither Git nor anybody else changed it since it was applied, or compared: admission did, as it was created.
		w.keepLive()
		s.Action, s.Reason = api.Unchanged, "as it was applied"
		return s, false
	}
	if err != nil {
		return w.rejected(ctx, s, err), false
	}
	if sameContent(w.in.Live, out.Object) {
		w.keepLive()
		s.Action, s.Reason = api.Unchanged, "as in Git"
		return s, false
	}
	return w.write(ctx, s)
}

// rejected asks plan what follows from a refusal.
func (w *writer) rejected(ctx context.Context, s plan.Step, cause error) plan.Step {
	w.giveBack(ctx)
	r, ok := plan.Rejected(w.in, cause)
	if !ok {
		return failed(s.Object, w.crowding(ctx, cause))
	}
	if r.Next != plan.Recreate {
		return r
	}
	if err := w.recreate(ctx); err != nil {
		r.Action, r.Err = api.Failed, err
	}
	return r
}

// crowding names the ways out where what others added is in the way.
func (w *writer) crowding(ctx context.Context, cause error) error {
	in := w.in
	if apierrors.IsInvalid(cause) && in.Live != nil {
		if whole, err := w.c.Get(ctx, w.at, ""); err == nil {
			in.Live = whole
		}
	}
	return plan.Crowding(in, cause)
}

// recreateTimeout bounds the wait for an object to be gone before it is created anew.
const recreateTimeout = 60 * time.Second

// recreate deletes the live object and creates it anew,
// after making sure that the API server would accept the new one.
func (w *writer) recreate(ctx context.Context) error {
	if err := w.a.acceptable(ctx, w.c, w.at, w.body); err != nil {
		return fmt.Errorf("recreate: the new object would not be accepted, so the old one stays: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, recreateTimeout)
	defer cancel()
	err := w.c.Delete(ctx, w.at, w.in.Live.GetUID())
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("recreate: delete: %w", err)
	}
	if err := w.c.AwaitGone(ctx, w.at); err != nil {
		return fmt.Errorf("recreate: wait until the old object is gone: %w", err)
	}
	body, err := marshal(w.body, "", onlyIfAbsent)
	if err != nil {
		return err
	}
	out, err := w.c.Apply(ctx, w.at, body, kube.Mode{})
	if err != nil {
		return fmt.Errorf("recreate: create: %w", err)
	}
	w.keep(out.Meta)
	return nil
}

// yielding is what is sent for an object that exists:
// fields that the drift policy leaves to others keep their live values.
func (w *writer) yielding(ctx context.Context) (*unstructured.Unstructured, error) {
	if w.in.Live == nil {
		return w.body, nil
	}
	rules := plan.RulesFor(w.at.Ref, w.in.Drift)
	if w.left != nil && (plan.MayLeave(w.body) || plan.ScaledElsewhere(w.in.Live)) {
		paths, err := w.left(ctx, w.body, w.in.Live)
		if err != nil {
			return nil, err
		}
		w.scaled = slices.Contains(paths, "/spec/replicas") || plan.ScaledElsewhere(w.in.Live)
		if len(paths) > 0 {
			rules = append(rules, api.IgnoreRule{Paths: paths})
		}
	}
	if len(rules) == 0 {
		return w.body, nil
	}
	return plan.Yield(w.body, w.in.Live, rules), nil
}

// send applies the object on the conditions of uid and rv, and once more where the API server took a map away that was sent empty.
func (w *writer) send(ctx context.Context, body *unstructured.Unstructured, uid, rv string) (kube.Written, error) {
	raw, err := marshal(body, uid, rv)
	if err != nil {
		return kube.Written{}, err
	}
	out, err := w.c.Apply(ctx, w.at, raw, kube.Mode{Whole: rv != onlyIfAbsent && plan.LeavesEmpty(body.Object)})
	if err != nil || out.Object == nil || !plan.Emptied(body.Object, out.Object.Object) {
		return out, err
	}
	if raw, err = marshal(body, string(out.Meta.UID), out.Meta.ResourceVersion); err != nil {
		return out, err
	}
	return w.c.Apply(ctx, w.at, raw, kube.Mode{})
}

// kindAppears waits a moment where a CRD was just established and its address is not served yet,
// and where a namespace that is there was not found: what was just created is not known everywhere at once.
// It reports whether to try again, which the callers do a few times within a second or so.
// For a namespace that is not there nobody waits here: it may never come.
func (w *writer) kindAppears(ctx context.Context, err error) bool {
	switch kube.ReasonOf(err) {
	case kube.ReasonKindMissing:
		w.a.server.Kinds.Forget(w.at.Ref.GVK().GroupKind())
	case kube.ReasonNamespaceMissing:
		ns := api.ObjectRef{Version: "v1", Kind: "Namespace", Name: w.at.Ref.Namespace}
		at, err := kube.PlaceOf(ns, "namespaces")
		if err != nil {
			return false
		}
		live, err := w.a.server.Own.Get(ctx, at, kube.MetadataOnly)
		if err != nil || live.GetDeletionTimestamp() != nil {
			return false
		}
	default:
		return false
	}
	return kube.Pause(ctx, 200*time.Millisecond) == nil
}

// keep notes what the server answered.
func (w *writer) keep(m kube.Answer) {
	w.entry = &api.InventoryEntry{
		Object: w.at.Ref, UID: string(m.UID), Digest: w.in.Digest,
		ResourceVersion: m.ResourceVersion, Generation: m.Generation, MetaDigest: api.MetaDigest(&m),
		Claimed: api.ClaimedAt(&m), Plain: plan.Plain(&m, w.in.Bundle, w.in.Drift), Scaled: w.scaled,
	}
}

// compareSoon has an object compared that was not as it was left, or may not have been: what others added,
// where that is asked for, nobody has looked for yet, and the API server's answer says nothing of it.
func (w *writer) compareSoon() {
	if w.in.Drift.AsksForExtra() {
		w.entry.ResourceVersion, w.entry.MetaDigest = "", ""
	}
}

// passOver notes an object that is left as it is: one that is new to us as if it were applied,
// and else only how its labels and annotations look now, so that it is seen when they change.
func (w *writer) passOver() {
	if w.in.Entry == nil {
		if w.keepLive(); api.OrdersIn(w.in.Live.GetAnnotations()).Reconcile == api.ValueDisabled {
			w.entry.Digest = "" // nothing was applied
		}
		return
	}
	e := *w.in.Entry
	e.MetaDigest, e.Plain = api.WithLabels(e.MetaDigest, api.MetaDigest(w.in.Live)), false
	w.entry = &e
}

// keepLive notes the live object, as what was applied.
func (w *writer) keepLive() {
	l := w.in.Live
	w.keep(kube.Answer{
		UID: l.GetUID(), ResourceVersion: l.GetResourceVersion(), Generation: l.GetGeneration(),
		Labels: l.GetLabels(), Annotations: l.GetAnnotations(),
		Finalizers: l.GetFinalizers(), OwnerReferences: l.GetOwnerReferences(), ManagedFields: l.GetManagedFields(),
		DeletionTimestamp: l.GetDeletionTimestamp(),
	})
	if e := w.in.Entry; e == nil || e.UID != w.entry.UID || !api.SameMeta(e.MetaDigest, w.entry.MetaDigest) {
		w.compareSoon()
	}
}

func failed(ref api.ObjectRef, err error) plan.Step {
	return plan.Step{Object: ref, Action: api.Failed, Reason: "the API server refused it", Err: err}
}

// acceptable asks with a dry run, under another name, whether the API server would create the object.
// Only an error that the object itself causes counts.
func (a *Applier) acceptable(ctx context.Context, c *kube.Client, p kube.Place, obj *unstructured.Unstructured) error {
	probe := obj.DeepCopy()
	probe.SetName("")
	probe.SetGenerateName("flotilla-check-")
	_, err := c.Create(ctx, p.At.Collection(), probe.Object, "All")
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) {
		return err
	}
	// What the object now holds (an address, a port) is free once it is gone.
	if strings.Contains(err.Error(), "already allocated") {
		return nil
	}
	return err
}
