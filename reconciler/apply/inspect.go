package apply

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Inspection is what an object is and what it would become.
type Inspection struct {
	// Desired is what would be sent: with our labels, without what belongs to the server.
	Desired *unstructured.Unstructured
	// Live is nil if there is no such object.
	Live *unstructured.Unstructured
	// DryRun is the server's answer to applying Desired without storing it; nil if there is no such object.
	DryRun *unstructured.Unstructured
	// Refused is why the server would not apply Desired to Live: an immutable field that somebody changed
	// by deleting and creating the object, or claims in a version that its CRD dropped. DryRun is then the answer to creating Desired beside it: good for a comparison.
	Refused error
	// Stripped is what would be left without what others added, where that was asked for; see Without.
	Stripped *unstructured.Unstructured
	// Err means that nothing is known: neither drift nor its absence.
	Err error
}

// asNew asks with a dry run what the object would be if it were created under a name that nobody uses.
// It returns nil if that is refused too.
func asNew(ctx context.Context, c *kube.Client, at kube.Place, body *unstructured.Unstructured) *unstructured.Unstructured {
	const room = 40 // for the suffix, and what a controller adds to a name
	other := body.DeepCopy()
	other.SetName(body.GetName()[:min(len(body.GetName()), room)] + "-flotilla-dry-run")
	giveBack := withoutAddresses(other)
	raw, err := marshal(other, "", onlyIfAbsent)
	if err != nil {
		return nil
	}
	beside, err := at.At.Named(other.GetName())
	if err != nil {
		return nil
	}
	out, err := c.Apply(ctx, kube.Place{Ref: at.Ref, At: beside}, raw, kube.Mode{DryRun: true, Whole: true})
	if err != nil {
		return nil
	}
	out.Object.SetName(body.GetName())
	giveBack(out.Object)
	return out.Object
}

// withoutAddresses takes from a Service what only one of them can have. The function that it returns gives that back to what came of it.
func withoutAddresses(o *unstructured.Unstructured) func(*unstructured.Unstructured) {
	if o.GetKind() != "Service" || o.GetAPIVersion() != "v1" {
		return func(*unstructured.Unstructured) {}
	}
	spec, _ := o.Object["spec"].(map[string]any)
	taken := map[string]any{}
	for _, field := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
		if v, ok := spec[field]; ok && v != "None" && !reflect.DeepEqual(v, []any{"None"}) {
			taken[field] = v
			delete(spec, field)
		}
	}
	ports, _ := spec["ports"].([]any)
	nodePorts := make([]any, len(ports))
	for i := range ports {
		if p, ok := ports[i].(map[string]any); ok && p["nodePort"] != nil {
			nodePorts[i] = p["nodePort"]
			delete(p, "nodePort")
		}
	}
	return func(out *unstructured.Unstructured) {
		spec, _ := out.Object["spec"].(map[string]any)
		maps.Copy(spec, taken)
		ports, _ := spec["ports"].([]any)
		for i := range ports {
			if p, ok := ports[i].(map[string]any); ok && i < len(nodePorts) && nodePorts[i] != nil {
				p["nodePort"] = nodePorts[i]
			}
		}
	}
}

// Inspect reads one object and asks the server, with a dry run, what applying it would give.
// Nothing is written and nothing is deleted, immutable fields or not.
func (a *Applier) Inspect(ctx context.Context, bundle api.RenderedBundle, desired *unstructured.Unstructured) Inspection {
	ref := api.RefOf(desired)
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return Inspection{Err: err}
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return Inspection{Err: kube.Classify(ref, "", err)}
	}
	defer release()
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return Inspection{Err: kube.Classify(ref, bundle.Origin[ref.ID()], err)}
	}
	in := a.inspectAs(ctx, c, at, bundle.Name, desired)
	in.Err = kube.Classify(ref, bundle.Origin[ref.ID()], in.Err)
	return in
}

// InspectExtra reads an object that is not in Git. There is nothing to ask a dry run for:
// the inspection has what is live, or neither that nor an error if there is no such object.
func (a *Applier) InspectExtra(ctx context.Context, bundle api.RenderedBundle, ref api.ObjectRef) Inspection {
	live, err := a.read(ctx, bundle, ref)
	if apierrors.IsNotFound(err) {
		return Inspection{}
	}
	return Inspection{Live: live, Err: kube.Classify(ref, "", err)}
}

func (a *Applier) read(ctx context.Context, bundle api.RenderedBundle, ref api.ObjectRef) (*unstructured.Unstructured, error) {
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return nil, err
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	_, live, err := a.server.Find(ctx, c, ref, "")
	return live, err
}

// inspectAs is Inspect for one who holds a slot and a client already.
func (a *Applier) inspectAs(ctx context.Context, c *kube.Client, at kube.Place, bundle string, desired *unstructured.Unstructured) Inspection {
	in, err := a.inspect(ctx, c, at, bundle, desired)
	if in.Live != nil && (apierrors.IsInvalid(err) || plan.Duplicate(err) || claimsDropped(err) != "") {
		if in.DryRun = asNew(ctx, c, at, in.Desired); in.DryRun != nil {
			in.Refused, err = kube.Classify(at.Ref, "", err), nil
		}
	}
	in.Err = kube.Classify(at.Ref, "", err)
	return in
}

