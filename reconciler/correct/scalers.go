package correct

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// autoscalers returns the objects in Git that scale others and, if the live object has other replicas
// than the desired one, all those of its namespace: only then one that is not in Git can matter.
func (l *Loop) autoscalers(ctx context.Context, desired, live *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	inGit := l.scope.Load().Autoscalers
	if live == nil || live.GetNamespace() == "" {
		return inGit, nil
	}
	if !replicasDiffer(desired, live) {
		return inGit, nil
	}
	there, err := l.Inspector.Autoscalers(ctx, live.GetNamespace())
	return slices.Concat(inGit, there), err
}

// ScalersChanged says that autoscalers of a namespace came, went or changed; empty means anywhere.
// What they scaled is looked at, whatever the watch of the objects says: replicas that nobody scales any more are drift.
func (l *Loop) ScalersChanged(namespace string) {
	scaled := l.Home.Select(func(e api.InventoryEntry) bool {
		return e.Scaled && (namespace == "" || namespace == e.Object.Namespace)
	})
	for _, x := range scaled {
		l.lookAnew(x.Bundle, x.Entry.Object.ID())
	}
}

// replicasDiffer reports whether Git says how many replicas an object has, and it has another number,
// or its number was set by a way that does not tell.
func replicasDiffer(desired, live *unstructured.Unstructured) bool {
	if live == nil {
		return false
	}
	if plan.ScaledElsewhere(live) {
		return true // which field it is, and what Git says of it, whoever asks for the autoscalers finds out
	}
	want, ok, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas")
	have, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "replicas")
	return ok && fmt.Sprint(want) != fmt.Sprint(have)
}

// autoscaled reports whether an object has other replicas than Git says because an autoscaler owns them.
func (l *Loop) autoscaled(t *target, live *unstructured.Unstructured) bool {
	if !replicasDiffer(t.desired, live) {
		return false
	}
	left := l.Detective.Leave(t.desired, live, t.near)
	return slices.Contains(left, "/spec/replicas") || plan.ScaledElsewhere(live) && len(left) > 0
}

// Left is apply.Request.Left.
func (l *Loop) Left(ctx context.Context, desired, live *unstructured.Unstructured) ([]string, error) {
	near, err := l.autoscalers(ctx, desired, live)
	if err != nil {
		return nil, err
	}
	return l.Detective.Leave(desired, live, near), nil
}
