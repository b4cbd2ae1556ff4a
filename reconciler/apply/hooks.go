package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// moment is when hooks run in an Apply.
type moment int

const (
	before moment = iota
	after
)

// Helm's delete policies.
const (
	beforeHookCreation = "before-hook-creation"
	hookSucceeded      = "hook-succeeded"
	hookFailed         = "hook-failed"
)

// annotationHooks, on the BundleDeployment, is the digest of the bundle whose hooks ran last.
const annotationHooks = api.Group + "/hooks-ran"

// hooks runs a bundle's hooks, once per change of the bundle.
type hooks struct {
	r      *run
	digest string
	// due are the hooks that are still to run; nil if they ran for this digest.
	due     []api.Hook
	install bool
}

// newHooks finds out whether the bundle's hooks are due.
func (a *Applier) newHooks(ctx context.Context, r *run) (*hooks, error) {
	h := &hooks{r: r, digest: r.req.Bundle.Digest}
	if len(r.req.Bundle.Hooks) == 0 {
		return h, nil
	}
	ran, err := a.status.hooksRan(ctx, a, r.req.Bundle.Name)
	if err != nil {
		return h, Classify(bundleRef(r.req.Bundle.Name), "", err)
	}
	if ran != h.digest || h.digest == "" {
		h.due, h.install = r.req.Bundle.Hooks, ran == "" && len(r.before) == 0
	}
	return h, nil
}

// run runs the hooks of a moment one after another. It reports false if one failed:
// then nothing that follows is done.
func (h *hooks) run(ctx context.Context, when moment) bool {
	if h.due == nil {
		return len(h.r.req.Bundle.Hooks) == 0 || h.ranBefore()
	}
	phase := map[moment]api.HookPhase{before: api.HookPreUpgrade, after: api.HookPostUpgrade}[when]
	if h.install {
		phase = map[moment]api.HookPhase{before: api.HookPreInstall, after: api.HookPostInstall}[when]
	}
	for _, hook := range h.due {
		if !slices.Contains(hook.Phases, phase) {
			continue
		}
		ref := api.RefOf(hook.Object)
		if h.r.req.Held != nil {
			if s, ok := h.r.req.Held(ref); ok {
				h.note(api.Change{Object: ref, Action: api.Skipped, Reason: fmt.Sprintf("hook; suspended by %q", s.Name)})
				return false
			}
		}
		if err := h.one(ctx, hook); err != nil {
			err = Classify(ref, "", err)
			h.note(api.Change{Object: ref, Action: api.Failed, Reason: string(phase) + " hook", Error: err.Error()})
			h.r.fail(err)
			return false
		}
		h.note(api.Change{Object: ref, Action: api.Created, Reason: string(phase) + " hook ran"})
	}
	if when == after {
		if err := h.r.a.status.setHooksRan(ctx, h.r.a, h.r.req.Bundle.Name, h.digest); err != nil {
			h.r.fail(Classify(bundleRef(h.r.req.Bundle.Name), "", err))
			return false
		}
	}
	return true
}

// ranBefore reports whether the hooks are done with for this digest (and not unknown).
func (h *hooks) ranBefore() bool {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	return !slices.ContainsFunc(h.r.errs, func(err error) bool {
		var e *api.Error
		return errors.As(err, &e) && e.Reason == "HooksUnknown"
	})
}

func (h *hooks) note(c api.Change) {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	h.r.extra = append(h.r.extra, c)
}

// one creates a hook's object, waits for its end if it is a Job or a Pod, and deletes it by its policies.
// It holds no slot while it waits.
func (h *hooks) one(ctx context.Context, hook api.Hook) error {
	ctx, cancel := context.WithTimeout(ctx, h.r.req.Bundle.Spec.WaitTimeout())
	defer cancel()
	policies := hook.DeletePolicies
	if len(policies) == 0 {
		policies = []string{beforeHookCreation}
	}
	obj := h.r.a.resolve(hook.Object, h.r.req.Bundle.Spec.Namespace, nil)
	at, err := h.r.a.kinds.place(api.RefOf(obj))
	if err != nil {
		return err
	}
	if slices.Contains(policies, beforeHookCreation) {
		if err := h.remove(ctx, at); err != nil {
			return fmt.Errorf("delete the hook of the last time: %w", err)
		}
	}
	// No part-of label: a hook is no member of the ApplySet, and is never pruned as one.
	body, err := prepare(obj, "")
	if err != nil {
		return err
	}
	raw, err := marshal(body, "", "")
	if err != nil {
		return err
	}
	if _, err := h.r.c.apply(ctx, at, raw, patchMode{}); err != nil {
		return err
	}
	err = h.r.a.own.await(ctx, at, finished)
	if errors.Is(err, context.DeadlineExceeded) {
		err = &api.Error{Kind: api.Stalled, Reason: "HookTimeout", Err: fmt.Errorf("hook %s did not end in %s", at.ref, h.r.req.Bundle.Spec.WaitTimeout())}
	}
	if (err == nil && slices.Contains(policies, hookSucceeded)) || (err != nil && slices.Contains(policies, hookFailed)) {
		if rerr := h.remove(ctx, at); err == nil {
			err = rerr
		}
	}
	return err
}

// remove deletes a hook's object and waits until it is gone.
func (h *hooks) remove(ctx context.Context, at place) error {
	err := h.r.c.delete(ctx, at, "")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.r.a.own.await(ctx, at, func(o *unstructured.Unstructured) (bool, error) { return o == nil, nil })
}

// finished reports whether a hook has ended. Kinds that do not run end at once.
func finished(o *unstructured.Unstructured) (bool, error) {
	if o == nil {
		return false, &api.Error{Kind: api.Transient, Reason: "HookGone", Err: errors.New("the hook was deleted before it ended")}
	}
	switch o.GetKind() {
	case "Job":
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			if m["status"] != "True" {
				continue
			}
			switch m["type"] {
			case "Complete", "SuccessCriteriaMet":
				return true, nil
			case "Failed":
				return false, &api.Error{Kind: api.Stalled, Reason: "HookFailed", Err: fmt.Errorf("hook failed: %v", m["message"])}
			}
		}
		return false, nil
	case "Pod":
		phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
		if phase == "Failed" {
			message, _, _ := unstructured.NestedString(o.Object, "status", "message")
			return false, &api.Error{Kind: api.Stalled, Reason: "HookFailed", Err: fmt.Errorf("hook failed: %s", message)}
		}
		return phase == "Succeeded", nil
	}
	return true, nil
}
