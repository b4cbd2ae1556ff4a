package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// suspensions is where the Suspensions are.
func suspensions() (kube.Collection, error) {
	return kube.Address{Group: api.Group, Version: api.Version, Resource: "suspensions"}.Collection()
}

// suspensionObject is a Suspension as the cluster holds it.
type suspensionObject struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   suspensionMeta `json:"metadata"`
	Spec       suspensionSpec `json:"spec"`
}

type suspensionMeta struct {
	Name              string    `json:"name,omitempty"`
	GenerateName      string    `json:"generateName,omitempty"`
	CreationTimestamp time.Time `json:"creationTimestamp,omitzero"`
}

type suspensionSpec struct {
	Scope  api.Scope `json:"scope"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
	Actor  string    `json:"actor,omitempty"`
}

// Suspensions reads the suspensions on the cluster, expired ones included.
// A cluster without the CRD has none. One that cannot be understood is read carefully
// (see api.DecodeSuspension) and comes together with an error whose reason is api.ReasonBadSuspension.
//
// Ends are given in our own time: if our clock differs from the API server's, they are moved,
// so that a wrong clock on our side neither ends nor prolongs a suspension.
func (c *Client) Suspensions(ctx context.Context) (api.Suspensions, error) {
	in, err := suspensions()
	if err != nil {
		return nil, err
	}
	var out api.Suspensions
	var bad []error
	err = c.server.Own.List(ctx, in, kube.Selector{}, "", func(o *unstructured.Unstructured) {
		s, err := c.suspension(o)
		if err != nil {
			bad = append(bad, err)
		}
		out = append(out, s)
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Classify(api.ObjectRef{Group: api.Group, Kind: api.KindSuspension, Name: "*"}, "", err)
	}
	slices.SortFunc(out, func(x, y api.Suspension) int { return strings.Compare(x.Name, y.Name) })
	return out, errors.Join(bad...)
}

// suspension reads one Suspension object, its end in our own time.
func (c *Client) suspension(o *unstructured.Unstructured) (api.Suspension, error) {
	s, err := api.DecodeSuspension(o)
	s.Until = s.Until.Add(-c.server.ClockSkew())
	return s, err
}

// Suspend creates a suspension and returns it as stored.
// Without a name it gets one; without an actor, the name that the API server knows us by.
// The end is given in our own time. One that has ended by the API server's time is an error.
func (c *Client) Suspend(ctx context.Context, s api.Suspension) (api.Suspension, error) {
	if err := cmp.Or(s.Scope.Validate(), s.CheckNames()); err != nil {
		return api.Suspension{}, &api.Error{Kind: api.Stalled, Reason: api.ReasonBadSuspension, Err: err}
	}
	in, err := suspensions()
	if err != nil {
		return api.Suspension{}, err
	}
	// The end is moved into the API server's time, which any answer tells, even a refusal.
	// Where there is none, the create below says why.
	_, _ = c.server.Version(ctx)
	if s.Actor == "" {
		s.Actor = c.whoAmI(ctx)
	}
	obj := suspensionObject{
		APIVersion: api.APIVersion, Kind: api.KindSuspension,
		Metadata: suspensionMeta{Name: s.Name},
		Spec:     suspensionSpec{Scope: s.Scope, Reason: s.Reason, Until: s.Until.Add(c.server.ClockSkew()).UTC().Truncate(time.Second), Actor: s.Actor},
	}
	if s.Name == "" {
		obj.Metadata.GenerateName = "suspension-"
	}
	ref := api.ObjectRef{Group: api.Group, Version: api.Version, Kind: api.KindSuspension, Name: s.Name}
	raw, err := c.server.Own.Create(ctx, in, obj, "")
	if err != nil {
		return api.Suspension{}, kube.Classify(ref, "", err)
	}
	stored, err := kube.Decode(raw)
	if err != nil {
		return api.Suspension{}, err
	}
	made, err := api.DecodeSuspension(stored) // in the API server's time
	if err == nil && !made.Until.After(made.Created) {
		err = &api.Error{
			Kind: api.Stalled, Reason: "SuspensionEnded",
			Err: fmt.Errorf("the suspension would end at %s, and the API server's clock says %s: nothing is suspended",
				made.Until.Format(time.RFC3339), made.Created.Format(time.RFC3339)),
		}
	}
	if err != nil {
		// What holds nothing, or not what was meant, must not stay behind.
		return api.Suspension{}, errors.Join(err, c.Resume(ctx, made.Name))
	}
	return c.suspension(stored)
}

// Resume deletes a suspension. One that is gone already is no error.
func (c *Client) Resume(ctx context.Context, name string) error {
	ref := api.ObjectRef{Group: api.Group, Version: api.Version, Kind: api.KindSuspension, Name: name}
	err := api.CheckSuspensionName(name)
	if err != nil {
		return err
	}
	at, err := kube.PlaceOf(ref, "suspensions")
	if err == nil {
		err = c.server.Own.Delete(ctx, at, "")
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return kube.Classify(ref, "", err)
}

// whoAmI is the user name that the API server knows us by; empty if it does not tell.
func (c *Client) whoAmI(ctx context.Context) string {
	reviews, err := kube.Address{Group: "authentication.k8s.io", Version: "v1", Resource: "selfsubjectreviews"}.Collection()
	if err != nil {
		return ""
	}
	raw, err := c.server.Own.Create(ctx, reviews,
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}, "")
	if err != nil {
		return ""
	}
	o, err := kube.Decode(raw)
	if err != nil {
		return ""
	}
	name, _, _ := unstructured.NestedString(o.Object, "status", "userInfo", "username")
	return name
}
