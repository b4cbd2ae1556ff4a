package apply

import (
	"context"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// definition is the CRD of the revision that defines an object's kind; nil if none does.
func (r DiffRequest) definition(ref api.ObjectRef) *unstructured.Unstructured {
	i := slices.IndexFunc(r.Coming, func(o *unstructured.Unstructured) bool {
		_, defines := kube.KindsOf(o)[ref.GVK()]
		return defines && kube.IsCRD(api.RefOf(o))
	})
	if i < 0 {
		return nil
	}
	return r.Coming[i]
}

// liveDefinition reads the CRD as it is on the cluster; nil if it is not there.
func (a *Applier) liveDefinition(ctx context.Context, crd *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ref := api.RefOf(crd)
	at, err := kube.PlaceOf(ref, "customresourcedefinitions")
	if err != nil {
		return nil, err
	}
	live, err := a.server.Own.Get(ctx, at, "")
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return live, err
}

// foreseeKind is the decision about an object of a kind, or of a version of it, that comes with the revision.
func (a *Applier) foreseeKind(ctx context.Context, r *run, req DiffRequest, in plan.Input, crd *unstructured.Unstructured) Difference {
	ref := api.RefOf(in.Desired)
	old, err := a.liveDefinition(ctx, crd)
	if err != nil {
		return Difference{Step: failed(ref, err)}
	}
	if old == nil {
		return Difference{Step: plan.Step{Object: ref, Next: plan.Write, Action: api.Created, Reason: "new in Git, and so is its kind"}}
	}
	body, err := prepare(in.Desired, in.Bundle)
	if err != nil {
		return Difference{Step: failed(ref, err)}
	}
	at, live, err := a.server.Find(ctx, r.c, ref, "")
	switch {
	case err == nil:
		in.Sight, in.Live = plan.Present, live
		// What a webhook will make of it, nobody knows; without one the version is all that changes.
		live.SetAPIVersion(in.Desired.GetAPIVersion())
	case apierrors.IsNotFound(err):
		in.Sight = plan.Absent
	default:
		in.Sight, in.Cause = plan.Unknown, err
	}
	w := &writer{a: a, c: r.c, at: at, in: in, body: body, spec: req.Bundle.Spec, left: req.Left}
	d := Difference{Step: plan.Decide(in), Inspection: Inspection{Live: in.Live}}
	if d.Step.Err != nil || d.Step.Action == api.Skipped {
		return d
	}
	if d.Desired, err = w.yielding(ctx); err != nil {
		d.Step = failed(ref, err)
		return d
	}
	return unasked(d)
}

// redefined reports whether the API server may have refused an object only because it does not know yet
// how the revision defines its kind.
func (w *writer) redefined(ctx context.Context, req DiffRequest, err error) bool {
	crd := req.definition(w.at.Ref)
	if _, reason := kube.KindOf(err); crd == nil || reason != kube.ReasonSchemaMismatch && reason != kube.ReasonInvalid {
		return false
	}
	live, err := w.a.liveDefinition(ctx, crd)
	return err == nil && live != nil && !equality.Semantic.DeepEqual(schemaOf(crd, w.at.Ref.Version), schemaOf(live, w.at.Ref.Version))
}

// schemaOf is the schema that a CRD has for a version.
func schemaOf(crd *unstructured.Unstructured, version string) any {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		if m, _ := v.(map[string]any); m["name"] == version {
			return m["schema"]
		}
	}
	return nil
}

// unasked completes a difference about which the API server cannot be asked before the CRD has changed:
// what Git says is compared with what is live as it stands.
func unasked(d Difference) Difference {
	if d.Live != nil {
		d.DryRun = overlaid(d.Live, d.Desired)
		if d.Step.Next != plan.Done && sameContent(d.Live, d.DryRun) {
			d.Step.Next, d.Step.Action, d.Step.Reason = plan.Done, api.Unchanged, "as in Git"
		}
	}
	if d.Step.Next != plan.Done {
		d.Step.Reason += "; its CRD changes too, so the API server cannot be asked yet what comes of it"
	}
	return d
}

// overlaid is the live object with all that Git says put in its place. It does not tell who owns which fields.
func overlaid(live, desired *unstructured.Unstructured) *unstructured.Unstructured {
	out := &unstructured.Unstructured{Object: overlay(live.Object, desired.Object)}
	out = out.DeepCopy()
	out.SetManagedFields(nil)
	return out
}

func overlay(below, above map[string]any) map[string]any {
	out := maps.Clone(below)
	for k, v := range above {
		lower, ok := out[k].(map[string]any)
		upper, ok2 := v.(map[string]any)
		if ok && ok2 {
			v = overlay(lower, upper)
		}
		out[k] = v
	}
	return out
}
