package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
)

// Live reads an object as it stands. It returns nil if there is none, or if the cluster does not have its kind.
func (s *Server) Live(ctx context.Context, ref api.ObjectRef) (*unstructured.Unstructured, error) {
	at, err := s.Kinds.Place(ref)
	if err == nil {
		var live *unstructured.Unstructured
		if live, err = s.Own.Get(ctx, at, ""); err == nil {
			return live, nil
		}
	}
	if apierrors.IsNotFound(err) || ReasonOf(err) == ReasonKindMissing {
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	return nil, Classify(ref, "", err)
}

// KindGone returns nil if the server really does not have a kind that discovery did not find (cause).
// Discovery leaves out a group whose API server is down; its objects are still there.
func (s *Server) KindGone(ctx context.Context, ref api.ObjectRef, cause error) error {
	if ReasonOf(cause) != ReasonKindMissing {
		return cause
	}
	if ref.Group == "" {
		return nil
	}
	var group metav1.APIGroup
	if err := s.ask(ctx, ref.Group, "", &group); err != nil {
		return ignoreNotFound(err)
	}
	for _, v := range group.Versions {
		var list metav1.APIResourceList
		if err := ignoreNotFound(s.ask(ctx, ref.Group, v.Version, &list)); err != nil {
			return err
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == ref.Kind }) {
			return unserved(ref)
		}
	}
	return nil
}

// unserved is the error about an object whose kind is served, and not where it was looked for. It is no "not found".
func unserved(ref api.ObjectRef) error {
	return &api.Error{
		Kind: api.Waiting, Reason: ReasonKindMissing, After: WaitAgain,
		Err: fmt.Errorf("%s is not served in version %s, and in which one it is is not known yet", ref.Kind, ref.Version),
	}
}

// ask reads what discovery tells of a group, or of one version of it.
func (s *Server) ask(ctx context.Context, group, version string, into any) error {
	req, err := Discovery(s.Own.rest.Get(), group, version)
	if err != nil {
		return err
	}
	raw, _, err := send(ctx, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Find reads the object of an identity, in whatever version the server has of its kind: what was applied in one
// that its CRD has dropped is still there. The error is NotFound if there is no such object, or no such kind any more.
func (s *Server) Find(ctx context.Context, c *Client, ref api.ObjectRef, accept string) (Place, *unstructured.Unstructured, error) {
	at, err := s.Kinds.Place(ref)
	if err == nil {
		var live *unstructured.Unstructured
		if live, err = c.Get(ctx, at, accept); err == nil {
			return at, live, nil
		}
	}
	switch {
	case isImpossible(err):
		return at, nil, apierrors.NewNotFound(GroupResource(ref), ref.Name) // no API server has it
	case ReasonOf(err) != ReasonKindMissing:
		return at, nil, err
	}
	gk := ref.GVK().GroupKind()
	s.Kinds.Forget(gk)
	s.Kinds.refresh()
	gvk, _, perr := s.Kinds.Preferred(gk)
	if perr != nil || gvk.Version == ref.Version {
		// One whose API server does not answer may have objects.
		if err := s.KindGone(ctx, ref, err); err != nil {
			return at, nil, err
		}
		return at, nil, apierrors.NewNotFound(GroupResource(ref), ref.Name)
	}
	ref.Version = gvk.Version
	if at, err = s.Kinds.Place(ref); err != nil {
		return at, nil, err
	}
	live, err := c.Get(ctx, at, accept)
	if ReasonOf(err) == ReasonKindMissing {
		err = unserved(ref)
	}
	return at, live, err
}

func isImpossible(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Reason == api.ReasonImpossibleName
}

// Preferred returns the version of a kind that the server prefers, and its address.
func (k *Kinds) Preferred(gk schema.GroupKind) (schema.GroupVersionKind, Mapping, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.mapper.RESTMapping(gk)
	if err != nil {
		k.mapper.Reset()
		if m, err = k.mapper.RESTMapping(gk); err != nil {
			return schema.GroupVersionKind{}, Mapping{}, err
		}
	}
	return m.GroupVersionKind, Mapping{m.Resource.Resource, m.Scope.Name() == "namespace"}, nil
}

// ReasonOf is the reason of an error, and empty for none.
func ReasonOf(err error) string {
	if err == nil {
		return ""
	}
	_, reason := KindOf(err)
	return reason
}
