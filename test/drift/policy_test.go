package drift

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// labelled is a ConfigMap by hand that carries labels, as YAML between braces.
func labelled(name, labels string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS, labels: {%s}}\ndata: {key: x}\n", name, labels)
}

// An object with our full marks that is not in Git is extra; one with marks that only look like ours is nobody's business.
func TestExtraObjects(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("drift: {extra: report}")}))
	set := plan.ApplySetID(r.Text("NS-app"))
	strangers := []string{
		labelled("no-manager", "applyset.kubernetes.io/part-of: "+set),
		labelled("other-manager", "app.kubernetes.io/managed-by: Helm, applyset.kubernetes.io/part-of: "+set),
		labelled("no-set", "app.kubernetes.io/managed-by: flotilla"),
		labelled("other-set", "app.kubernetes.io/managed-by: flotilla, applyset.kubernetes.io/part-of: applyset-x-v1"),
		labelled("other-bundle", "app.kubernetes.io/managed-by: flotilla, applyset.kubernetes.io/part-of: "+plan.ApplySetID("nobody")),
		configMap("plain", "x"),
	}
	for _, s := range strangers {
		r.create("cm/", s)
	}
	r.create("cm/", labelled("extra", "app.kubernetes.io/managed-by: flotilla, applyset.kubernetes.io/part-of: "+set))
	e := r.open("cm/extra", outcome(api.OutcomeReported))
	if e.Class != api.ClassExtra || e.By.Manager != "kubectl-create" {
		t.Errorf("episode is %+v", e)
	}
	r.stays("cm/extra", "data.key", "x")
	r.Commit(files{"app/bundle.yaml": bundle("drift: {extra: remove}")})
	r.gone("cm/extra")
	r.settle()
	r.ended()
	r.drifted(0)
	for _, name := range []string{"no-manager", "other-manager", "no-set", "other-set", "other-bundle", "plain"} {
		r.stays("cm/"+name, "data.key", "x")
	}
	r.want("cm/extra extra corrected", r.markLine())
}

// Fields that others added are no drift unless the policy says so; then they are reported, or removed.
func TestAddedFields(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/web.yaml": deployment, "app/cm.yaml": configMap("settings", "one")}))
	r.editAs("kubectl-set", "deploy/web", `[{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"A","value":"a"}]}]`)
	r.edit("cm/settings", `{"data":{"other":"mine"}}`)
	r.settle()
	r.drifted(0)
	r.Commit(files{"app/bundle.yaml": bundle("drift: {extra: report}")})
	e := r.open("cm/settings", outcome(api.OutcomeReported))
	if len(e.Fields) != 1 || e.Fields[0].Class != api.ClassAdded || e.Fields[0].Path != "/data/other" || e.By.Manager != "kubectl-edit" {
		t.Errorf("episode is %+v", e)
	}
	r.open("deploy/web", outcome(api.OutcomeReported))
	r.stays("cm/settings", "data.other", "mine")
	r.Commit(files{"app/bundle.yaml": bundle("drift: {extra: remove}")})
	r.is("cm/settings", "data.other", "<nil>")
	r.is("deploy/web", "spec.template.spec.containers.0.env", "<nil>")
	r.drifted(0)
}

// Drift that was only reported is corrected once the policy says so, without another event.
func TestReportThenCorrect(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/web.yaml": deployment, "app/cm.yaml": configMap("settings", "one")}))
	r.edit("deploy/web", `{"spec":{"replicas":3}}`)
	r.remove("cm/settings")
	r.open("deploy/web", outcome(api.OutcomeReported))
	r.open("cm/settings", outcome(api.OutcomeReported))
	r.metricIs(`flotilla_drift_open{class="changed"}`, 1)
	r.metricIs(`flotilla_drift_open{class="missing"}`, 1)
	r.stays("deploy/web", "spec.replicas", "3")
	// A commit that says nothing of them leaves them as they are.
	r.Commit(files{"app/more.yaml": configMap("more", "x")})
	r.is("cm/more", "data.key", "x")
	r.stays("deploy/web", "spec.replicas", "3")
	r.Commit(files{"app/bundle.yaml": bundle("")})
	r.is("deploy/web", "spec.replicas", "1")
	r.is("cm/settings", "data.key", "one")
	r.drifted(0)
	r.ended()
	r.want(
		"deploy/web changed corrected: /spec/replicas 1 -> 3 by kubectl-edit",
		"cm/settings missing corrected",
	)
}

