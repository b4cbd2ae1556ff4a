package drift

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

// files are a repository's files by name.
type files = map[string]string

// rig is an agent on the shared control plane, with words for what these tests look at.
type rig struct {
	*agenttest.Rig
	t *testing.T
	// listen is where the agent serves its metrics.
	listen string
	// last is the mark that settle made.
	last string
}

// newRig makes a rig whose namespace exists already. Its agent is not started.
func newRig(t *testing.T, cfg agenttest.Config) *rig {
	t.Helper()
	listen := agenttest.FreeAddr(t)
	change := cfg.Change
	cfg.Change = func(c *agent.Config) {
		c.Listen = listen
		if change != nil {
			change(c)
		}
	}
	r := &rig{Rig: agenttest.New(t, cfg), t: t, listen: listen}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.NS}}
	if _, err := r.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return r
}

// start makes a rig, starts its agent and waits until the bundle app is ready.
func start(t *testing.T, fs files) *rig {
	t.Helper()
	return startWith(t, agenttest.Config{Files: fs})
}

func startWith(t *testing.T, cfg agenttest.Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	r.Start()
	r.Ready("NS-app", "")
	return r
}

// bundle is the bundle.yaml of the bundle app, whose name begins with the test's own word.
func bundle(spec string) string { return named("app", spec) }

func named(name, spec string) string {
	return fmt.Sprintf("apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: NS-%s}\nspec: {%s}\n", name, spec)
}

// fleet is a fleet.yaml.
func fleet(spec string) string {
	return fmt.Sprintf("apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {%s}\n", spec)
}

// configMap is a ConfigMap in the test's namespace.
func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS}\ndata: {key: %q}\n", name, value)
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NS, labels: {tier: front}, annotations: {example.com/owner: team-a}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", args: [--port=80], resources: {limits: {cpu: 0.1, memory: 1024Mi}}}
      - {name: sidecar, image: "sidecar:1"}
status: {replicas: 7}
`

const service = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: NS}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53}, {name: dns-udp, port: 53, protocol: UDP}]
`

