package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/flotilla-fleet/flotilla/api"
)

// guard asks both guards, as a pass does.
func guard(total int, deletions []Deletion, guards api.Guards) error {
	return cmp.Or(GuardProtected(deletions, guards), GuardShare(total, deletions, guards))
}

func TestGuard(t *testing.T) {
	del := func(bundle, kind string, n int) []Deletion {
		var out []Deletion
		for i := range n {
			out = append(out, Deletion{bundle, api.ObjectRef{Kind: kind, Name: fmt.Sprint(i)}})
		}
		return out
	}
	percent := func(p int) *int { return &p }
	crd := Deletion{"b", api.ObjectRef{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: "x"}}
	tests := []struct {
		name   string
		total  int
		del    []Deletion
		guards api.Guards
		reason string // "" is allowed
	}{
		{"nothing", 100, nil, api.Guards{}, ""},
		{"few of few", 5, del("b", "ConfigMap", 5), api.Guards{}, ""},
		{"just allowed", 100, del("b", "ConfigMap", 30), api.Guards{}, ""},
		{"too many", 100, del("b", "ConfigMap", 31), api.Guards{}, "MassDeletion"},
		{"everything", 6, del("b", "ConfigMap", 6), api.Guards{}, "MassDeletion"},
		{"own share", 100, del("b", "ConfigMap", 31), api.Guards{MaxDeletePercent: percent(50)}, ""},
		{"share of none", 100, del("b", "ConfigMap", 6), api.Guards{MaxDeletePercent: percent(0)}, "MassDeletion"},
		{"allowed bundle", 100, del("b", "ConfigMap", 90), api.Guards{AllowDelete: []string{"b"}}, ""},
		{"allowed bundle does not shield others", 100, append(del("b", "ConfigMap", 50), del("c", "ConfigMap", 40)...), api.Guards{AllowDelete: []string{"b"}}, "MassDeletion"},
		{"all allowed", 100, del("b", "Namespace", 100), api.Guards{AllowDelete: []string{"*"}}, ""},
		{"namespace", 100, del("b", "Namespace", 1), api.Guards{}, "ProtectedKind"},
		{"claim", 100, del("b", "PersistentVolumeClaim", 1), api.Guards{}, "ProtectedKind"},
		{"crd", 100, []Deletion{crd}, api.Guards{}, "ProtectedKind"},
		{"crd allowed", 100, []Deletion{crd}, api.Guards{AllowDelete: []string{"b"}}, ""},
		{"namesake of another group", 100, []Deletion{{"b", api.ObjectRef{Group: "x.io", Kind: "Namespace", Name: "x"}}}, api.Guards{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := guard(tt.total, tt.del, tt.guards)
			if tt.reason == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.Forbidden || e.Reason != tt.reason || !strings.Contains(e.Hint, "spec.guards.allowDelete") {
				t.Errorf("got %+v, want %s", err, tt.reason)
			}
		})
	}
}

func invalid(errs ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Thing"}, "x", errs)
}

