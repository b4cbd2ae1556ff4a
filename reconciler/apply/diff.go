package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// DiffRequest is a Request with what only a look ahead has to know.
type DiffRequest struct {
	Request
	// Coming are the CRDs and namespaces of all bundles of the revision:
	// what needs one of them is not refused for want of it.
	Coming []*unstructured.Unstructured
	// Removal says that the bundle left Git: Bundle has no objects, and the hooks of what was last applied.
	Removal bool
}

// Difference is one object's part in what a pass would do.
type Difference struct {
	// Step is what a pass would do, were it not for Held.
	Step plan.Step
	// Held is the suspension that covers the object and keeps Step from being done; nil if there is none.
	Held *api.Suspension
	// Hook is when the object is run, if it is a hook that is due.
	Hook api.HookPhase
	// Inspection has the objects to compare field by field; it is empty for hooks and for what is skipped.
	// Desired has the live values of the fields that are left to others. What the take-over of an object removes
	// is missing in DryRun, as it will be from the object.
	Inspection
}

// Diff says what Apply and Prune would do, in order, and changes nothing.
// Every object is looked at, whatever the digests say; unchanged ones are in the answer too,
// with the objects to compare: drift that is only reported is no step.
func (a *Applier) Diff(ctx context.Context, req DiffRequest) ([]Difference, error) {
	req.Compare = CompareAll
	r, err := a.newRun(req.Request)
	if err != nil {
		return nil, err
	}
	due, err := a.dueHooks(ctx, r, req.Removal)
	if err != nil {
		return nil, err
	}
	var ordered []*unstructured.Unstructured
	definitions := 0
	for stage, objs := range plan.Stages(r.objects) {
		ordered = append(ordered, objs...)
		if plan.Stage(stage) == plan.StageDefinitions {
			definitions = len(ordered)
		}
	}
	looked := make([]Difference, len(ordered))
	var wg sync.WaitGroup
	var refs []api.ObjectRef
	for i, o := range ordered {
		refs = append(refs, api.RefOf(o))
		release, err := a.acquire(ctx)
		if err != nil {
			wg.Wait()
			return nil, err
		}
		wg.Go(func() {
			defer release()
			looked[i] = a.diffObject(ctx, r, req, o)
		})
	}
	wg.Wait()
	first, last := due.differences(before), due.differences(after)
	if req.Removal {
		out := slices.Concat(first, a.diffStale(ctx, r, req, refs), last)
		held(first, out)
		return out, nil
	}
	out := slices.Concat(looked[:definitions], first, looked[definitions:], last)
	held(first, out[definitions:])
	return append(out, a.diffStale(ctx, r, req, refs)...), nil
}

// held marks what comes after a hook that may not run: the hook stops it all.
func held(hooks, all []Difference) {
	i := slices.IndexFunc(hooks, func(d Difference) bool { return d.Held != nil })
	for j := range all {
		if d := &all[j]; i >= 0 && j > i && d.Held == nil && d.Step.Action != api.Unchanged {
			d.Held = hooks[i].Held
		}
	}
}

// diffStale is the decision about all that the bundle owns and Git no longer names.
func (a *Applier) diffStale(ctx context.Context, r *run, req DiffRequest, refs []api.ObjectRef) []Difference {
	var out []Difference
	for _, e := range plan.Stale(req.Inventory, refs, nil) {
		in := plan.PruneInput{Bundle: req.Bundle.Name, Entry: e, Spec: req.Bundle.Spec, Declared: req.Declared[e.Object.ID()]}
		d := a.diffPrune(ctx, r.c, in)
		if req.Held != nil && d.Step.Next == plan.Delete {
			if s, ok := req.Held(e.Object); ok {
				d.Held = &s
			}
		}
		out = append(out, d)
	}
	return out
}

// dueHooks is newHooks for a cluster that may never have had an agent, and for a removal.
func (a *Applier) dueHooks(ctx context.Context, r *run, removal bool) (*hooks, error) {
	if removal {
		return a.newRemoval(ctx, r)
	}
	h, err := a.newHooks(ctx, r)
	if apierrors.IsNotFound(err) {
		h.phases, h.unknown = installPhases, false
		return h, nil
	}
	return h, err
}

// differences are the hooks that are due at a moment.
func (h *hooks) differences(when moment) []Difference {
	var out []Difference
	phase := h.phases[when]
	for _, hook := range h.at(when) {
		ref := api.RefOf(h.r.a.server.Scoped(hook.Object, h.r.req.Bundle.Spec.Namespace.Name(), nil))
		d := Difference{Hook: phase, Step: plan.Step{Object: ref, Next: plan.Write, Action: api.Created, Reason: string(phase) + " hook"}}
		if h.r.req.Held != nil {
			if s, ok := h.r.req.Held(ref); ok {
				d.Held = &s
			}
		}
		out = append(out, d)
	}
	return out
}