// What Git says anew of an object is applied over drift that is only reported: as a whole, for it is Git's word that changed.
func TestNewTemplateRollsOutOverDrift(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/web.yaml": deployment, "app/cm.yaml": configMap("settings", "one")}))
	r.edit("deploy/web", `{"spec":{"replicas":3}}`)
	r.edit("cm/settings", `{"data":{"key":"mine"}}`)
	r.open("deploy/web", outcome(api.OutcomeReported))
	r.open("cm/settings", outcome(api.OutcomeReported))
	r.Commit(files{"app/web.yaml": strings.Replace(deployment, "web:1", "web:2", 1)})
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:2")
	r.is("deploy/web", "spec.replicas", "1")
	r.drifted(1)
	r.stays("cm/settings", "data.key", "mine")
	for _, e := range r.closed() {
		if e.Object.Name == "web" && (e.Open() || e.Fields[0].Path != "/spec/replicas") {
			t.Errorf("the episode of what was rolled out over: %+v", e)
		}
		if e.Object.Name == "settings" && !e.Open() {
			t.Errorf("the episode of what Git did not change: %+v", e)
		}
	}
}

// The annotation says for one object what the policy says for all, in Git and on the cluster.
func TestDriftAnnotation(t *testing.T) {
	git := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS, annotations: {flotilla.dev/drift: %s}}\ndata: {key: one}\n"
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(""), "app/report.yaml": fmt.Sprintf(git, "report", "report"), "app/ignore.yaml": fmt.Sprintf(git, "ignore", "ignore"),
		"app/live.yaml": configMap("live", "one"),
	}))
	r.edit("cm/live", `{"metadata":{"annotations":{"flotilla.dev/drift":"report"}}}`)
	for _, name := range []string{"report", "ignore", "live"} {
		r.edit("cm/"+name, `{"data":{"key":"two"}}`)
	}
	r.open("cm/report", outcome(api.OutcomeReported))
	r.open("cm/live", outcome(api.OutcomeReported))
	r.settle()
	r.drifted(2)
	for _, name := range []string{"report", "ignore", "live"} {
		r.stays("cm/"+name, "data.key", "two")
	}
	// A full pass keeps to it as well.
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.settle()
	for _, name := range []string{"report", "ignore", "live"} {
		r.stays("cm/"+name, "data.key", "two")
	}
	r.edit("cm/live", `{"metadata":{"annotations":{"flotilla.dev/drift":null}}}`)
	r.is("cm/live", "data.key", "one")
	r.drifted(1)
}

