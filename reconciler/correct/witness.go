package correct

import (
	"context"
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
)

// Witness records the drift that an apply of one bundle meets and writes over:
// what came while the agent was down, or between the watch's event and the write.
type Witness struct {
	loop *Loop
	// bundle is the bundle as it was when the apply began.
	bundle objects.Bundle

	mu sync.Mutex
	// met: object ID -> drift that the policy says to correct, which the apply does
	met map[string]bool
	// over: object ID -> drift that the policy says to report, which the apply writes over
	over map[string]bool
}

var _ apply.Witness = (*Witness)(nil)

// Witness makes a witness of an apply that begins now.
func (l *Loop) Witness(bundle string) *Witness {
	return &Witness{loop: l, bundle: l.Home.Bundle(bundle), met: map[string]bool{}, over: map[string]bool{}}
}

// Applied implements apply.Witness.
func (w *Witness) Applied(ref api.ObjectRef) *unstructured.Unstructured {
	return w.loop.Home.Get(w.bundle.Name, ref.ID()).Baseline
}

// Found stores what drifted. It corrects nothing: the apply that asks is about to write.
func (w *Witness) Found(ctx context.Context, ref api.ObjectRef, in apply.Inspection) error {
	if w.bundle.Applied == nil {
		return nil
	}
	l, id := w.loop, ref.ID()
	if in.Err != nil {
		l.Log.Warn("what the object was before the apply is not known", "bundle", w.bundle.Name, "object", id, "error", in.Err)
		return nil
	}
	now, known := l.Now(), l.Home.Get(w.bundle.Name, id)
	if known.Entry == nil {
		return nil
	}
	t := &target{
		id: id, ref: ref, bundle: w.bundle.Name, rendered: *w.bundle.Applied, desired: known.Baseline,
		entry: known.Entry, revision: w.bundle.AppliedRevision,
	}
	if err := l.withoutAdditions(ctx, t, &in); err != nil {
		l.Log.Warn("what others added before the apply is not known", "bundle", t.bundle, "object", id, "error", err)
	}
	verdict := l.observe(t, in, now)
	if verdict.Episode == nil || verdict.Opened && l.halfDone(ctx, t, in, now) {
		return nil
	}
	if verdict.drifts() {
		_, _, verdict = l.asGitSaysNow(ctx, t, in, verdict, now)
	}
	if verdict.Episode == nil {
		return nil // the object became what the newer revision says between two looks
	}
	if err := l.store(t, verdict.Episode); err != nil {
		return &api.Error{Kind: api.Transient, Reason: "NotRecorded", Err: errors.Join(errors.New("drift could not be recorded, so it is not written over"), err)}
	}
	if verdict.Opened {
		l.opened(*verdict.Episode, now, now)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.met[id] = verdict.Write != nil
	w.over[id] = verdict.Write == nil && verdict.Episode.Outcome == api.OutcomeReported && verdict.Episode.Class != api.ClassAdded
	return nil
}

// Corrected ends the episodes of the drift that the apply of a revision has written over, and returns them.
func (w *Witness) Corrected(cs api.ChangeSet, revision string) []api.Episode {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.loop
	var out []api.Episode
	for _, c := range cs.Changes {
		id := c.Object.ID()
		e := l.Home.Get(w.bundle.Name, id).Episode
		if e == nil || !w.met[id] && !w.over[id] || c.Error != "" {
			continue
		}
		switch c.Action {
		case api.Created, api.Updated, api.Recreated:
			l.Home.Change(w.bundle.Name, id, func(o *objects.Object) { o.Episode = nil })
			if w.met[id] {
				out = append(out, l.Detective.Corrected(*e, l.Now(), nil))
			} else {
				out = append(out, l.Detective.Overwritten(*e, l.Now(), revision))
			}
		default:
		}
	}
	return out
}
