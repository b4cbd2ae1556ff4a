package plan

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
)

// immutableWords are what Kubernetes' own validation says of a field that cannot change any more.
// The rules of a CRD say "immutable".
var immutableWords = regexp.MustCompile(`(?i)immutable|may not change once set|may not be changed in an update|` +
	`cannot change roleRef|updates to .* are forbidden|updates may not (change|add|remove)|cannot be changed|cannot be updated`)

// deniedWords are what the API server puts before the words of a webhook and of a ValidatingAdmissionPolicy.
var deniedWords = regexp.MustCompile(`admission webhook "[^"]*" denied the request|` +
	`ValidatingAdmissionPolicy '[^']*'( with binding '[^']*')? denied request|admission request denied by policy`)

// Denied reports whether admission refused a write, and not the validation of its kind.
func Denied(err error) bool { return deniedWords.MatchString(err.Error()) }

// Immutable returns the fields whose change the API server refused because they are immutable.
// It returns nil if anything else was wrong as well: recreating the object would not help.
// The word of a webhook or of a policy does not count, whatever it is: who denies an update, as in a freeze,
// must not find the object deleted and created instead.
func Immutable(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || Denied(err) {
		return nil
	}
	st := status.Status()
	if st.Details == nil {
		return nil
	}
	var fields []string
	for _, c := range st.Details.Causes {
		if !immutableWords.MatchString(c.Message) {
			return nil
		}
		field := c.Field
		if field == "" || field == "<nil>" {
			field = "a field"
		}
		fields = append(fields, field)
	}
	slices.Sort(fields)
	return slices.Compact(fields)
}

// Rejected says what follows when the API server refused to write an object.
// It reports false for a refusal that is none of its business.
// Recreation is for immutable fields only, and only where the object asks for it.
func Rejected(in Input, err error) (Step, bool) {
	fields := Immutable(err)
	if fields == nil || in.Sight != Present || in.Live == nil {
		return Step{}, false
	}
	s := Step{Object: api.RefOf(in.Desired)}
	asked, ours := forced(in), owned(in)
	// What a claim holds is lost with it: only Git may ask for that.
	inGit := annotated(in.Desired, api.AnnotationForce, api.ValueEnabled)
	kept := cmp.Or(api.Keeps(in.Desired.GetAnnotations()), api.Keeps(in.Live.GetAnnotations()))
	if asked && ours && kept == "" && !irreplaceable(s.Object) && (inGit || !Protected(s.Object)) {
		s.Next, s.Action = Recreate, api.Recreated
		s.Reason = "immutable " + strings.Join(fields, ", ") + " changed, and " + api.AnnotationForce + " is enabled"
		return s, true
	}
	hint := fmt.Sprintf("the annotation %s: %s in Git lets flotilla delete and create it anew", api.AnnotationForce, api.ValueEnabled)
	if asked && !ours {
		hint = "it was not made by flotilla, which does not delete it: delete it by hand, or give it another name in Git"
	}
	if kept != "" {
		hint = fmt.Sprintf("the annotation %s keeps it from being deleted and created anew", kept)
	}
	if irreplaceable(s.Object) {
		hint = "flotilla never recreates this kind: everything in it would be lost"
	}
	s.Action, s.Reason = api.Failed, "immutable "+strings.Join(fields, ", ")+" changed"
	s.Err = &api.Error{
		Kind: api.Stalled, Reason: "ImmutableField", Field: fields[0], Hint: hint,
		Err: fmt.Errorf("%s: %s cannot be changed: %w", s.Object, strings.Join(fields, ", "), refused{err}),
	}
	return s, true
}

// forced reports whether the object asks, in Git or on the cluster, to be made as in Git at the price of what others did.
func forced(in Input) bool {
	return annotated(in.Desired, api.AnnotationForce, api.ValueEnabled) || annotated(in.Live, api.AnnotationForce, api.ValueEnabled)
}

// owned reports whether the live object is ours. What somebody else made is not ours to delete, whatever Git says of its name.
func owned(in Input) bool {
	return ownerOf(in.Live, in.Bundle).bundle != "" || in.Entry != nil && in.Entry.UID != "" && in.Entry.UID == string(in.Live.GetUID())
}

// Crowded reports whether the API server may have refused what Git says only because of what tools like kubectl added
// beside it, such as a port under the name of ours, and whether that may go: only where the object asks to be forced.
// Nothing but two items that cannot stand beside each other is such a refusal: see Duplicate.
func Crowded(in Input, err error) bool {
	return crowd(in, err) != "" && forced(in) && owned(in)
}

// crowd names the managers whose additions a refusal can be about; empty if it cannot.
func crowd(in Input, err error) string {
	if !Duplicate(err) || in.Sight != Present || in.Live == nil || ssaMode(in) == ssaMerge {
		return ""
	}
	var names []string
	for _, e := range in.Live.GetManagedFields() {
		if Adopted(e, in.Drift) && !Spared(e.Manager, RulesFor(api.RefOf(in.Desired), in.Drift)) {
			names = append(names, e.Manager)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// Crowding is a refusal with the way out, where what others added can be what it is about; else the refusal as it is.
func Crowding(in Input, err error) error {
	names := crowd(in, err)
	if r, ok := MakeRoom(in, err); ok && names == "" {
		names = strings.Join(r.Of, ", ")
	}
	if names == "" || forced(in) {
		return err
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "Invalid", Err: fmt.Errorf("%s: %w", api.RefOf(in.Desired), err),
		Hint: fmt.Sprintf("what %s added is in its place: the annotation %s: %s, or drift.extra: remove, takes that away",
			names, api.AnnotationForce, api.ValueEnabled),
	}
}

// Duplicate reports whether two items of a list are all that is wrong. The ports of nodes are checked apart, and told in other words.
func Duplicate(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	st := status.Status()
	if st.Details == nil || len(st.Details.Causes) == 0 {
		return strings.Contains(st.Message, "duplicate nodePort")
	}
	return !slices.ContainsFunc(st.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Type != metav1.CauseTypeFieldValueDuplicate && !strings.Contains(c.Message, "duplicate nodePort")
	})
}

// refused is an error of the API server without the values that it repeats:
// they can be thousands of bytes, after which nobody reads what is to be done.
type refused struct{ err error }

func (r refused) Error() string {
	var status apierrors.APIStatus
	if !errors.As(r.err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return r.err.Error()
	}
	msg := status.Status().Details.Causes[0].Message
	if i := strings.LastIndex(msg, ": "); i >= 0 {
		return msg[i+2:]
	}
	return msg
}

func (r refused) Unwrap() error { return r.err }

// irreplaceable objects are never recreated: their deletion deletes all that they hold.
func irreplaceable(ref api.ObjectRef) bool {
	return Protected(ref) && ref.Kind != "PersistentVolumeClaim"
}