// Where extra is removed, an object is taken out of drift correction in Git alone: on the cluster, the annotation for it is extra.
func TestDriftAnnotationWhereExtraIsRemoved(t *testing.T) {
	inGit := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: NS, annotations: {flotilla.dev/%s}}\ndata: {key: one}\n"
	r := start(t, marked(files{
		"app/bundle.yaml": bundle("drift: {extra: remove}"), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"), "app/c.yaml": configMap("c", "one"),
		"app/merge.yaml": fmt.Sprintf(inGit, "merge", "ssa: Merge"), "app/report.yaml": fmt.Sprintf(inGit, "report", "drift: report"),
	}))
	for name, annotation := range map[string]string{"a": "drift\":\"ignore", "b": "drift\":\"report", "c": "ssa\":\"IfNotPresent", "merge": "drift\":\"ignore"} {
		r.edit("cm/"+name, `{"metadata":{"annotations":{"flotilla.dev/`+annotation+`"}}}`)
	}
	for name, key := range map[string]string{"a": "drift", "b": "drift", "c": "ssa"} {
		r.is("cm/"+name, "metadata.annotations.flotilla|dev/"+key, "<nil>")
	}
	// Where Git leaves what others add to them, the annotation stays, is told of, and says nothing.
	e := r.open("cm/merge", outcome(api.OutcomeReported))
	if e.Class != api.ClassAdded {
		t.Errorf("the episode: %+v", e)
	}
	r.edit("cm/merge", `{"data":{"key":"two"}}`)
	r.is("cm/merge", "data.key", "one")
	// With an edit in the same breath, both go.
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}},"data":{"key":"two"}}`)
	r.is("cm/a", "data.key", "one")
	r.is("cm/a", "metadata.annotations.flotilla|dev/drift", "<nil>")
	r.edit("cm/c", `{"metadata":{"annotations":{"flotilla.dev/ssa":"IfNotPresent"},"labels":{"applyset.kubernetes.io/part-of":null}},"data":{"key":"two"}}`)
	r.is("cm/c", "data.key", "one")
	r.is("cm/c", "metadata.annotations.flotilla|dev/ssa", "<nil>")
	// For what Git does not have, nobody else speaks either. What deletes nothing is another matter.
	set := "app.kubernetes.io/managed-by: flotilla, applyset.kubernetes.io/part-of: " + plan.ApplySetID(r.Text("NS-app"))
	for name, order := range map[string]string{"extra": "drift: ignore", "kept": "prune: disabled"} {
		r.create("cm/", strings.Replace(labelled(name, set), "labels:", "annotations: {flotilla.dev/"+order+"}, labels:", 1))
	}
	r.gone("cm/extra")
	r.open("cm/kept", outcome(api.OutcomeReported))
	// What Git says of itself counts, and what stops writing counts from the cluster as well: it hides nothing.
	r.edit("cm/report", `{"data":{"key":"two"}}`)
	r.open("cm/report", outcome(api.OutcomeReported))
	r.edit("cm/b", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}},"data":{"key":"two"}}`)
	r.open("cm/b", outcome(api.OutcomeReported))
	r.stays("cm/b", "data.key", "two")
	// A full pass sees it the same way.
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.stays("cm/report", "data.key", "two")
	r.stays("cm/b", "data.key", "two")
	told := map[string]bool{}
	for _, e := range r.closed() {
		if e.Class != api.ClassAdded || e.Outcome != api.OutcomeCorrected {
			continue
		}
		if f := e.Fields[0]; strings.HasPrefix(f.Path, "/metadata/annotations/flotilla.dev~1") && f.By.Manager == "kubectl-edit" {
			told[e.Object.Name] = true
		}
	}
	if len(told) != 3 {
		t.Errorf("episodes of %v, want a, b and c", told)
	}
}

