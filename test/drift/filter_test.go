package drift

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

const (
	claim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk, namespace: NS}
spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`
	priority = `apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: NS-high}
value: 1000
description: from Git
`
)

var (
	claims          = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	priorityClasses = schema.GroupVersionResource{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}
)

// dryRuns is how many the agent has asked for.
func (r *rig) dryRuns() float64 { return r.metric(dryRunsMetric) }

const dryRunsMetric = `flotilla_dry_run_seconds_count{result="ok"}`

// change patches an object of any resource as a field manager. A patch that begins with "[" is a JSON patch.
func (r *rig) change(c dynamic.ResourceInterface, manager, name, patch string, sub ...string) {
	r.t.Helper()
	kind := types.MergePatchType
	if patch[0] == '[' {
		kind = types.JSONPatchType
	}
	if _, err := c.Patch(r.t.Context(), r.Text(name), kind, []byte(r.Text(patch)), metav1.PatchOptions{FieldManager: manager}, sub...); err != nil {
		r.t.Fatalf("change %s: %v", name, err)
	}
}

// applyAs applies YAML on the server as a field manager, with force.
func (r *rig) applyAs(c dynamic.ResourceInterface, manager, text string) {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(r.Text(text)), &o.Object); err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.Apply(r.t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true}); err != nil {
		r.t.Fatalf("apply %s: %v", o.GetName(), err)
	}
}

// becomes waits until a value of an object is as wanted, as rig.is does.
func (r *rig) becomes(c dynamic.ResourceInterface, name, path, want string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%s %s is %s", name, path, want), func(ctx context.Context) error {
		o, err := c.Get(ctx, r.Text(name), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := fmt.Sprint(at(o, path)); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// Kinds that have a status and no generation: what controllers write there costs no look.
func TestStatusWithoutGenerationCostsNothing(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: marked(files{
		"app/bundle.yaml": bundle(""), "app/svc.yaml": service, "app/claim.yaml": claim,
		"app/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-x, labels: {team: a}}\n",
	})})
	r.Start()
	svc, _ := r.resource("svc/web")
	ns, _ := r.resource("ns/NS-x")
	pvc := r.Dynamic.Resource(claims).Namespace(r.NS)
	r.becomes(pvc, "disk", "status.phase", "Pending") // and it stays so: there is no volume for it
	r.Eventually("all is applied", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && b.AppliedRevision == "" {
			err = fmt.Errorf("it is %s", b.Phase)
		}
		return err
	})
	r.settle()
	time.Sleep(time.Second) // what follows from the install
	before := r.dryRuns()
	r.settle()
	one := r.dryRuns() - before
	before = r.dryRuns()
	for i := range 10 {
		for name, c := range map[string]dynamic.ResourceInterface{"web": svc, "disk": pvc, "NS-x": ns} {
			r.change(c, "some-controller", name, fmt.Sprintf(
				`{"status":{"conditions":[{"type":"Test","status":"True","reason":"R%d","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, i), "status")
		}
	}
	r.settle()
	time.Sleep(time.Second)
	if n := r.dryRuns() - before - one; n != 0 {
		t.Errorf("30 changes of status caused %v dry runs", n)
	}
	// An edit is seen nevertheless, with a status there.
	r.edit("svc/web", `{"spec":{"selector":{"app":"other"}}}`)
	r.is("svc/web", "spec.selector.app", "web")
	r.change(ns, "kubectl-edit", "NS-x", `{"metadata":{"labels":{"team":"b"}}}`)
	r.becomes(ns, "NS-x", "metadata.labels.team", "a")
}

// Finalizers and owners that Git sets are put back, though they move no generation.
func TestFinalizersAndOwnersArePutBack(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: files{"app/bundle.yaml": bundle("")}})
	owner := r.create("cm/owner", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owner, namespace: NS}\n")
	const finalizers = "finalizers: [example.com/keep]"
	owners := fmt.Sprintf("ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: %s}]", owner.GetUID())
	r.Commit(files{
		"app/web.yaml": strings.Replace(deployment, "namespace: NS,", "namespace: NS, "+finalizers+", "+owners+",", 1),
		"app/svc.yaml": strings.Replace(service, "namespace: NS", "namespace: NS, "+finalizers, 1),
	})
	t.Cleanup(func() {
		r.Stop()
		for _, o := range []string{"deploy/web", "svc/web"} {
			c, name := r.resource(o)
			_, err := c.Patch(context.WithoutCancel(t.Context()), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			if err != nil {
				t.Error(err)
			}
		}
	})
	r.Start()
	r.Ready("NS-app", "")
	for _, o := range []string{"deploy/web", "svc/web"} {
		r.is(o, "metadata.finalizers.0", "example.com/keep")
		r.edit(o, `{"metadata":{"finalizers":null}}`)
		r.is(o, "metadata.finalizers.0", "example.com/keep")
	}
	r.edit("deploy/web", `{"metadata":{"ownerReferences":null}}`)
	r.is("deploy/web", "metadata.ownerReferences.0.name", "owner")
	r.drifted(0)
}