func (a *Applier) inspect(ctx context.Context, c *kube.Client, at kube.Place, bundle string, desired *unstructured.Unstructured) (Inspection, error) {
	body, err := prepare(desired, bundle)
	if err != nil {
		return Inspection{}, err
	}
	in := Inspection{Desired: body}
	for range maxTries {
		live, err := c.Get(ctx, at, "")
		if apierrors.IsNotFound(err) {
			return in, nil // a dry run would tell no more: who denies it does not make the object be there
		}
		if err != nil {
			return in, err
		}
		in.Live = live
		raw, err := marshal(body, string(live.GetUID()), "")
		if err != nil {
			return in, err
		}
		out, err := c.Apply(ctx, at, raw, kube.Mode{DryRun: true, Whole: true})
		switch {
		case err == nil:
			in.DryRun = out.Object
			return in, nil
		case apierrors.IsConflict(err):
			in.Live = nil
		default:
			return in, fmt.Errorf("dry run: %w", err)
		}
	}
	return in, apierrors.NewConflict(kube.GroupResource(at.Ref), at.Ref.Name, fmt.Errorf("somebody else changes it all the time"))
}

// Correct writes one drifted object back to what Git says and returns its new inventory entry.
// live is the object that the evidence was taken of, nil if it was missing: if it changed since, nothing is written
// and the error's reason is Conflict. So there is no second look before the write.
// It honours what stands on the live object and never recreates.
func (a *Applier) Correct(ctx context.Context, bundle api.RenderedBundle, desired, live *unstructured.Unstructured) (api.InventoryEntry, error) {
	ref := api.RefOf(desired)
	e, err := a.correct(ctx, bundle, desired, live)
	if err != nil {
		return api.InventoryEntry{}, kube.Classify(ref, bundle.Origin[ref.ID()], err)
	}
	e.Origin = bundle.Origin[ref.ID()]
	return e, nil
}

func (a *Applier) correct(ctx context.Context, bundle api.RenderedBundle, desired, live *unstructured.Unstructured) (api.InventoryEntry, error) {
	ref := api.RefOf(desired)
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	defer release()
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	body, err := prepare(desired, bundle.Name)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	w := &writer{a: a, c: c, at: at, body: body, spec: bundle.Spec, in: plan.Input{
		Bundle: bundle.Name, Desired: desired, Digest: Digest(desired), Drift: bundle.Spec.Drift, Compare: plan.CompareAll,
		Entry: &api.InventoryEntry{Object: ref}, // what drifts is ours
		Sight: plan.Present, Live: live,
	}}
	if live == nil {
		w.in.Sight = plan.Absent
	}
	s := plan.Decide(w.in)
	switch {
	case s.Err != nil:
		return api.InventoryEntry{}, s.Err
	case s.Next != plan.Write:
		return api.InventoryEntry{}, &api.Error{Kind: api.Forbidden, Reason: "NotCorrected", Err: fmt.Errorf("%s", s.Reason)}
	}
	return w.correct(ctx)
}

// correct writes the object with the resourceVersion that was looked at as precondition,
// so that nothing is overwritten that the evidence does not hold.
func (w *writer) correct(ctx context.Context) (api.InventoryEntry, error) {
	uid, rv := "", onlyIfAbsent
	if w.in.Live != nil {
		uid = string(w.in.Live.GetUID())
		how := plan.TakeNothing // what is left to others must not become ours alone
		if w.in.Drift.Extra == api.ExtraRemove && !plan.Merges(w.in) {
			how = plan.TakeAll
		}
		if _, err := w.takeOver(ctx, how); err != nil {
			return api.InventoryEntry{}, err
		}
		rv = w.in.Live.GetResourceVersion() // our own patch moved it, and was conditional on the one before
	}
	body, err := w.yielding(ctx)
	if err != nil {
		return api.InventoryEntry{}, err
	}
	out, err := w.send(ctx, body, uid, rv)
	if w.versionMoved(ctx, err) {
		// The object has another resourceVersion now: it is to be looked at again.
		err = apierrors.NewConflict(kube.GroupResource(w.at.Ref), w.at.Ref.Name, err)
	}
	for w.madeRoom(ctx, err) {
		if body, err = w.yielding(ctx); err != nil {
			return api.InventoryEntry{}, err
		}
		out, err = w.send(ctx, body, uid, w.in.Live.GetResourceVersion())
	}
	if err != nil {
		w.giveBack(ctx)
		if r, ok := plan.Rejected(withoutForce(w.in), err); ok {
			return api.InventoryEntry{}, r.Err
		}
		return api.InventoryEntry{}, w.crowding(ctx, err)
	}
	w.keep(out.Meta)
	return *w.entry, nil
}

// withoutForce makes plan answer as if nobody allowed to recreate: only a pass does that.
func withoutForce(in plan.Input) plan.Input {
	strip := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		if o == nil {
			return nil
		}
		o = o.DeepCopy()
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", api.AnnotationForce)
		return o
	}
	in.Desired, in.Live = strip(in.Desired), strip(in.Live)
	return in
}
