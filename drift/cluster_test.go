package drift_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// cluster is a real API server with what a test does to it.
type cluster struct {
	t   *testing.T
	rc  *rest.Config
	ns  string
	dyn dynamic.Interface
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	rc := controlplanetest.RESTConfig(t)
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, rc: rc, ns: controlplanetest.Namespace(t), dyn: dyn}
}

// as is the cluster as another user sees it.
func (c *cluster) as(user string) *cluster {
	rc := rest.CopyConfig(c.rc)
	rc.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		c.t.Fatal(err)
	}
	return &cluster{t: c.t, rc: rc, ns: c.ns, dyn: dyn}
}

// in is the cluster in a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	other := *c
	other.t = t
	return &other
}

// parse reads an object; "$NS" in it stands for the test's namespace.
func (c *cluster) parse(text string) *unstructured.Unstructured {
	c.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "$NS", c.ns)), &o.Object); err != nil {
		c.t.Fatal(err)
	}
	b, err := json.Marshal(o.Object)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := o.UnmarshalJSON(b); err != nil { // numbers as the API server gives them
		c.t.Fatal(err)
	}
	return o
}

func (c *cluster) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	c.t.Helper()
	r, err := c.tryResource(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

func (c *cluster) tryResource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	m, err := c.mapping(o)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		if o.GetNamespace() == "" {
			o.SetNamespace(c.ns)
		}
		return c.dyn.Resource(m.Resource).Namespace(o.GetNamespace()), nil
	}
	return c.dyn.Resource(m.Resource), nil
}

var mapper meta.RESTMapper // of the shared control plane

func (c *cluster) mapping(o *unstructured.Unstructured) (*meta.RESTMapping, error) {
	gvk := o.GroupVersionKind()
	if mapper != nil {
		if m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err == nil {
			return m, nil
		}
	}
	client, err := discovery.NewDiscoveryClientForConfig(c.rc)
	if err != nil {
		return nil, err
	}
	groups, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		return nil, err
	}
	mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
}

// apply applies an object as the agent does.
func (c *cluster) apply(o *unstructured.Unstructured) *unstructured.Unstructured {
	c.t.Helper()
	out, err := c.tryApply(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *cluster) tryApply(o *unstructured.Unstructured, dryRun ...string) (*unstructured.Unstructured, error) {
	r, err := c.tryResource(o)
	if err != nil {
		return nil, err
	}
	return r.Apply(c.t.Context(), o.GetName(), o.DeepCopy(),
		metav1.ApplyOptions{FieldManager: api.FieldManager, Force: true, DryRun: dryRun})
}

func (c *cluster) get(o *unstructured.Unstructured) *unstructured.Unstructured {
	c.t.Helper()
	out, err := c.tryGet(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *cluster) tryGet(o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	r, err := c.tryResource(o)
	if err != nil {
		return nil, err
	}
	return r.Get(c.t.Context(), o.GetName(), metav1.GetOptions{})
}

// edit patches an object as somebody else: a JSON patch if it begins with "[", else a merge patch.
func (c *cluster) edit(o *unstructured.Unstructured, manager, patch string, sub ...string) {
	c.t.Helper()
	if err := c.tryEdit(o, manager, patch, sub...); err != nil {
		c.t.Fatalf("edit: %v", err)
	}
}

func (c *cluster) tryEdit(o *unstructured.Unstructured, manager, patch string, sub ...string) error {
	kind := types.MergePatchType
	if strings.HasPrefix(patch, "[") {
		kind = types.JSONPatchType
	}
	r, err := c.tryResource(o)
	if err != nil {
		return err
	}
	_, err = r.Patch(c.t.Context(), o.GetName(), kind, []byte(patch), metav1.PatchOptions{FieldManager: manager}, sub...)
	return err
}

// input is what the agent would compare now.
func (c *cluster) input(desired *unstructured.Unstructured, spec api.Drift) drift.Input {
	c.t.Helper()
	in, err := c.tryInput(desired, spec)
	if err != nil {
		c.t.Fatalf("dry run: %v", err)
	}
	return in
}

func (c *cluster) tryInput(desired *unstructured.Unstructured, spec api.Drift) (drift.Input, error) {
	dry, err := c.tryApply(desired, metav1.DryRunAll)
	if err != nil {
		return drift.Input{}, err
	}
	live, err := c.tryGet(desired)
	return drift.Input{Desired: desired, Live: live, DryRun: dry, Spec: spec}, err
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: did not happen", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lines are the fields of a result, for comparison: "class path desired -> live by manager".
func lines(r drift.Result) []string {
	var out []string
	for _, f := range r.Fields {
		out = append(out, string(f.Class)+" "+f.Path+" "+f.Desired+" -> "+f.Live+" by "+who(f.By))
	}
	return out
}

func who(by api.Attribution) string {
	s := string(by.Confidence)
	if by.Manager != "" {
		s = by.Manager
	}
	if by.Subresource != "" {
		s += "/" + by.Subresource
	}
	if by.Person != "" {
		s += " (" + by.Person + ")"
	}
	return s
}
