package api

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ObjectRef identifies one Kubernetes object.
// Version says how it was last addressed and is no part of its identity:
// compare refs by ID.
type ObjectRef struct {
	Group     string `json:"group,omitempty" yaml:"group,omitempty"`
	Version   string `json:"version,omitempty" yaml:"version,omitempty"`
	Kind      string `json:"kind" yaml:"kind"`
	Namespace string `json:"namespace,omitempty" yaml:"namespace,omitempty"`
	Name      string `json:"name" yaml:"name"`
}

// RefOf returns the identity of an object.
func RefOf(o *unstructured.Unstructured) ObjectRef {
	gvk := o.GroupVersionKind()
	return ObjectRef{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// ID is the identity without the version: "group/Kind/namespace/name",
// with empty parts kept, so that it splits unambiguously.
// Names of Kubernetes objects never contain a slash.
func (r ObjectRef) ID() string {
	return r.Group + "/" + r.Kind + "/" + r.Namespace + "/" + r.Name
}

// ParseID is the inverse of ID. It reports false for anything that ID did not make.
func ParseID(id string) (ObjectRef, bool) {
	p := strings.Split(id, "/")
	if len(p) != 4 || p[1] == "" || p[3] == "" {
		return ObjectRef{}, false
	}
	return ObjectRef{Group: p[0], Kind: p[1], Namespace: p[2], Name: p[3]}, true
}

// String is for people: "Deployment/podinfo/podinfo" or "Namespace/podinfo",
// with the group after the kind where there is one: "Deployment.apps/podinfo/podinfo".
func (r ObjectRef) String() string {
	s := r.Kind
	if r.Group != "" {
		s += "." + r.Group
	}
	if r.Namespace != "" {
		s += "/" + r.Namespace
	}
	return s + "/" + r.Name
}

// GVK returns the group, version and kind.
func (r ObjectRef) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// Expires reports whether an object is a Job that the cluster deletes some time after its end, as Git asks for.
// That it is gone then says nothing: it is made again only when Git changes it.
func Expires(o *unstructured.Unstructured) bool {
	if o.GetKind() != "Job" || o.GroupVersionKind().Group != "batch" {
		return false
	}
	ttl, _, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "ttlSecondsAfterFinished")
	return ttl != nil
}

// CompareRefs orders refs by group, kind, namespace and name.
func CompareRefs(a, b ObjectRef) int {
	return cmp.Or(
		cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
	)
}

// Action is what was, or is to be, done to an object.
// Plan proposes it, apply returns it, the store keeps it, logs and pages show it.
type Action string

// The actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Recreated Action = "recreated"
	Unchanged Action = "unchanged"
	Pruned    Action = "pruned"
	Skipped   Action = "skipped"
	Denied    Action = "denied"
	Failed    Action = "failed"
)

// Change is one object's part in a pass.
type Change struct {
	Object ObjectRef `json:"object"`
	Action Action    `json:"action"`
	// Reason says in a few words why.
	Reason string `json:"reason,omitempty"`
	// Error is set for denied and failed.
	Error string `json:"error,omitempty"`
}

// Wrote reports whether something was written to the cluster.
func (c Change) Wrote() bool {
	return c.Action == Created || c.Action == Updated || c.Action == Recreated || c.Action == Pruned
}

// ChangeSet is what a pass did to one bundle, in the order in which it was done.
type ChangeSet struct {
	Bundle  string   `json:"bundle"`
	Changes []Change `json:"changes"`
}

// Count returns how many changes have one of the actions.
func (c ChangeSet) Count(actions ...Action) int {
	n := 0
	for _, ch := range c.Changes {
		for _, a := range actions {
			if ch.Action == a {
				n++
			}
		}
	}
	return n
}
