package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// PruneRequest is what a bundle owns and no longer declares.
type PruneRequest struct {
	Bundle  string
	Spec    api.BundleSpec
	Entries []api.InventoryEntry
	// Held may be nil: nothing is suspended.
	Held Held
	// Waiting is as in Request, for the waits until what is deleted is gone.
	Waiting Waiting
	// Stays is asked about each object when its turn has come, for what Git says may have changed since the request was made:
	// why it is not deleted for now, and what a guard has against it. Nil means nothing, of none.
	Stays func(api.ObjectRef) (why string, refused error)
}

// goneTimeout bounds the wait for the objects of one stage to be gone before the next stage is deleted.
// A claim waits for the Pods that use it, and those usually have 30 seconds.
const goneTimeout = 45 * time.Second

// Prune deletes objects that left Git, stage by stage (see plan.PruneStage).
// Only what still carries the bundle's ApplySet label is deleted.
// A stage begins when what the one before deleted is gone: somebody may have to finalize it who is deleted later.
// What could not be deleted, or may not, or is not gone in time, stays in Result.Inventory.
func (a *Applier) Prune(ctx context.Context, req PruneRequest) Result {
	res := Result{Changes: api.ChangeSet{Bundle: req.Bundle}}
	c, err := a.server.As(req.Spec.ServiceAccount)
	if err != nil {
		res.Inventory, res.Err = req.Entries, err
		return res
	}
	var errs []error
	stays := "" // what holds back the stages after its own
	todo := plan.Stale(req.Entries, nil, nil)
	for len(todo) > 0 {
		n := 1
		for n < len(todo) && plan.PruneStage(todo[n].Object) == plan.PruneStage(todo[0].Object) {
			n++
		}
		removals := a.pruneStage(ctx, c, req, todo[:n], stays)
		for i, r := range removals {
			s := r.step
			change := api.Change{Object: s.Object, Action: s.Action, Reason: s.Reason}
			if s.Err != nil {
				s.Err = kube.Classify(s.Object, "", s.Err)
				errs = append(errs, s.Err)
				change.Error = s.Err.Error()
				if stays == "" && (r.pending || plan.Custom(s.Object)) {
					stays = s.Object.String()
				}
			}
			if !s.Forget {
				if r.live != nil {
					// What is kept has to be seen when what it is kept for goes.
					todo[i].MetaDigest, todo[i].Plain = api.MetaDigest(r.live), false
				}
				res.Inventory = append(res.Inventory, todo[i])
			}
			res.Changes.Changes = append(res.Changes.Changes, change)
		}
		todo = todo[n:]
	}
	slices.SortFunc(res.Inventory, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	res.Err = kube.Join(errs)
	return res
}

// removal is what became of one entry.
type removal struct {
	step plan.Step
	at   kube.Place
	// live is the object as it was last seen; nil if it was not.
	live *unstructured.Unstructured
	// pending says that its deletion was accepted, and that it was not gone then.
	pending bool
}

// pruneStage deletes objects that do not wait for each other, and waits until they are gone.
// Where something of an earlier stage stays, it deletes nothing.
func (a *Applier) pruneStage(ctx context.Context, c *kube.Client, req PruneRequest, entries []api.InventoryEntry, stays string) []removal {
	out := make([]removal, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries {
		in := plan.PruneInput{Bundle: req.Bundle, Entry: e, Spec: req.Spec}
		if req.Held != nil {
			if s, ok := req.Held(e.Object); ok {
				in.Held = &s
			}
		}
		if req.Stays != nil {
			in.Stays, in.Refused = req.Stays(e.Object)
		}
		if out[i].step = plan.Prune(in); out[i].step.Next == plan.Done {
			continue
		}
		if stays != "" {
			out[i].step = plan.Step{Object: e.Object, Action: api.Skipped, Reason: "left Git; it goes when " + stays + " is gone"}
			continue
		}
		release, err := a.acquire(ctx)
		if err != nil {
			out[i].step = plan.Step{Object: e.Object, Action: api.Failed, Reason: "cancelled", Err: err}
			continue
		}
		wg.Go(func() {
			defer release()
			out[i] = a.pruneObject(ctx, c, in)
		})
	}
	wg.Wait()
	a.awaitRemovals(ctx, c, req, out)
	return out
}

// pruneObject looks at one object, asks plan, and deletes it if that is the answer.
func (a *Applier) pruneObject(ctx context.Context, c *kube.Client, in plan.PruneInput) removal {
	for range maxTries {
		at, live, err := a.server.Find(ctx, c, in.Entry.Object, kube.MetadataOnly)
		switch {
		case err == nil:
			in.Sight, in.Live = plan.Present, live
		case apierrors.IsNotFound(err):
			in.Sight, in.Live = plan.Absent, nil
		default:
			in.Sight, in.Cause = plan.Unknown, err
		}
		s := plan.Prune(in)
		if s.Next != plan.Delete {
			return removal{step: s, at: at, live: in.Live, pending: s.Next == plan.Await && waitsToGo(in.Live)}
		}
		left, err := c.DeleteOnly(ctx, at, live.GetUID(), "")
		switch {
		case err == nil, apierrors.IsNotFound(err):
			return removal{step: s, at: at, live: live, pending: waitsToGo(left)}
		case apierrors.IsConflict(err):
			continue // replaced by another object meanwhile: look again
		}
		f := failed(s.Object, err)
		f.Reason = "could not be deleted"
		return removal{step: f, at: at, live: live}
	}
	return removal{step: failed(in.Entry.Object, apierrors.NewConflict(kube.GroupResource(in.Entry.Object), in.Entry.Object.Name, kube.ErrGone))}
}

// waitsToGo reports whether what is left after a deletion is left to somebody's finalizer, and has to be waited for.
// Other objects that are answered are gone, or go by themselves: a Pod when its time is over, a Namespace when it is empty.
func waitsToGo(left *unstructured.Unstructured) bool {
	return left != nil && left.GetDeletionTimestamp() != nil && len(left.GetFinalizers()) > 0
}

// awaitRemovals waits until the pending ones are gone, with one list and one watch for each kind and namespace,
// and completes their steps.
func (a *Applier) awaitRemovals(ctx context.Context, c *kube.Client, req PruneRequest, removals []removal) {
	waits, err := going(req.Bundle, removals)
	if err != nil {
		for i := range removals {
			if r := &removals[i]; r.pending {
				r.step = notGone(r.step.Object, r.live, err)
			}
		}
	}
	if len(waits) == 0 {
		return
	}
	err = req.Waiting.during(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, min(goneTimeout, req.Spec.WaitTimeout()))
		defer cancel()
		errs := make(chan error, len(waits))
		for _, w := range waits {
			go func() { errs <- c.AwaitAllGone(ctx, w) }()
		}
		var all []error
		for range waits {
			all = append(all, <-errs)
		}
		return errors.Join(all...)
	})
	for i := range removals {
		r := &removals[i]
		if !r.pending {
			continue
		}
		if left := waits[r.at.At.Collection()].Left[r.live.GetUID()]; left != nil {
			r.live = left
			r.step = notGone(r.step.Object, left, err)
			continue
		}
		r.step.Action, r.step.Reason, r.step.Forget = api.Pruned, "left Git", true
	}
}

