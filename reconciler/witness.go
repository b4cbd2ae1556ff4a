package reconciler

import (
	"context"
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// witness records the drift that an apply of one bundle meets and writes over:
// what came while the agent was down, or between the watch's event and the write.
type witness struct {
	r *Reconciler
	b *bundle
	// applied and objects are the bundle's baseline when the apply began.
	applied *api.RenderedBundle
	objects map[string]*unstructured.Unstructured

	mu sync.Mutex
	// met: object ID -> drift that the policy says to correct, which the apply does
	met map[string]bool
	// over: object ID -> drift that the policy says to report, which the apply writes over
	over map[string]bool
}

var _ apply.Witness = (*witness)(nil)

func (w *witness) Applied(ref api.ObjectRef) *unstructured.Unstructured {
	return w.objects[ref.ID()]
}

// Found stores what drifted. It corrects nothing: the apply that asks is about to write.
func (w *witness) Found(ctx context.Context, ref api.ObjectRef, in apply.Inspection) error {
	if w.applied == nil {
		return nil
	}
	if in.Err != nil {
		w.r.Log.Warn("what the object was before the apply is not known", "bundle", w.b.name, "object", ref.ID(), "error", in.Err)
		return nil
	}
	id, now := ref.ID(), w.r.Now()
	w.r.mu.Lock()
	entry, owned := w.b.entries[id]
	t := &target{id: id, ref: ref, rendered: *w.applied, desired: w.objects[id], entry: &entry, revision: w.b.status.AppliedRevision}
	w.r.mu.Unlock()
	if !owned {
		return nil
	}
	if err := w.r.withoutAdditions(ctx, w.b, t, &in); err != nil {
		w.r.Log.Warn("what others added before the apply is not known", "bundle", w.b.name, "object", ref.ID(), "error", err)
	}
	verdict := w.r.observe(w.b, t, in, now)
	if verdict.Episode == nil || verdict.Opened && w.r.halfDone(ctx, w.b, t, in, now) {
		return nil
	}
	if drifts(verdict) {
		_, _, verdict = w.r.asGitSaysNow(ctx, w.b, t, in, verdict, now)
	}
	if verdict.Episode == nil {
		return nil // the object became what the newer revision says between two looks
	}
	if err := w.r.store(w.b, id, verdict.Episode); err != nil {
		return &api.Error{Kind: api.Transient, Reason: "NotRecorded", Err: errors.Join(errors.New("drift could not be recorded, so it is not written over"), err)}
	}
	if verdict.Opened {
		w.r.opened(*verdict.Episode, now, now)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.met[id] = verdict.Write != nil
	w.over[id] = verdict.Write == nil && verdict.Episode.Outcome == api.OutcomeReported && verdict.Episode.Class != api.ClassAdded
	return nil
}

// correctedLocked ends the episodes of the drift that the apply of a revision has written over.
func (w *witness) correctedLocked(cs api.ChangeSet, revision string) []api.Episode {
	var out []api.Episode
	for _, c := range cs.Changes {
		id := c.Object.ID()
		e, open := w.b.objects.episode(id)
		if !open || !w.met[id] && !w.over[id] || c.Error != "" {
			continue
		}
		switch c.Action {
		case api.Created, api.Updated, api.Recreated:
			w.b.objects.endEpisode(id)
			if w.met[id] {
				e = w.r.Detective.Corrected(e, w.r.Now(), nil)
			} else {
				e = w.r.Detective.Overwritten(e, w.r.Now(), revision)
			}
			out = append(out, e)
		default:
		}
	}
	return out
}
