package watch

import (
	"context"
	"maps"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"github.com/flotilla-fleet/flotilla/api"
)

// name is an object's namespace and name.
type name struct{ namespace, name string }

// kind keeps what is known of the objects of one kind.
type kind struct {
	w      *Watcher
	gvk    schema.GroupVersionKind
	source *source
	cancel context.CancelFunc // nil until it runs; under the Watcher's mu

	// down is touched by the source's calls only, under mu.
	mu      sync.RWMutex
	objects map[name]Meta
	whole   bool // everything was seen
	seen    int  // how often everything was seen
	missing bool // the cluster does not have the kind
	down    bool // Lost was called
	stopped bool
}

func newKind(w *Watcher, gvk schema.GroupVersionKind) *kind {
	k := &kind{w: w, gvk: gvk, objects: map[name]Meta{}}
	k.source = &source{
		gvk: gvk, selector: w.cfg.Selector, discovery: w.discovery, sink: k, wake: make(chan struct{}, 1),
		client: func(gvr schema.GroupVersionResource) client { return metadataClient{w.metadata.Resource(gvr)} },
	}
	return k
}

// metadataClient lists and watches metadata in all namespaces.
type metadataClient struct{ r metadata.Getter }

func (c metadataClient) List(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	return c.r.List(ctx, opts)
}

func (c metadataClient) Watch(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
	return c.r.Watch(ctx, opts)
}

// stop ends the watch. No event comes after it, apart from one that is just being handled.
func (k *kind) stop() {
	k.mu.Lock()
	k.stopped = true
	k.mu.Unlock()
	if k.cancel != nil {
		k.cancel()
	}
}

func (k *kind) get(n name) (Meta, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	m, ok := k.objects[n]
	return m, ok
}

func (k *kind) synced() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.whole
}

// timesSeen is how often everything was seen, and whether that is of any interest still.
func (k *kind) timesSeen() (n int, stopped bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.seen, k.stopped
}

func (k *kind) each(f func(api.ObjectRef, Meta)) {
	type pair struct {
		n name
		m Meta
	}
	k.mu.RLock()
	all := make([]pair, 0, len(k.objects))
	for n, m := range k.objects {
		all = append(all, pair{n, m})
	}
	k.mu.RUnlock()
	for _, p := range all {
		f(k.ref(p.n), p.m)
	}
}

func (k *kind) ref(n name) api.ObjectRef {
	return api.ObjectRef{Group: k.gvk.Group, Version: k.gvk.Version, Kind: k.gvk.Kind, Namespace: n.namespace, Name: n.name}
}

// trim reduces an object's metadata to what metaOf reads.
func (k *kind) trim(o runtime.Object) {
	switch o := o.(type) {
	case *metav1.PartialObjectMetadataList:
		for i := range o.Items {
			k.trim(&o.Items[i])
		}
	case *metav1.PartialObjectMetadata:
		// managedFields are most of it, and a whole list is held in memory before any of it is kept.
		kept := map[string]string{digested: api.MetaDigest(o)}
		for _, key := range api.OrderAnnotations() {
			if v := o.Annotations[key]; v != "" {
				kept[key] = v
			}
		}
		if api.ClaimedAt(o) != 0 {
			kept[applied] = ""
		}
		o.ObjectMeta = metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, Generation: o.Generation,
			Labels: map[string]string{api.LabelPartOf: o.Labels[api.LabelPartOf]}, Annotations: kept,
		}
	}
}

// digested is the annotation in which trim leaves an object's digest, and applied is there if Meta.Applied is to be set.
const (
	digested = api.Group + "/digest"
	applied  = api.Group + "/applied"
)

func metaOf(o *metav1.PartialObjectMetadata) Meta {
	_, ours := o.Annotations[applied]
	return Meta{
		Applied: ours, UID: string(o.UID), ResourceVersion: o.ResourceVersion, Generation: o.Generation,
		MetaDigest: o.Annotations[digested], PartOf: o.Labels[api.LabelPartOf], Orders: api.OrdersIn(o.Annotations),
	}
}

// Add and Update keep an object as it is now.
func (k *kind) Add(o any) error { return k.Update(o) }