// going groups the pending removals by their collections.
func going(bundle string, removals []removal) (map[kube.Collection]*kube.Going, error) {
	ofBundle, err := kube.ByLabels(map[string]string{api.LabelPartOf: plan.ApplySetID(bundle)})
	if err != nil {
		return nil, err
	}
	waits := map[kube.Collection]*kube.Going{}
	for _, r := range removals {
		if !r.pending {
			continue
		}
		in := r.at.At.Collection()
		w := waits[in]
		if w == nil {
			// For a single object this asks for no more rights than the object itself needs.
			w = &kube.Going{In: in, Selector: kube.ByName(r.at.At.Name()), Left: map[types.UID]*unstructured.Unstructured{}}
			waits[in] = w
		} else {
			w.Selector = ofBundle
		}
		w.Left[r.live.GetUID()] = r.live
	}
	return waits, nil
}

// notGone is the step about an object whose deletion was accepted and that is still there. Nothing can take that back,
// but what it needs to go must not be deleted before it.
func notGone(ref api.ObjectRef, left *unstructured.Unstructured, cause error) plan.Step {
	e := &api.Error{Kind: api.Waiting, Reason: "Terminating", After: kube.WaitAgain}
	e.Err = fmt.Errorf("%s is being deleted, and waits for its finalizers %q", ref, left.GetFinalizers())
	e.Hint = "they are removed by the controller that set them: see whether it runs"
	if known, ok := errors.AsType[*api.Error](cause); ok && known.Reason == reasonSuperseded {
		e.Reason, e.After = known.Reason, known.After
	} else if cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		e.Err = fmt.Errorf("%w (%w)", e.Err, cause)
	}
	return plan.Step{Object: ref, Action: api.Failed, Reason: "is being deleted", Err: e}
}

// RemoveExtra deletes one object that carries the bundle's ApplySet label and is not in Git:
// live, as it was recorded, and no other or later state of it. Then the error's reason is Conflict.
// What may not be deleted is an error of the kind Forbidden.
func (a *Applier) RemoveExtra(ctx context.Context, bundle api.RenderedBundle, live *unstructured.Unstructured) error {
	ref := api.RefOf(live)
	s := plan.RemoveExtra(bundle.Name, live)
	if s.Next != plan.Delete {
		return kube.Classify(ref, "", s.Err)
	}
	c, err := a.server.As(bundle.Spec.ServiceAccount)
	if err != nil {
		return kube.Classify(ref, "", err)
	}
	release, err := a.acquire(ctx)
	if err != nil {
		return kube.Classify(ref, "", err)
	}
	defer release()
	at, err := a.server.Kinds.Place(ref)
	if err != nil {
		return kube.Classify(ref, "", err)
	}
	_, err = c.DeleteOnly(ctx, at, live.GetUID(), live.GetResourceVersion())
	if apierrors.IsNotFound(err) {
		return nil
	}
	return kube.Classify(ref, "", err)
}
