package api

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Suspension is a break-glass order: do not correct this scope until then, because of the reason.
// On a cluster it is a cluster-scoped object of the Suspension CRD.
type Suspension struct {
	// Name is the object's name; "git" for the one in Cluster.spec.suspend.
	Name   string    `json:"name"`
	Scope  Scope     `json:"scope"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
	// Actor is who ordered it, as the creator says or as the API server recorded.
	Actor string `json:"actor,omitempty"`
	// Created is when it was ordered.
	Created time.Time `json:"created"`
}

// Reasons of errors about a name that a cluster does not know.
const (
	ReasonNoSuchSuspension = "NoSuchSuspension"
	ReasonNoSuchBundle     = "NoSuchBundle"
	ReasonNoSuchObject     = "NoSuchObject"
)

// GitSuspension is the name of the suspension that Cluster.spec.suspend makes.
const GitSuspension = "git"

// Scope is what a suspension covers. Exactly one of the three is set.
type Scope struct {
	All     bool        `json:"all,omitempty"`
	Bundles []string    `json:"bundles,omitempty"`
	Objects []ObjectRef `json:"objects,omitempty"`
}

// Validate reports what is wrong with a suspension made at now,
// where limit is the longest that is allowed (zero: DefaultSuspendMax).
func (s Suspension) Validate(now time.Time, limit time.Duration) error {
	if limit <= 0 {
		limit = DefaultSuspendMax
	}
	switch {
	case s.Reason == "":
		return errors.New("a suspension needs a reason")
	case s.Until.IsZero():
		return errors.New("a suspension needs an end (until)")
	case !s.Until.After(now):
		return fmt.Errorf("the suspension's end %s is in the past", s.Until.Format(time.RFC3339))
	case s.Until.Sub(now) > limit:
		return fmt.Errorf("the suspension would last %s, and the fleet allows at most %s",
			s.Until.Sub(now).Round(time.Second), limit)
	}
	if err := s.Scope.Validate(); err != nil {
		return err
	}
	return s.CheckNames()
}

// Validate reports a scope that is empty or ambiguous.
func (s Scope) Validate() error {
	n := 0
	if s.All {
		n++
	}
	if len(s.Bundles) > 0 {
		n++
	}
	if len(s.Objects) > 0 {
		n++
	}
	if n != 1 {
		return errors.New("a suspension's scope is exactly one of all, bundles and objects")
	}
	for _, o := range s.Objects {
		if o.Kind == "" || o.Name == "" {
			return errors.New("an object in a suspension's scope needs a kind and a name")
		}
	}
	return nil
}

// Active reports whether the suspension holds at now.
func (s Suspension) Active(now time.Time) bool { return now.Before(s.Until) }

// Covers reports whether the scope holds an object of a bundle.
// An object in the scope that names no group matches its kind in any group.
func (s Scope) Covers(bundle string, ref ObjectRef) bool {
	if s.All || slices.Contains(s.Bundles, bundle) {
		return true
	}
	return slices.ContainsFunc(s.Objects, func(o ObjectRef) bool {
		return o.Kind == ref.Kind && o.Name == ref.Name && o.Namespace == ref.Namespace &&
			(o.Group == "" || o.Group == ref.Group)
	})
}

// CoversBundle reports whether the whole bundle is in the scope.
func (s Scope) CoversBundle(bundle string) bool {
	return s.All || slices.Contains(s.Bundles, bundle)
}

// String is for people.
func (s Scope) String() string {
	switch {
	case s.All:
		return "everything"
	case len(s.Bundles) > 0:
		return fmt.Sprintf("bundles %v", s.Bundles)
	default:
		return fmt.Sprintf("objects %v", s.Objects)
	}
}

// Suspensions is the set that is in force on a cluster.
type Suspensions []Suspension

// Find returns the active suspension with the latest end that covers an object of a bundle.
func (ss Suspensions) Find(now time.Time, bundle string, ref ObjectRef) (Suspension, bool) {
	var best Suspension
	ok := false
	for _, s := range ss {
		if s.Active(now) && s.Scope.Covers(bundle, ref) && (!ok || s.Until.After(best.Until)) {
			best, ok = s, true
		}
	}
	return best, ok
}
