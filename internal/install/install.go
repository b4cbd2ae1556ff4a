// Package install puts flotilla on a cluster, and takes it away again.
//
// It promises that nothing is written before all of it is known to be possible: whose installation is there,
// which rights are missing, and what would change. What it writes is what the chart of package deploy renders,
// and flotilla's own definitions; it never touches what a fleet repository declares, unless it is told to.
package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Cluster is what an installation asks of a cluster.
type Cluster interface {
	// Live reads an object; nil if there is none.
	Live(ctx context.Context, ref api.ObjectRef) (*unstructured.Unstructured, error)
	// May reports whether we may do something to an object.
	May(ctx context.Context, verb string, ref api.ObjectRef) (bool, error)
	// ForeseeOwn says what EnsureOwn would do to an object.
	ForeseeOwn(ctx context.Context, obj *unstructured.Unstructured) (api.Action, error)
	// EnsureOwn applies objects in order.
	EnsureOwn(ctx context.Context, objs []*unstructured.Unstructured) error
	// Bootstrap makes flotilla's namespace and definitions.
	Bootstrap(ctx context.Context) error
}

// Component is one of the two parts of flotilla.
type Component string

// The components.
const (
	Agent Component = "agent"
	Hub   Component = "hub"
)

// Workload is the object that runs the component.
func (c Component) Workload() api.ObjectRef {
	ref := api.ObjectRef{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: api.SystemNamespace, Name: "flotilla-" + string(c)}
	if c == Hub {
		ref.Kind = "StatefulSet"
	}
	return ref
}

// Step is what an installation does to one object.
type Step struct {
	Object api.ObjectRef `json:"object"`
	Action api.Action    `json:"action"`

	desired *unstructured.Unstructured
}

// Plan says what an installation of the objects would do, without writing anything.
// It fails if another tool owns the installation that is there, if its agent looks after another cluster,
// and if rights are missing: then the error names each of them. Objects without the component's workload take nothing over.
func Plan(ctx context.Context, c Cluster, component Component, objects []*unstructured.Unstructured) ([]Step, error) {
	objects = inOrder(objects)
	if err := rights(ctx, c, objects); err != nil {
		return nil, err
	}
	live, err := c.Live(ctx, component.Workload())
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return api.RefOf(o).ID() == component.Workload().ID() }) {
		if err := ours(component, live, objects); err != nil {
			return nil, err
		}
	}
	steps := make([]Step, 0, len(objects))
	for _, o := range objects {
		action, err := c.ForeseeOwn(ctx, o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, Step{Object: api.RefOf(o), Action: action, desired: o})
	}
	return steps, nil
}

// Apply does what Plan said, and makes the agent's definitions before that. It calls done after each object.
func Apply(ctx context.Context, c Cluster, component Component, steps []Step, done func(Step)) error {
	if component == Agent {
		if err := c.Bootstrap(ctx); err != nil {
			return err
		}
	}
	for _, s := range steps {
		if err := c.EnsureOwn(ctx, []*unstructured.Unstructured{s.desired}); err != nil {
			return err
		}
		done(s)
	}
	return nil
}

// inOrder has workloads come last: an agent that starts before its rights are there is denied, and ends.
func inOrder(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	out := slices.Clone(objects)
	slices.SortStableFunc(out, func(x, y *unstructured.Unstructured) int { return stage(x) - stage(y) })
	return out
}

func stage(o *unstructured.Unstructured) int {
	switch o.GetKind() {
	case "Namespace":
		return 0
	case "Deployment", "StatefulSet":
		return 2
	}
	return 1
}

// ours refuses an installation that is somebody else's.
func ours(component Component, live *unstructured.Unstructured, objects []*unstructured.Unstructured) error {
	if tool := Owner(live); tool != "" {
		return &api.Error{
			Kind: api.Forbidden, Reason: "InstalledByOther",
			Err:  fmt.Errorf("cannot install the %s: %s is managed by %s", component, component.Workload(), tool),
			Hint: "change it there, or have that tool give it up first",
		}
	}
	there, wanted := ClusterOf(live), ""
	for _, o := range objects {
		if api.RefOf(o).ID() == component.Workload().ID() {
			wanted = ClusterOf(o)
		}
	}
	if there != "" && there != wanted {
		return &api.Error{
			Kind: api.Forbidden, Reason: "OtherCluster",
			Err:  fmt.Errorf("cannot install the agent: the agent that is there looks after cluster %q, and not %q", there, wanted),
			Hint: "check --context; to give the cluster another name, run flotilla uninstall agent first",
		}
	}
	return nil
}

// rights fails if we may not write one of the objects, and names all that are missing.
func rights(ctx context.Context, c Cluster, objects []*unstructured.Unstructured) error {
	missing := map[string]bool{}
	for _, o := range objects {
		ref := api.RefOf(o)
		for _, verb := range []string{"get", "create", "patch"} {
			may, err := c.May(ctx, verb, ref)
			if err != nil {
				return err
			}
			if !may {
				missing[fmt.Sprintf("%s %s%s", verb, kindOf(ref), in(ref.Namespace))] = true
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for name := range missing {
		names = append(names, name)
	}
	slices.Sort(names)
	return &api.Error{
		Kind: api.Forbidden, Reason: "RightsMissing",
		Err:  errors.New("cannot install: this kubeconfig may not " + strings.Join(names, ", ")),
		Hint: "use one that is bound to the ClusterRole cluster-admin; nothing was written",
	}
}

func kindOf(ref api.ObjectRef) string {
	if ref.Group == "" {
		return ref.Kind
	}
	return ref.Kind + "." + ref.Group
}

func in(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " in " + namespace
}
