package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of an explanation.
const (
	explainTimeout = 5 * time.Second
	explainPods    = 50
	// explainAsked is of how many Pods the Events are asked for.
	explainAsked   = 5
	explainEvents  = 100
	explainReasons = 3
	explainBytes   = 600
)

var (
	podsResource        = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	eventsResource      = schema.GroupVersionResource{Version: "v1", Resource: "events"}
	replicaSetsResource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}
)

// Explain says why an object is not healthy, from its Pods and from Warning Events; empty if nothing is known.
// It asks the API server a few times and is meant for the end of a wait, not for its course.
func (t *Tracker) Explain(ctx context.Context, ref api.ObjectRef) string {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	var reasons []string
	add := func(s string) {
		if s = strings.Join(strings.Fields(s), " "); s != "" && !slices.Contains(reasons, s) && len(reasons) < explainReasons {
			reasons = append(reasons, s)
		}
	}
	about, pods := t.involved(ctx, ref)
	for _, p := range pods {
		add(podReason(p))
	}
	if len(reasons) < explainReasons {
		for _, msg := range t.warnings(ctx, ref.Namespace, about) {
			add(msg)
		}
	}
	out := strings.Join(reasons, "; ")
	if len(out) > explainBytes {
		out = strings.ToValidUTF8(out[:explainBytes], "") + " …"
	}
	return out
}

// involved are the objects whose Events can say why an object is not healthy: itself, its newest ReplicaSet,
// and the first of its Pods, those first that are not ready. The Pods are given as well.
func (t *Tracker) involved(ctx context.Context, ref api.ObjectRef) (about []subject, pods []*unstructured.Unstructured) {
	about = []subject{{kind: ref.Kind, name: ref.Name}}
	m, err := t.mapper.RESTMapping(ref.GVK().GroupKind())
	if ref.Namespace == "" || err != nil {
		return about, nil
	}
	o, err := t.dynamic.Resource(m.Resource).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return about, nil
	}
	about[0].uid = string(o.GetUID())
	if ref.Kind == "Pod" && ref.Group == "" {
		return about, []*unstructured.Unstructured{o}
	}
	if ref.Kind == "Deployment" && ref.Group == "apps" {
		if rs := t.newest(ctx, o); rs != nil {
			o = rs // older ones have other Pods, and those are not what is waited for
			about = append(about, subject{"ReplicaSet", rs.GetName(), string(rs.GetUID())})
		}
	}
	pods = t.selected(ctx, podsResource, o)
	slices.SortStableFunc(pods, func(x, y *unstructured.Unstructured) int {
		switch ready := isReady(y); {
		case isReady(x) == ready:
			return 0
		case ready:
			return -1
		}
		return 1
	})
	for _, p := range pods[:min(len(pods), explainAsked)] {
		about = append(about, subject{"Pod", p.GetName(), string(p.GetUID())})
	}
	return about, pods
}

// subject is what Events are about; uid is empty where it is not known.
type subject struct{ kind, name, uid string }

func isReady(pod *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Ready" && m["status"] == "True"
	})
}

// newest is the ReplicaSet of a Deployment's newest revision; nil if it has none.
func (t *Tracker) newest(ctx context.Context, deployment *unstructured.Unstructured) *unstructured.Unstructured {
	revision := func(rs *unstructured.Unstructured) int {
		n, _ := strconv.Atoi(rs.GetAnnotations()["deployment.kubernetes.io/revision"])
		return n
	}
	var out *unstructured.Unstructured
	for _, rs := range t.selected(ctx, replicaSetsResource, deployment) {
		if metav1.IsControlledBy(rs, deployment) && (out == nil || revision(rs) > revision(out)) {
			out = rs
		}
	}
	return out
}

// selected lists what an object selects by labels; nothing if it selects nothing.
func (t *Tracker) selected(ctx context.Context, what schema.GroupVersionResource, o *unstructured.Unstructured) []*unstructured.Unstructured {
	match, ok, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	if !ok || len(match) == 0 {
		return nil
	}
	l, err := t.dynamic.Resource(what).Namespace(o.GetNamespace()).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(match).String(), Limit: explainPods,
	})
	if err != nil {
		return nil
	}
	out := make([]*unstructured.Unstructured, 0, len(l.Items))
	for i := range l.Items {
		out = append(out, &l.Items[i])
	}
	return out
}

