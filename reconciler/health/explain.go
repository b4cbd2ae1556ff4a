package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of an explanation.
const (
	explainTimeout = 5 * time.Second
	explainPods    = 50
	explainEvents  = 100
	explainReasons = 3
	explainBytes   = 600
)

var (
	podsResource   = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	eventsResource = schema.GroupVersionResource{Version: "v1", Resource: "events"}
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
	pods := t.podsOf(ctx, ref)
	for _, p := range pods {
		add(podReason(p))
	}
	if len(reasons) < explainReasons {
		for _, msg := range t.warnings(ctx, ref, pods) {
			add(msg)
		}
	}
	out := strings.Join(reasons, "; ")
	if len(out) > explainBytes {
		out = strings.ToValidUTF8(out[:explainBytes], "") + " …"
	}
	return out
}

// podsOf lists the Pods that an object selects, or the Pod itself.
func (t *Tracker) podsOf(ctx context.Context, ref api.ObjectRef) []*unstructured.Unstructured {
	if ref.Namespace == "" {
		return nil
	}
	if ref.Kind == "Pod" && ref.Group == "" {
		if p, err := t.dynamic.Resource(podsResource).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			return []*unstructured.Unstructured{p}
		}
		return nil
	}
	m, err := t.mapper.RESTMapping(ref.GVK().GroupKind())
	if err != nil {
		return nil
	}
	o, err := t.dynamic.Resource(m.Resource).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	match, ok, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	if !ok || len(match) == 0 {
		return nil
	}
	l, err := t.dynamic.Resource(podsResource).Namespace(ref.Namespace).List(ctx, metav1.ListOptions{
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
	return ""
}

// warnings are the newest Warning Events about an object, what it owns by name (ReplicaSets), and its Pods.
func (t *Tracker) warnings(ctx context.Context, ref api.ObjectRef, pods []*unstructured.Unstructured) []string {
	ns := ref.Namespace
	if ns == "" {
		ns = "default"
	}
	l, err := t.dynamic.Resource(eventsResource).Namespace(ns).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning", Limit: explainEvents})
	if err != nil {
		return nil
	}
	about := func(kind, name string) bool {
		if kind == ref.Kind && name == ref.Name || kind == "ReplicaSet" && strings.HasPrefix(name, ref.Name+"-") {
			return true
		}
		return kind == "Pod" && slices.ContainsFunc(pods, func(p *unstructured.Unstructured) bool { return p.GetName() == name })
	}
	type event struct{ at, text string }
	var events []event
	for _, e := range l.Items {
		kind, _, _ := unstructured.NestedString(e.Object, "involvedObject", "kind")
		name, _, _ := unstructured.NestedString(e.Object, "involvedObject", "name")
		component, _, _ := unstructured.NestedString(e.Object, "source", "component")
		if !about(kind, name) || component == api.FieldManager {
			continue
		}
		reason, _, _ := unstructured.NestedString(e.Object, "reason")
		message, _, _ := unstructured.NestedString(e.Object, "message")
		at, _, _ := unstructured.NestedString(e.Object, "lastTimestamp")
		if at == "" {
			at = e.GetCreationTimestamp().UTC().Format(time.RFC3339)
		}
		events = append(events, event{at, fmt.Sprintf("%s %s: %s: %s", kind, name, reason, message)})
	}
	slices.SortFunc(events, func(a, b event) int { return strings.Compare(b.at, a.at) })
	out := make([]string, 0, len(events))
	for _, e := range events {
		out = append(out, e.text)
	}
	return out
}
