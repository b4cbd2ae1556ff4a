package cluster

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// Happening is one thing that an agent told in a Kubernetes Event.
type Happening struct {
	At     time.Time     `json:"at"`
	Object api.ObjectRef `json:"object"`
	// Type is Normal or Warning; Reason is as in EventRequest.
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Happenings reads the Events of the agent that the cluster still holds (usually of the last hour), newest first.
func (c *Client) Happenings(ctx context.Context) ([]Happening, error) {
	events, err := kube.Address{Version: "v1", Resource: "events"}.Collection()
	if err != nil {
		return nil, err
	}
	out := []Happening{}
	err = c.server.Own.List(ctx, events, kube.ByField("reportingComponent", api.Group+"/agent"), "", func(o *unstructured.Unstructured) {
		var e corev1.Event
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &e) != nil {
			return // no API server answers with such an Event
		}
		about := e.InvolvedObject
		gvk := schema.FromAPIVersionAndKind(about.APIVersion, about.Kind)
		out = append(out, Happening{
			At: e.LastTimestamp.UTC(), Type: e.Type, Reason: e.Reason, Message: e.Message,
			Object: api.ObjectRef{Group: gvk.Group, Version: gvk.Version, Kind: about.Kind, Namespace: about.Namespace, Name: about.Name},
		})
	})
	if err != nil {
		return nil, kube.Classify(api.ObjectRef{Version: "v1", Kind: "Event", Name: "*"}, "", err)
	}
	slices.SortStableFunc(out, func(x, y Happening) int { return cmp.Or(y.At.Compare(x.At), cmp.Compare(x.Reason, y.Reason)) })
	return out, nil
}
