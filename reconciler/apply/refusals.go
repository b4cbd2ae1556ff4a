package apply

import (
	"context"
	"sync"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// refusals remembers objects that the API server refused for good, so that they are not sent again
// only because another object of their bundle is worth another try.
type refusals struct {
	mu sync.Mutex
	// known: object ID -> its refusal
	known map[string]refusal
}

// refusal is what was refused, and what was live then.
type refusal struct {
	bundle, digest       string
	uid, resourceVersion string
	step                 plan.Step
}

// refusalOf is what note would remember of an object, without the step.
func refusalOf(in plan.Input, bundle string) refusal {
	r := refusal{bundle: bundle, digest: in.Digest}
	if in.Live != nil {
		r.uid, r.resourceVersion = string(in.Live.GetUID()), in.Live.GetResourceVersion()
	}
	return r
}

// note takes in how a try ended. bundle is the digest of what Git says of the whole bundle.
func (r *refusals) note(in plan.Input, bundle string, s plan.Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := s.Object.ID()
	if s.Action != api.Failed || api.KindOf(kube.Classify(s.Object, "", s.Err)) != api.Stalled {
		delete(r.known, id)
		return
	}
	if r.known == nil {
		r.known = map[string]refusal{}
	}
	is := refusalOf(in, bundle)
	is.step = s
	r.known[id] = is
}

func (r *refusals) get(id string) (refusal, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	is, ok := r.known[id]
	return is, ok
}

// refusedBefore returns the refusal of an earlier try if nothing changed since: neither Git nor the live object.
// Whoever compares everything wants to know anew.
func (w *writer) refusedBefore(ctx context.Context, req Request, s plan.Step) (plan.Step, bool) {
	bundle := req.Bundle.Digest
	if req.Anew || w.in.Compare == plan.CompareAll || s.Next == plan.Done || s.Next == plan.Look {
		return plan.Step{}, false
	}
	was, ok := w.a.refusals.get(s.Object.ID())
	if !ok || was.bundle != bundle || was.digest != w.in.Digest {
		return plan.Step{}, false
	}
	if w.in.Sight == plan.NotSeen {
		w.look(ctx)
	}
	step := was.step
	was.step = plan.Step{}
	return step, w.in.Sight != plan.Unknown && was == refusalOf(w.in, bundle)
}
