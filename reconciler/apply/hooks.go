package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
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

// annotationHook, on a hook's object, names the bundle whose hook it is; annotationHelmHook is Helm's own mark.
const (
	annotationHook     = api.Group + "/hook-of"
	annotationHelmHook = "helm.sh/hook"
)

// hookMemory is what is noted of a bundle's hooks; see Parents.
type hookMemory struct{ ran, begun string }

// hooks runs a bundle's hooks, once per change of the bundle.
type hooks struct {
	r *run
	// phases are those that hooks are run for in this Apply; nil if none are due.
	phases map[moment]api.HookPhase
	// change is what they are run once for: the digest of the bundle, or its removal.
	change string
	// memory is what is known to have run.
	memory hookMemory
	// renamed says that the bundle is upgraded only because it had another name, which is not noted yet.
	renamed bool
	// unknown is set where that could not be read: then nothing is done.
	unknown bool
}

// The phases of an installation, an upgrade and a removal. There are no others: see docs/fleet-repository.md.
var (
	installPhases = map[moment]api.HookPhase{before: api.HookPreInstall, after: api.HookPostInstall}
	upgradePhases = map[moment]api.HookPhase{before: api.HookPreUpgrade, after: api.HookPostUpgrade}
	removalPhases = map[moment]api.HookPhase{before: api.HookPreDelete, after: api.HookPostDelete}
)

const (
	// bundleRemoval is the name of the change that is the removal of a bundle.
	bundleRemoval = "removal"
	// bundleRenamed stands for what ran under the name that a bundle had before.
	bundleRenamed = "renamed"
	// begunHalf stands for a change of whose hooks before the objects not all have ended.
	begunHalf = "unfinished"
)

// newHooks finds out whether the bundle's hooks are due.
func (a *Applier) newHooks(ctx context.Context, r *run) (*hooks, error) {
	h := &hooks{r: r, change: r.req.Bundle.Digest}
	installed, err := h.recall(ctx)
	if err != nil {
		h.unknown = true
		return h, err
	}
	memory := h.memory
	switch {
	case !anyOf(r.req.Bundle.Hooks, installPhases, upgradePhases), h.change != "" && h.done():
	case memory.ran == "" && !installed && r.req.Renamed:
		h.phases, h.renamed = upgradePhases, true
	case memory.ran == "" && !installed || memory.ran == bundleRemoval:
		// What a try that failed left behind does not make this an upgrade.
		h.phases = installPhases
	default:
		h.phases = upgradePhases
	}
	return h, nil
}

// RunPreDelete runs a bundle's hooks that come before its removal, once; RunPostDelete those that come after it.
// The bundle is what was last applied. They report whether to go on: if not, and without an error, a suspension forbids it.
func (a *Applier) RunPreDelete(ctx context.Context, req Request) ([]api.Change, bool, error) {
	return a.removalHooks(ctx, req, before)
}

// RunPostDelete is told of with RunPreDelete. A hook whose namespace went with the bundle is passed over.
func (a *Applier) RunPostDelete(ctx context.Context, req Request) ([]api.Change, bool, error) {
	return a.removalHooks(ctx, req, after)
}

func (a *Applier) removalHooks(ctx context.Context, req Request, when moment) ([]api.Change, bool, error) {
	if !anyOf(req.Bundle.Hooks, removalPhases) {
		return nil, true, nil
	}
	r, err := a.newRun(req)
	if err != nil {
		return nil, false, err
	}
	h, err := a.newRemoval(ctx, r)
	if err != nil || h.phases == nil {
		return nil, err == nil, err
	}
	ok := h.run(ctx, when)
	return r.extra, ok, kube.Join(r.errs)
}

// newRemoval finds out whether the hooks of a bundle's removal are due.
func (a *Applier) newRemoval(ctx context.Context, r *run) (*hooks, error) {
	h := &hooks{r: r, change: bundleRemoval}
	if !anyOf(r.req.Bundle.Hooks, removalPhases) {
		return h, nil
	}
	if _, err := h.recall(ctx); err != nil {
		return nil, err
	}
	if !h.done() { // or they ran, and that was not recorded
		h.phases = removalPhases
	}
	return h, nil
}

