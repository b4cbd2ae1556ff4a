package check

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// ownPods reports a workload whose selector does not choose its own pods: the API server refuses it.
func (i *item) ownPods() []Finding {
	if i.pod == nil || i.ref.Group != "apps" {
		return nil
	}
	sel, field, ok := i.selector()
	if ok && sel.Matches(labels.Set(i.pod.labels)) {
		return nil
	}
	return []Finding{i.finding(SelectorMismatch, field, "the selector does not choose the pods of the template, by their labels")}
}

// selector returns the selector of an object that has one, and its path; false if it has none, or an empty one.
func (i *item) selector() (labels.Selector, string, bool) {
	path := []string{"spec", "selector"}
	if i.ref.Kind == "NetworkPolicy" {
		path[1] = "podSelector"
	}
	in, found, err := unstructured.NestedMap(i.object.Object, path...)
	if err != nil || !found || len(in) == 0 {
		return nil, "spec." + path[1], false
	}
	if i.ref.Group == "" { // of a Service: plain labels
		in = map[string]any{"matchLabels": in}
	}
	var s metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(in, &s) != nil {
		return nil, "spec." + path[1], false
	}
	for _, key := range given {
		delete(s.MatchLabels, key)
	}
	sel, err := metav1.LabelSelectorAsSelector(&s)
	return sel, "spec." + path[1], err == nil && !sel.Empty()
}

// given are labels that controllers give to pods.
var given = []string{
	"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "pod-template-hash", "controller-revision-hash",
	"job-name", "controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index",
}

// selecting are the kinds whose selectors are meant to choose pods.
var selecting = []string{"/Service", "policy/PodDisruptionBudget", "networking.k8s.io/NetworkPolicy"}

// selectors reports selectors that choose no pods of Git, and none that somebody else may make.
func (v *view) selectors(add func(Finding)) {
	pods := map[string][]labels.Set{}
	unclear := map[string]bool{}
	for _, i := range v.items {
		unclear[i.namespace()] = unclear[i.namespace()] || i.unclear
		if i.pod != nil {
			pods[i.namespace()] = append(pods[i.namespace()], labels.Set(i.pod.labels))
		}
	}
	for _, i := range v.items {
		if !slices.Contains(selecting, i.ref.Group+"/"+i.ref.Kind) || unclear[i.namespace()] {
			continue
		}
		sel, field, ok := i.selector()
		if !ok || slices.ContainsFunc(pods[i.namespace()], func(set labels.Set) bool { return sel.Matches(set) }) || v.othersMake(i, sel) {
			continue
		}
		add(i.finding(SelectsNothing, field, fmt.Sprintf("no pods of namespace %s in Git have the labels %s", i.namespace(), sel)))
	}
}

// othersMake reports whether pods that a selector chooses may be made by an operator:
// the selector has a word of a custom resource.
func (v *view) othersMake(i *item, sel labels.Selector) bool {
	if i.namespace() == "kube-system" {
		return true
	}
	requirements, _ := sel.Requirements()
	for _, r := range requirements {
		for value := range r.Values() {
			if v.mayBeMade(i.namespace(), value) {
				return true
			}
		}
	}
	return false
}
