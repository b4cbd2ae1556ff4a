package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/kubejson"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// await reads one object, and watches it until ok says so. ok gets nil while there is no object.
// It ends with ctx.
func (c *client) await(ctx context.Context, p place, ok func(*unstructured.Unstructured) (bool, error)) error {
	return c.awaitAny(ctx, p.at.Collection(), kube.ByName(p.at.Name()), p.ref.GVK(), ok)
}

// awaitAny reads the objects of a collection that a selector narrows it to, and watches them until ok says so of one.
// ok gets nil while there is no object. It ends with ctx.
func (c *client) awaitAny(
	ctx context.Context, in kube.Collection, selector kube.Selector, kind schema.GroupVersionKind, ok func(*unstructured.Unstructured) (bool, error),
) error {
	for {
		again, err := c.awaitOnce(ctx, in, selector, kind, ok)
		if !again {
			return err
		}
		// A watch that broke off: read again, though not at once.
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitOnce is one read and one watch. It reports whether to begin again.
func (c *client) awaitOnce(
	ctx context.Context, in kube.Collection, selector kube.Selector, kind schema.GroupVersionKind, ok func(*unstructured.Unstructured) (bool, error),
) (again bool, err error) {
	var page struct {
		Metadata metav1.ListMeta  `json:"metadata"`
		Items    []map[string]any `json:"items"`
	}
	raw, _, err := send(ctx, selector.Param(in.On(c.rest.Get())))
	if err != nil {
		return false, err
	}
	if err := unmarshal(raw, &page); err != nil {
		return false, fmt.Errorf("decode a list: %w", err)
	}
	seen := []*unstructured.Unstructured{nil}
	for i, item := range page.Items {
		o := &unstructured.Unstructured{Object: item}
		o.SetGroupVersionKind(kind) // items of a list do not say their kind
		seen = append(seen[:i], o)
	}
	for _, o := range seen {
		if done, err := ok(o); done || err != nil {
			return false, err
		}
	}
	stream, err := selector.Param(in.On(c.rest.Get())).Param("watch", "1").
		Param("resourceVersion", page.Metadata.ResourceVersion).
		Param("timeoutSeconds", strconv.Itoa(300)).Stream(ctx)
	if err != nil {
		return ctx.Err() == nil, ctx.Err()
	}
	defer func() { _ = stream.Close() }()
	events := kubejson.NewEvents(stream)
	for {
		ev, err := events.Next()
		if err != nil {
			return ctx.Err() == nil, ctx.Err()
		}
		obj := ev.Object
		switch ev.Type {
		case watch.Bookmark:
			continue
		case watch.Deleted:
			obj = nil
		default:
		}
		if done, err := ok(obj); done || err != nil {
			return false, err
		}
	}
}

// awaitEndpoint waits until a Service has an endpoint that is ready.
func (c *client) awaitEndpoint(ctx context.Context, namespace, service string) error {
	kind := schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}
	in, err := kube.Address{Group: kind.Group, Version: kind.Version, Resource: "endpointslices", Namespace: namespace}.Collection()
	if err != nil {
		return err
	}
	selector, err := kube.ByLabels(map[string]string{"kubernetes.io/service-name": service})
	if err != nil {
		return err
	}
	return c.awaitAny(ctx, in, selector, kind, func(o *unstructured.Unstructured) (bool, error) {
		if o == nil {
			return false, nil
		}
		endpoints, _, _ := unstructured.NestedSlice(o.Object, "endpoints")
		return slices.ContainsFunc(endpoints, func(e any) bool {
			m, _ := e.(map[string]any)
			ready, known, _ := unstructured.NestedBool(m, "conditions", "ready")
			return ready || !known // "nil should be interpreted as true", says the API
		}), nil
	})
}

// collectionAwait are objects of one collection that are being deleted.
type collectionAwait struct {
	in kube.Collection
	// selector narrows the list and the watch to the objects.
	selector kube.Selector
	// left: UID -> the object as it was last seen. What is gone is taken out.
	left map[types.UID]*unstructured.Unstructured
}

// awaitAllGone waits until none of the objects is left, with one list and one watch for all of them.
func (c *client) awaitAllGone(ctx context.Context, w *collectionAwait) error {
	for {
		again, err := c.awaitAllGoneOnce(ctx, w)
		if !again {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitAllGoneOnce is one list and one watch. It reports whether to begin again.
func (c *client) awaitAllGoneOnce(ctx context.Context, w *collectionAwait) (again bool, err error) {
	var page struct {
		Metadata metav1.ListMeta  `json:"metadata"`
		Items    []map[string]any `json:"items"`
	}
	raw, _, err := send(ctx, w.selector.Param(w.in.On(c.rest.Get())).SetHeader("Accept", metadataListOnly))
	if apierrors.IsNotFound(err) {
		clear(w.left) // nobody has the kind any more
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := unmarshal(raw, &page); err != nil {
		return false, fmt.Errorf("decode a list: %w", err)
	}
	there := make(map[types.UID]*unstructured.Unstructured, len(page.Items))
	for _, item := range page.Items {
		o := &unstructured.Unstructured{Object: item}
		there[o.GetUID()] = o
	}
	for uid := range w.left {
		if w.left[uid] = there[uid]; there[uid] == nil {
			delete(w.left, uid)
		}
	}
	if len(w.left) == 0 {
		return false, nil
	}
	stream, err := w.selector.Param(w.in.On(c.rest.Get())).Param("watch", "1").
		Param("resourceVersion", page.Metadata.ResourceVersion).
		Param("timeoutSeconds", strconv.Itoa(300)).SetHeader("Accept", metadataOnly).Stream(ctx)
	if err != nil {
		return ctx.Err() == nil, ctx.Err()
	}
	defer func() { _ = stream.Close() }()
	events := kubejson.NewEvents(stream)
	for len(w.left) > 0 {
		ev, err := events.Next()
		if err != nil {
			return ctx.Err() == nil, ctx.Err()
		}
		o := ev.Object
		switch _, waited := w.left[o.GetUID()]; {
		case !waited:
		case ev.Type == watch.Deleted:
			delete(w.left, o.GetUID())
		default:
			w.left[o.GetUID()] = o
		}
	}
	return false, nil
}

// awaitGone waits until there is no object with the name, or another one than now.
func (c *client) awaitGone(ctx context.Context, p place) error {
	first := ""
	return c.await(ctx, p, func(o *unstructured.Unstructured) (bool, error) {
		if o == nil {
			return true, nil
		}
		if first == "" {
			first = string(o.GetUID())
		}
		return string(o.GetUID()) != first, nil
	})
}

// awaitEstablished waits until the API server serves a CRD's kinds.
func (a *Applier) awaitEstablished(ctx context.Context, crd api.ObjectRef) error {
	at, err := a.kinds.place(crd)
	if err != nil {
		return err
	}
	return a.own.await(ctx, at, func(o *unstructured.Unstructured) (bool, error) {
		if o == nil {
			return false, errGone
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			m, _ := c.(map[string]any)
			switch {
			case m["type"] == "Established" && m["status"] == "True":
				return true, nil
			case m["type"] == "NamesAccepted" && m["status"] == "False":
				return false, fmt.Errorf("its names are not accepted: %v", m["message"])
			}
		}
		return false, nil
	})
}

// acceptable asks with a dry run, under another name, whether the API server would create the object.
// Only an error that the object itself causes counts.
func (a *Applier) acceptable(ctx context.Context, c *client, p place, obj *unstructured.Unstructured) error {
	probe := obj.DeepCopy()
	probe.SetName("")
	probe.SetGenerateName("flotilla-check-")
	_, err := c.create(ctx, p.at.Collection(), probe.Object, "All")
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) {
		return err
	}
	// What the object now holds (an address, a port) is free once it is gone.
	if strings.Contains(err.Error(), "already allocated") {
		return nil
	}
	return err
}
