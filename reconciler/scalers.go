package reconciler

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// autoscalers returns the objects in Git that scale others and, if the live object has other replicas
// than the desired one, all those of its namespace: only then one that is not in Git can matter.
func (r *Reconciler) autoscalers(ctx context.Context, desired, live *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	r.mu.Lock()
	inGit := r.scalers
	r.mu.Unlock()
	if live == nil || live.GetNamespace() == "" {
		return inGit, nil
	}
	want, ok, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas")
	have, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "replicas")
	if !ok || fmt.Sprint(want) == fmt.Sprint(have) {
		return inGit, nil
	}
	there, err := r.Applier.Autoscalers(ctx, live.GetNamespace())
	return slices.Concat(inGit, there), err
}

// leave is apply.Request.Left.
func (r *Reconciler) leave(ctx context.Context, desired, live *unstructured.Unstructured) ([]string, error) {
	near, err := r.autoscalers(ctx, desired, live)
	if err != nil {
		return nil, err
	}
	return r.Detective.Leave(desired, live, near), nil
}