// Update keeps an object as it is now.
func (k *kind) Update(o any) error {
	if p, ok := o.(*metav1.PartialObjectMetadata); ok {
		k.keep(name{p.Namespace, p.Name}, metaOf(p))
	}
	return nil
}

// Delete forgets an object.
func (k *kind) Delete(o any) error {
	if p, ok := o.(*metav1.PartialObjectMetadata); ok {
		k.forget(name{p.Namespace, p.Name}, metaOf(p))
	}
	return nil
}

// Replace takes a whole list: events come for what differs from what was known.
func (k *kind) Replace(list []any, _ string) error {
	there := make(map[name]bool, len(list))
	for _, o := range list {
		if p, ok := o.(*metav1.PartialObjectMetadata); ok {
			n := name{p.Namespace, p.Name}
			there[n] = true
			k.keep(n, metaOf(p))
		}
	}
	var gone []name
	k.mu.Lock()
	for n := range k.objects {
		if !there[n] {
			gone = append(gone, n)
		}
	}
	k.mu.Unlock()
	for _, n := range gone {
		m, _ := k.get(n)
		k.forget(n, m)
	}
	k.mu.Lock()
	k.whole, k.missing = true, false
	k.seen++
	stopped := k.stopped
	k.mu.Unlock()
	if stopped {
		return nil
	}
	k.up()
	k.relisted() // last: who asks what is known of the kind gets the newest
	k.w.announce()
	return nil
}

func (k *kind) relisted() {
	if k.w.cfg.Relisted != nil {
		k.w.cfg.Relisted(k.gvk)
	}
}

// Resync is not used.
func (k *kind) Resync() error { return nil }

func (k *kind) keep(n name, m Meta) {
	k.mu.Lock()
	before, known := k.objects[n]
	if known && before.PartOf == m.PartOf {
		m.PartOf = before.PartOf // one copy of the string
	}
	if !k.stopped {
		k.objects[n] = m
	}
	stopped := k.stopped
	k.mu.Unlock()
	if !stopped && before != m {
		k.w.cfg.Handler(Event{Ref: k.ref(n), Meta: m, Before: before})
		k.definition()
	}
}

func (k *kind) forget(n name, m Meta) {
	k.mu.Lock()
	before := k.objects[n]
	delete(k.objects, n)
	stopped := k.stopped
	k.mu.Unlock()
	if !stopped {
		k.w.cfg.Handler(Event{Ref: k.ref(n), Meta: m, Before: before, Deleted: true})
	}
}

// definition has missing kinds looked for when a definition of ours changed: one may have appeared.
func (k *kind) definition() {
	if k.gvk.Group == "apiextensions.k8s.io" && k.gvk.Kind == "CustomResourceDefinition" {
		k.w.pokeMissing()
	}
}

// clear says that the cluster does not have the kind: there is nothing of it.
// That is known, and so it ends a watch that was down.
func (k *kind) clear(ctx context.Context, err error) {
	k.mu.Lock()
	first := !k.missing && !k.stopped
	k.whole, k.missing = false, true
	gone := make(map[name]Meta, len(k.objects))
	maps.Copy(gone, k.objects)
	k.mu.Unlock()
	if first {
		k.w.cfg.Log.Warn("the cluster does not have a kind", "kind", k.gvk.String(), "error", err)
	}
	for n, m := range gone {
		if ctx.Err() != nil {
			return
		}
		k.forget(n, m)
	}
	if k.up() {
		k.relisted()
	}
}

func (k *kind) lost(err error) {
	k.mu.Lock()
	first := !k.down && !k.stopped
	k.down = true
	k.mu.Unlock()
	if !first {
		return
	}
	k.w.cfg.Log.Warn("watch is down", "kind", k.gvk.String(), "error", err)
	if k.w.cfg.Lost != nil {
		k.w.cfg.Lost(k.gvk, err)
	}
}

func (k *kind) found() {
	if k.up() {
		k.relisted()
	}
}

// up notes that the watch is not down, and reports whether it was.
func (k *kind) up() bool {
	k.mu.Lock()
	was := k.down && !k.stopped
	k.down = false
	k.mu.Unlock()
	if was {
		k.w.cfg.Log.Info("watch is up", "kind", k.gvk.String())
	}
	return was
}
