package apply

import (
	"context"
	"encoding/json"
	"regexp"

	"github.com/fluxcd/pkg/ssa"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// takeOver ends the claims of kubectl and Helm as the step says. It reports whether it wrote anything.
func (w *writer) takeOver(ctx context.Context, how plan.TakeOver) (bool, error) {
	patches, err := takeOverPatch(w.in.Live, how, w.in.Drift)
	if err != nil || patches == nil {
		return false, err
	}
	now, err := w.c.Patch(ctx, w.at, types.JSONPatchType, patches)
	if err != nil {
		return true, err
	}
	// What is written next holds for the object as this left it.
	live := w.in.Live.DeepCopy()
	live.SetResourceVersion(now.ResourceVersion)
	live.SetManagedFields(now.ManagedFields)
	w.in.Live = live
	return true, nil
}

// takeOverPatch is a JSON patch of managedFields on the condition that the object is as it was read;
// nil if there is nothing to take.
func takeOverPatch(live *unstructured.Unstructured, how plan.TakeOver, policy api.Drift) ([]byte, error) {
	entries, ok := live.GetManagedFields(), false
	switch how {
	case plan.TakeAll:
		entries, ok = plan.TakenOver(live, policy)
	case plan.TakeShared:
		entries, ok = plan.SoleOwner(live, policy)
	case plan.TakeNothing:
	}
	if !ok {
		return nil, nil
	}
	return managedFieldsPatch(live, ssa.NewPatchReplace("/metadata/managedFields", entries))
}

// managedFieldsPatch is a JSON patch on the condition that the object is as it was read.
func managedFieldsPatch(live *unstructured.Unstructured, patches ...ssa.JSONPatch) ([]byte, error) {
	ops := []any{map[string]any{"op": "test", "path": "/metadata/resourceVersion", "value": live.GetResourceVersion()}}
	for _, p := range patches {
		ops = append(ops, p)
	}
	return json.Marshal(ops)
}

// droppedVersion is how the API server says that somebody claims fields in a version that a CRD no longer has.
var droppedVersion = regexp.MustCompile(`request to convert CR to an invalid group/version: (\S+)$`)

// claimsDropped returns the version in which fields are claimed that cannot be read any more; empty for any other error.
func claimsDropped(err error) string {
	if err == nil {
		return ""
	}
	if m := droppedVersion.FindStringSubmatch(err.Error()); m != nil {
		return m[1]
	}
	return ""
}

// versionMoved moves the claims on the object out of a version that its CRD dropped, if that is what err is about.
// It reports whether to try again.
func (w *writer) versionMoved(ctx context.Context, err error) bool {
	from := claimsDropped(err)
	if from == "" || w.in.Live == nil {
		return false
	}
	entries, ok := plan.MoveVersion(w.in.Live.GetManagedFields(), from, w.at.Ref.GVK().GroupVersion().String())
	if !ok {
		return false
	}
	patch, err := managedFieldsPatch(w.in.Live, ssa.NewPatchReplace("/metadata/managedFields", entries))
	if err == nil {
		_, err = w.c.Patch(ctx, w.at, types.JSONPatchType, patch)
	}
	return err == nil || apierrors.IsConflict(err)
}

// maxRooms is how often room is made for one write: the API server does not tell of all that is in the way at once.
const maxRooms = 4

// madeRoom ends the claims to what keeps ours from fitting, where that may be and ours would be accepted without it:
// that goes as ours is written. It reports whether to write again.
func (w *writer) madeRoom(ctx context.Context, err error) bool {
	if err == nil || w.in.Live == nil || w.rooms >= maxRooms || !apierrors.IsInvalid(err) && !plan.Duplicate(err) {
		return false
	}
	whole, gerr := w.c.Get(ctx, w.at, "")
	if gerr != nil || whole.GetUID() != w.in.Live.GetUID() {
		return false
	}
	in := w.in
	in.Live = whole
	room, ok := roomIn(in, err)
	if !ok || w.a.acceptable(ctx, w.c, w.at, w.body) != nil || w.testify(ctx) != nil {
		return false
	}
	patch, perr := managedFieldsPatch(whole, ssa.NewPatchReplace("/metadata/managedFields", room.Entries))
	if perr != nil {
		return false
	}
	w.rooms++
	now, perr := w.c.Patch(ctx, w.at, types.JSONPatchType, patch)
	if perr != nil {
		return apierrors.IsConflict(perr)
	}
	if w.claims == nil {
		w.claims = whole.GetManagedFields()
	}
	w.body = w.body.DeepCopy()
	for _, p := range room.Gone {
		fieldpath.RemoveNull(w.body.Object, p)
	}
	// What is written next holds for the object as this left it.
	whole.SetResourceVersion(now.ResourceVersion)
	whole.SetManagedFields(now.ManagedFields)
	w.in.Live = whole
	return true
}

// hasRoom reports whether there is room for the desired object once what is in the way has gone, and it may go.
func hasRoom(in plan.Input, err error) bool {
	_, ok := roomIn(in, err)
	return ok
}

// roomIn is the room for the desired object; false if none may be made.
func roomIn(in plan.Input, err error) (plan.Room, bool) {
	if plan.Crowded(in, err) {
		entries, ok := plan.TakenOver(in.Live, in.Drift)
		return plan.Room{Entries: entries}, ok
	}
	r, ok := plan.MakeRoom(in, err)
	return r, ok && plan.MayMakeRoom(in, r)
}

// giveBack undoes madeRoom after ours was refused all the same.
func (w *writer) giveBack(ctx context.Context) {
	if w.claims == nil || w.in.Live == nil {
		return
	}
	patch, err := managedFieldsPatch(w.in.Live, ssa.NewPatchReplace("/metadata/managedFields", w.claims))
	if err == nil {
		_, _ = w.c.Patch(ctx, w.at, types.JSONPatchType, patch) // somebody wrote meanwhile: then the claims are what they made them
	}
	w.claims = nil
}