// Git may have it that an object is not written: what drifts is recorded, what Git changes with that or later included.
func TestDisabledInGit(t *testing.T) {
	disabled := func(value string) string {
		return strings.Replace(configMap("a", value), "namespace: NS", "namespace: NS, annotations: {flotilla.dev/reconcile: disabled}", 1)
	}
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/never.yaml": strings.Replace(disabled("one"), "name: a", "name: never", 1)}))
	r.Ready("NS-app", r.Commit(files{"app/a.yaml": disabled("one")}))
	r.settle()
	r.drifted(0) // that the annotation itself is not written is no drift
	r.edit("cm/a", `{"data":{"key":"two"}}`)
	if e := r.open("cm/a", outcome(api.OutcomeReported)); len(e.Fields) != 1 || e.Fields[0].Path != "/data/key" || e.By.Manager != "kubectl-edit" {
		t.Errorf("the episode: %+v", e)
	}
	r.stays("cm/a", "data.key", "two")
	r.Commit(files{"app/a.yaml": disabled("two")})
	r.drifted(0)
	r.remove("cm/a")
	r.open("cm/a", func(e api.Episode) error {
		if e.Class != api.ClassMissing || e.Outcome != api.OutcomeReported {
			return fmt.Errorf("it is %s and %s", e.Class, e.Outcome)
		}
		return nil
	})
	r.Commit(files{"app/a.yaml": configMap("a", "three")})
	r.is("cm/a", "data.key", "three")
	r.drifted(0)
	// It is not deleted either.
	r.Commit(files{"app/a.yaml": disabled("three"), "app/b.yaml": configMap("b", "one")})
	r.is("cm/b", "data.key", "one")
	r.Delete("app/a.yaml", "app/b.yaml")
	r.gone("cm/b")
	r.settle()
	r.stays("cm/a", "data.key", "three")
}

// An object that is left alone and loses the label by which it is watched is looked at all the same.
func TestLeftAloneWithoutItsLabel(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"), "app/c.yaml": configMap("c", "one")}))
	strip := `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null},"annotations":{"flotilla.dev/%s"}}}`
	r.edit("cm/a", fmt.Sprintf(strip, `drift":"ignore`))
	r.edit("cm/b", fmt.Sprintf(strip, `drift":"ignore`))
	r.edit("cm/c", fmt.Sprintf(strip, `reconcile":"disabled`))
	r.exempt("a drift: ignore", "b drift: ignore", "c reconcile: disabled")
	r.open("cm/c", outcome(api.OutcomeReported)) // of the label
	old := r.get("cm/b")
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/drift":null}},"data":{"key":"two"}}`)
	r.remove("cm/b")
	r.edit("cm/c", `{"data":{"key":"two"}}`)
	r.is("cm/a", "data.key", "one")
	r.back("cm/b", old)
	r.open("cm/c", func(e api.Episode) error {
		if len(e.Fields) != 2 {
			return fmt.Errorf("it has %d fields", len(e.Fields))
		}
		return nil
	})
	r.exempt("c reconcile: disabled")
	// That Git changes it does not make it be looked at all the time.
	r.Commit(files{"app/c.yaml": configMap("c", "three")})
	r.open("cm/c", func(e api.Episode) error {
		if e.Fields[0].Desired != `"three"` {
			return fmt.Errorf("it is to be %s", e.Fields[0].Desired)
		}
		return nil
	})
	before := r.dryRuns()
	time.Sleep(3 * time.Second)
	if n := r.dryRuns() - before; n > 4 {
		t.Errorf("%v dry runs in three seconds of an object that is left alone", n)
	}
	r.edit("cm/c", `{"metadata":{"annotations":{"flotilla.dev/reconcile":null}}}`)
	r.is("cm/c", "data.key", "three")
	r.exempt()
	r.drifted(0)
}