// diffObject is the decision about one object with nothing done about it.
func (a *Applier) diffObject(ctx context.Context, r *run, req DiffRequest, o *unstructured.Unstructured) Difference {
	in := r.input(o)
	held := in.Held
	in.Held = nil
	d := a.foresee(ctx, r, req, in)
	d.Step.Err = kube.Classify(d.Step.Object, r.origin(d.Step.Object), d.Step.Err)
	if d.Step.Action == api.Failed && d.DryRun == nil {
		d.Err = d.Step.Err
	}
	d.Held = held
	return d
}

// foresee asks plan about one object as object does, and asks the server with a dry run where object would write.
func (a *Applier) foresee(ctx context.Context, r *run, req DiffRequest, in plan.Input) Difference {
	d := Difference{Step: plan.Decide(in)}
	if d.Step.Next == plan.Done {
		return d
	}
	ref := d.Step.Object
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		if crd := req.definition(ref); crd != nil {
			return a.foreseeKind(ctx, r, req, in, crd)
		}
		d.Step = failed(ref, err)
		return d
	}
	body, err := prepare(in.Desired, in.Bundle)
	if err != nil {
		d.Step = failed(ref, err)
		return d
	}
	w := &writer{a: a, c: r.c, at: at, in: in, body: body, spec: req.Bundle.Spec, left: req.Left}
	for range maxTries {
		w.look(ctx)
		var again bool
		if d, again = w.foresee(ctx, req); !again {
			return d
		}
	}
	d.Step = failed(ref, apierrors.NewConflict(kube.GroupResource(ref), ref.Name, fmt.Errorf("somebody else changes it all the time")))
	return d
}

// foresee is the decision about the object that was just looked at. It reports true if that has changed meanwhile.
func (w *writer) foresee(ctx context.Context, req DiffRequest) (d Difference, again bool) {
	s := plan.Decide(w.in)
	d = Difference{Step: s, Inspection: Inspection{Live: w.in.Live}}
	if s.Err != nil || s.Action == api.Skipped || s.Next == plan.Done && w.in.Live == nil {
		return d, false
	}
	sent, uid, rv := w.body, "", onlyIfAbsent
	if w.in.Live != nil {
		var err error
		if sent, err = w.yielding(ctx); err != nil {
			d.Step = failed(s.Object, err)
			return d, false
		}
		uid, rv = string(w.in.Live.GetUID()), ""
	}
	d.Desired = sent
	raw, err := marshal(sent, uid, rv)
	if err != nil {
		d.Step = failed(s.Object, err)
		return d, false
	}
	out, err := w.c.Apply(ctx, w.at, raw, kube.Mode{DryRun: true, Whole: true})
	switch {
	case apierrors.IsConflict(err):
		return d, true
	case apierrors.IsNotFound(err) && w.in.Live == nil && req.comingNamespace(s.Object.Namespace):
		return d, false
	case err != nil && w.redefined(ctx, req, err):
		return unasked(d), false
	case (apierrors.IsInvalid(err) || plan.Duplicate(err)) && s.Next == plan.Done:
		// Nothing would be sent: it only cannot be compared in the ordinary way.
		if d.DryRun = asNew(ctx, w.c, w.at, sent); d.DryRun != nil {
			d.Refused = err
		}
		return d, false
	case w.in.Live != nil && (claimsDropped(err) != "" || hasRoom(w.in, err)):
		// The claims of others would be dealt with first.
		if d.DryRun = asNew(ctx, w.c, w.at, sent); d.DryRun == nil {
			d.Step = failed(s.Object, err)
			return d, false
		}
		d.Refused = err
		if plan.Crowded(w.in, err) {
			if d.DryRun, err = w.afterTakeOver(ctx, plan.TakeAll, d.DryRun); err != nil {
				d.Step = failed(s.Object, err)
			}
		}
		return d, false
	case err != nil:
		if plan.Immutable(err) != nil {
			d.Refused = err
			if s.Next == plan.Verify {
				// Git did not change it: whether anybody did, and not only admission, a comparison tells.
				d.DryRun = asNew(ctx, w.c, w.at, sent)
			}
		}
		var ok bool
		if d.Step, ok = plan.Rejected(w.in, err); !ok {
			d.Step = failed(s.Object, plan.Crowding(w.in, err))
		}
		return d, false
	}
	d.DryRun = out.Object
	if d.Live == nil || s.Next == plan.Done {
		return d, false
	}
	if s.Next != plan.Verify || !sameContent(d.Live, d.DryRun) {
		if d.DryRun, err = w.afterTakeOver(ctx, s.TakeOver, d.DryRun); err != nil {
			d.Step = failed(s.Object, err)
			return d, false
		}
	}
	if sameContent(d.Live, d.DryRun) {
		d.Step.Next, d.Step.Action, d.Step.Reason = plan.Done, api.Unchanged, "as in Git"
	}
	return d, false
}

// comingNamespace reports whether the revision has a namespace.
func (r DiffRequest) comingNamespace(name string) bool {
	return slices.ContainsFunc(r.Coming, func(o *unstructured.Unstructured) bool {
		return kube.IsNamespace(api.RefOf(o)) && o.GetName() == name
	})
}

