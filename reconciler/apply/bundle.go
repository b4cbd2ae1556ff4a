package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Compare says how closely Apply looks.
type Compare = plan.Compare

// The two ways to compare.
const (
	CompareChanged = plan.CompareChanged
	CompareAll     = plan.CompareAll
)

// Held reports the suspension that covers an object.
type Held func(api.ObjectRef) (api.Suspension, bool)

// Waiting tells that a wait begins, and gives what ends it early: a newer revision makes it pointless.
// The function it returns is called when the wait is over.
type Waiting func(ctx context.Context) (context.Context, func())

// reasonSuperseded is that of the error of a wait which a newer revision ended.
const reasonSuperseded = "Superseded"

// during waits with wait, and says so if that was ended because nobody wants it any more.
func (w Waiting) during(ctx context.Context, wait func(context.Context) error) error {
	if w == nil {
		return wait(ctx)
	}
	waiting, over := w(ctx)
	defer over()
	err := wait(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return &api.Error{
			Kind: api.Waiting, Reason: reasonSuperseded, After: time.Millisecond,
			Err: errors.New("a newer revision ended the wait"),
		}
	}
	return err
}

// Request is one bundle to apply.
type Request struct {
	Bundle   api.RenderedBundle
	Revision string
	// Inventory is what the bundle owns so far.
	Inventory []api.InventoryEntry
	Compare   Compare
	// Anew has objects sent again that the API server refused before, although they are what they were then.
	Anew bool
	// Held may be nil: nothing is suspended.
	Held Held
	// Waiting is called around every wait for the end of a hook, and of what a hook replaces: the wait ends with the context that it returns,
	// and the function is called after it. Nil means that nobody cares.
	Waiting Waiting
	// MayTake reports whether objects may be taken over from another bundle. Nil means that they may from any.
	MayTake func(bundle string) bool
	// Declared: object ID -> the bundles that declare the object, of which the first has it. An object that is not in it was not checked:
	// if it belongs to another bundle it is taken over.
	Declared map[string][]string
	// InGit holds the names of the bundles that are in Git. Nil means that every one may be.
	InGit map[string]bool
	// Renamed says that the bundle has objects of one that was applied and has left Git: it is that one under another name.
	Renamed bool
	// Left returns the paths of fields that are left as they are on the live object, beside those of ignore rules:
	// what an autoscaler or an injector owns, although Git declares it. Nil means that there are none.
	Left Left
	// AsLeft returns the resource version under which an object is known to be as its entry has it, but for its status;
	// empty if that is not known. Nil means that it is not known of any.
	AsLeft func(api.InventoryEntry) string
	// Witness is told of drift before it is written over. Nil means that nobody wants to know.
	Witness Witness
}

// Witness records what somebody changed since an object was last applied and what an apply is about to write over.
type Witness interface {
	// Applied is the object as it was last applied; nil if that is unknown.
	Applied(ref api.ObjectRef) *unstructured.Unstructured
	// Found takes what the object is, compared with what was applied. Nothing is written unless it returns nil.
	Found(ctx context.Context, ref api.ObjectRef, in Inspection) error
}

// Left says which fields of a live object are left as they are, as JSON pointers.
type Left func(ctx context.Context, desired, live *unstructured.Unstructured) ([]string, error)

// Result is what was done.
type Result struct {
	Changes api.ChangeSet
	// Inventory is all that the bundle owns now, what is not pruned yet included.
	Inventory []api.InventoryEntry
	// Passed: object ID -> what the annotations say of an object that was there before, and that is left as it is for them.
	Passed map[string]api.Orders
	// Err names every object that failed. It is an *api.Error, or wraps several.
	Err error
}