// What Git changes while an object must not be written is written when it may be, and what somebody changed meanwhile is recorded.
func TestCommitWhileDisabledOnTheCluster(t *testing.T) {
	text := func(name, a, b string) string {
		return strings.Replace(configMap(name, a), "key: ", "other: "+b+", key: ", 1)
	}
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(""), "app/a.yaml": text("a", "one", "x"), "app/moved.yaml": text("moved", "one", "x"), "app/left.yaml": text("left", "one", "x"),
		"next/bundle.yaml": named("next", ""), "next/own.yaml": configMap("own", "one"),
	}))
	r.Ready("NS-next", "")
	for name, order := range map[string]string{"a": `reconcile":"disabled`, "moved": `reconcile":"disabled`, "left": `drift":"ignore`} {
		r.edit("cm/"+name, `{"metadata":{"annotations":{"flotilla.dev/`+order+`"}}}`)
	}
	r.exempt("a reconcile: disabled", "left drift: ignore", "moved reconcile: disabled")
	r.Do(gitserver.Commit{
		Write:  files{"app/a.yaml": text("a", "two", "x"), "next/moved.yaml": text("moved", "two", "x"), "next/left.yaml": text("left", "two", "x")},
		Delete: []string{"app/moved.yaml", "app/left.yaml"},
	})
	r.is("cm/left", "data.key", "two")
	r.exempt("a reconcile: disabled")
	r.exemptIn("NS-next", "left drift: ignore", "moved reconcile: disabled")
	// Live is not as Git says, and that is said: of the moved one that its labels are the old bundle's, too.
	paths := func(want ...string) func(api.Episode) error {
		return func(e api.Episode) error {
			var got []string
			for _, f := range e.Fields {
				got = append(got, f.Path)
			}
			if !slices.Equal(got, want) || e.Outcome != api.OutcomeReported {
				return fmt.Errorf("it is %s, of %q", e.Outcome, got)
			}
			return nil
		}
	}
	labels := []string{"/metadata/labels/applyset.kubernetes.io~1part-of", "/metadata/labels/flotilla.dev~1bundle"}
	for name, more := range map[string][]string{"a": nil, "moved": labels} {
		if e := r.open("cm/"+name, paths(append([]string{"/data/key"}, more...)...)); e.By.Manager != "" {
			t.Errorf("nobody but Git changed it: %+v", e.By)
		}
		r.edit("cm/"+name, `{"data":{"other":"y"}}`)
		r.open("cm/"+name, paths(append([]string{"/data/key", "/data/other"}, more...)...))
		r.stays("cm/"+name, "data.key", "one")
	}
	for _, name := range []string{"a", "moved"} {
		r.edit("cm/"+name, `{"metadata":{"annotations":{"flotilla.dev/reconcile":null}}}`)
		r.is("cm/"+name, "data.key", "two")
		r.is("cm/"+name, "data.other", "x")
	}
	r.edit("cm/left", `{"metadata":{"annotations":{"flotilla.dev/drift":null}}}`)
	r.exempt()
	r.exemptIn("NS-next")
	r.drifted(0)
	r.is("cm/moved", "metadata.labels.flotilla|dev/bundle", r.Text("NS-next"))
	// A bundle that leaves has nobody exempt, whatever it has to leave behind.
	r.edit("cm/left", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}}}`)
	r.edit("cm/own", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore","flotilla.dev/prune":"disabled"}}}`)
	r.exemptIn("NS-next", "left drift: ignore", "own drift: ignore")
	r.Do(gitserver.Commit{Delete: []string{"next"}})
	r.gone("cm/left")
	r.exemptIn("NS-next")
	r.Eventually("it is said that the bundle has left Git", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-next")
		if err == nil && b.Message != "has left Git; objects that stay: 1" {
			err = fmt.Errorf("it says %q", b.Message)
		}
		return err
	})
}