func TestRejected(t *testing.T) {
	immutable := field.Invalid(field.NewPath("spec", "selector"), "v", "field is immutable")
	wrong := field.Invalid(field.NewPath("spec", "port"), 99999, "must be between 1 and 65535")
	statefulSet := field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas' are forbidden")
	force := api.AnnotationForce + "=enabled"
	ns := func(o string) Input {
		d := tObj(force)
		d.SetKind(o)
		if o == "CustomResourceDefinition" {
			d.SetAPIVersion("apiextensions.k8s.io/v1")
		}
		return Input{Desired: d, Sight: Present, Live: tLive("b")}
	}
	claim := func(in Input) Input {
		in.Desired.SetKind("PersistentVolumeClaim")
		return in
	}
	webhook := func(st metav1.Status) error {
		st.Message = `admission webhook "v.example.com" denied the request: spec.x is immutable`
		return &apierrors.StatusError{ErrStatus: st}
	}
	tests := []struct {
		name string
		in   Input
		err  error
		next Next
		ok   bool
	}{
		{"not asked for", Input{Desired: tObj(), Live: tLive("b")}, invalid(immutable), Done, true},
		{"asked for in Git", Input{Desired: tObj(force), Live: tLive("b")}, invalid(immutable), Recreate, true},
		{"asked for on the live object", Input{Desired: tObj(), Live: tLive("b", force)}, invalid(immutable), Recreate, true},
		{"what is not ours", Input{Desired: tObj(force), Live: tLive("")}, invalid(immutable), Done, true},
		{"another tool's", Input{Desired: tObj(force), Live: tLive("foreign")}, invalid(immutable), Done, true},
		{"its label was stripped", Input{Desired: tObj(force), Live: tLive(""), Entry: tEntry("old")}, invalid(immutable), Recreate, true},
		{"moved from another bundle", Input{Desired: tObj(force), Live: tLive("other")}, invalid(immutable), Recreate, true},
		{"kept in Git", Input{Desired: tObj(force, api.AnnotationPrune+"=disabled"), Live: tLive("b")}, invalid(immutable), Done, true},
		{"kept on the live object", Input{Desired: tObj(force), Live: tLive("b", api.AnnotationPrune+"=disabled")}, invalid(immutable), Done, true},
		{"kept by Helm", Input{Desired: tObj(force), Live: tLive("b", api.AnnotationHelmPolicy+"=keep")}, invalid(immutable), Done, true},
		{"a claim, in Git", claim(Input{Desired: tObj(force), Live: tLive("b")}), invalid(immutable), Recreate, true},
		{"a claim, on the live object", claim(Input{Desired: tObj(), Live: tLive("b", force)}), invalid(immutable), Done, true},
		{"only that word", Input{Desired: tObj(api.AnnotationForce + "=true"), Live: tLive("b")}, invalid(immutable), Done, true},
		{"StatefulSet", Input{Desired: tObj(force), Live: tLive("b")}, invalid(statefulSet), Recreate, true},
		{"validation error", Input{Desired: tObj(force), Live: tLive("b")}, invalid(wrong), Done, false},
		{"both", Input{Desired: tObj(force), Live: tLive("b")}, invalid(immutable, wrong), Done, false},
		{"conflict", Input{Desired: tObj(force), Live: tLive("b")}, apierrors.NewConflict(schema.GroupResource{}, "x", errors.New("immutable")), Done, false},
		{"server error", Input{Desired: tObj(force), Live: tLive("b")}, apierrors.NewInternalError(errors.New("immutable")), Done, false},
		{"RBAC", Input{Desired: tObj(force), Live: tLive("b")}, apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("no")), Done, false},
		{"webhook", Input{Desired: tObj(force), Live: tLive("b")}, webhook(metav1.Status{Reason: metav1.StatusReasonForbidden}), Done, false},
		{"webhook, as if it were validation", Input{Desired: tObj(force), Live: tLive("b")}, webhook(metav1.Status{
			Reason: metav1.StatusReasonInvalid, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: "spec.x", Message: "field is immutable"}}},
		}), Done, false},
		{"RBAC, of an object with that name", Input{Desired: tObj(force), Live: tLive("b")}, apierrors.NewForbidden(schema.GroupResource{}, "immutable", errors.New("no")), Done, false},
		{"not an API error", Input{Desired: tObj(force), Live: tLive("b")}, errors.New("field is immutable"), Done, false},
		{"nothing live", Input{Desired: tObj(force), Sight: Absent}, invalid(immutable), Done, false},
		{"namespace", ns("Namespace"), invalid(immutable), Done, true},
		{"crd", ns("CustomResourceDefinition"), invalid(immutable), Done, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.Live != nil {
				tt.in.Sight = Present
			}
			tt.in.Bundle = "b"
			s, ok := Rejected(tt.in, fmt.Errorf("wrapped: %w", tt.err))
			if s.Next != tt.next || ok != tt.ok {
				t.Fatalf("got %+v %v", s, ok)
			}
			if ok && tt.next == Done {
				var e *api.Error
				if !errors.As(s.Err, &e) || e.Kind != api.Stalled || e.Field == "" || e.Hint == "" {
					t.Errorf("error %+v does not name field and way out", s.Err)
				}
			}
		})
	}
}

