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
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// takeOver ends the claims of kubectl and Helm as the step says. It reports whether it wrote anything.
func (w *writer) takeOver(ctx context.Context, how plan.TakeOver) (bool, error) {
	patches, err := takeOverPatch(w.in.Live, how, plan.RulesFor(w.at.ref, w.in.Drift))
	if err != nil || patches == nil {
		return false, err
	}
	now, err := w.c.patch(ctx, w.at, types.JSONPatchType, patches)
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
func takeOverPatch(live *unstructured.Unstructured, how plan.TakeOver, rules []api.IgnoreRule) ([]byte, error) {
	var patches []ssa.JSONPatch
	switch how {
	case plan.TakeAll:
		var managers []ssa.FieldManager
		for _, e := range live.GetManagedFields() {
			if plan.Adopted(e) && !plan.Spared(e.Manager, rules) {
				managers = append(managers, ssa.FieldManager{Name: e.Manager, ExactMatch: true, OperationType: e.Operation})
			}
		}
		var err error
		if patches, err = ssa.PatchReplaceFieldsManagers(live, managers, api.FieldManager); err != nil {
			return nil, err
		}
	case plan.TakeNothing:
	case plan.TakeShared:
		if entries, ok := plan.SoleOwner(live, rules); ok {
			patches = []ssa.JSONPatch{ssa.NewPatchReplace("/metadata/managedFields", entries)}
		}
	}
	if len(patches) == 0 {
		return nil, nil
	}
	return managedFieldsPatch(live, patches...)
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
	entries, ok := plan.MoveVersion(w.in.Live.GetManagedFields(), from, w.at.ref.GVK().GroupVersion().String())
	if !ok {
		return false
	}
	patch, err := managedFieldsPatch(w.in.Live, ssa.NewPatchReplace("/metadata/managedFields", entries))
	if err == nil {
		_, err = w.c.patch(ctx, w.at, types.JSONPatchType, patch)
	}
	return err == nil || apierrors.IsConflict(err)
}

// madeRoom ends the claims of those who added what keeps ours from fitting, once, where that is asked for
// and ours would be accepted without it: what they added goes as ours is written. It reports whether to write again.
func (w *writer) madeRoom(ctx context.Context, err error) bool {
	if err == nil || w.room || !plan.Crowded(w.in, err) || w.a.acceptable(ctx, w.c, w.at, w.body) != nil || w.testify(ctx) != nil {
		return false
	}
	w.room = true
	claims := w.in.Live.GetManagedFields()
	taken, err := w.takeOver(ctx, plan.TakeAll)
	if taken && err == nil {
		w.claims = claims
	}
	return taken && (err == nil || apierrors.IsConflict(err))
}

// giveBack undoes madeRoom after ours was refused all the same.
func (w *writer) giveBack(ctx context.Context) {
	if w.claims == nil || w.in.Live == nil {
		return
	}
	patch, err := managedFieldsPatch(w.in.Live, ssa.NewPatchReplace("/metadata/managedFields", w.claims))
	if err == nil {
		_, _ = w.c.patch(ctx, w.at, types.JSONPatchType, patch) // somebody wrote meanwhile: then the claims are what they made them
	}
	w.claims = nil
}
