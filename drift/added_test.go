package drift_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

// looked is input, with the answer to the question that follows from it: what would be there without the additions?
func (c *cluster) looked(desired *unstructured.Unstructured, spec api.Drift) drift.Input {
	c.t.Helper()
	var in drift.Input
	eventually(c.t, "the object stays as it is for a moment", func() bool {
		in = c.input(desired, spec)
		patch := drift.Additions(in)
		if patch == nil {
			return true
		}
		var err error
		in.Stripped, err = c.tryWithout(desired, patch)
		return err == nil
	})
	return in
}

// tryWithout is the object without what the patch takes away, by a dry run.
func (c *cluster) tryWithout(o *unstructured.Unstructured, patch []byte) (*unstructured.Unstructured, error) {
	return c.resource(o).Patch(c.t.Context(), o.GetName(), types.JSONPatchType, patch,
		metav1.PatchOptions{FieldManager: api.FieldManager, DryRun: []string{metav1.DryRunAll}})
}

// made creates an object as somebody else, before it is ours.
func (c *cluster) made(manager, text string) {
	c.t.Helper()
	o := c.parse(text)
	if _, err := c.resource(o).Create(c.t.Context(), o, metav1.CreateOptions{FieldManager: manager}); err != nil {
		c.t.Fatal(err)
	}
}

// A claim to a map or an item stays when Git takes over all that is in it. It adds nothing, and Git's fields stay.
func TestClaimThatOutlivesItsParts(t *testing.T) {
	c := newCluster(t)
	const podOf = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: NAME}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, ` +
		`template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", CONTAINER}]}}}}`
	for name, tt := range map[string]struct{ before, git string }{
		"a ConfigMap's data": {
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: cm}, data: {a: "9"}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: cm}, data: {a: "1"}}`,
		},
		"a Secret's data": {
			`{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: OQ==, b: Yg==}}`,
			`{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: "1"}, data: {b: Yg==}}`,
		},
		"labels and annotations": {
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: labels, labels: {a: "9"}, annotations: {b: "9"}}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: labels, labels: {a: "1"}, annotations: {b: "1"}}}`,
		},
		"a container's limits": {
			replace(podOf, "NAME", "limits", "CONTAINER", `resources: {limits: {cpu: 2}}`),
			replace(podOf, "NAME", "limits", "CONTAINER", `resources: {limits: {cpu: 1}}`),
		},
		"an item's parts": {
			replace(podOf, "NAME", "env", "CONTAINER", `env: [{name: A, value: "9"}], ports: [{containerPort: 80, name: px}]`),
			replace(podOf, "NAME", "env", "CONTAINER", `env: [{name: A, value: "1"}], ports: [{containerPort: 80, name: py}]`),
		},
		"an Ingress's backend": {
			`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {defaultBackend: {service: {name: sx, port: {number: 1}}}}}`,
			`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {defaultBackend: {service: {name: sy, port: {number: 2}}}}}`,
		},
	} {
		for _, manager := range []string{"HashiCorp", "k9s"} {
			t.Run(name+" by "+manager, func(t *testing.T) {
				c := c.in(t)
				c.made(manager, tt.before)
				desired := c.parse(tt.git)
				t.Cleanup(func() { c.delete(desired) })
				c.apply(desired)
				r := drift.Compare(c.input(desired, api.Drift{Extra: api.ExtraRemove}))
				for _, f := range r.Fields {
					// Without the second question a default may be taken for an addition; what Git says never is.
					if _, ok := get(desired.Object, f.Path); ok {
						t.Errorf("Git says %s", f.Path)
					}
				}
				if got := lines(drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraRemove}))); got != nil {
					t.Errorf("%q", got)
				}
			})
		}
	}
}