// recall reads what is noted of the bundle's hooks. It reports whether the bundle was ever applied to the end.
func (h *hooks) recall(ctx context.Context) (installed bool, err error) {
	h.memory.ran, h.memory.begun, installed, err = h.r.a.parents.HooksRan(ctx, h.r.req.Bundle.Name)
	return installed, err
}

// done reports whether the hooks ran to their end for this change, and for no other one since: that may have been
// taken back, and then the way back is a change, too.
func (h *hooks) done() bool { return h.memory == hookMemory{ran: h.change} }

// anyOf reports whether a hook is of one of the phases.
func anyOf(hooks []api.Hook, phases ...map[moment]api.HookPhase) bool {
	return slices.ContainsFunc(hooks, func(h api.Hook) bool {
		return slices.ContainsFunc(phases, func(p map[moment]api.HookPhase) bool {
			return slices.Contains(h.Phases, p[before]) || slices.Contains(h.Phases, p[after])
		})
	})
}

// at returns the hooks that are due at a moment in their order: by weight, and what others need first where that is the same.
func (h *hooks) at(when moment) []api.Hook {
	if h.phases == nil || when == before && h.memory.begun != "" && h.memory.begun == h.change {
		return nil // an earlier try came further than this
	}
	out := slices.DeleteFunc(slices.Clone(h.r.req.Bundle.Hooks), func(k api.Hook) bool { return !slices.Contains(k.Phases, h.phases[when]) })
	slices.SortStableFunc(out, func(x, y api.Hook) int {
		return cmp.Or(cmp.Compare(x.Weight, y.Weight), plan.CompareOrder(api.RefOf(x.Object), api.RefOf(y.Object)))
	})
	return out
}

// run runs the hooks of a moment one after another. It reports false if one failed:
// then nothing that follows is done.
func (h *hooks) run(ctx context.Context, when moment) bool {
	if h.unknown {
		return false
	}
	if h.renamed && when == before && !h.remember(ctx, hookMemory{ran: bundleRenamed}) {
		return false // the next try may not be able to tell
	}
	due := h.at(when)
	for _, hook := range due {
		if !h.try(ctx, hook, when) {
			return false
		}
	}
	now := h.memory
	switch {
	case when == after && (h.phases != nil || now != hookMemory{}): // without hooks it is a change all the same
		now = hookMemory{ran: h.change}
	case h.phases != nil && (len(due) > 0 || now.begun != ""):
		now.begun = h.change
	}
	return h.remember(ctx, now)
}

// begin notes, before a hook runs, that the change is begun: what ran to its end before is not all that ran any more.
func (h *hooks) begin(ctx context.Context, when moment) bool {
	now := h.memory
	switch {
	case now == hookMemory{} || now.begun == h.change:
	case when == before:
		now.begun = begunHalf
	default:
		now.begun = h.change
	}
	return h.remember(ctx, now)
}

// remember notes on the cluster what ran, if that is new.
func (h *hooks) remember(ctx context.Context, now hookMemory) bool {
	if now == h.memory {
		return true
	}
	if err := h.r.a.parents.NoteHooks(ctx, h.r.req.Bundle.Name, now.ran, now.begun); err != nil {
		h.r.fail(err)
		return false
	}
	h.memory = now
	return true
}

// try runs one hook, unless it is held back, and notes what became of it. It reports whether to go on.
func (h *hooks) try(ctx context.Context, hook api.Hook, when moment) bool {
	ref, phase := api.RefOf(hook.Object), h.phases[when]
	if h.r.req.Held != nil {
		if s, ok := h.r.req.Held(ref); ok {
			h.note(api.Change{Object: ref, Action: api.Skipped, Reason: fmt.Sprintf("hook; suspended by %q", s.Name)})
			return false
		}
	}
	if !h.begin(ctx, when) {
		return false
	}
	var skipped string
	var err error
	if phase == api.HookPreDelete || phase == api.HookPostDelete {
		skipped, err = h.homeless(ctx, hook)
	}
	if skipped == "" && err == nil {
		skipped, err = h.one(ctx, hook)
	}
	switch {
	case err != nil:
		err = kube.Classify(ref, "", err)
		h.note(api.Change{Object: ref, Action: api.Failed, Reason: string(phase) + " hook", Error: err.Error()})
		h.r.fail(err)
		return false
	case skipped != "":
		h.note(api.Change{Object: ref, Action: api.Skipped, Reason: string(phase) + " hook; " + skipped})
	default:
		h.note(api.Change{Object: ref, Action: api.Created, Reason: string(phase) + " hook ran"})
	}
	return true
}