// Apply makes the objects of one bundle what Git says: stage by stage, in parallel inside a stage.
// It does not prune and does not wait for workloads.
// An object that fails holds back only what cannot be without it: what lives in a namespace, and instances of a CRD.
func (a *Applier) Apply(ctx context.Context, req Request) Result {
	r, err := a.newRun(req)
	if err != nil {
		return Result{Changes: api.ChangeSet{Bundle: req.Bundle.Name}, Inventory: req.Inventory, Err: err}
	}
	if err := a.parents.Announce(ctx, req.Bundle, req.Revision, req.Inventory); err != nil {
		return Result{
			Changes: api.ChangeSet{Bundle: req.Bundle.Name}, Inventory: req.Inventory,
			Err: err,
		}
	}
	stages := plan.Stages(r.objects)
	r.stage(ctx, stages[plan.StageDefinitions])
	hooks, err := a.newHooks(ctx, r)
	if err != nil {
		r.fail(err)
	}
	if hooks.run(ctx, before) {
		for _, objs := range stages[plan.StageDefinitions+1 : plan.StageAdmitted] {
			r.stage(ctx, objs)
		}
		r.admitted(ctx, stages[plan.StageAdmitted], stages[plan.StageWebhooks])
		if len(r.errs) == 0 {
			hooks.run(ctx, after)
		}
	}
	return r.result()
}

// run is one Apply while it goes on.
type run struct {
	a       *Applier
	c       *kube.Client
	req     Request
	objects []*unstructured.Unstructured
	// before: object ID -> entry of the inventory before the run
	before map[string]api.InventoryEntry

	mu sync.Mutex
	// outcomes: object ID -> what was done
	outcomes map[string]outcome
	errs     []error
	// extra are changes to what is not in the inventory: hooks.
	extra []api.Change
	// badNamespaces and badKinds could not be applied in this run; nothing that needs them is tried.
	badNamespaces map[string]bool
	badKinds      map[schema.GroupKind]bool
}

// outcome is what became of one object.
type outcome struct {
	step  plan.Step
	entry *api.InventoryEntry
}

func (a *Applier) newRun(req Request) (*run, error) {
	if req.Bundle.Err != nil {
		return nil, req.Bundle.Err
	}
	c, err := a.server.As(req.Bundle.Spec.ServiceAccount)
	if err != nil {
		return nil, err
	}
	r := &run{
		a: a, c: c, req: req,
		before:   make(map[string]api.InventoryEntry, len(req.Inventory)),
		outcomes: make(map[string]outcome, len(req.Bundle.Objects)),

		badNamespaces: map[string]bool{}, badKinds: map[schema.GroupKind]bool{},
	}
	for _, e := range req.Inventory {
		r.before[e.Object.ID()] = e
	}
	local := map[schema.GroupVersionKind]kube.Mapping{}
	for _, o := range req.Bundle.Objects {
		if kube.IsCRD(api.RefOf(o)) {
			maps.Copy(local, kube.KindsOf(o))
		}
	}
	r.objects = make([]*unstructured.Unstructured, 0, len(req.Bundle.Objects))
	seen := make(map[string]bool, len(req.Bundle.Objects))
	for _, o := range req.Bundle.Objects {
		// An object whose digest is the applied one was resolved when it was applied.
		if !r.settled(o) {
			o = a.server.Scoped(o, req.Bundle.Spec.Namespace.Name(), local)
		}
		id := api.RefOf(o).ID()
		if seen[id] {
			return nil, &api.Error{
				Kind: api.Stalled, Reason: "DeclaredTwice", File: req.Bundle.Origin[id],
				Err: fmt.Errorf("bundle %q declares %s twice", req.Bundle.Name, api.RefOf(o)),
			}
		}
		seen[id] = true
		r.objects = append(r.objects, o)
	}
	return r, r.admit()
}

// admit refuses the whole bundle if one of its objects or hooks is not for its tenant: only here is the scope of every kind known.
func (r *run) admit() error {
	t := r.req.Bundle.Tenant
	if t == nil {
		return nil
	}
	all := slices.Clone(r.objects)
	for _, h := range r.req.Bundle.Hooks {
		all = append(all, r.a.server.Scoped(h.Object, r.req.Bundle.Spec.Namespace.Name(), nil))
	}
	for _, o := range all {
		ref := api.RefOf(o)
		if err := t.Admits(ref, ref.Namespace != ""); err != nil {
			return &api.Error{Kind: api.Forbidden, Reason: api.ReasonTenantDenied, File: r.origin(ref), Err: err}
		}
	}
	return nil
}

// settled reports whether an object is in the inventory under its own name.
func (r *run) settled(o *unstructured.Unstructured) bool {
	_, ok := r.before[api.RefOf(o).ID()]
	return ok
}