// What is added below a map or list that Git leaves empty is an addition like any other.
func TestAddedBelowWhatGitLeavesEmpty(t *testing.T) {
	c := newCluster(t)
	const pod = "/spec/template/spec"
	desired := c.parse(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: empty, annotations: {}}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, ` +
		`template: {metadata: {labels: {app: web}, annotations: {}}, spec: {securityContext: {}, nodeSelector: {}, tolerations: [], affinity: {podAntiAffinity: {}}, ` +
		`volumes: [{name: tmp, emptyDir: {}}], containers: [{name: web, image: "web:1", securityContext: {}, resources: {}, env: [], livenessProbe: null}]}}}}`)
	c.apply(desired)
	if got := lines(drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraReport}))); got != nil {
		t.Fatalf("as applied: %q", got)
	}
	c.edit(desired, edit, `{"metadata":{"annotations":{"a":"x"}},"spec":{"template":{"metadata":{"annotations":{"b":"x"}},"spec":{`+
		`"securityContext":{"runAsUser":7},"nodeSelector":{"n":"x"},"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}}}}}`)
	c.edit(desired, edit, `[{"op":"add","path":"/spec/template/spec/containers/0/securityContext/privileged","value":true},`+
		`{"op":"add","path":"/spec/template/spec/containers/0/resources/limits","value":{"cpu":"1"}},`+
		`{"op":"add","path":"/spec/template/spec/volumes/0/emptyDir/medium","value":"Memory"},`+
		`{"op":"add","path":"/spec/template/spec/containers/0/env","value":[{"name":"A","value":"x"}]},`+
		`{"op":"add","path":"/spec/template/spec/containers/0/livenessProbe","value":{"tcpSocket":{"port":80}}}]`)
	want := []string{
		`changed ` + pod + `/nodeSelector  -> {"n":"x"} by kubectl-edit`,
		`added /metadata/annotations/a  -> "x" by kubectl-edit`,
		`added /spec/template/metadata/annotations/b  -> "x" by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/env/[name=A]  -> {"name":"A","value":"x"} by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/livenessProbe/failureThreshold  -> 3 by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/livenessProbe/periodSeconds  -> 10 by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/livenessProbe/successThreshold  -> 1 by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/livenessProbe/tcpSocket/port  -> 80 by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/livenessProbe/timeoutSeconds  -> 1 by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/resources/limits/cpu  -> "1" by kubectl-edit`,
		`added ` + pod + `/containers/[name=web]/securityContext/privileged  -> true by kubectl-edit`,
		`added ` + pod + `/securityContext/runAsUser  -> 7 by kubectl-edit`,
		`added ` + pod + `/volumes/[name=tmp]/emptyDir/medium  -> "Memory" by kubectl-edit`,
	}
	if d := cmp.Diff(want, lines(drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraReport})))); d != "" {
		t.Error(d)
	}

	free := c.parse(`{apiVersion: v1, kind: ConfigMap, metadata: {name: empty}, data: {}}`)
	c.apply(free)
	c.edit(free, edit, `{"data":{"a":"x"}}`)
	if d := cmp.Diff([]string{`added /data/a  -> "x" by kubectl-edit`}, lines(drift.Compare(c.looked(free, api.Drift{Extra: api.ExtraReport})))); d != "" {
		t.Error(d)
	}
}