// homeless says of a hook of a removal that its namespace is gone, or going: nothing can be made there.
func (h *hooks) homeless(ctx context.Context, hook api.Hook) (why string, err error) {
	name := api.RefOf(h.r.a.server.Scoped(hook.Object, h.r.req.Bundle.Spec.Namespace.Name(), nil)).Namespace
	if name == "" {
		return "", nil
	}
	at, err := h.r.a.server.Kinds.Place(api.ObjectRef{Version: "v1", Kind: "Namespace", Name: name})
	if err != nil {
		return "", err
	}
	live, err := h.r.a.server.Own.Get(ctx, at, kube.MetadataOnly)
	switch {
	case apierrors.IsNotFound(err), err == nil && live.GetDeletionTimestamp() != nil:
		return fmt.Sprintf("its namespace %q is gone", name), nil
	}
	return "", err
}

func (h *hooks) note(c api.Change) {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	h.r.extra = append(h.r.extra, c)
}

// one creates a hook's object, waits for its end if it is a Job or a Pod, and deletes it by its policies.
// It holds no slot while it waits. It returns why the hook was passed over, if it was.
func (h *hooks) one(ctx context.Context, hook api.Hook) (skipped string, err error) {
	if hook.Object.GetAnnotations()[api.AnnotationReconcile] == api.ValueDisabled {
		return api.AnnotationReconcile + ": disabled in Git", nil
	}
	unbounded := ctx
	ctx, cancel := context.WithTimeout(ctx, h.r.req.Bundle.Spec.WaitTimeout())
	defer cancel()
	policies := hook.DeletePolicies
	if len(policies) == 0 {
		policies = []string{beforeHookCreation}
	}
	obj := h.r.a.server.Scoped(hook.Object, h.r.req.Bundle.Spec.Namespace.Name(), nil)
	at, err := h.r.a.server.Kinds.Place(api.RefOf(obj))
	if err != nil {
		return "", err
	}
	if skipped, err := h.makeRoom(ctx, at, slices.Contains(policies, beforeHookCreation)); skipped != "" || err != nil {
		return skipped, err
	}
	// No part-of label: a hook is no member of the ApplySet, and is never pruned as one.
	body, err := prepare(obj, "")
	if err != nil {
		return "", err
	}
	body = markHook(body, h.r.req.Bundle.Name)
	raw, err := marshal(body, "", "")
	if err != nil {
		return "", err
	}
	if _, err := h.r.c.Apply(ctx, at, raw, kube.Mode{}); err != nil {
		return "", err
	}
	if ends(at.Ref) {
		err = h.wait(ctx, func(ctx context.Context) error { return h.r.c.Await(ctx, at, finished) })
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = &api.Error{Kind: api.Stalled, Reason: "HookTimeout", Err: fmt.Errorf("hook %s did not end in %s", at.Ref, h.r.req.Bundle.Spec.WaitTimeout())}
	}
	if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == reasonSuperseded {
		return "", fmt.Errorf("hook %s: %w", at.Ref, err)
	}
	if (err == nil && slices.Contains(policies, hookSucceeded)) || (err != nil && slices.Contains(policies, hookFailed)) {
		if rerr := h.clear(unbounded, at); err == nil {
			err = rerr
		}
	}
	return "", err
}

// wait waits with the reconciler's consent, so that a newer revision ends it.
func (h *hooks) wait(ctx context.Context, f func(context.Context) error) error {
	return h.r.req.Waiting.during(ctx, f)
}

// markHook returns the object with the mark by which it is known as the bundle's hook.
func markHook(body *unstructured.Unstructured, bundle string) *unstructured.Unstructured {
	// prepare made the metadata ours, but not what is in it.
	annotations := body.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationHook] = bundle
	body.SetAnnotations(annotations)
	return body
}

// ends reports whether a hook of a kind runs, and has to be waited for.
func ends(ref api.ObjectRef) bool {
	return ref.Kind == "Job" && ref.Group == "batch" || ref.Kind == "Pod" && ref.Group == ""
}

