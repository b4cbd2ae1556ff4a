package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// When something that resolves itself is tried again: soon, where it most often takes no longer than a start
// of a Pod or a write by another bundle. Whoever tries again and again does so less and less often.
const (
	WaitAgain = 5 * time.Second
	waitSoon  = time.Second
)

// Reasons of errors that somebody asks for.
const (
	// ReasonKindMissing: nothing serves the object's kind, or not in its version.
	ReasonKindMissing = "KindMissing"
	// ReasonNamespaceMissing: there is no such namespace.
	ReasonNamespaceMissing = "NamespaceMissing"
	// ReasonSchemaMismatch: the object does not fit its schema.
	ReasonSchemaMismatch = "SchemaMismatch"
	// ReasonInvalid: the API server found something wrong with the object.
	ReasonInvalid = "Invalid"
	// ReasonConflict: the object changed meanwhile.
	ReasonConflict = "Conflict"
)

// untyped is how server-side apply says that an object does not fit its schema; it comes as an internal error.
var untyped = regexp.MustCompile(`failed to create typed patch object[^:]*:(?: errors:)?\s+(\.[^\s:]+): `)

// Classify turns an error of the API server, or of the way to it, into one that says what it asks for.
// The object is named; an error that is classified already keeps its kind.
func Classify(ref api.ObjectRef, origin string, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*api.Error](err); ok {
		if error(known) != err || known.File != "" { //nolint:errorlint // only the outermost is completed
			return err
		}
		c := *known
		c.File = origin
		return &c
	}
	e := &api.Error{File: origin}
	e.Kind, e.Reason = KindOf(err)
	switch e.Reason {
	case ReasonKindMissing:
		e.Hint = "no CRD or API server offers this kind yet"
	case ReasonSchemaMismatch:
		if m := untyped.FindStringSubmatch(err.Error()); m != nil {
			e.Field = strings.TrimPrefix(m[1], ".")
		}
	case ReasonInvalid:
		var st apierrors.APIStatus
		if errors.As(err, &st) && st.Status().Details != nil && len(st.Status().Details.Causes) > 0 {
			if f := st.Status().Details.Causes[0].Field; f != "<nil>" {
				e.Field = f
			}
		}
	}
	if e.Err = fmt.Errorf("%s: %w", ref, err); isSecret(ref) && !valueless[e.Reason] {
		e.Err = fmt.Errorf("%s: %s", ref, withheld(err))
		if e.Reason == ReasonSchemaMismatch {
			e.Hint = "values below data are strings of base64; plain text goes below stringData, as a string too"
		}
	}
	if e.Kind == api.Waiting {
		e.After = WaitAgain
		if e.Reason == "WebhookNotReady" || e.Reason == ReasonNamespaceMissing {
			e.After = waitSoon
		}
	}
	return e
}

func isSecret(ref api.ObjectRef) bool { return ref.Group == "" && ref.Kind == "Secret" }

// valueless are the reasons of errors that repeat nothing of what an object holds.
var valueless = map[string]bool{
	"Cancelled": true, "WebhookNotReady": true, ReasonKindMissing: true, ReasonNamespaceMissing: true, "NamespaceTerminating": true, "KindTerminating": true,
	"QuotaExceeded": true, "AccessDenied": true, ReasonConflict: true, "TooManyRequests": true, "Timeout": true, "Unreachable": true, "NotFound": true,
}

// withheld is an error about a Secret in words that may be shown: the API server, and what it asks, quote the values that they refuse.
// The error itself goes no further: somebody would print it.
func withheld(err error) string {
	const instead = "the API server's words may hold values of the Secret and are withheld"
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err.Error() // it is of our own making, or of the way to the API server
	}
	if text, quotes := err.Error(), status.Status().Message; quotes != "" && strings.Contains(text, quotes) {
		return strings.ReplaceAll(text, quotes, instead)
	}
	return instead
}

// IsConflict reports whether an object changed between a look at it and a write.
func IsConflict(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Reason == ReasonConflict || apierrors.IsConflict(err)
}