// A kind whose generation never moves, and kinds that have none: an edit is seen whoever it is said to be by.
func TestEditsThatMoveNoGeneration(t *testing.T) {
	r := start(t, files{
		"app/bundle.yaml": bundle(""), "app/prio.yaml": priority, "app/svc.yaml": service,
		"app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"),
	})
	prio := r.Dynamic.Resource(priorityClasses)
	svc, _ := r.resource("svc/web")
	// At once, within the second of our own write.
	a, _ := r.resource("cm/a")
	for _, value := range []string{"two", "three"} {
		r.applyAs(a, api.FieldManager, ourMeta(r, "cm/a", configMap("a", value)))
		r.becomes(a, "a", "data.key", "one")
	}
	r.editAs(api.FieldManager, "cm/b", `{"data":{"key":"two"}}`)
	r.is("cm/b", "data.key", "one")
	r.change(prio, "kubectl-edit", "NS-high", `{"description":"by hand"}`)
	r.becomes(prio, "NS-high", "description", "from Git")
	r.change(prio, "kubectl-edit", "NS-high", `[{"op":"remove","path":"/description"}]`)
	r.becomes(prio, "NS-high", "description", "from Git")

	// With a status there, the time of a write is all that tells of one in our name: whole seconds.
	r.change(svc, "some-controller", "web", `{"status":{"conditions":[{"type":"Test","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, "status")
	time.Sleep(1100 * time.Millisecond)
	r.applyAs(svc, api.FieldManager, ourMeta(r, "svc/web", strings.Replace(service, "app: web", "app: mine", 1)))
	r.becomes(svc, "web", "spec.selector.app", "web")
	r.drifted(0)

	// Nobody is named any more, and what is written after that is not tracked.
	r.edit("cm/b", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`)
	r.change(prio, "kubectl-edit", "NS-high", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`)
	time.Sleep(time.Second)
	r.edit("cm/b", `{"data":{"key":"three"}}`)
	r.is("cm/b", "data.key", "one")
	r.change(prio, "kubectl-edit", "NS-high", `{"description":"by hand again"}`)
	r.becomes(prio, "NS-high", "description", "from Git")
}

// What somebody set back by hand is theirs from then on: when they change it again, no owner changes.
func TestSameManagerAgain(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/svc.yaml": service})
	svc, _ := r.resource("svc/web")
	r.change(svc, "some-controller", "web", `{"status":{"conditions":[{"type":"Test","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, "status")
	for _, affinity := range []string{"one", "two"} {
		r.edit("svc/web", fmt.Sprintf(`{"spec":{"selector":{"app":%q}}}`, affinity))
		r.open("svc/web", outcome(api.OutcomeReported))
		time.Sleep(1100 * time.Millisecond)
		r.edit("svc/web", `{"spec":{"selector":{"app":"web"}}}`)
		r.Eventually("the episode has ended", func(ctx context.Context) error {
			report, err := r.Applier.Report(ctx)
			if err == nil && len(report.Drift) > 0 {
				err = errors.New("it is open")
			}
			return err
		})
		time.Sleep(1100 * time.Millisecond)
	}
}

// ourMeta puts our labels into a manifest, as if we had written it.
func ourMeta(r *rig, object, text string) string {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(r.Text(text)), &o.Object); err != nil {
		r.t.Fatal(err)
	}
	live := r.get(object)
	o.SetLabels(live.GetLabels())
	o.SetAnnotations(live.GetAnnotations())
	b, err := yaml.Marshal(o.Object)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}
