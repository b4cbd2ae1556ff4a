package plan

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
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
	{"kustomize-controller", metav1.ManagedFieldsOperationApply},
	{"kustomize-controller", metav1.ManagedFieldsOperationUpdate},
	{"helm-controller", metav1.ManagedFieldsOperationApply},
	{"helm-controller", metav1.ManagedFieldsOperationUpdate},
	{"argocd-controller", metav1.ManagedFieldsOperationApply},
	{"argocd-controller", metav1.ManagedFieldsOperationUpdate},
	{"argocd-application-controller", metav1.ManagedFieldsOperationUpdate},
	{"helm", metav1.ManagedFieldsOperationUpdate},
	{"helm", metav1.ManagedFieldsOperationApply},
	{"Helm", metav1.ManagedFieldsOperationUpdate},
	{"before-first-apply", metav1.ManagedFieldsOperationUpdate},
	{api.FieldManager, metav1.ManagedFieldsOperationUpdate},
}

// Adopted reports whether a managedFields entry is of a manager whose claims end when Git takes over:
// one of those above, or one that the policy names. Writes to a subresource never are.
func Adopted(e metav1.ManagedFieldsEntry, policy api.Drift) bool {
	if e.Subresource != "" {
		return false
	}
	return slices.Contains(adopted, writer{e.Manager, e.Operation}) || slices.Contains(policy.TakeOver, e.Manager)
}

// Spared reports whether an ignore rule leaves fields to a manager: its claims never end.
func Spared(manager string, rules []api.IgnoreRule) bool {
	return slices.ContainsFunc(rules, func(r api.IgnoreRule) bool { return slices.Contains(r.Managers, manager) })
}

// SoleOwner returns managedFields in which no adopted manager, except those that rules spare, owns a field that we own too.
// It reports false if there is nothing to change. What a rule leaves to others stays theirs.
func SoleOwner(live *unstructured.Unstructured, policy api.Drift) ([]metav1.ManagedFieldsEntry, bool) {
	own := ownFields(live)
	if own.Empty() {
		return nil, false
	}
	entries, taken := takeFields(live, policy, func(s *smd.Set) *smd.Set { return s.Intersection(own) })
	return entries, !taken.Empty()
}

// TakenOver returns managedFields in which all that adopted managers own is ours, except what rules leave to them:
// what Git does not say of it goes when Git is applied. It reports false if there is nothing to change.
func TakenOver(live *unstructured.Unstructured, policy api.Drift) ([]metav1.ManagedFieldsEntry, bool) {
	entries, taken := takeFields(live, policy, func(s *smd.Set) *smd.Set { return s })
	if taken.Empty() {
		return nil, false
	}
	version := live.GetAPIVersion()
	for _, e := range live.GetManagedFields() {
		if Adopted(e, policy) {
			version = e.APIVersion // of what was read there may be nothing but the metadata, which has another
		}
	}
	return withOwn(entries, taken, version)
}

// takeFields takes fields from the entries of adopted managers, and returns what is left and what was taken.
func takeFields(live *unstructured.Unstructured, policy api.Drift, which func(*smd.Set) *smd.Set) ([]metav1.ManagedFieldsEntry, *smd.Set) {
	rules := RulesFor(api.RefOf(live), policy)
	return without(live, func(e metav1.ManagedFieldsEntry, s *smd.Set) *smd.Set {
		if !Adopted(e, policy) || Spared(e.Manager, rules) {
			return smd.NewSet()
		}
		s = which(s)
		return s.Difference(left(live, rules, s))
	})
}

// without takes fields out of the claims on an object, and returns what is left and what was taken.
// An entry of which nothing is left goes; one that cannot be read stays as it is.
func without(live *unstructured.Unstructured, which func(metav1.ManagedFieldsEntry, *smd.Set) *smd.Set) ([]metav1.ManagedFieldsEntry, *smd.Set) {
	taken := smd.NewSet()
	var out []metav1.ManagedFieldsEntry
	for _, e := range live.GetManagedFields() {
		s, ok := fieldSet(e)
		if !ok {
			out = append(out, e)
			continue
		}
		gone := which(e, s)
		if gone.Empty() {
			out = append(out, e)
			continue
		}
		rest := s.Difference(gone)
		raw, err := rest.ToJSON()
		if err != nil {
			out = append(out, e)
			continue
		}
		taken = taken.Union(gone)
		if !rest.Empty() {
			e.FieldsV1 = metav1.NewFieldsV1(string(raw))
			out = append(out, e)
		}
	}
	return out, taken
}

// left are the fields of a set that rules leave to others, by their paths.
func left(live *unstructured.Unstructured, rules []api.IgnoreRule, s *smd.Set) *smd.Set {
	out, patterns := smd.NewSet(), patternsOf(rules)
	if len(patterns) == 0 {
		return out
	}
	for p := range s.All() {
		at, _, ok := fieldpath.Locate(live.Object, p)
		if ok && covers(patterns, at) && !api.OwnLabel(at.Label()) {
			out.Insert(p.Copy())
		}
	}
	return out
}

// isOwn reports the entry of what we apply.
func isOwn(e metav1.ManagedFieldsEntry) bool {
	return e.Manager == api.FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == ""
}

// ownFields are the fields that we applied.
func ownFields(live *unstructured.Unstructured) *smd.Set {
	own := smd.NewSet()
	for _, e := range live.GetManagedFields() {
		if s, ok := fieldSet(e); ok && isOwn(e) {
			own = own.Union(s)
		}
	}
	return own
}

// withOwn adds fields to what we applied; version is that of the API in which they are named.
func withOwn(entries []metav1.ManagedFieldsEntry, more *smd.Set, version string) ([]metav1.ManagedFieldsEntry, bool) {
	i := slices.IndexFunc(entries, isOwn)
	if i < 0 {
		i, entries = len(entries), append(entries, metav1.ManagedFieldsEntry{
			Manager: api.FieldManager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: version, FieldsType: "FieldsV1",
		})
	}
	if s, ok := fieldSet(entries[i]); ok {
		more = more.Union(s)
	}
	raw, err := more.ToJSON()
	if err != nil {
		return nil, false
	}
	entries[i].FieldsV1 = metav1.NewFieldsV1(string(raw))
	return entries, true
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

func fieldSet(e metav1.ManagedFieldsEntry) (*smd.Set, bool) {
	if e.FieldsV1 == nil {
		return nil, false
	}
	s := smd.NewSet()
	if err := s.FromJSON(e.FieldsV1.GetRawReader()); err != nil {
		return nil, false
	}
	return s, true
}