// stage applies objects that do not wait for each other.
func (r *run) stage(ctx context.Context, objs []*unstructured.Unstructured) {
	var wg sync.WaitGroup
	var crds []*unstructured.Unstructured
	for _, o := range objs {
		in := r.input(o)
		if s := plan.Decide(in); s.Next == plan.Done {
			r.done(s, nil)
			continue
		}
		if err := r.blocked(in); err != nil {
			r.done(plan.Step{Object: api.RefOf(o), Action: api.Failed, Reason: "waits for another object", Err: err}, nil)
			continue
		}
		if kube.IsCRD(api.RefOf(o)) {
			crds = append(crds, o)
		}
		release, err := r.a.acquire(ctx)
		if err != nil {
			r.done(plan.Step{Object: api.RefOf(o), Action: api.Failed, Reason: "cancelled", Err: err}, nil)
			continue
		}
		wg.Go(func() {
			defer release()
			r.done(r.a.object(ctx, r.c, in, r.req))
		})
	}
	wg.Wait()
	for _, crd := range crds {
		r.establish(ctx, crd)
	}
}

// admitted applies what the bundle's own webhooks admit: once they are there, and once they are served.
func (r *run) admitted(ctx context.Context, objs, webhooks []*unstructured.Unstructured) {
	due := func(o *unstructured.Unstructured) bool {
		in := r.input(o)
		return (in.Entry == nil || in.Entry.Digest != in.Digest) && plan.Decide(in).Next != plan.Done
	}
	if !slices.ContainsFunc(objs, due) {
		r.stage(ctx, objs)
		return
	}
	var err error
	for _, hook := range webhooks {
		ref := api.RefOf(hook)
		if o := r.outcomes[ref.ID()]; o.step.Err != nil {
			err = &api.Error{
				Kind: api.Waiting, Reason: "DependencyFailed", After: kube.WaitAgain,
				Err: fmt.Errorf("waits for %s, which admits it and could not be applied", ref),
			}
		}
	}
	if err == nil {
		err = r.awaitServed(ctx, webhooks)
	}
	if err == nil {
		r.stage(ctx, objs)
		return
	}
	for _, o := range objs {
		s := plan.Decide(r.input(o))
		if s.Next != plan.Done {
			ref := api.RefOf(o)
			s = plan.Step{Object: ref, Action: api.Failed, Reason: "waits for a webhook", Err: fmt.Errorf("%s: %w", ref, err)}
		}
		r.done(s, nil)
	}
}

// awaitServed waits until there is a ready endpoint behind every webhook whose Service is in the bundle,
// for as long as the bundle waits for anything. After that it is the API server's turn to say what does not work.
func (r *run) awaitServed(ctx context.Context, webhooks []*unstructured.Unstructured) error {
	bounded, cancel := context.WithTimeout(ctx, r.req.Bundle.Spec.WaitTimeout())
	defer cancel()
	for _, at := range plan.WebhookServices(webhooks) {
		if !slices.ContainsFunc(r.objects, func(o *unstructured.Unstructured) bool {
			ref := api.RefOf(o)
			return ref.Group == "" && ref.Kind == "Service" && ref.Namespace == at[0] && ref.Name == at[1]
		}) {
			continue
		}
		err := r.req.Waiting.during(bounded, func(ctx context.Context) error { return r.a.server.Own.AwaitEndpoint(ctx, at[0], at[1]) })
		if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == reasonSuperseded || ctx.Err() != nil {
			return cmp.Or(err, ctx.Err())
		}
	}
	return nil
}

// input is what is known of an object before anybody looks.
func (r *run) input(o *unstructured.Unstructured) plan.Input {
	ref := api.RefOf(o)
	in := plan.Input{
		Bundle: r.req.Bundle.Name, Desired: o, Digest: Digest(o), Compare: r.req.Compare, Drift: r.req.Bundle.Spec.Drift,
		MayTake: r.req.MayTake,
	}
	if e, ok := r.before[ref.ID()]; ok {
		in.Entry = &e
		if r.req.AsLeft != nil {
			in.AsLeft = r.req.AsLeft(e)
		}
		if r.req.Witness != nil {
			in.Applied = r.req.Witness.Applied(ref)
		}
	}
	if r.req.Held != nil {
		if s, ok := r.req.Held(ref); ok {
			in.Held = &s
		}
	}
	in.Declared = r.req.Declared[ref.ID()]
	return in
}

