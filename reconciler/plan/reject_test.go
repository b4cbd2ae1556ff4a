package plan

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/flotilla-fleet/flotilla/api"
)

// Only what tools like kubectl added may have to go for ours to fit, and only where the object asks for that.
func TestCrowded(t *testing.T) {
	immutable := field.Invalid(field.NewPath("spec", "selector"), "v", "field is immutable")
	twice := field.Duplicate(field.NewPath("spec", "ports").Index(1).Child("name"), "http")
	force := api.AnnotationForce + "=enabled"
	live := func(owner, manager string, annotations ...string) *unstructured.Unstructured {
		o := tLive(owner, annotations...)
		o.SetManagedFields(append(o.GetManagedFields(), metav1.ManagedFieldsEntry{Manager: manager, Operation: "Update"}))
		return o
	}
	spare := api.Drift{Ignore: []api.IgnoreRule{{Managers: []string{"kubectl-edit"}}}}
	tests := []struct {
		name string
		in   Input
		err  error
		want bool
		hint bool
	}{
		{"asked for in Git", Input{Desired: tObj(force), Live: live("b", "kubectl-edit")}, invalid(twice), true, false},
		{"asked for on the live object", Input{Desired: tObj(), Live: live("b", "kubectl-edit", force)}, invalid(twice), true, false},
		{"not asked for", Input{Desired: tObj(), Live: live("b", "kubectl-edit")}, invalid(twice), false, true},
		{"not ours", Input{Desired: tObj(force), Live: live("", "kubectl-edit")}, invalid(twice), false, false},
		{"a controller added it", Input{Desired: tObj(force), Live: live("b", "some-controller")}, invalid(twice), false, false},
		{"a rule spares it", Input{Desired: tObj(force), Live: live("b", "kubectl-edit"), Drift: spare}, invalid(twice), false, false},
		{"nothing is taken over", Input{Desired: tObj(force, api.AnnotationSSA+"=Merge"), Live: live("b", "kubectl-edit")}, invalid(twice), false, false},
		{"immutable", Input{Desired: tObj(force), Live: live("b", "kubectl-edit")}, invalid(immutable), false, false},
		{"server error", Input{Desired: tObj(force), Live: live("b", "kubectl-edit")}, apierrors.NewInternalError(errors.New("x")), false, false},
		{"nothing live", Input{Desired: tObj(force), Sight: Absent}, invalid(twice), false, false},
	}
	for _, tt := range tests {
		if tt.in.Live != nil {
			tt.in.Sight = Present
		}
		tt.in.Bundle = "b"
		if got := Crowded(tt.in, tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		e, ok := errors.AsType[*api.Error](Crowding(tt.in, tt.err))
		if ok != tt.hint || ok && !strings.Contains(e.Hint, "what kubectl-edit added") {
			t.Errorf("%s: the error is %v", tt.name, Crowding(tt.in, tt.err))
		}
	}
}
