package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// EventRequest is one Kubernetes Event.
type EventRequest struct {
	// Bundle is whose BundleDeployment the Event is about, where Object is not set.
	Bundle string
	Object api.ObjectRef
	// Type is Normal or Warning.
	Type string
	// Reason is Applied, Drifted, Corrected, Failed, Suspended or Resumed.
	Reason  string
	Message string
}

// Bounds of Events: they are for people, and must never cost the cluster more than what they tell of.
const (
	eventRepeat  = 10 * time.Minute
	eventBurst   = 20.0
	eventPerSec  = 0.5
	eventMessage = 1000
)

// Event emits a Kubernetes Event. One that was emitted lately, or one too many, is dropped;
// one that cannot be written is logged, for nobody can do anything about it.
func (c *Client) Event(ctx context.Context, e EventRequest) {
	if e.Object.Kind == "" {
		e.Object = bundleRef(e.Bundle)
		if e.Bundle == "" {
			e.Object = api.ObjectRef{Version: "v1", Kind: "Namespace", Name: api.SystemNamespace}
		}
	}
	e.Message = bounded(e.Message, eventMessage)
	if !c.events.admit(e) {
		return
	}
	ns := e.Object.Namespace
	if ns == "" {
		ns = "default" // where the API server wants Events about cluster-scoped objects
	}
	gv := e.Object.GVK().GroupVersion().String()
	now := c.now().UTC().Format(time.RFC3339)
	body := map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"generateName": "flotilla-", "namespace": ns},
		"involvedObject": map[string]any{
			"apiVersion": gv, "kind": e.Object.Kind, "namespace": e.Object.Namespace, "name": e.Object.Name,
		},
		"type": e.Type, "reason": e.Reason, "message": e.Message, "count": 1,
		"firstTimestamp": now, "lastTimestamp": now,
		"source":             map[string]any{"component": api.FieldManager},
		"reportingComponent": api.Group + "/agent", "reportingInstance": api.FieldManager,
	}
	in, err := kube.Address{Version: "v1", Resource: "events", Namespace: ns}.Collection()
	if err == nil {
		_, err = c.server.Own.Create(ctx, in, body, "")
	}
	if err != nil {
		c.log.Debug("event not written", "object", e.Object.String(), "reason", e.Reason, "error", err)
	}
}

// eventLimiter drops repetitions, and what goes beyond a steady rate.
type eventLimiter struct {
	now func() time.Time

	mu     sync.Mutex
	tokens float64
	last   time.Time
	// seen: what an Event says -> when it was emitted last
	seen map[string]time.Time
}

func newEventLimiter(now func() time.Time) *eventLimiter {
	return &eventLimiter{now: now, tokens: eventBurst, seen: map[string]time.Time{}}
}

func (l *eventLimiter) admit(e EventRequest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	key := e.Object.ID() + "\x00" + e.Type + "\x00" + e.Reason + "\x00" + e.Message
	if at, ok := l.seen[key]; ok && now.Sub(at) < eventRepeat {
		return false
	}
	if !l.last.IsZero() {
		l.tokens = min(eventBurst, l.tokens+now.Sub(l.last).Seconds()*eventPerSec)
	}
	l.last = now
	// Routine leaves room for what went wrong.
	need := 1.0
	if e.Type == "Normal" {
		need = eventBurst / 2
	}
	if l.tokens < need {
		return false
	}
	l.tokens--
	for k, at := range l.seen {
		if now.Sub(at) >= eventRepeat {
			delete(l.seen, k)
		}
	}
	l.seen[key] = now
	return true
}
