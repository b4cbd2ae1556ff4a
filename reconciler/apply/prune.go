package apply

import (
	"context"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// PruneRequest is what a bundle owns and no longer declares.
type PruneRequest struct {
	Bundle  string
	Spec    api.BundleSpec
	Entries []api.InventoryEntry
	// Held may be nil: nothing is suspended.
	Held Held
	// Declared returns the bundles that declare an object now; nil means none does.
	Declared func(api.ObjectRef) []string
}

// Prune deletes objects that left Git, stage by stage in the reverse order of application.
// Only what still carries the bundle's ApplySet label is deleted.
// What could not be deleted, or may not, stays in Result.Inventory.
func (a *Applier) Prune(ctx context.Context, req PruneRequest) Result {
	res := Result{Changes: api.ChangeSet{Bundle: req.Bundle}}
	c, err := a.clientFor(req.Spec.ServiceAccount)
	if err != nil {
		res.Inventory, res.Err = req.Entries, err
		return res
	}
	var errs []error
	todo := plan.Stale(req.Entries, nil, nil)
	for len(todo) > 0 {
		n := 1
		for n < len(todo) && plan.StageOf(todo[n].Object) == plan.StageOf(todo[0].Object) {
			n++
		}
		steps := a.pruneStage(ctx, c, req, todo[:n])
		for i, s := range steps {
			change := api.Change{Object: s.Object, Action: s.Action, Reason: s.Reason}
			if s.Err != nil {
				s.Err = Classify(s.Object, "", s.Err)
				errs = append(errs, s.Err)
				change.Error = s.Err.Error()
			}
			if !s.Forget {
				res.Inventory = append(res.Inventory, todo[i])
			}
			res.Changes.Changes = append(res.Changes.Changes, change)
		}
		todo = todo[n:]
	}
	slices.SortFunc(res.Inventory, func(x, y api.InventoryEntry) int { return api.CompareRefs(x.Object, y.Object) })
	res.Err = join(errs)
	return res
}

// pruneStage deletes objects that do not wait for each other.
func (a *Applier) pruneStage(ctx context.Context, c *client, req PruneRequest, entries []api.InventoryEntry) []plan.Step {
	steps := make([]plan.Step, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries {
		in := plan.PruneInput{Bundle: req.Bundle, Entry: e, Spec: req.Spec}
		if req.Held != nil {
			if s, ok := req.Held(e.Object); ok {
				in.Held = &s
			}
		}
		if req.Declared != nil {
			in.Declared = req.Declared(e.Object)
		}
		if steps[i] = plan.Prune(in); steps[i].Next == plan.Done {
			continue
		}
		if err := a.acquire(ctx); err != nil {
			steps[i] = plan.Step{Object: e.Object, Action: api.Failed, Reason: "cancelled", Err: err}
			continue
		}
		wg.Go(func() {
			defer a.release()
			var live *unstructured.Unstructured
			if steps[i], live = a.pruneObject(ctx, c, in); live != nil {
				// What is kept has to be seen when what it is kept for goes.
				entries[i].MetaDigest = api.MetaDigest(live.GetLabels(), live.GetAnnotations())
			}
		})
	}
	wg.Wait()
	return steps
}

// pruneObject looks at one object, asks plan, and deletes it if that is the answer.
// It also returns the object as it was last seen, if it was.
func (a *Applier) pruneObject(ctx context.Context, c *client, in plan.PruneInput) (plan.Step, *unstructured.Unstructured) {
	at, err := a.kinds.place(in.Entry.Object)
	if err != nil {
		// A kind that is gone has no objects any more; one whose API server does not answer may have.
		if err := a.kindGone(ctx, in.Entry.Object, err); err != nil {
			in.Sight, in.Cause = plan.Unknown, err
		} else {
			in.Sight = plan.Absent
		}
		return plan.Prune(in), nil
	}
	for range maxTries {
		live, err := c.get(ctx, at, metadataOnly)
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
			return s, in.Live
		}
		err = c.delete(ctx, at, live.GetUID())
		switch {
		case err == nil, apierrors.IsNotFound(err):
			return deleted(s, live.GetFinalizers()), live
		case apierrors.IsConflict(err):
			continue // replaced by another object meanwhile: look again
		}
		f := failed(s.Object, err)
		f.Reason = "could not be deleted"
		return f, live
	}
	return failed(in.Entry.Object, apierrors.NewConflict(groupResource(in.Entry.Object), in.Entry.Object.Name, errGone)), nil
}

// deleted is a deletion that was accepted. An object with finalizers is not gone yet,
// but the order stands and nothing can take it back, so it leaves the inventory as well.
func deleted(s plan.Step, finalizers []string) plan.Step {
	if len(finalizers) > 0 {
		s.Reason = "left Git; it goes when its finalizers are done"
	}
	return s
}

// RemoveExtra deletes one object that carries the bundle's ApplySet label and is not in Git.
func (a *Applier) RemoveExtra(ctx context.Context, ref api.ObjectRef, bundle string) error {
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	s, _ := a.pruneObject(ctx, a.own, plan.PruneInput{Bundle: bundle, Entry: api.InventoryEntry{Object: ref}})
	return Classify(ref, "", s.Err)
}