// KindOf is the table from the API server's answers to kinds.
func KindOf(err error) (api.ErrorKind, string) {
	msg := err.Error()
	switch {
	case errors.Is(err, context.Canceled):
		return api.Transient, "Cancelled"
	case strings.Contains(msg, "failed calling webhook"):
		return api.Waiting, "WebhookNotReady"
	case strings.Contains(msg, "failed to create typed patch object"):
		return api.Stalled, ReasonSchemaMismatch
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err) && strings.Contains(msg, "could not find the requested resource"):
		return api.Waiting, ReasonKindMissing
	case apierrors.IsNotFound(err) && strings.Contains(msg, `namespaces "`):
		return api.Waiting, ReasonNamespaceMissing
	case apierrors.HasStatusCause(err, corev1NamespaceTerminating):
		return api.Waiting, "NamespaceTerminating"
	case apierrors.IsForbidden(err) && strings.Contains(msg, "custom resource definition is terminating"):
		return api.Waiting, "KindTerminating"
	case plan.Denied(err):
		return api.Forbidden, "AdmissionDenied"
	case apierrors.IsForbidden(err) && strings.Contains(msg, "exceeded quota"):
		return api.Forbidden, "QuotaExceeded"
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return api.Forbidden, "AccessDenied"
	case apierrors.IsInvalid(err):
		return api.Stalled, ReasonInvalid
	case apierrors.IsBadRequest(err), apierrors.IsMethodNotSupported(err), apierrors.IsRequestEntityTooLargeError(err),
		apierrors.IsUnsupportedMediaType(err), apierrors.IsNotAcceptable(err):
		return api.Stalled, "Refused"
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return api.Transient, ReasonConflict
	case apierrors.IsTooManyRequests(err):
		return api.Transient, "TooManyRequests"
	case apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return api.Transient, "Timeout"
	case apierrors.IsInternalError(err), apierrors.IsServiceUnavailable(err), apierrors.IsUnexpectedServerError(err):
		return api.Transient, "ServerError"
	case unreachable(err):
		return api.Transient, "Unreachable"
	case apierrors.IsNotFound(err), apierrors.IsGone(err):
		return api.Transient, "NotFound"
	}
	return api.Internal, "Unexpected"
}

const corev1NamespaceTerminating metav1.CauseType = "NamespaceTerminating"

func unreachable(err error) bool {
	var op net.Error
	return errors.As(err, &op) || utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) ||
		utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err)
}

// worst orders kinds by which one a whole bundle's error should show.
var worst = map[api.ErrorKind]int{api.Internal: 5, api.Transient: 4, api.Waiting: 3, api.Forbidden: 2, api.Stalled: 1}

// Join makes one error of the errors of a bundle's objects. Its kind is the one that is tried again soonest:
// as long as one object's error may go away by itself, the bundle is tried again.
func Join(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	lead := 0
	for i, err := range errs {
		was, is := worst[api.KindOf(errs[lead])], worst[api.KindOf(err)]
		if is > was || is == was && wait(err) < wait(errs[lead]) {
			lead = i
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	// The kind of a joined error is that of the first api.Error in it.
	ordered := append([]error{errs[lead]}, errs[:lead]...)
	ordered = append(ordered, errs[lead+1:]...)
	return &objectsError{ordered}
}

// wait is when an error is worth another try, by its own word.
func wait(err error) time.Duration {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.After
	}
	return 0
}

// maxErrors bounds how many objects an error names.
const maxErrors = 20

// objectsError are the errors of several objects of one bundle.
type objectsError struct{ errs []error }

func (e *objectsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d objects failed: ", len(e.errs))
	for i, err := range e.errs {
		if i == maxErrors {
			fmt.Fprintf(&b, "; and %d more", len(e.errs)-maxErrors)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

// Unwrap returns the objects' errors.
func (e *objectsError) Unwrap() []error { return e.errs }

// ErrGone says that an object was deleted between two requests about it.
var ErrGone = errors.New("it disappeared meanwhile")
