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