// kinds: the word before the slash -> how tests reach that kind
var kinds = map[string]schema.GroupVersionResource{
	"cm":      {Version: "v1", Resource: "configmaps"},
	"secret":  {Version: "v1", Resource: "secrets"},
	"svc":     {Version: "v1", Resource: "services"},
	"deploy":  {Group: "apps", Version: "v1", Resource: "deployments"},
	"hpa":     {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
	"ns":      {Version: "v1", Resource: "namespaces"},
	"webhook": {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"},
	"role":    {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
}

// resource is how to reach an object such as "cm/settings".
func (r *rig) resource(object string) (dynamic.ResourceInterface, string) {
	kind, name, _ := strings.Cut(object, "/")
	gvr, ok := kinds[kind]
	if !ok {
		r.t.Fatalf("no kind %q", kind)
	}
	name = r.Text(name)
	switch kind {
	case "ns", "webhook", "role":
		return r.Dynamic.Resource(gvr), name
	}
	return r.Dynamic.Resource(gvr).Namespace(r.NS), name
}

func (r *rig) get(object string) *unstructured.Unstructured {
	r.t.Helper()
	o, err := r.tryGet(r.t.Context(), object)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// tryGet is get for what is asked again until it is so.
func (r *rig) tryGet(ctx context.Context, object string) (*unstructured.Unstructured, error) {
	c, name := r.resource(object)
	return c.Get(ctx, name, metav1.GetOptions{})
}

// edit patches an object as kubectl edit would: a JSON patch if it begins with "[", else a merge patch.
func (r *rig) edit(object, patch string) {
	r.t.Helper()
	r.editAs("kubectl-edit", object, patch)
}

func (r *rig) editAs(manager, object, patch string, sub ...string) {
	r.t.Helper()
	if err := r.tryEdit(r.t.Context(), manager, object, patch, sub...); err != nil {
		r.t.Fatalf("edit %s: %v", object, err)
	}
}

func (r *rig) tryEdit(ctx context.Context, manager, object, patch string, sub ...string) error {
	c, name := r.resource(object)
	kind := types.MergePatchType
	if strings.HasPrefix(patch, "[") {
		kind = types.JSONPatchType
	}
	_, err := c.Patch(ctx, name, kind, []byte(strings.ReplaceAll(r.Text(patch), "CABUNDLE", caBundle)), metav1.PatchOptions{FieldManager: manager}, sub...)
	return err
}

func (r *rig) remove(object string) {
	r.t.Helper()
	c, name := r.resource(object)
	if err := c.Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// create creates an object by hand from YAML.
func (r *rig) create(object, text string) *unstructured.Unstructured {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(r.Text(text)), &o.Object); err != nil {
		r.t.Fatal(err)
	}
	c, _ := r.resource(object)
	o, err := c.Create(r.t.Context(), o, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// at reads a value at a path such as "spec.ports.0.port"; nil if there is none.
func at(o *unstructured.Unstructured, path string) any {
	var v any = o.Object
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[strings.ReplaceAll(part, "|", ".")]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// is waits until a value of an object is as wanted, in fmt's writing; "<nil>" is absent.
// In the path a "|" inside a key stands for a dot.
func (r *rig) is(object, path, want string) {
	r.t.Helper()
	c, name := r.resource(object)
	r.Eventually(fmt.Sprintf("%s %s is %s", object, path, want), func(ctx context.Context) error {
		o, err := c.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := fmt.Sprint(at(o, path)); got != want {
			return fmt.Errorf("%s %s is %s, want %s", object, path, got, want)
		}
		return nil
	})
}

// stays fails the test unless a value is as wanted now.
func (r *rig) stays(object, path, want string) {
	r.t.Helper()
	if got := fmt.Sprint(at(r.get(object), path)); got != want {
		r.t.Errorf("%s %s is %s, want %s", object, path, got, want)
	}
}

// gone waits until an object is not there, or is another one than it was.
func (r *rig) gone(object string) {
	r.t.Helper()
	c, name := r.resource(object)
	r.Eventually(object+" is gone", func(ctx context.Context) error {
		_, err := c.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
}

// back waits until a deleted object is there again.
func (r *rig) back(object string, before *unstructured.Unstructured) {
	r.t.Helper()
	c, name := r.resource(object)
	r.Eventually(object+" is back", func(ctx context.Context) error {
		o, err := c.Get(ctx, name, metav1.GetOptions{})
		if err == nil && (o.GetUID() == before.GetUID() || o.GetDeletionTimestamp() != nil) {
			err = errors.New("still the old one")
		}
		return err
	})
}

// open waits until an object has an open episode that satisfies want, and returns it.
func (r *rig) open(object string, want func(api.Episode) error) api.Episode {
	r.t.Helper()
	var found api.Episode
	r.Eventually(object+" has an open episode", func(ctx context.Context) error {
		report, err := r.Applier.Report(ctx)
		if err != nil {
			return err
		}
		for _, e := range report.Drift {
			if r.shortOf(e.Object) == r.Text(object) {
				found = e
				return want(e)
			}
		}
		return fmt.Errorf("no open episode among %d", len(report.Drift))
	})
	return found
}

func outcome(o api.Outcome) func(api.Episode) error {
	return func(e api.Episode) error {
		if e.Outcome != o {
			return fmt.Errorf("outcome is %s (%s), want %s", e.Outcome, e.Error, o)
		}
		return nil
	}
}

// quiet waits until the bundle app counts so many drifted objects.
func (r *rig) drifted(n int) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%d drifted", n), func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && b.Drifted != n {
			err = fmt.Errorf("%d drifted, want %d", b.Drifted, n)
		}
		return err
	})
}

// shortOf is an object as these tests write it.
func (r *rig) shortOf(ref api.ObjectRef) string {
	for short, gvr := range kinds {
		if gvr.Resource == strings.ToLower(ref.Kind)+"s" {
			return short + "/" + ref.Name
		}
	}
	return ref.Kind + "/" + ref.Name
}

// lines are all episodes of the agent, which is stopped for it, one line each and sorted:
// "object class outcome: field desired -> live by manager; …".
func (r *rig) lines() []string {
	r.t.Helper()
	var out []string
	for _, e := range r.closed() {
		line := fmt.Sprintf("%s %s %s", r.shortOf(e.Object), e.Class, e.Outcome)
		for i, f := range e.Fields {
			sep := ";"
			if i == 0 {
				sep = ":"
			}
			line += fmt.Sprintf("%s %s %s -> %s", sep, f.Path, f.Desired, f.Live)
			if f.By.Manager != "" {
				line += " by " + f.By.Manager
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// closed stops the agent and returns its episodes.
func (r *rig) closed() []api.Episode {
	r.Stop()
	return r.Episodes()
}

// want compares all episodes with what there should be.
func (r *rig) want(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, r.lines()); diff != "" {
		r.t.Errorf("episodes (-want +got):\n%s", diff)
	}
}

// metric reads one of the agent's metrics, labels included in the name; 0 if it is not there.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	f, err := r.tryMetric(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// tryMetric is metric for what is asked again until it is so.
func (r *rig) tryMetric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.listen+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(body) {
		if v, ok := strings.CutPrefix(string(line), name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, nil
}

// metricIs waits until a metric has a value.
func (r *rig) metricIs(name string, want float64) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%s is %v", name, want), func(ctx context.Context) error {
		got, err := r.tryMetric(ctx, name)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %v", name, got)
		}
		return err
	})
}

// ended waits until no episode is open. On the cluster a correction shows before the agent has noted it,
// and the status that counts what drifts is written later still.
func (r *rig) ended() {
	r.t.Helper()
	for _, class := range []api.Class{api.ClassChanged, api.ClassRemoved, api.ClassAdded, api.ClassMissing, api.ClassExtra} {
		r.metricIs(fmt.Sprintf("flotilla_drift_open{class=%q}", class), 0)
	}
}

// settle waits until the agent has looked at everything that it was told of:
// a mark by hand on a ConfigMap of the bundle is corrected after what came before it.
func (r *rig) settle() {
	r.t.Helper()
	mark := fmt.Sprint(time.Now().UnixNano())
	r.last = mark
	r.edit("cm/mark", fmt.Sprintf(`{"data":{"key":%q}}`, mark))
	r.is("cm/mark", "data.key", "mark")
}

// marked adds the ConfigMap that settle needs.
func marked(fs files) files {
	fs["app/mark.yaml"] = configMap("mark", "mark")
	return fs
}

func operatingDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
