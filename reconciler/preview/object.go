package preview

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// leave says which fields of a live object a pass leaves to others, beside those of ignore rules.
func (p *Preview) leave(ctx context.Context, desired, live *unstructured.Unstructured) ([]string, error) {
	near, err := p.near(ctx, desired, live)
	if err != nil {
		return nil, err
	}
	return p.cfg.Judge.Leave(desired, live, near), nil
}

// near are the autoscalers in Git and, if the live object has other replicas than Git says, those of its namespace.
func (p *Preview) near(ctx context.Context, desired, live *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	want, ok, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas")
	have, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "replicas")
	if live.GetNamespace() == "" || !ok || fmt.Sprint(want) == fmt.Sprint(have) {
		return p.scalers, nil
	}
	there, err := p.cfg.Cluster.Autoscalers(ctx, live.GetNamespace())
	return slices.Concat(p.scalers, there), err
}

// object puts a difference in words. It reports false for what is as it should be.
func (p *Preview) object(ctx context.Context, rb api.RenderedBundle, diff apply.Difference) (Change, bool, error) {
	s := diff.Step
	row := Change{Bundle: rb.Name, Object: s.Object, Action: s.Action, Outcome: OutcomeChange, Reason: s.Reason, Hook: diff.Hook}
	res, err := p.compare(ctx, rb, diff)
	if err != nil {
		return row, false, err
	}
	if diff.DryRun != nil && immutable(diff) && len(res.Fields) == 0 {
		return row, false, nil // admission made something else of it as it was created
	}
	row.Fields = res.Fields
	if s.Action == api.Updated && (rb.Spec.Drift.Extra != api.ExtraRemove || res.Mode != api.DriftCorrect) {
		// What others added stays where it is.
		row.Fields = slices.DeleteFunc(slices.Clone(res.Fields), func(f api.FieldDiff) bool { return f.Class == api.ClassAdded })
	}
	switch s.Action {
	case api.Unchanged:
		switch {
		case res.Class == "":
			return row, false, nil
		case res.Reported:
			row.Outcome, row.Reason = OutcomeReported, "differs from Git"
		default:
			row.Action, row.Reason = api.Updated, "others added to it"
		}
	case api.Updated:
		unknown := !p.knows(rb.Name, s.Object)
		if len(res.Fields) == 0 && (s.Next == plan.Verify || unknown) {
			return row, false, nil // the difference is no drift
		}
		if s.Reason == plan.ReasonNotKnown {
			row.Reason = "differs from Git"
		}
		if unknown && res.Mode != api.DriftCorrect {
			row.Outcome = OutcomeUnclear
			row.Reason = "it cannot be told whether Git changed, or this is drift that is only reported"
		}
	case api.Skipped:
		row.Outcome = OutcomeSkipped
		if diff.Live == nil && len(p.claims[s.Object.ID()]) > 0 && s.Next == plan.Done && p.reportsMissing(rb, s.Object) {
			row.Outcome, row.Reason = OutcomeReported, "missing on the cluster"
		}
	case api.Pruned:
		if s.Next != plan.Delete {
			return row, false, nil // it is gone already
		}
		if p.extra[s.Object.ID()] {
			live := diff.Live.DeepCopy()
			live.SetGroupVersionKind(s.Object.GVK()) // only its metadata was asked for
			switch res := p.cfg.Judge.Compare(Comparison{Live: live, Spec: rb.Spec.Drift}); {
			case res.Class == "":
				return row, false, nil
			case res.Reported:
				row.Outcome, row.Reason = OutcomeReported, "carries the bundle's label, and is not in Git"
			default:
				row.Reason = "carries the bundle's label, and is not in Git"
			}
		}
	case api.Denied, api.Failed:
		row.Outcome = OutcomeFailed
		row.Error = s.Err.Error()
	case api.Created, api.Recreated:
	}
	if diff.Held != nil && row.Outcome != OutcomeReported && row.Outcome != OutcomeSkipped {
		row.Outcome, row.HeldBy = OutcomeHeld, diff.Held.Name
	}
	return row, true, nil
}

// knows reports whether it is known what was last applied of an object.
func (p *Preview) knows(bundle string, ref api.ObjectRef) bool {
	return slices.ContainsFunc(p.owned[bundle], func(e api.InventoryEntry) bool { return e.Object.ID() == ref.ID() && e.Digest != "" })
}

// reportsMissing reports whether the absence of an object is drift that is only reported.
func (p *Preview) reportsMissing(rb api.RenderedBundle, ref api.ObjectRef) bool {
	i := slices.IndexFunc(rb.Objects, func(o *unstructured.Unstructured) bool { return api.RefOf(o).ID() == ref.ID() })
	if i < 0 || !p.knows(rb.Name, ref) {
		return false
	}
	annotations := rb.Objects[i].GetAnnotations()
	return annotations[api.AnnotationReconcile] != api.ValueDisabled && p.cfg.Judge.Mode(rb.Spec.Drift, annotations) == api.DriftReport
}

// compare says in which fields an object differs, by the bundle's policy.
// The error's reason is kube.ReasonConflict if the object changed since it was looked at.
func (p *Preview) compare(ctx context.Context, rb api.RenderedBundle, diff apply.Difference) (Finding, error) {
	if diff.Live == nil || diff.DryRun == nil {
		return Finding{Mode: p.cfg.Judge.Mode(rb.Spec.Drift, nil)}, nil
	}
	near, err := p.near(ctx, diff.Desired, diff.Live)
	if err != nil {
		return Finding{}, err
	}
	c := Comparison{Desired: diff.Desired, Live: diff.Live, DryRun: diff.DryRun, Spec: rb.Spec.Drift, Neighbours: near}
	if s := diff.Step; s.Action == api.Updated && s.Next != plan.Verify {
		// Git may have changed, so a value under our name that is not Git's is no proof of admission.
		c.Matched = &api.InventoryEntry{}
	}
	if patch := p.cfg.Judge.Additions(c); patch != nil && diff.Refused == nil {
		if c.Stripped, err = p.cfg.Differ.Without(ctx, rb, diff.Inspection, patch); err != nil {
			return Finding{}, err
		}
	}
	found := p.cfg.Judge.Compare(c)
	if found.Mode != api.DriftIgnore || diff.Step.Action == api.Unchanged {
		return found, nil
	}
	// What Git changed is written whatever the policy says of drift.
	c.Spec.Mode = api.DriftReport
	for _, o := range []**unstructured.Unstructured{&c.Desired, &c.Live, &c.DryRun} {
		*o = (*o).DeepCopy()
		unstructured.RemoveNestedField((*o).Object, "metadata", "annotations", api.AnnotationDrift)
	}
	found.Fields = p.cfg.Judge.Compare(c).Fields
	return found, nil
}
