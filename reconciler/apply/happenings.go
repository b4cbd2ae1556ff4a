package apply

import (
	"cmp"
	"context"
	"slices"
	"time"

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
func (a *Applier) Happenings(ctx context.Context) ([]Happening, error) {
	events, err := kube.Address{Version: "v1", Resource: "events"}.Collection()
	if err != nil {
		return nil, err
	}
	out := []Happening{}
	for token := ""; ; {
		req := kube.ByField("reportingComponent", api.Group+"/agent").Param(events.On(a.own.rest.Get())).
			Param("limit", "500").Param("continue", token)
		raw, _, err := send(ctx, req)
		if err != nil {
			return nil, Classify(api.ObjectRef{Version: "v1", Kind: "Event", Name: "*"}, "", err)
		}
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []struct {
				InvolvedObject struct {
					APIVersion string `json:"apiVersion"`
					Kind       string `json:"kind"`
					Namespace  string `json:"namespace"`
					Name       string `json:"name"`
				} `json:"involvedObject"`
				Type          string    `json:"type"`
				Reason        string    `json:"reason"`
				Message       string    `json:"message"`
				LastTimestamp time.Time `json:"lastTimestamp"`
			} `json:"items"`
		}
		if err := unmarshal(raw, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			o := e.InvolvedObject
			gvk := schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
			out = append(out, Happening{
				At: e.LastTimestamp, Type: e.Type, Reason: e.Reason, Message: e.Message,
				Object: api.ObjectRef{Group: gvk.Group, Version: gvk.Version, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name},
			})
		}
		if token = page.Metadata.Continue; token == "" {
			break
		}
	}
	slices.SortStableFunc(out, func(x, y Happening) int { return cmp.Or(y.At.Compare(x.At), cmp.Compare(x.Reason, y.Reason)) })
	return out, nil
}