// Whatever somebody takes out by an annotation on the cluster is told of for as long as it is out, also where nothing differs.
func TestExempt(t *testing.T) {
	inGit := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: git, namespace: NS, annotations: {flotilla.dev/drift: ignore}}\ndata: {key: one}\n"
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(""), "app/git.yaml": inGit,
		"app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"), "app/c.yaml": configMap("c", "one"), "app/d.yaml": configMap("d", "one"),
	}))
	r.exempt()
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}}}`)
	r.edit("cm/b", `{"metadata":{"annotations":{"flotilla.dev/drift":"report"}},"data":{"key":"two"}}`)
	r.edit("cm/c", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}}}`)
	r.edit("cm/d", `{"metadata":{"annotations":{"flotilla.dev/ssa":"IfNotPresent"}}}`)
	all := []string{"a drift: ignore", "b drift: report", "c reconcile: disabled", "d ssa: IfNotPresent"}
	r.exempt(all...)
	r.drifted(1)
	r.metricIs("flotilla_objects_exempt", 4)
	// A commit that writes some of them, one that passes others over, a full pass, a start and the loss of the store leave it known.
	r.Commit(files{"app/a.yaml": configMap("a", "two"), "app/c.yaml": configMap("c", "two")})
	r.is("cm/a", "data.key", "two")
	r.exempt(all...)
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.exempt(all...)
	r.Stop()
	r.Start()
	r.settle()
	r.exempt(all...)
	r.Stop()
	if err := os.Remove(filepath.Join(r.Config.Dir, "agent.db")); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.settle()
	r.exempt(all...)
	// With the object or the annotation it is over.
	old := r.get("cm/b")
	r.remove("cm/b")
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/drift":null}}}`)
	r.edit("cm/c", `{"metadata":{"annotations":{"flotilla.dev/reconcile":null}}}`)
	r.is("cm/c", "data.key", "two")
	r.back("cm/b", old)
	r.exempt("d ssa: IfNotPresent")
	r.metricIs("flotilla_objects_exempt", 1)
	// Git says it too: then it is no secret.
	r.Commit(files{"app/d.yaml": strings.Replace(configMap("d", "one"), "namespace: NS", "namespace: NS, annotations: {flotilla.dev/ssa: IfNotPresent}", 1)})
	r.exempt()
	r.edit("cm/c", `{"metadata":{"annotations":{"flotilla.dev/reconcile":"disabled"}}}`)
	r.exempt("c reconcile: disabled")
	r.Commit(files{"app/c.yaml": strings.Replace(configMap("c", "two"), "namespace: NS", "namespace: NS, annotations: {flotilla.dev/reconcile: disabled}", 1)})
	r.exempt()
	// What has left Git, and is kept, is told as that.
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore","flotilla.dev/prune":"disabled"}}}`)
	r.exempt("a drift: ignore")
	r.Delete("app/a.yaml")
	r.exemptAre("NS-app", "ConfigMap/"+r.NS+"/a: left Git, and stays: flotilla.dev/prune: disabled")
	r.stays("cm/a", "data.key", "two")
}

// exempt waits until just these objects of the bundle app are exempt, by these annotations of ours.
func (r *rig) exempt(want ...string) {
	r.t.Helper()
	r.exemptIn("NS-app", want...)
}

func (r *rig) exemptIn(bundle string, want ...string) {
	r.t.Helper()
	want = slices.Clone(want)
	for i, w := range want {
		name, annotation, _ := strings.Cut(w, " ")
		want[i] = "ConfigMap/" + r.NS + "/" + name + ": flotilla.dev/" + annotation
	}
	r.exemptAre(bundle, want...)
}

// exemptAre waits until a bundle's exempt objects are told in just these words.
func (r *rig) exemptAre(bundle string, want ...string) {
	r.t.Helper()
	r.Eventually(fmt.Sprintf("%q are exempt", want), func(ctx context.Context) error {
		b, err := r.Bundle(ctx, bundle)
		if err == nil && !slices.Equal(b.Exempt, want) {
			err = fmt.Errorf("exempt are %q", b.Exempt)
		}
		return err
	})
}

const ignoring = `drift: {ignore: [
  {target: {kind: Deployment}, paths: [/spec/replicas, "/spec/template/spec/containers/[name=sidecar]/image"]},
  {target: {kind: ConfigMap, name: "free-*"}, managers: [tuner]},
  {target: {kind: ConfigMap, name: whole}, paths: [/]}]}`