// blocked names what an object cannot be without and what could not be applied in this run.
func (r *run) blocked(in plan.Input) error {
	ref := api.RefOf(in.Desired)
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	switch {
	case r.badNamespaces[ref.Namespace]:
		err = fmt.Errorf("waits for Namespace/%s, which could not be applied", ref.Namespace)
	case r.badKinds[ref.GVK().GroupKind()]:
		err = fmt.Errorf("waits for the CRD of %s, which could not be applied", ref.GVK().GroupKind())
	default:
		return nil
	}
	return &api.Error{Kind: api.Waiting, Reason: "DependencyFailed", After: kube.WaitAgain, File: r.origin(ref), Err: fmt.Errorf("%s: %w", ref, err)}
}

// done notes what became of an object. entry is nil where nothing new is known of it.
func (r *run) done(s plan.Step, entry *api.InventoryEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Err != nil {
		s.Err = kube.Classify(s.Object, r.origin(s.Object), s.Err)
		r.errs = append(r.errs, s.Err)
		if kube.IsNamespace(s.Object) {
			r.badNamespaces[s.Object.Name] = true
		}
		if kube.IsCRD(s.Object) {
			r.badKindsOf(s.Object)
		}
	}
	if entry != nil {
		entry.Origin = r.origin(s.Object)
	}
	r.outcomes[s.Object.ID()] = outcome{s, entry}
}

func (r *run) badKindsOf(ref api.ObjectRef) {
	for _, o := range r.objects {
		if api.RefOf(o).ID() == ref.ID() {
			for gvk := range kube.KindsOf(o) {
				r.badKinds[gvk.GroupKind()] = true
			}
		}
	}
}

func (r *run) origin(ref api.ObjectRef) string { return r.req.Bundle.Origin[ref.ID()] }

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// establish waits until instances of a CRD can be created.
func (r *run) establish(ctx context.Context, crd *unstructured.Unstructured) {
	ref := api.RefOf(crd)
	r.mu.Lock()
	o := r.outcomes[ref.ID()]
	r.mu.Unlock()
	switch o.step.Action {
	case api.Created, api.Updated, api.Recreated:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, kube.EstablishTimeout)
	defer cancel()
	r.a.server.Kinds.Learn(crd)
	if err := r.a.server.AwaitEstablished(ctx, ref); err != nil {
		o.step.Err = &api.Error{Kind: api.Waiting, Reason: "NotEstablished", After: kube.WaitAgain, Err: fmt.Errorf("%s is not established: %w", ref, err)}
		r.done(o.step, o.entry)
	}
}

// result puts the outcomes into order.
func (r *run) result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	res := Result{Changes: api.ChangeSet{Bundle: r.req.Bundle.Name}, Passed: map[string]api.Orders{}}
	entries := make(map[string]api.InventoryEntry, len(r.before))
	maps.Copy(entries, r.before)
	for id, o := range r.outcomes {
		if o.step.Orders != (api.Orders{}) {
			res.Passed[id] = o.step.Orders
		}
		switch {
		case o.step.Forget:
			delete(entries, id)
		case o.entry != nil:
			entries[id] = *o.entry
		}
		c := api.Change{Object: o.step.Object, Action: o.step.Action, Reason: o.step.Reason}
		if o.step.Err != nil {
			c.Error = o.step.Err.Error()
		}
		res.Changes.Changes = append(res.Changes.Changes, c)
	}
	for _, o := range r.req.Bundle.Objects {
		id := api.RefOf(o).ID()
		if e, ok := entries[id]; ok {
			e.HandsOff = api.OrdersIn(o.GetAnnotations()).Reconcile == api.ValueDisabled
			entries[id] = e
		}
	}
	for id, e := range entries {
		if e.Origin == "" {
			e.Origin = r.req.Bundle.Origin[id]
		}
		res.Inventory = append(res.Inventory, e)
	}
	slices.SortFunc(res.Changes.Changes, func(x, y api.Change) int { return plan.CompareOrder(x.Object, y.Object) })
	res.Changes.Changes = append(res.Changes.Changes, r.extra...)
	slices.SortFunc(res.Inventory, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	slices.SortFunc(r.errs, func(x, y error) int { return compareText(x.Error(), y.Error()) })
	res.Err = kube.Join(r.errs)
	return res
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
