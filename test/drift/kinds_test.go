package drift

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// madeBy creates an object as another tool, before it is ours.
func (r *rig) madeBy(manager, object, text string) {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(r.Text(text)), &o.Object); err != nil {
		r.t.Fatal(err)
	}
	c, _ := r.resource(object)
	if _, err := c.Create(r.t.Context(), o, metav1.CreateOptions{FieldManager: manager}); err != nil {
		r.t.Fatal(err)
	}
}

// What another tool made and Git takes over keeps what Git says, also where everything else is removed.
func TestTakenOverFromAnotherTool(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: marked(files{
		"app/bundle.yaml": bundle("wait: false, drift: {extra: remove}"), "app/cm.yaml": configMap("settings", "one"),
		"app/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: login, namespace: NS}\nstringData: {key: one}\n", "app/web.yaml": deployment,
	})})
	r.madeBy("HashiCorp", "cm/settings", configMap("settings", "nine"))
	r.madeBy("HashiCorp", "secret/login", "apiVersion: v1\nkind: Secret\nmetadata: {name: login, namespace: NS}\nstringData: {key: nine}\n")
	r.madeBy("pulumi-kubernetes", "deploy/web", strings.NewReplacer("cpu: 0.1", "cpu: 2", "memory: 1024Mi", "memory: 1Mi").Replace(deployment))
	r.Start()
	r.Ready("NS-app", "")
	r.edit("cm/settings", `{"data":{"other":"x"}}`)
	r.is("cm/settings", "data.other", "<nil>")
	r.settle()
	r.stays("cm/settings", "data", "map[key:one]")
	r.stays("secret/login", "data", "map[key:b25l]")
	r.stays("deploy/web", "spec.template.spec.containers.0.resources.limits", "map[cpu:100m memory:1Gi]")
	r.drifted(0)
	r.want(
		`cm/settings added corrected: /data/other  -> "x" by kubectl-edit`,
		`cm/mark changed corrected: /data/key "mark" -> "`+r.last+`" by kubectl-edit`,
	)
}

// A status that moves between the look and the write is no reason to wait: the API server refuses the patch, and it is made anew.
func TestAddedWhileTheStatusMoves(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle("wait: false, drift: {extra: remove}"), "app/web.yaml": deployment})
	for i := range 3 {
		r.edit("deploy/web", fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:%d"},`+
			`{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"X","value":"%d"}]}]`, i+2, i))
		r.is("deploy/web", "spec.template.spec.containers.0.env", "<nil>")
		r.is("deploy/web", "spec.template.spec.containers.0.image", "web:1")
	}
	for _, e := range r.closed() {
		for _, m := range e.Timeline {
			if strings.HasPrefix(m.What, "correction failed") {
				t.Errorf("%s: %s", r.shortOf(e.Object), m.What)
			}
		}
	}
}

// Drift that is only reported is followed where the watch does not see the object: made anew without our labels,
// or called another tool's.
func TestReportedDriftIsFollowed(t *testing.T) {
	r := start(t, marked(files{
		"app/bundle.yaml": bundle("drift: {mode: report}"),
		"app/a.yaml":      configMap("a", "one"), "app/b.yaml": configMap("b", "one"), "app/c.yaml": configMap("c", "one"),
	}))
	r.remove("cm/a")
	r.open("cm/a", class(api.ClassMissing))
	r.create("cm/a", configMap("a", "seven"))
	r.open("cm/a", func(e api.Episode) error {
		if fields := paths(e); !strings.Contains(fields, "/data/key") || !strings.Contains(fields, "/metadata/labels") {
			return fmt.Errorf("%s %s", e.Class, fields)
		}
		return nil
	})
	for _, object := range []string{"cm/b", "cm/c"} {
		r.edit(object, `{"metadata":{"labels":{"app.kubernetes.io/managed-by":"Helm"}}}`)
		r.open(object, class(api.ClassChanged))
	}
	r.edit("cm/b", `{"data":{"key":"two"}}`)
	r.remove("cm/c")
	r.open("cm/b", func(e api.Episode) error {
		if fields := paths(e); !strings.Contains(fields, "/data/key") {
			return errors.New(fields)
		}
		return nil
	})
	r.open("cm/c", class(api.ClassMissing))
}

