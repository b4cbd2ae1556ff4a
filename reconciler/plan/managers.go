package plan

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
)

// writer is a field manager and how it writes.
type writer struct {
	name      string
	operation metav1.ManagedFieldsOperationType
}

// adopted are the field managers whose claims end when Git takes an object over:
// tools with which a human or a script wrote what Git now says.
// All others (autoscalers, kube-controller-manager, operators, and kubectl's label, annotate and scale)
// keep what they own.
var adopted = []writer{
	{"kubectl", metav1.ManagedFieldsOperationApply},
	{"kubectl", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-client-side-apply", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-last-applied", metav1.ManagedFieldsOperationApply},
	{"kubectl-create", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-replace", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-edit", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-patch", metav1.ManagedFieldsOperationUpdate},
	{"kubectl-set", metav1.ManagedFieldsOperationUpdate},
	{"helm", metav1.ManagedFieldsOperationUpdate},
	{"helm", metav1.ManagedFieldsOperationApply},
	{"Helm", metav1.ManagedFieldsOperationUpdate},
	{"before-first-apply", metav1.ManagedFieldsOperationUpdate},
	{api.FieldManager, metav1.ManagedFieldsOperationUpdate},
}

// Adopted reports whether a managedFields entry is of a manager whose claims end when Git takes over.
// Writes to a subresource never are.
func Adopted(e metav1.ManagedFieldsEntry) bool {
	if e.Subresource != "" {
		return false
	}
	return slices.Contains(adopted, writer{e.Manager, e.Operation})
}

// Spared reports whether an ignore rule leaves fields to a manager: its claims never end.
func Spared(manager string, rules []api.IgnoreRule) bool {
	return slices.ContainsFunc(rules, func(r api.IgnoreRule) bool { return slices.Contains(r.Managers, manager) })
}

// SoleOwner returns managedFields in which no adopted manager, except those that rules spare, owns a field that we own too.
// It reports false if there is nothing to change.
func SoleOwner(live *unstructured.Unstructured, rules []api.IgnoreRule) ([]metav1.ManagedFieldsEntry, bool) {
	entries := live.GetManagedFields()
	own := fieldpath.NewSet()
	for _, e := range entries {
		if e.Manager == api.FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			if s, ok := fieldSet(e); ok {
				own = own.Union(s)
			}
		}
	}
	if own.Empty() {
		return nil, false
	}
	changed := false
	out := make([]metav1.ManagedFieldsEntry, 0, len(entries))
	for _, e := range entries {
		if !Adopted(e) || Spared(e.Manager, rules) {
			out = append(out, e)
			continue
		}
		s, ok := fieldSet(e)
		if !ok {
			out = append(out, e)
			continue
		}
		rest := s.Difference(own)
		if rest.Size() == s.Size() {
			out = append(out, e)
			continue
		}
		changed = true
		if rest.Empty() {
			continue
		}
		raw, err := rest.ToJSON()
		if err != nil {
			return nil, false
		}
		e.FieldsV1 = metav1.NewFieldsV1(string(raw))
		out = append(out, e)
	}
	return out, changed
}

// MoveVersion returns managedFields in which what was claimed in one version is claimed in another one.
// It reports false if nothing was claimed in the old one, or a claim cannot be read.
//
// The API server cannot convert claims in a version that a CRD no longer has, and refuses every server-side apply
// of an object that has such claims. Fields that the new version does not have are gone from the object already.
func MoveVersion(entries []metav1.ManagedFieldsEntry, from, to string) ([]metav1.ManagedFieldsEntry, bool) {
	out := slices.Clone(entries)
	moved := false
	for i := range out {
		if out[i].APIVersion == from {
			out[i].APIVersion, moved = to, true
		}
	}
	// Of two entries of one writer in one version the API server would forget one.
	for i := 0; i < len(out); i++ {
		for j := len(out) - 1; j > i; j-- {
			a, b := out[i], out[j]
			if a.Manager != b.Manager || a.Operation != b.Operation || a.Subresource != b.Subresource || a.APIVersion != b.APIVersion {
				continue
			}
			x, okX := fieldSet(a)
			y, okY := fieldSet(b)
			if !okX || !okY {
				return nil, false
			}
			raw, err := x.Union(y).ToJSON()
			if err != nil {
				return nil, false
			}
			if b.Time != nil && (a.Time == nil || a.Time.Before(b.Time)) {
				a.Time = b.Time
			}
			a.FieldsV1 = metav1.NewFieldsV1(string(raw))
			out[i], out = a, slices.Delete(out, j, j+1)
		}
	}
	return out, moved
}

func fieldSet(e metav1.ManagedFieldsEntry) (*fieldpath.Set, bool) {
	if e.FieldsV1 == nil {
		return nil, false
	}
	s := fieldpath.NewSet()
	if err := s.FromJSON(e.FieldsV1.GetRawReader()); err != nil {
		return nil, false
	}
	return s, true
}
