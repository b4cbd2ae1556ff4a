package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// AnnotationActor names who ordered a suspension, where spec.actor does not.
const AnnotationActor = Group + "/actor"

// DecodeSuspension reads a Suspension object, its end in the API server's time.
// With an error the suspension that comes with it is the careful reading:
// it covers everything if the scope cannot be read, ends DefaultSuspendMax after it was made
// if the end cannot be read, and says in its reason what is wrong.
func DecodeSuspension(u *unstructured.Unstructured) (Suspension, error) {
	spec, _ := u.Object["spec"].(map[string]any)
	s := Suspension{Name: u.GetName(), Created: u.GetCreationTimestamp().UTC()}
	s.Reason, _ = spec["reason"].(string)
	s.Actor, _ = spec["actor"].(string)
	if s.Actor == "" {
		s.Actor = u.GetAnnotations()[AnnotationActor]
	}
	var errs []error
	until, _ := spec["until"].(string)
	at, err := time.Parse(time.RFC3339, until)
	s.Until = at.UTC()
	if err != nil {
		errs = append(errs, fmt.Errorf("until %q is not a time such as 2030-01-31T10:00:00Z", until))
		s.Until = s.Created.Add(DefaultSuspendMax)
	}
	if err := decodeScope(spec["scope"], &s.Scope); err != nil {
		errs = append(errs, fmt.Errorf("scope: %w", err))
		s.Scope = Scope{All: true}
	}
	if s.Reason == "" {
		errs = append(errs, errors.New("a suspension needs a reason"))
	}
	if len(errs) == 0 {
		return s, nil
	}
	err = &Error{Kind: Stalled, Reason: ReasonBadSuspension, Err: fmt.Errorf("Suspension %q cannot be read: %w", s.Name, errors.Join(errs...))}
	s.Reason = strings.TrimSpace(fmt.Sprintf("%s (%v)", s.Reason, err))
	return s, err
}

func decodeScope(v any, into *Scope) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	return into.Validate()
}