// A claim to a value that the API server would set anyway is nobody's addition: set and set back, written with the whole
// object, made anew from an export, or made by another tool before.
func TestDefaultsThatSomebodyClaims(t *testing.T) {
	c := newCluster(t)
	report := api.Drift{Extra: api.ExtraReport}
	svc := c.parse(`{apiVersion: v1, kind: Service, metadata: {name: back}, spec: {selector: {a: b}, ports: [{port: 80}]}}`)
	c.apply(svc)
	c.edit(svc, edit, `{"spec":{"sessionAffinity":"ClientIP"}}`)
	if got := lines(drift.Compare(c.looked(svc, report))); len(got) == 0 {
		t.Error("an addition is not seen")
	}
	c.edit(svc, edit, `{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}`)
	in := c.looked(svc, report)
	if got := lines(drift.Compare(in)); got != nil {
		t.Errorf("set back: %q", got)
	}
	var said string
	for _, e := range drift.Explain(in) {
		if e.Path == "/spec/sessionAffinity" {
			said = e.Reason
		}
	}
	if said != "the API server sets this value anyway" {
		t.Errorf("explain says %q", said)
	}

	dep := c.parse(deployment)
	dep.SetName("export")
	c.apply(dep)
	whole := c.get(dep)
	c.edit(dep, edit, `{"spec":{"paused":true}}`)
	eventually(t, "nobody else writes between the look and the PUT", func() bool {
		put := c.get(dep)
		put.SetManagedFields(nil)
		_, err := c.resource(dep).Update(t.Context(), put, metav1.UpdateOptions{FieldManager: "Lens"})
		return err == nil
	})
	if d := cmp.Diff([]string{"added /spec/paused  -> true by kubectl-edit"}, lines(drift.Compare(c.looked(dep, report)))); d != "" {
		t.Errorf("written as a whole: %s", d)
	}
	c.delete(dep)
	for _, field := range []string{"resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"} {
		unstructured.RemoveNestedField(whole.Object, "metadata", field)
	}
	if _, err := c.resource(dep).Create(t.Context(), whole, metav1.CreateOptions{FieldManager: "kubectl-create"}); err != nil {
		t.Fatal(err)
	}
	if got := lines(drift.Compare(c.looked(dep, report))); got != nil {
		t.Errorf("made anew from its export: %q", got)
	}
}