// Ignored fields keep their foreign values, through corrections of other fields, new commits and full passes.
// Everything else of the same objects is still drift.
func TestIgnoreRules(t *testing.T) {
	r := start(t, marked(files{
		"app/bundle.yaml": bundle(ignoring), "app/web.yaml": deployment,
		"app/free.yaml": configMap("free-1", "one"), "app/tied.yaml": configMap("tied", "one"), "app/whole.yaml": configMap("whole", "one"),
	}))
	kept := func() {
		t.Helper()
		r.stays("deploy/web", "spec.replicas", "5")
		r.stays("deploy/web", "spec.template.spec.containers.1.image", "sidecar:9")
		r.stays("cm/free-1", "data.key", "tuned")
		r.stays("cm/whole", "data.key", "two")
	}
	r.edit("deploy/web", `[{"op":"replace","path":"/spec/replicas","value":5},{"op":"replace","path":"/spec/template/spec/containers/1/image","value":"sidecar:9"}]`)
	r.editAs("tuner", "cm/free-1", `{"data":{"key":"tuned"}}`)
	r.edit("cm/whole", `{"data":{"key":"two"}}`)
	r.settle()
	r.drifted(0)
	kept()
	// The neighbours of what is ignored are drift.
	r.edit("deploy/web", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:9"}]`)
	r.editAs("tuner", "cm/tied", `{"data":{"key":"tuned"}}`)
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:1")
	r.is("cm/tied", "data.key", "one")
	kept()
	// A new commit that touches the same objects leaves them alone.
	r.Ready("NS-app", r.Commit(files{
		"app/web.yaml": strings.Replace(deployment, "web:1", "web:2", 1), "app/free.yaml": configMap("free-1", "one") + "immutable: false\n",
	}))
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:2")
	kept()
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.drifted(0)
	kept()
	// Deletion is repaired, with what Git says; our own metadata too.
	r.edit("deploy/web", `{"metadata":{"labels":{"app.kubernetes.io/managed-by":"me"}}}`)
	r.is("deploy/web", "metadata.labels.app|kubernetes|io/managed-by", "flotilla")
	kept()
	r.edit("cm/whole", `{"metadata":{"labels":{"applyset.kubernetes.io/part-of":null,"flotilla.dev/bundle":"me"}}}`)
	r.is("cm/whole", "metadata.labels.flotilla|dev/bundle", r.Text("NS-app"))
	r.is("cm/whole", "metadata.labels.app|kubernetes|io/managed-by", "flotilla")
	r.settle()
	if at(r.get("cm/whole"), "metadata.labels.applyset|kubernetes|io/part-of") == nil {
		t.Error("an ignored object lost its label")
	}
	kept()
	old := r.get("deploy/web")
	r.remove("deploy/web")
	r.back("deploy/web", old)
	r.stays("deploy/web", "spec.replicas", "1")
	// Of an object that is ignored as a whole the absence is, too.
	r.remove("cm/whole")
	r.edit("cm/tied", `{"data":{"key":"later"}}`) // what is corrected after it was seen after it
	r.is("cm/tied", "data.key", "one")
	r.drifted(0)
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "whole", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object that is ignored came back: %v", err)
	}
}

// What the fleet says holds for bundles that say nothing themselves.
func TestPolicyOfTheFleet(t *testing.T) {
	r := start(t, files{
		"fleet.yaml":      "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {defaults: {drift: {mode: report, ignore: [{target: {kind: ConfigMap}, paths: [/data/theirs]}]}}}\n",
		"app/bundle.yaml": named("app", ""), "app/a.yaml": configMap("a", "one"),
		"own/bundle.yaml": named("own", "drift: {mode: correct}"), "own/b.yaml": strings.Replace(configMap("b", "one"), "\ndata: {", "\ndata: {theirs: git, ", 1),
		"off/bundle.yaml": named("off", "drift: {mode: ignore}"), "off/c.yaml": configMap("c", "one"),
	})
	r.Ready("NS-own", "")
	r.Ready("NS-off", "")
	for _, name := range []string{"a", "b", "c"} {
		r.edit("cm/"+name, `{"data":{"key":"two","theirs":"tuned"}}`)
	}
	r.is("cm/b", "data.key", "one")
	r.open("cm/a", outcome(api.OutcomeReported))
	r.drifted(1)
	r.stays("cm/a", "data.key", "two")
	r.stays("cm/b", "data.theirs", "tuned")
	r.stays("cm/c", "data.key", "two")
	for _, e := range r.closed() {
		if e.Object.Name == "c" {
			t.Errorf("what is not to be looked at was: %+v", e)
		}
	}
}