// makeRoom looks at what has the hook's name already, and deletes what a hook left behind if replace says so:
// a Job or a Pod, and of other kinds what we made as a hook.
// What is nobody's hook is refused: neither may it be lost, nor would a Job that has ended run again.
// It returns why the hook is to be passed over, if it is.
func (h *hooks) makeRoom(ctx context.Context, at kube.Place, replace bool) (skipped string, err error) {
	live, err := h.r.c.Get(ctx, at, kube.MetadataOnly)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// A protected kind is not deleted anyway, and is taken over as an ordinary object is.
	set := live.GetLabels()[api.LabelPartOf]
	if !h.own(live) && (set != "" || !plan.Protected(at.Ref)) {
		return "", &api.Error{
			Kind: api.Forbidden, Reason: "HookNameTaken",
			Err:  fmt.Errorf("%s exists and is no hook: it is not written over", at.Ref),
			Hint: "delete it, or give it the annotation " + annotationHelmHook + " to let the hook have its name",
		}
	}
	why := keeps(live)
	switch {
	case why == api.AnnotationReconcile && !ends(at.Ref):
		return why + ": disabled on the live object", nil
	case why != "" && ends(at.Ref) && replace:
		return "", &api.Error{
			Kind: api.Forbidden, Reason: "HookKept", Err: fmt.Errorf("hook %s cannot run: the one of the last time has %s: disabled", at.Ref, why),
			Hint: "delete it, or take the annotation away",
		}
	case why != "" || !replace || !ends(at.Ref) && !h.marked(live):
		return "", nil // it is written over
	}
	if err := h.remove(ctx, at, live); err != nil {
		return "", fmt.Errorf("delete the hook of the last time: %w", err)
	}
	return "", nil
}

// clear deletes the hook's object after it has ended, unless that is to stay.
func (h *hooks) clear(ctx context.Context, at kube.Place) error {
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	live, err := h.r.c.Get(ctx, at, kube.MetadataOnly)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || keeps(live) != "" || !h.own(live) {
		return err
	}
	return h.remove(ctx, at, live)
}

// keeps names the annotation that keeps us from deleting an object; empty if none does.
func keeps(live *unstructured.Unstructured) string {
	for _, a := range []string{api.AnnotationPrune, api.AnnotationReconcile} {
		if live.GetAnnotations()[a] == api.ValueDisabled {
			return a
		}
	}
	return ""
}

// own reports whether an object is a hook of the bundle: one that we made, that Helm made before us,
// or an object of the bundle that became a hook. What belongs to another ApplySet never is.
func (h *hooks) own(live *unstructured.Unstructured) bool {
	switch live.GetLabels()[api.LabelPartOf] {
	case "":
	case plan.ApplySetID(h.r.req.Bundle.Name):
		return true
	default:
		return false
	}
	of, marked := live.GetAnnotations()[annotationHook]
	return marked && h.inherits(of) || !marked && live.GetAnnotations()[annotationHelmHook] != ""
}

// inherits reports whether what is marked as a bundle's hook is this bundle's:
// what a bundle that left Git left behind belongs to whoever has its name now, for it may have been renamed.
func (h *hooks) inherits(of string) bool {
	return of == h.r.req.Bundle.Name || h.r.req.InGit != nil && !h.r.req.InGit[of]
}

// marked reports whether an object was made as a hook of the bundle, by us.
func (h *hooks) marked(live *unstructured.Unstructured) bool {
	annotations := live.GetAnnotations()
	of, marked := annotations[annotationHook]
	return live.GetLabels()[api.LabelManagedBy] == api.ManagedBy && (marked && h.inherits(of) || annotations[annotationHelmHook] != "")
}

// remove deletes an object that is a hook's, and waits until it is gone. A protected kind is never deleted.
func (h *hooks) remove(ctx context.Context, at kube.Place, live *unstructured.Unstructured) error {
	if plan.Protected(at.Ref) {
		return nil
	}
	left, err := h.r.c.DeleteOnly(ctx, at, live.GetUID(), "")
	if apierrors.IsNotFound(err) || err == nil && (left == nil || left.GetDeletionTimestamp() == nil) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.wait(ctx, func(ctx context.Context) error { return h.r.c.AwaitGone(ctx, at) })
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