func class(want api.Class) func(api.Episode) error {
	return func(e api.Episode) error {
		if e.Class != want {
			return fmt.Errorf("%s, want %s", e.Class, want)
		}
		return nil
	}
}

func paths(e api.Episode) string {
	var out []string
	for _, f := range e.Fields {
		out = append(out, f.Path)
	}
	return strings.Join(out, " ")
}

// A commit that writes over what was only reported ends that, and says so: it did not end by itself.
func TestCommitWritesOverReportedDrift(t *testing.T) {
	r := start(t, files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/cm.yaml": configMap("settings", "one")})
	r.edit("cm/settings", `{"data":{"key":"two"}}`)
	r.open("cm/settings", outcome(api.OutcomeReported))
	revision := r.Commit(files{"app/cm.yaml": strings.Replace(configMap("settings", "one"), "{key: ", "{other: three, key: ", 1)})
	r.is("cm/settings", "data", "map[key:one other:three]")
	r.drifted(0)
	var last string
	for _, e := range r.closed() {
		if e.Object.Name == "settings" {
			last = string(e.Outcome) + ", " + e.Timeline[len(e.Timeline)-1].What
		}
	}
	if want := "corrected, written over by commit " + revision; last != want {
		t.Errorf("the episode ends with %q, want %q", last, want)
	}
}

// An object that bore an annotation before it was ours, and is left as it is for that, is exempt like any other.
func TestSkippedAtFirstSightIsExempt(t *testing.T) {
	r := newRig(t, agenttest.Config{Files: marked(files{
		"app/bundle.yaml": bundle(""), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one"),
	})})
	with := func(name, annotation string) string {
		return strings.Replace(configMap(name, "live"), "namespace: NS", "namespace: NS, annotations: {"+annotation+"}", 1)
	}
	r.create("cm/a", with("a", "flotilla.dev/ssa: IfNotPresent"))
	r.create("cm/b", with("b", "flotilla.dev/reconcile: disabled"))
	r.Start()
	r.Ready("NS-app", "")
	r.exempt("a ssa: IfNotPresent", "b reconcile: disabled")
	r.metricIs("flotilla_objects_exempt", 2)
	r.Stop()
	r.Start()
	r.settle()
	r.exempt("a ssa: IfNotPresent", "b reconcile: disabled")
	r.stays("cm/a", "data.key", "live")
	r.edit("cm/a", `{"metadata":{"annotations":{"flotilla.dev/ssa":null}}}`)
	r.Commit(files{"app/a.yaml": configMap("a", "two")})
	r.is("cm/a", "data.key", "two")
	r.exempt("b reconcile: disabled")
}

// What cannot be compared is told with its reason; that an object is gone needs no dry run.
func TestUnknownIsTold(t *testing.T) {
	r := startWith(t, agenttest.Config{
		Files: files{"app/bundle.yaml": bundle("drift: {mode: report}"), "app/a.yaml": configMap("a", "one"), "app/b.yaml": configMap("b", "one")},
		Mode:  agenttest.Proxied,
	})
	r.Proxy.Spoil(func(req *http.Request) *agenttest.Fault {
		if req.URL.Query().Get("dryRun") != "" {
			return &agenttest.Fault{Status: http.StatusForbidden}
		}
		return nil
	})
	r.remove("cm/a")
	r.edit("cm/b", `{"data":{"key":"two"}}`)
	r.open("cm/a", class(api.ClassMissing))
	r.Eventually("the status says which object, and why", func(ctx context.Context) error {
		b, err := r.Bundle(ctx, "NS-app")
		if err == nil && (b.Unknown != 1 || len(b.Uncompared) != 1 || !strings.HasPrefix(b.Uncompared[0], "ConfigMap/"+r.NS+"/b: ")) {
			err = fmt.Errorf("%d unknown: %q", b.Unknown, b.Uncompared)
		}
		return err
	})
}