func TestGate(t *testing.T) {
	refs := func(n int) []api.ObjectRef {
		var out []api.ObjectRef
		for i := range n {
			out = append(out, api.ObjectRef{Kind: "ConfigMap", Name: fmt.Sprint(i)})
		}
		return out
	}
	owned := map[string][]api.ObjectRef{"a": refs(7), "b": refs(3), "none": nil}
	none := func(api.ObjectRef) bool { return false }
	tests := []struct {
		name   string
		in     Outlook
		reason string // "" is allowed
	}{
		{"nothing at all", Outlook{Owned: owned, Claimed: none}, "EmptyRendering"},
		{"nothing at all, and nothing owned", Outlook{Claimed: none}, ""},
		{"nothing at all, since all is broken", Outlook{Owned: owned, Broken: map[string]bool{"": true}, Claimed: none}, ""},
		{"nothing at all, as one bundle may", Outlook{Owned: owned, Claimed: none, Guards: api.Guards{AllowDelete: []string{"a"}}}, "EmptyRendering"},
		{"nothing at all, as each bundle may", Outlook{Owned: owned, Claimed: none, Guards: api.Guards{AllowDelete: []string{"a", "b"}}}, ""},
		{"nothing at all, as all may", Outlook{Owned: owned, Claimed: none, Guards: api.Guards{AllowDelete: []string{"*"}}}, ""},
		{"nothing at all, as each bundle may render nothing", Outlook{Owned: owned, Claimed: none, MayBeEmpty: map[string]bool{"a": true, "b": true}}, "MassDeletion"},
		{"nothing at all, as one bundle may render nothing", Outlook{Owned: owned, Claimed: none, MayBeEmpty: map[string]bool{"a": true}}, "EmptyRendering"},
		{"nothing of a small bundle, which may", Outlook{Owned: map[string][]api.ObjectRef{"b": owned["b"]}, Claimed: none, MayBeEmpty: map[string]bool{"b": true}}, ""},
		{"too much", Outlook{Owned: owned, Rendered: 1, Claimed: none}, "MassDeletion"},
		{"what is claimed stays", Outlook{Owned: owned, Rendered: 1, Claimed: func(r api.ObjectRef) bool { return r.Name > "1" }}, ""},
		{"what a prune leaves stays", Outlook{Owned: owned, Rendered: 1, Claimed: none, Leaves: func(b string, _ api.ObjectRef) bool { return b == "a" }}, ""},
		{"a bundle that deletes nothing", Outlook{Owned: owned, Rendered: 1, Claimed: none, Keeps: func(b string) bool { return b == "a" }}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.in.Keeps == nil {
				tt.in.Keeps = func(string) bool { return false }
			}
			_, err := Gate(tt.in)
			e, _ := errors.AsType[*api.Error](err)
			switch {
			case tt.reason == "" && err != nil, tt.reason != "" && (e == nil || e.Reason != tt.reason || e.Kind != api.Forbidden):
				t.Errorf("got %v, want %q", err, tt.reason)
			}
		})
	}
}

// A tenant that would delete too much stops alone.
func TestGate_tenants(t *testing.T) {
	refs := func(bundle string, n int) []api.ObjectRef {
		var out []api.ObjectRef
		for i := range n {
			out = append(out, api.ObjectRef{Kind: "ConfigMap", Namespace: bundle, Name: fmt.Sprint(i)})
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		gone    string // bundles of which everything goes
		broken  map[string]bool
		allowed []string
		stopped string
		refused bool
	}{
		{"nothing goes", "", nil, nil, "", false},
		{"one tenant", "a", nil, nil, "a", false},
		{"one tenant that may", "a", nil, []string{"a"}, "", false},
		{"two tenants, one of them too much", "a b", nil, nil, "a", false},
		{"two tenants, too much together", "b c", nil, nil, "b c", false},
		{"a tenant, and a little of the platform's", "a small", nil, nil, "a", false},
		{"tenants, and too little of the platform's", "b c small", nil, nil, "b c", false},
		{"the platform", "big", nil, nil, "", true},
		{"the platform, and a tenant", "a big", nil, nil, "", true},
		{"a tenant of which nothing is deleted, for it is broken", "a", map[string]bool{"a": true}, nil, "", false},
		{"the platform, beside a tenant that is broken", "big", map[string]bool{"a": true}, nil, "", true},
		{"the platform is broken", "a big", map[string]bool{"": true}, nil, "", false},
	} {
		stopped, err := Gate(Outlook{
			Rendered: 1, Broken: tt.broken, Guards: api.Guards{AllowDelete: tt.allowed},
			Owned: map[string][]api.ObjectRef{"a": refs("a", 40), "b": refs("b", 20), "c": refs("c", 20), "small": refs("small", 5), "big": refs("big", 40)},
			Keeps: func(string) bool { return false },
			Tenant: func(bundle string) string {
				if len(bundle) > 1 {
					return ""
				}
				return bundle
			},
			Claimed: func(r api.ObjectRef) bool { return !slices.Contains(strings.Fields(tt.gone), r.Namespace) },
		})
		if got := strings.Join(slices.Sorted(maps.Keys(stopped)), " "); got != tt.stopped || (err != nil) != tt.refused {
			t.Errorf("%s: stopped are %q, and all: %v", tt.name, got, err)
		}
		for tenant, err := range stopped {
			if api.KindOf(err) != api.Forbidden {
				t.Errorf("%s: tenant %s: %v", tt.name, tenant, err)
			}
		}
	}
}
