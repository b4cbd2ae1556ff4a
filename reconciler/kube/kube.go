// Package kube is the way to one API server: where it has things, what it serves, and the requests to it.
//
// It promises that no name, wherever it comes from, reaches a place other than its own: each part of an address is
// checked before it becomes one segment of a URL's path, and the address of an object never is that of a collection.
// It promises, too, that every error says what it asks for: stop, wait, or try again (see Classify).
// It never decides about an object, and never says by itself what is written.
//
//	kube.go        addresses, and what narrows a list
//	server.go      the connection, and who speaks
//	client.go      requests as one identity, and the server's clock
//	await.go       waiting by a list and a watch
//	kinds.go       under which address a kind is served, and which namespace an object has
//	find.go        an object in whatever version it is served
//	autoscalers.go what sets the replicas of other objects
//	facts.go       what rendering may know of the cluster
//	fairness.go    sparing an API server that does not spare itself
//	errors.go      what an answer asks for
package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
)

// Address names a collection (without Name), an object, or a subresource of an object.
// Group is empty for the core group, and Namespace for what is cluster-scoped or for all namespaces.
type Address struct {
	Group, Version, Resource     string
	Namespace, Name, Subresource string
}

// Object is the checked address of one object, or of a subresource of it. Only Address.Object and Named make one;
// a request to the zero Object fails before it is sent.
type Object struct{ at Address }

// Collection is the checked address of all objects of a resource, in one namespace or in all.
// Only Address.Collection and Object.Collection make one; a request to the zero Collection fails before it is sent.
type Collection struct{ at Address }

// Object checks an address with a name.
// The error's kind is Stalled, and its reason api.ReasonImpossibleName, if no API server has such a place.
func (a Address) Object() (Object, error) {
	if err := a.check(); err != nil {
		return Object{}, err
	}
	return named(a, a.Name)
}

// Collection checks an address without a name; see Object for its errors.
func (a Address) Collection() (Collection, error) {
	if a.Name != "" || a.Subresource != "" {
		return Collection{}, fmt.Errorf("a collection of %s has no name of its own, such as %q", a.Resource, a.Name)
	}
	if err := a.check(); err != nil {
		return Collection{}, err
	}
	return Collection{a}, nil
}

// check looks at everything but the name.
func (a Address) check() error {
	if err := api.CheckGroup(a.Group); err != nil {
		return err
	}
	if err := api.CheckVersion(a.Version); err != nil {
		return err
	}
	if err := api.CheckResource(a.Resource); err != nil {
		return err
	}
	if a.Namespace != "" {
		if err := api.CheckNamespace(a.Namespace); err != nil {
			return err
		}
	}
	if a.Subresource != "" {
		return api.CheckResource(a.Subresource)
	}
	return nil
}

func named(a Address, name string) (Object, error) {
	if err := api.CheckName(name); err != nil {
		return Object{}, err
	}
	a.Name = name
	return Object{a}, nil
}

// Named is the address of another object of the same collection.
func (o Object) Named(name string) (Object, error) {
	a := o.at
	a.Subresource = ""
	return named(a, name)
}

// Name is the object's.
func (o Object) Name() string { return o.at.Name }

// Collection is where the object is listed and created.
func (o Object) Collection() Collection {
	a := o.at
	a.Name, a.Subresource = "", ""
	return Collection{a}
}

// On sends a request to the object.
func (o Object) On(r *rest.Request) *rest.Request {
	// An empty name, which the zero Object has, is an error of the request.
	r = o.Collection().On(r).Name(o.at.Name)
	if o.at.Subresource != "" {
		r = r.SubResource(o.at.Subresource)
	}
	return r
}

// On sends a request to the collection.
func (c Collection) On(r *rest.Request) *rest.Request {
	if c.at.Group == "" {
		r = r.AbsPath("api", c.at.Version)
	} else {
		r = r.AbsPath("apis", c.at.Group, c.at.Version)
	}
	if c.at.Namespace != "" {
		r = r.Namespace(c.at.Namespace)
	}
	if c.at.Resource == "" {
		return r.Name("") // the zero Collection: an error of the request
	}
	return r.Resource(c.at.Resource)
}

// Discovery sends a request to what an API server tells of a group other than the core group, or of one version of it.
func Discovery(r *rest.Request, group, version string) (*rest.Request, error) {
	if err := api.CheckName(group); err != nil {
		return nil, err
	}
	if err := api.CheckGroup(group); err != nil {
		return nil, err
	}
	if version == "" {
		return r.AbsPath("apis", group), nil
	}
	if err := api.CheckVersion(version); err != nil {
		return nil, err
	}
	return r.AbsPath("apis", group, version), nil
}

// serverVersion sends a request to what an API server tells of itself.
func serverVersion(r *rest.Request) *rest.Request { return r.AbsPath("version") }

// A Selector narrows a list or a watch. The zero Selector narrows nothing.
type Selector struct{ param, value string }

// ByName selects the one object of a name.
func ByName(name string) Selector {
	return Selector{"fieldSelector", fields.OneTermEqualSelector("metadata.name", name).String()}
}

// ByField selects by a field that the API server can select by.
func ByField(field, value string) Selector {
	return Selector{"fieldSelector", fields.OneTermEqualSelector(field, value).String()}
}

// ByLabels selects the objects that have all of these labels, and those labels with any value whose keys are in present.
// The error's kind is Stalled if no label can have such a key or value.
func ByLabels(equal map[string]string, present ...string) (Selector, error) {
	all, err := labels.ValidatedSelectorFromSet(equal)
	if err != nil {
		return Selector{}, impossibleLabel(err)
	}
	for _, key := range present {
		r, err := labels.NewRequirement(key, selection.Exists, nil)
		if err != nil {
			return Selector{}, impossibleLabel(err)
		}
		all = all.Add(*r)
	}
	return Selector{"labelSelector", all.String()}, nil
}

func impossibleLabel(err error) error {
	return &api.Error{Kind: api.Stalled, Reason: api.ReasonImpossibleName, Err: err}
}

// Param adds the selector to a request.
func (s Selector) Param(r *rest.Request) *rest.Request {
	if s.param == "" {
		return r
	}
	return r.Param(s.param, s.value)
}