// afterTakeOver returns the answer to a dry run without the fields that go with the claims of others.
// A dry run cannot show that: the claims are ended by a write of its own.
func (w *writer) afterTakeOver(ctx context.Context, how plan.TakeOver, dry *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	patch, err := takeOverPatch(w.in.Live, how, w.in.Drift)
	if err != nil || patch == nil {
		return dry, err
	}
	var ops []struct {
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(patch, &ops); err != nil {
		return nil, err
	}
	ours, others := fieldpath.NewSet(), fieldpath.NewSet()
	for _, op := range ops {
		if op.Path != "/metadata/managedFields" {
			continue
		}
		var entries []metav1.ManagedFieldsEntry
		if err := json.Unmarshal(op.Value, &entries); err != nil {
			return nil, err
		}
		for _, e := range entries {
			if s := fieldsOf(e); isOurs(e) {
				ours = ours.Union(s)
			} else {
				others = others.Union(s)
			}
		}
	}
	out := dry.DeepCopy()
	entries := out.GetManagedFields()
	own := slices.IndexFunc(entries, isOurs)
	if own < 0 {
		return dry, nil
	}
	declared := fieldsOf(entries[own])
	kept := declared.Union(others)
	gone := ours.Difference(kept)
	if gone.Empty() {
		return dry, nil
	}
	var fresh any // the object as the server makes it of nothing but Git
	if o := asNew(ctx, w.c, w.at, w.body); o != nil {
		fresh = o.Object
	}
	for p := range gone.All() {
		// What still holds something of somebody stays, though nobody claims it as such.
		if !holdsAny(kept, p) {
			out.Object, _ = put(out.Object, fresh, p).(map[string]any)
		}
	}
	// Whoever compares field by field goes by what is ours.
	raw, err := declared.Union(gone).ToJSON()
	if err != nil {
		return nil, err
	}
	entries[own].FieldsV1 = metav1.NewFieldsV1(string(raw))
	out.SetManagedFields(entries)
	return out, nil
}

// isOurs reports the managedFields entry of what we apply.
func isOurs(e metav1.ManagedFieldsEntry) bool {
	return e.Manager == api.FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == ""
}

// fieldsOf reads an entry of managedFields; one that cannot be read owns nothing.
func fieldsOf(e metav1.ManagedFieldsEntry) *fieldpath.Set {
	s := fieldpath.NewSet()
	if e.FieldsV1 == nil || s.FromJSON(e.FieldsV1.GetRawReader()) != nil {
		return fieldpath.NewSet()
	}
	return s
}

// holdsAny reports whether a set has anything below a path.
func holdsAny(set *fieldpath.Set, p fieldpath.Path) bool {
	for _, pe := range p {
		set = set.WithPrefix(pe)
	}
	return !set.Empty()
}

// put returns a value with what is at a path of managedFields as it is in another one: a default, or nothing.
// Maps and lists on the way are changed.
func put(v, from any, p fieldpath.Path) any {
	pe, last := p[0], len(p) == 1
	switch x := v.(type) {
	case map[string]any:
		if pe.FieldName == nil {
			return v
		}
		name := *pe.FieldName
		other, _ := from.(map[string]any)
		child, there := x[name]
		to, given := other[name]
		switch {
		case !there:
		case !last:
			x[name] = put(child, to, p[1:])
		case given:
			x[name] = runtime.DeepCopyJSONValue(to)
		default:
			delete(x, name)
		}
	case []any:
		other, _ := from.([]any)
		i, j := itemOf(pe, x), itemOf(pe, other)
		switch {
		case i < 0:
		case !last && j >= 0:
			x[i] = put(x[i], other[j], p[1:])
		case !last:
			x[i] = put(x[i], nil, p[1:])
		case j >= 0:
			x[i] = runtime.DeepCopyJSONValue(other[j])
		default:
			return slices.Delete(slices.Clone(x), i, i+1)
		}
	}
	return v
}

func itemOf(pe fieldpath.PathElement, list []any) int {
	return slices.IndexFunc(list, func(item any) bool { return isItem(pe, item) })
}

// isItem reports whether a list's item is the one that a path of managedFields names.
func isItem(pe fieldpath.PathElement, item any) bool {
	switch {
	case pe.Key != nil:
		m, ok := item.(map[string]any)
		return ok && !slices.ContainsFunc(*pe.Key, func(f value.Field) bool {
			return !value.Equals(f.Value, value.NewValueInterface(m[f.Name]))
		})
	case pe.Value != nil:
		return value.Equals(*pe.Value, value.NewValueInterface(item))
	}
	return false
}

func (a *Applier) diffPrune(ctx context.Context, c *kube.Client, in plan.PruneInput) Difference {
	s := plan.Prune(in)
	if s.Next != plan.Look {
		return Difference{Step: s}
	}
	var err error
	_, in.Live, err = a.server.Find(ctx, c, in.Entry.Object, kube.MetadataOnly)
	switch {
	case err == nil:
		in.Sight = plan.Present
	case apierrors.IsNotFound(err):
		in.Sight = plan.Absent
	default:
		in.Sight, in.Cause = plan.Unknown, err
	}
	d := Difference{Step: plan.Prune(in), Inspection: Inspection{Live: in.Live}}
	d.Step.Err = kube.Classify(d.Step.Object, "", d.Step.Err)
	return d
}
