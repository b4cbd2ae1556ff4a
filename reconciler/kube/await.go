package kube

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/kubejson"
)

// Await reads one object, and watches it until ok says so. ok gets nil while there is no object.
// It ends with ctx.
func (c *Client) Await(ctx context.Context, p Place, ok func(*unstructured.Unstructured) (bool, error)) error {
	return c.awaitAny(ctx, p.At.Collection(), ByName(p.At.Name()), p.Ref.GVK(), ok)
}

// awaitAny reads the objects of a collection that a selector narrows it to, and watches them until ok says so of one.
// ok gets nil while there is no object. It ends with ctx.
func (c *Client) awaitAny(
	ctx context.Context, in Collection, selector Selector, kind schema.GroupVersionKind, ok func(*unstructured.Unstructured) (bool, error),
) error {
	for {
		again, err := c.awaitOnce(ctx, in, selector, kind, ok)
		if !again {
			return err
		}
		// A watch that broke off: read again, though not at once.
		if err := Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitOnce is one read and one watch. It reports whether to begin again.
func (c *Client) awaitOnce(
	ctx context.Context, in Collection, selector Selector, kind schema.GroupVersionKind, ok func(*unstructured.Unstructured) (bool, error),
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

// AwaitEndpoint waits until a Service has an endpoint that is ready.
func (c *Client) AwaitEndpoint(ctx context.Context, namespace, service string) error {
	kind := schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}
	in, err := Address{Group: kind.Group, Version: kind.Version, Resource: "endpointslices", Namespace: namespace}.Collection()
	if err != nil {
		return err
	}
	selector, err := ByLabels(map[string]string{"kubernetes.io/service-name": service})
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

// Going are objects of one collection that are being deleted.
type Going struct {
	In Collection
	// Selector narrows the list and the watch to the objects.
	Selector Selector
	// Left: UID -> the object as it was last seen. What is gone is taken out.
	Left map[types.UID]*unstructured.Unstructured
}

// AwaitAllGone waits until none of the objects is left, with one list and one watch for all of them.
func (c *Client) AwaitAllGone(ctx context.Context, w *Going) error {
	for {
		again, err := c.awaitAllGoneOnce(ctx, w)
		if !again {
			return err
		}
		if err := Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitAllGoneOnce is one list and one watch. It reports whether to begin again.
func (c *Client) awaitAllGoneOnce(ctx context.Context, w *Going) (again bool, err error) {
	var page struct {
		Metadata metav1.ListMeta  `json:"metadata"`
		Items    []map[string]any `json:"items"`
	}
	raw, _, err := send(ctx, w.Selector.Param(w.In.On(c.rest.Get())).SetHeader("Accept", MetadataListOnly))
	if apierrors.IsNotFound(err) {
		clear(w.Left) // nobody has the kind any more
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
	for uid := range w.Left {
		if w.Left[uid] = there[uid]; there[uid] == nil {
			delete(w.Left, uid)
		}
	}
	if len(w.Left) == 0 {
		return false, nil
	}
	stream, err := w.Selector.Param(w.In.On(c.rest.Get())).Param("watch", "1").
		Param("resourceVersion", page.Metadata.ResourceVersion).
		Param("timeoutSeconds", strconv.Itoa(300)).SetHeader("Accept", MetadataOnly).Stream(ctx)
	if err != nil {
		return ctx.Err() == nil, ctx.Err()
	}
	defer func() { _ = stream.Close() }()
	events := kubejson.NewEvents(stream)
	for len(w.Left) > 0 {
		ev, err := events.Next()
		if err != nil {
			return ctx.Err() == nil, ctx.Err()
		}
		o := ev.Object
		switch _, waited := w.Left[o.GetUID()]; {
		case !waited:
		case ev.Type == watch.Deleted:
			delete(w.Left, o.GetUID())
		default:
			w.Left[o.GetUID()] = o
		}
	}
	return false, nil
}

// AwaitGone waits until there is no object with the name, or another one than now.
func (c *Client) AwaitGone(ctx context.Context, p Place) error {
	first := ""
	return c.Await(ctx, p, func(o *unstructured.Unstructured) (bool, error) {
		if o == nil {
			return true, nil
		}
		if first == "" {
			first = string(o.GetUID())
		}
		return string(o.GetUID()) != first, nil
	})
}

// AwaitEstablished waits until the API server serves a CRD's kinds.
func (s *Server) AwaitEstablished(ctx context.Context, crd api.ObjectRef) error {
	at, err := s.Kinds.Place(crd)
	if err != nil {
		return err
	}
	return s.Own.Await(ctx, at, func(o *unstructured.Unstructured) (bool, error) {
		if o == nil {
			return false, ErrGone
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