// podReason is why a Pod is not ready; empty if it is.
func podReason(p *unstructured.Unstructured) string {
	for _, field := range []string{"initContainerStatuses", "containerStatuses"} {
		statuses, _, _ := unstructured.NestedSlice(p.Object, "status", field)
		for _, s := range statuses {
			m, _ := s.(map[string]any)
			if why := containerReason(m); why != "" {
				return fmt.Sprintf("Pod %s, container %v: %s", p.GetName(), m["name"], why)
			}
		}
	}
	conditions, _, _ := unstructured.NestedSlice(p.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if m["type"] == "PodScheduled" && m["status"] == "False" {
			return fmt.Sprintf("Pod %s: %v: %v", p.GetName(), m["reason"], m["message"])
		}
	}
	if phase, _, _ := unstructured.NestedString(p.Object, "status", "phase"); phase == "Failed" {
		reason, _, _ := unstructured.NestedString(p.Object, "status", "reason")
		message, _, _ := unstructured.NestedString(p.Object, "status", "message")
		return fmt.Sprintf("Pod %s failed: %s %s", p.GetName(), reason, message)
	}
	return ""
}

func containerReason(s map[string]any) string {
	if reason, _, _ := unstructured.NestedString(s, "state", "waiting", "reason"); reason != "" && reason != "ContainerCreating" && reason != "PodInitializing" {
		message, _, _ := unstructured.NestedString(s, "state", "waiting", "message")
		last, _, _ := unstructured.NestedString(s, "lastState", "terminated", "message")
		if code, ok, _ := unstructured.NestedInt64(s, "lastState", "terminated", "exitCode"); ok {
			last = fmt.Sprintf("last exit code %d %s", code, last)
		}
		return strings.TrimSpace(reason + " " + message + " " + last)
	}
	if code, ok, _ := unstructured.NestedInt64(s, "state", "terminated", "exitCode"); ok && code != 0 {
		reason, _, _ := unstructured.NestedString(s, "state", "terminated", "reason")
		message, _, _ := unstructured.NestedString(s, "state", "terminated", "message")
		return strings.TrimSpace(fmt.Sprintf("ended with exit code %d %s %s", code, reason, message))
	}
	_, runs, _ := unstructured.NestedMap(s, "state", "running")
	if code, ok, _ := unstructured.NestedInt64(s, "lastState", "terminated", "exitCode"); ok && runs && s["ready"] != true {
		return fmt.Sprintf("is not ready, was restarted %v times, and ended with exit code %d before", s["restartCount"], code)
	}
	return ""
}

// warnings are the Warning Events about some objects, the newest first.
func (t *Tracker) warnings(ctx context.Context, ns string, about []subject) []string {
	if ns == "" {
		ns = "default"
	}
	type event struct{ at, text string }
	var events []event
	for _, o := range about {
		selector := fields.Set{"type": "Warning", "involvedObject.kind": o.kind, "involvedObject.name": o.name}
		if o.uid != "" {
			selector["involvedObject.uid"] = o.uid
		}
		l, err := t.dynamic.Resource(eventsResource).Namespace(ns).List(ctx, metav1.ListOptions{FieldSelector: selector.String(), Limit: explainEvents})
		if err != nil {
			break
		}
		for _, e := range l.Items {
			if component, _, _ := unstructured.NestedString(e.Object, "source", "component"); component == api.FieldManager {
				continue
			}
			reason, _, _ := unstructured.NestedString(e.Object, "reason")
			message, _, _ := unstructured.NestedString(e.Object, "message")
			at, _, _ := unstructured.NestedString(e.Object, "lastTimestamp")
			if at == "" {
				at = e.GetCreationTimestamp().UTC().Format(time.RFC3339)
			}
			events = append(events, event{at, fmt.Sprintf("%s %s: %s: %s", o.kind, o.name, reason, message)})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return strings.Compare(b.at, a.at) })
	out := make([]string, 0, len(events))
	for _, e := range events {
		out = append(out, e.text)
	}
	return out
}