// The same fields claimed in another version of the API are no addition, also where that version knows no parts.
func TestClaimInAnotherVersion(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(scaler)
	desired.SetName("claimed")
	c.apply(desired)
	v1 := desired.DeepCopy()
	v1.SetAPIVersion("autoscaling/v1")
	if _, err := c.resource(v1).Apply(t.Context(), v1.GetName(), v1, metav1.ApplyOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	for _, extra := range []api.ExtraMode{api.ExtraReport, api.ExtraRemove} {
		if got := lines(drift.Compare(c.looked(desired, api.Drift{Extra: extra}))); got != nil {
			t.Errorf("extra: %s: %q", extra, got)
		}
	}
	older := c.parse(scaler)
	older.SetName("older")
	older.SetAPIVersion("autoscaling/v1")
	c.apply(older)
	v2 := older.DeepCopy()
	v2.SetAPIVersion("autoscaling/v2")
	if _, err := c.resource(v2).Apply(t.Context(), v2.GetName(), v2, metav1.ApplyOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	if got := lines(drift.Compare(c.looked(older, api.Drift{Extra: api.ExtraReport}))); got != nil {
		t.Errorf("v1 in Git: %q", got)
	}
}

// The order of endpoints says nothing.
func TestOrderOfEndpoints(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: in-any-order}, addressType: IPv4, ` +
		`endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2]}], ports: [{name: a, port: 1}, {name: b, port: 2}]}`)
	c.apply(desired)
	c.edit(desired, edit, `[{"op":"replace","path":"/endpoints","value":[{"addresses":["192.0.2.2"]},{"addresses":["192.0.2.1"]}]},`+
		`{"op":"replace","path":"/ports","value":[{"name":"b","port":2,"protocol":"TCP"},{"name":"a","port":1,"protocol":"TCP"}]}]`)
	if got := lines(drift.Compare(c.input(desired, api.Drift{}))); got != nil {
		t.Errorf("%q", got)
	}

	older := c.parse(`{apiVersion: v1, kind: Endpoints, metadata: {name: in-any-order}, subsets: [` +
		`{addresses: [{ip: 192.0.2.1}, {ip: 192.0.2.2}], ports: [{name: a, port: 1}, {name: b, port: 2}]}]}`)
	c.apply(older)
	c.edit(older, edit, `{"subsets":[{"addresses":[{"ip":"192.0.2.2"},{"ip":"192.0.2.1"}],"ports":[{"name":"b","port":2,"protocol":"TCP"},{"name":"a","port":1,"protocol":"TCP"}]}]}`)
	if got := lines(drift.Compare(c.input(older, api.Drift{}))); got != nil {
		t.Errorf("Endpoints: %q", got)
	}
}

// A container that somebody attaches to a Pod to debug it is no addition: it comes through a subresource, and cannot go.
func TestEphemeralContainers(t *testing.T) {
	c := newCluster(t)
	pod := c.parse(`{apiVersion: v1, kind: Pod, metadata: {name: debugged}, spec: {automountServiceAccountToken: false, nodeSelector: {none: here}, containers: [{name: web, image: "web:1"}]}}`)
	c.apply(pod)
	const debug = `{"spec":{"ephemeralContainers":[{"name":"debug","image":"debug:1","targetContainerName":"web"}]}}`
	if _, err := c.resource(pod).Patch(t.Context(), pod.GetName(), types.StrategicMergePatchType, []byte(debug), metav1.PatchOptions{FieldManager: "kubectl-debug"}, "ephemeralcontainers"); err != nil {
		t.Fatal(err)
	}
	for _, extra := range []api.ExtraMode{api.ExtraReport, api.ExtraRemove} {
		if got := lines(drift.Compare(c.looked(pod, api.Drift{Extra: extra}))); got != nil {
			t.Errorf("extra: %s: %q", extra, got)
		}
	}
}

func (c *cluster) delete(o *unstructured.Unstructured) {
	c.t.Helper()
	if err := c.resource(o).Delete(context.WithoutCancel(c.t.Context()), o.GetName(), metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// get reads a field of a map by its path.
func get(v any, path string) (any, bool) {
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		m, _ := v.(map[string]any)
		var ok bool
		if v, ok = m[part]; !ok {
			return nil, false
		}
	}
	return v, true
}

func replace(s string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(s) }

// A default that hangs on a field of Git's is judged by Git's value, and not by the one that somebody put in its place.
func TestDefaultsThatHangOnGit(t *testing.T) {
	c := newCluster(t)
	const pod = `{metadata: {labels: {a: b}}, spec: {restartPolicy: RESTART, containers: [{name: a, image: "a:1"}]}}`
	always, never := replace(pod, "RESTART", "Always"), replace(pod, "RESTART", "Never")
	container := func(in string) string { return in + "/containers/[name=a]" }
	for name, tt := range map[string]struct{ git, from, to, want, added string }{
		"the image of a PodTemplate": {
			`{apiVersion: v1, kind: PodTemplate, metadata: {name: hangs}, template: ` + always + `}`, `"a:1"`, `"zz"`,
			`changed ` + container("/template/spec") + `/image "a:1" -> "zz" by k9s`, "",
		},
		"the image of a Deployment": {
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: hangs}, spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: ` + always + `}}`, `"a:1"`, `"zz:latest"`,
			`changed ` + container("/spec/template/spec") + `/image "a:1" -> "zz:latest" by k9s`, "",
		},
		"the image of a CronJob": {
			`{apiVersion: batch/v1, kind: CronJob, metadata: {name: hangs}, spec: {suspend: true, schedule: "0 0 * * *", jobTemplate: {spec: {template: ` + never + `}}}}`, `"a:1"`, `"zz"`,
			`changed ` + container("/spec/jobTemplate/spec/template/spec") + `/image "a:1" -> "zz" by k9s`, "",
		},
		"a value that only somebody else's image would give": {
			`{apiVersion: v1, kind: PodTemplate, metadata: {name: differs}, template: ` + always + `}`, `"image":"a:1","imagePullPolicy":"IfNotPresent"`, `"image":"zz","imagePullPolicy":"Always"`,
			`changed ` + container("/template/spec") + `/image "a:1" -> "zz" by k9s`, `added ` + container("/template/spec") + `/imagePullPolicy  -> "Always" by k9s`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			desired := c.parse(tt.git)
			c.apply(desired)
			t.Cleanup(func() { c.delete(desired) })
			raw, err := json.Marshal(c.get(desired).Object)
			if err != nil {
				t.Fatal(err)
			}
			changed := &unstructured.Unstructured{}
			if err := changed.UnmarshalJSON([]byte(replace(string(raw), tt.from, tt.to))); err != nil {
				t.Fatal(err)
			}
			for _, field := range []string{"resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"} {
				unstructured.RemoveNestedField(changed.Object, "metadata", field)
			}
			delete(changed.Object, "status")
			// An apply claims all that it sends.
			if _, err := c.resource(desired).Apply(t.Context(), desired.GetName(), changed, metav1.ApplyOptions{FieldManager: "k9s", Force: true}); err != nil {
				t.Fatal(err)
			}
			want := []string{tt.want}
			if tt.added != "" {
				want = append(want, tt.added)
			}
			if d := cmp.Diff(want, lines(drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraReport})))); d != "" {
				t.Error(d)
			}
			// Where a rule leaves the field alone, the default hangs on what is live.
			rule := api.IgnoreRule{Paths: []string{strings.Fields(tt.want)[1]}}
			told := drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraReport, Ignore: []api.IgnoreRule{rule}})).Fields
			if hangs := tt.added != ""; hangs != (len(told) == 0) {
				t.Errorf("with a rule for the image: %v", told)
			}
		})
	}
}