const hpa = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: %s, namespace: NS}
spec: {minReplicas: 2, maxReplicas: 6, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}
`

// Replicas within the bounds of an autoscaler that somebody made by hand are its own; outside they are drift.
func TestAutoscalerThatIsNotInGit(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/web.yaml": deployment, "app/other.yaml": strings.ReplaceAll(deployment, "name: web", "name: other")}))
	r.create("hpa/", fmt.Sprintf(hpa, "by-hand"))
	r.is("deploy/web", "spec.replicas", "2") // the autoscaler's doing
	r.editAs("kube-controller-manager", "deploy/web", `{"spec":{"replicas":4}}`, "scale")
	r.edit("deploy/other", `{"spec":{"replicas":4}}`)
	r.is("deploy/other", "spec.replicas", "1")
	r.settle()
	r.stays("deploy/web", "spec.replicas", "4")
	// A correction of another field, a commit and a full pass leave them alone.
	r.edit("deploy/web", `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:9"}]`)
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:1")
	r.stays("deploy/web", "spec.replicas", "4")
	r.Ready("NS-app", r.Commit(files{"app/web.yaml": strings.Replace(deployment, "web:1", "web:2", 1)}))
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:2")
	r.stays("deploy/web", "spec.replicas", "4")
	if err := r.Applier.OrderSync(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.stays("deploy/web", "spec.replicas", "4")
	// When it goes, nobody scales them any more. The Deployment itself has not changed.
	r.remove("hpa/by-hand")
	r.is("deploy/web", "spec.replicas", "1")
	r.drifted(0)
}

// That it goes while the agent is down is noticed at the next start.
func TestAutoscalerThatGoesWhileTheAgentIsDown(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/web.yaml": deployment}))
	r.create("hpa/", fmt.Sprintf(hpa, "by-hand"))
	r.is("deploy/web", "spec.replicas", "2")
	r.settle()
	r.Stop()
	r.Start() // and with nothing to look at
	r.settle()
	r.stays("deploy/web", "spec.replicas", "2")
	r.Stop()
	r.remove("hpa/by-hand")
	r.Start()
	r.is("deploy/web", "spec.replicas", "1")
}

// The same for an autoscaler in Git, and outside its bounds replicas are drift.
func TestAutoscalerInGit(t *testing.T) {
	r := start(t, marked(files{"app/bundle.yaml": bundle(""), "app/web.yaml": strings.Replace(deployment, "replicas: 1", "replicas: 3", 1), "app/hpa.yaml": fmt.Sprintf(hpa, "web")}))
	r.editAs("kube-controller-manager", "deploy/web", `{"spec":{"replicas":5}}`, "scale")
	r.settle()
	r.Ready("NS-app", r.Commit(files{"app/web.yaml": strings.NewReplacer("replicas: 1", "replicas: 3", "web:1", "web:2").Replace(deployment)}))
	r.is("deploy/web", "spec.template.spec.containers.0.image", "web:2")
	r.stays("deploy/web", "spec.replicas", "5")
	r.drifted(0)
	r.edit("deploy/web", `{"spec":{"replicas":9}}`)
	r.Eventually("replicas outside the bounds are corrected", func(ctx context.Context) error {
		web, err := r.tryGet(ctx, "deploy/web")
		if err != nil {
			return err
		}
		if n := fmt.Sprint(at(web, "spec.replicas")); n != "3" && n != "6" {
			return errors.New(n)
		}
		return nil
	})
}
