package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// An error about a Secret says what is wrong where, and never a value; one about anything else says all.
func TestClassifyWithholdsValuesOfSecrets(t *testing.T) {
	t.Parallel()
	secrets, kind := schema.GroupResource{Resource: "secrets"}, schema.GroupKind{Kind: "Secret"}
	typed := func(what string) error {
		return apierrors.NewInternalError(errors.New(`failed to create typed patch object (ns/s; /v1, Kind=Secret): ` + what))
	}
	for name, tt := range map[string]struct {
		err    error
		reason string
		field  string
		quotes bool // it holds a value
	}{
		"one field":        {typed(`.data.db: expected string, got &value{"hunter2"}`), "SchemaMismatch", "data.db", true},
		"two fields":       {typed("errors:\n  .data.db: expected string, got hunter2\n  .data.pin: expected string, got 1"), "SchemaMismatch", "data.db", true},
		"invalid":          {apierrors.NewInvalid(kind, "s", field.ErrorList{field.Invalid(field.NewPath("data").Key("a"), "hunter2", "no")}), "Invalid", "data[a]", true},
		"bad request":      {apierrors.NewBadRequest("cannot parse hunter2"), "Refused", "", true},
		"a webhook":        {&apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: `admission webhook "w.x" denied the request: hunter2 is weak`}}, "AdmissionDenied", "", true},
		"somebody else's":  {&apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusTeapot, Message: "hunter2"}}, "Unexpected", "", true},
		"no rights":        {apierrors.NewForbidden(secrets, "s", errors.New("User u cannot patch")), "AccessDenied", "", false},
		"of no API server": {errors.New("somewhere a pipe broke"), "Unexpected", "", false},
	} {
		for _, ref := range []api.ObjectRef{{Version: "v1", Kind: "Secret", Namespace: "ns", Name: "s"}, {Group: "x.io", Version: "v1", Kind: "Secret", Namespace: "ns", Name: "s"}} {
			err := kube.Classify(ref, "app/s.yaml", fmt.Errorf("recreate: create: %w", tt.err))
			e := classified(t, err)
			if e.Reason != tt.reason || e.Field != tt.field || e.File != "app/s.yaml" || !strings.Contains(err.Error(), ref.String()+": recreate: create: ") {
				t.Errorf("%s: %+v: %v", name, e, err)
			}
			tells := strings.Contains(err.Error(), tt.err.Error())
			if withholds := tt.quotes && ref.Group == ""; tells == withholds || withholds && strings.Contains(fmt.Sprintf("%v %#v", err, err), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What is refused while something goes is tried again soon, because it passes by itself.
func TestClassifyWaitsForWhatGoes(t *testing.T) {
	t.Parallel()
	ref := api.ObjectRef{Group: "x.io", Version: "v1", Kind: "Thing", Namespace: "ns", Name: "one"}
	things := schema.GroupResource{Group: "x.io", Resource: "things"}
	ending := apierrors.NewForbidden(things, "one", errors.New("unable to create new content in namespace ns because it is being terminated"))
	ending.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: "NamespaceTerminating"}}
	for reason, err := range map[string]error{
		"NamespaceTerminating": ending,
		"KindTerminating":      apierrors.NewForbidden(things, "one", errors.New("create not allowed while custom resource definition is terminating")),
		"KindMissing":          &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource"}},
	} {
		if e := classified(t, kube.Classify(ref, "app/x.yaml", err)); e.Kind != api.Waiting || e.Reason != reason || e.After <= 0 {
			t.Errorf("%s: %+v", reason, e)
		}
	}
}

// classified is the first api.Error in err.
func classified(t *testing.T, err error) *api.Error {
	t.Helper()
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		t.Fatalf("error %v is not an api.Error", err)
	}
	return e
}