// The API server lets a PUT have the same item of a merge list twice. All of them are an addition, and go together.
func TestItemThatIsThereTwice(t *testing.T) {
	c := newCluster(t)
	added := func(port string) string {
		item := "/spec/template/spec/containers/[name=web]/ports/[containerPort=" + port + ",protocol=TCP]"
		return "added " + item + `  -> {"containerPort":` + port + `,"protocol":"TCP"} by helm`
	}
	for name, tt := range map[string]struct {
		ports []int64
		want  []string
	}{
		"somebody else's": {[]int64{81, 81, 80}, []string{added("81")}},
		"around ours":     {[]int64{81, 80, 81}, []string{added("81")}},
		"two of them":     {[]int64{81, 82, 81, 80, 82}, []string{added("81"), added("82")}},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			desired := c.parse(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: twice}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, ` +
				`template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}}}}`)
			c.apply(desired)
			t.Cleanup(func() { c.delete(desired) })
			eventually(t, "nobody else writes between the look and the PUT", func() bool {
				put := c.get(desired)
				put.SetManagedFields(nil)
				container := put.Object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
				var ports []any
				for _, p := range tt.ports {
					ports = append(ports, map[string]any{"containerPort": p, "protocol": "TCP"})
				}
				container["ports"] = ports
				_, err := c.resource(desired).Update(t.Context(), put, metav1.UpdateOptions{FieldManager: "helm"})
				return err == nil
			})
			var stripped *unstructured.Unstructured
			eventually(t, "nobody else writes between the look and the dry run", func() bool {
				r := drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraRemove}))
				if d := cmp.Diff(tt.want, lines(r)); d != "" {
					t.Error(d)
					return true
				}
				var err error
				stripped, err = c.tryWithout(desired, r.StripPatch())
				return err == nil
			})
			if t.Failed() {
				return
			}
			left, _, _ := unstructured.NestedSlice(stripped.Object, "spec", "template", "spec", "containers")
			if got := left[0].(map[string]any)["ports"].([]any); len(got) != 1 {
				t.Errorf("left are %v", got)
			}
		})
	}

	// Of an item of ours that is there twice, Git says one.
	desired := c.parse(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: ours}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, ` +
		`template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}}}}`)
	c.apply(desired)
	c.edit(desired, edit, `[{"op":"add","path":"/spec/template/spec/containers/0/ports/-","value":{"containerPort":80,"name":"again"}}]`)
	in := c.looked(desired, api.Drift{Extra: api.ExtraReport})
	if r := drift.Compare(in); r.Class != api.ClassChanged {
		t.Errorf("ours twice: %q", lines(r))
	}
	c.apply(desired)
	if got := lines(drift.Compare(c.looked(desired, api.Drift{Extra: api.ExtraReport}))); got != nil {
		t.Errorf("after a correction: %q", got)
	}
}
