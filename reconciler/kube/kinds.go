package kube

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/flotilla-fleet/flotilla/api"
)

// EstablishTimeout bounds the wait for a CRD; the API server usually needs less than a second.
const EstablishTimeout = 30 * time.Second

// forgetAfter is how long an unknown kind is believed to be unknown before discovery is asked again.
const forgetAfter = 2 * time.Second

// Kinds knows under which address a kind is served.
type Kinds struct {
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
	now       func() time.Time

	mu sync.Mutex
	// known: kind -> address. Addresses of kinds do not change while their CRD lives.
	known map[schema.GroupVersionKind]Mapping
	reset time.Time
	// learnt: kind -> when its CRD was applied
	learnt map[schema.GroupKind]time.Time
}

// Mapping says where the API server has the objects of a kind.
type Mapping struct {
	Resource   string
	Namespaced bool
}

func newKinds(cfg *rest.Config, now func() time.Time) (*Kinds, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion, cfg.NegotiatedSerializer = nil, nil
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("kube: discovery client: %w", err)
	}
	cached := memory.NewMemCacheClient(d)
	return &Kinds{
		discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached), now: now,
		known: map[schema.GroupVersionKind]Mapping{}, learnt: map[schema.GroupKind]time.Time{},
	}, nil
}

// Find returns the address of a kind. An unknown kind is looked for again in the server's discovery,
// though not more often than every forgetAfter.
func (k *Kinds) Find(gvk schema.GroupVersionKind) (Mapping, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m, ok := k.known[gvk]; ok {
		return m, nil
	}
	m, err := k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) && k.refreshLocked() {
		m, err = k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return Mapping{}, err
	}
	out := Mapping{Resource: m.Resource.Resource, Namespaced: m.Scope.Name() == meta.RESTScopeNameNamespace}
	k.known[gvk] = out
	return out, nil
}

// refresh has discovery asked again, though not more often than every forgetAfter.
func (k *Kinds) refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshLocked()
}

// refreshLocked is refresh, and reports whether that was due.
func (k *Kinds) refreshLocked() bool {
	if k.now().Sub(k.reset) <= forgetAfter {
		return false
	}
	k.reset = k.now()
	k.mapper.Reset()
	return true
}

// Learn takes the addresses of a CRD's kinds from the CRD itself, so that its instances need no discovery.
func (k *Kinds) Learn(crd *unstructured.Unstructured) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for gvk, m := range KindsOf(crd) {
		k.known[gvk] = m
		k.learnt[gvk.GroupKind()] = k.now()
	}
}

// recent are the kinds whose CRDs were applied so shortly before that discovery may not have them yet.
func (k *Kinds) recent() iter.Seq[schema.GroupVersionKind] {
	return func(yield func(schema.GroupVersionKind) bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for gvk := range k.known {
			if at, ok := k.learnt[gvk.GroupKind()]; ok && k.now().Sub(at) < EstablishTimeout && !yield(gvk) {
				return
			}
		}
	}
}

// Forget drops what is known of a kind, unless that was just learnt from its CRD:
// who did not find the kind was only too early.
func (k *Kinds) Forget(gk schema.GroupKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at, ok := k.learnt[gk]; ok && k.now().Sub(at) < EstablishTimeout {
		return
	}
	for gvk := range k.known {
		if gvk.GroupKind() == gk {
			delete(k.known, gvk)
		}
	}
}

// KindsOf returns what a CRD defines.
func KindsOf(crd *unstructured.Unstructured) map[schema.GroupVersionKind]Mapping {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	scope, _, _ := unstructured.NestedString(crd.Object, "spec", "scope")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	out := map[schema.GroupVersionKind]Mapping{}
	for _, v := range versions {
		m, _ := v.(map[string]any)
		name, _ := m["name"].(string)
		if served, _ := m["served"].(bool); !served || name == "" || plural == "" {
			continue
		}
		out[schema.GroupVersionKind{Group: group, Version: name, Kind: kind}] = Mapping{plural, scope == "Namespaced"}
	}
	return out
}

// Everywhere is where objects of a kind are listed, of all namespaces.
func (m Mapping) Everywhere(gv schema.GroupVersion) (Collection, error) {
	return Address{Group: gv.Group, Version: gv.Version, Resource: m.Resource}.Collection()
}

// Place returns the address of an object; ref's version must be set.
func (k *Kinds) Place(ref api.ObjectRef) (Place, error) {
	m, err := k.Find(ref.GVK())
	if err != nil {
		return Place{}, err
	}
	scoped := ref
	if !m.Namespaced {
		scoped.Namespace = ""
	}
	p, err := PlaceOf(scoped, m.Resource)
	return Place{ref, p.At}, err
}

// Resolve returns the rendering with the namespaces of its objects as the cluster will have them:
// none on cluster-scoped objects, and on namespaced objects that name none the bundle's, else "default".
// Objects of kinds that nobody knows yet stay as they are.
// What is already right is not copied.
func (s *Server) Resolve(_ context.Context, r api.Rendering) api.Rendering {
	local := map[schema.GroupVersionKind]Mapping{}
	for _, b := range r.Bundles {
		for _, o := range b.Objects {
			if IsCRD(api.RefOf(o)) {
				maps.Copy(local, KindsOf(o))
			}
		}
	}
	bundles := make([]api.RenderedBundle, len(r.Bundles))
	for i, b := range r.Bundles {
		bundles[i] = b
		copied := false
		for j, o := range b.Objects {
			fixed := s.Scoped(o, b.Spec.Namespace.Name(), local)
			if fixed == o {
				continue
			}
			if !copied {
				bundles[i].Objects = append([]*unstructured.Unstructured(nil), b.Objects...)
				copied = true
			}
			bundles[i].Objects[j] = fixed
		}
	}
	r.Bundles = bundles
	return r
}

// Scoped returns obj itself if its namespace is right or its kind unknown, else a copy with the right one.
func (s *Server) Scoped(obj *unstructured.Unstructured, fallback string, local map[schema.GroupVersionKind]Mapping) *unstructured.Unstructured {
	m, ok := local[obj.GroupVersionKind()]
	if !ok {
		var err error
		if m, err = s.Kinds.Find(obj.GroupVersionKind()); err != nil {
			return obj
		}
	}
	want := obj.GetNamespace()
	switch {
	case !m.Namespaced:
		want = ""
	case want == "" && fallback != "":
		want = fallback
	case want == "":
		want = "default"
	}
	if want == obj.GetNamespace() {
		return obj
	}
	out := obj.DeepCopy()
	out.SetNamespace(want)
	return out
}

// IsCRD reports whether an object is a CustomResourceDefinition.
func IsCRD(ref api.ObjectRef) bool {
	return ref.Kind == "CustomResourceDefinition" && ref.Group == "apiextensions.k8s.io"
}

// IsNamespace reports whether an object is a Namespace.
func IsNamespace(ref api.ObjectRef) bool { return ref.Kind == "Namespace" && ref.Group == "" }
