package drift_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/drift/persons"
)

// matched is what the agent remembers of an object that is as it should be.
func matched(o *unstructured.Unstructured) *api.InventoryEntry {
	return &api.InventoryEntry{
		UID: string(o.GetUID()), ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(),
		MetaDigest: api.MetaDigest(o),
	}
}

// Many kinds, as applied, have not drifted; nor after the controllers did their work.
func TestManyKindsAsApplied(t *testing.T) {
	c := newCluster(t)
	var all []*unstructured.Unstructured
	for doc := range strings.SplitSeq(manyKinds, "\n---\n") {
		o := c.parse(doc)
		c.apply(o)
		all = append(all, o)
	}
	dep := c.parse(deployment)
	dep.SetName("busy")
	_ = unstructured.SetNestedField(dep.Object, int64(2), "spec", "replicas")
	c.apply(dep)
	all = append(all, dep)
	eventually(t, "the Deployment is available", func() bool {
		o, err := c.tryGet(dep)
		if err != nil {
			return false
		}
		n, _, _ := unstructured.NestedInt64(o.Object, "status", "availableReplicas")
		return n == 2
	})
	for _, o := range all {
		for _, extra := range []api.ExtraMode{api.ExtraIgnore, api.ExtraReport} {
			r := drift.Compare(c.input(o, api.Drift{Extra: extra}))
			if r.Class != "" || r.Unknown {
				t.Errorf("%s (extra: %s): %q", api.RefOf(o), extra, lines(r))
			}
		}
	}
}

func TestMissing(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(configMap)
	in := drift.Input{Desired: desired}
	r := drift.Compare(in)
	if r.Class != api.ClassMissing || r.Action != drift.Correct || r.By.Confidence != api.ConfidenceUnknown {
		t.Errorf("%+v", r)
	}
	in.Spec.Mode = api.DriftReport
	if r := drift.Compare(in); r.Class != api.ClassMissing || r.Action != drift.None {
		t.Errorf("report: %+v", r)
	}
	for _, spec := range []api.Drift{
		{Mode: api.DriftIgnore},
		{Ignore: []api.IgnoreRule{{Target: api.IgnoreTarget{Kind: "ConfigMap"}, Paths: []string{"/"}}}},
	} {
		in.Spec = spec
		if r := drift.Compare(in); r.Class != "" {
			t.Errorf("%+v: %+v", spec, r)
		}
	}
	desired.SetAnnotations(map[string]string{api.AnnotationSSA: "IfNotPresent"})
	if r := drift.Compare(drift.Input{Desired: desired}); r.Class != api.ClassMissing {
		t.Errorf("an object that is made once is missing too: %+v", r)
	}
	live := desired.DeepCopy()
	_ = unstructured.SetNestedField(live.Object, "other", "data", "a")
	if r := drift.Compare(drift.Input{Desired: desired, Live: live, DryRun: desired}); r.Class != "" {
		t.Errorf("an object that is made once does not drift: %+v", r)
	}
}

// A comparison without a dry run is unknown: neither drift nor its absence.
func TestUnknown(t *testing.T) {
	c := newCluster(t)
	o := c.parse(configMap)
	if r := drift.Compare(drift.Input{Desired: o, Live: o}); !r.Unknown || r.Class != "" {
		t.Errorf("%+v", r)
	}
}

func TestExtra(t *testing.T) {
	c := newCluster(t)
	made := c.parse(configMap)
	made.SetLabels(map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: "set"})
	if _, err := c.resource(made).Create(t.Context(), made, metav1.CreateOptions{FieldManager: "kubectl-create"}); err != nil {
		t.Fatal(err)
	}
	live := c.get(made)
	for extra, want := range map[api.ExtraMode]struct {
		class  api.Class
		action drift.Action
	}{
		"":              {},
		api.ExtraIgnore: {},
		api.ExtraReport: {api.ClassExtra, drift.None},
		api.ExtraRemove: {api.ClassExtra, drift.Remove},
	} {
		r := drift.Compare(drift.Input{Live: live, Spec: api.Drift{Extra: extra}})
		if r.Class != want.class || r.Action != want.action {
			t.Errorf("extra %q: %q %q", extra, r.Class, r.Action)
		}
		if r.Class != "" && r.By.Manager != "kubectl-create" {
			t.Errorf("by %+v", r.By)
		}
	}
	kept := live.DeepCopy()
	kept.SetAnnotations(map[string]string{api.AnnotationPrune: api.ValueDisabled})
	if r := drift.Compare(drift.Input{Live: kept, Spec: api.Drift{Extra: api.ExtraRemove}}); r.Action != drift.None || r.Class != api.ClassExtra {
		t.Errorf("prune: disabled: %+v", r)
	}
	going := live.DeepCopy()
	going.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
	if r := drift.Compare(drift.Input{Live: going, Spec: api.Drift{Extra: api.ExtraRemove}}); r.Class != "" {
		t.Errorf("one that is being deleted: %+v", r)
	}

	// A Service's EndpointSlice inherits the Service's labels, and is the control plane's.
	svc := c.parse(service)
	svc.SetLabels(made.GetLabels())
	c.apply(svc)
	slice := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}}
	endpoints := c.resource(slice)
	eventually(t, "EndpointSlice", func() bool {
		list, err := endpoints.List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelPartOf + "=set"})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		slice = &list.Items[0]
		return true
	})
	if r := drift.Compare(drift.Input{Live: slice, Spec: api.Drift{Extra: api.ExtraRemove}}); r.Class != "" {
		t.Errorf("an EndpointSlice is extra: %+v", r)
	}
}

func TestMode(t *testing.T) {
	an := func(k, v string) map[string]string { return map[string]string{k: v} }
	tests := []struct {
		spec          api.DriftMode
		desired, live map[string]string
		want          api.DriftMode
	}{
		{"", nil, nil, api.DriftCorrect},
		{api.DriftReport, nil, nil, api.DriftReport},
		{api.DriftIgnore, an(api.AnnotationDrift, "report"), nil, api.DriftIgnore},
		{"", an(api.AnnotationDrift, "report"), nil, api.DriftReport},
		{"", nil, an(api.AnnotationDrift, "report"), api.DriftReport},
		{"", an(api.AnnotationDrift, "report"), an(api.AnnotationDrift, "ignore"), api.DriftIgnore},
		{"", an(api.AnnotationDrift, "ignore"), an(api.AnnotationDrift, "report"), api.DriftIgnore},
		{"", nil, an(api.AnnotationReconcile, "disabled"), api.DriftReport},
		{"", nil, an(api.AnnotationReconcile, "maybe"), api.DriftCorrect},
		{"", an(api.AnnotationDrift, "correct"), nil, api.DriftCorrect},
	}
	for _, tt := range tests {
		if got := drift.Mode(api.Drift{Mode: tt.spec}, tt.desired, tt.live); got != tt.want {
			t.Errorf("Mode(%q, %v, %v) = %q, want %q", tt.spec, tt.desired, tt.live, got, tt.want)
		}
	}
	// Where extra is removed, Git alone takes an object out, and the cluster still stops the writing.
	for _, tt := range []struct {
		desired, live map[string]string
		want          api.DriftMode
	}{
		{nil, an(api.AnnotationDrift, "ignore"), api.DriftCorrect},
		{nil, an(api.AnnotationDrift, "report"), api.DriftCorrect},
		{an(api.AnnotationDrift, "report"), an(api.AnnotationDrift, "ignore"), api.DriftReport},
		{nil, an(api.AnnotationReconcile, "disabled"), api.DriftReport},
	} {
		if got := drift.Mode(api.Drift{Extra: api.ExtraRemove}, tt.desired, tt.live); got != tt.want {
			t.Errorf("extra: remove: Mode(%v, %v) = %q, want %q", tt.desired, tt.live, got, tt.want)
		}
	}
}

// onCreate is an admission policy that writes another image into a new Deployment, and into no old one.
const onCreate = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: $NS-mirror}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  mutations:
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: "mirror/nginx:1"}]'}
`

const onCreateBinding = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: $NS-mirror}
spec: {policyName: $NS-mirror}
`

// What admission makes of our value as we apply it stands under our name and is no drift;
// what somebody writes into the same field later is, also if they use our name.
func TestChangedByAdmission(t *testing.T) {
	c := newCluster(t)
	policy, binding := c.parse(onCreate), c.parse(onCreateBinding)
	c.apply(policy)
	c.apply(binding)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = c.resource(binding).Delete(ctx, binding.GetName(), metav1.DeleteOptions{})
		_ = c.resource(policy).Delete(ctx, policy.GetName(), metav1.DeleteOptions{})
	})
	desired := c.parse(deployment)
	eventually(t, "the policy works", func() bool {
		dry, err := c.tryApply(desired, metav1.DryRunAll)
		return err == nil && image(dry) == "mirror/nginx:1"
	})
	c.apply(desired)
	in := c.input(desired, api.Drift{})
	if image(in.Live) == image(in.DryRun) {
		t.Fatalf("the test is worthless: live %q, dry run %q", image(in.Live), image(in.DryRun))
	}
	for _, m := range []*api.InventoryEntry{nil, matched(in.Live)} {
		in.Matched = m
		r := drift.Compare(in)
		if r.Class != "" {
			t.Errorf("matched %v: %q", m, lines(r))
		}
		if len(r.Ignored) != 1 || r.Ignored[0].Path != container+"/image" {
			t.Errorf("ignored: %+v", r.Ignored)
		}
		if kept := r.Keep(desired); image(kept) != "mirror/nginx:1" || image(desired) != "nginx:1" {
			t.Errorf("kept %q, desired %q", image(kept), image(desired))
		}
	}
	// Somebody's annotation, and their edit of another field, make it nobody else's.
	known := matched(in.Live)
	known.Claimed = api.ClaimedAt(in.Live)
	c.edit(desired, "some-controller", `{"metadata":{"annotations":{"touch":"x"}}}`)
	c.edit(desired, edit, `{"spec":{"replicas":1}}`)
	in = c.input(desired, api.Drift{})
	in.Matched = known
	if d := cmp.Diff([]string{"changed /spec/replicas 0 -> 1 by kubectl-edit"}, lines(drift.Compare(in))); d != "" {
		t.Errorf("an annotation and another field: %s", d)
	}
	// Where the API server could not keep the claims, somebody's value may stand under our name: nobody is named for that.
	in.Refused = true
	if d := cmp.Diff([]string{`changed /spec/replicas 0 -> 1 by kubectl-edit`, `changed ` + container + `/image "nginx:1" -> "mirror/nginx:1" by unknown`}, lines(drift.Compare(in))); d != "" {
		t.Errorf("claims that were not kept: %s", d)
	}
	c.edit(desired, edit, `{"spec":{"replicas":0}}`)

	before := matched(c.get(desired))
	c.edit(desired, edit, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`)
	in = c.input(desired, api.Drift{})
	if got := lines(drift.Compare(in)); len(got) != 1 {
		t.Errorf("edited: %q", got)
	}
	// Somebody applies another image under our name, in another second than we did.
	eventually(t, "the second is over", func() bool { return time.Now().Unix() > known.Claimed+1 })
	spoof := desired.DeepCopy()
	_ = unstructured.SetNestedField(spoof.Object, "evil:1", "spec", "template", "spec", "containers")
	spoof = c.parse(strings.Replace(deployment, "nginx:1", "evil:1", 1))
	c.apply(spoof)
	in = c.input(desired, api.Drift{})
	in.Matched = before
	want := []string{`changed ` + container + `/image "nginx:1" -> "evil:1" by flotilla`}
	if d := cmp.Diff(want, lines(drift.Compare(in))); d != "" {
		t.Error(d)
	}
	before.Claimed = known.Claimed
	if d := cmp.Diff(want, lines(drift.Compare(in))); d != "" {
		t.Errorf("with the time of our claim: %s", d)
	}
}

// mesh is an admission policy that works on every write, with a value in place of one in Git,
// and with an annotation and a container that Git does not have.
const mesh = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: $NS-mesh}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NS}}
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >-
        Object{metadata: Object.metadata{annotations: {"mesh": "on"}},
        spec: Object.spec{template: Object.spec.template{metadata: Object.spec.template.metadata{annotations: {"mesh": "on"}}, spec: Object.spec.template.spec{containers: [
        Object.spec.template.spec.containers{name: "app", image: "mirror/nginx:1"},
        Object.spec.template.spec.containers{name: "proxy", image: "proxy:1"}]}}}}
`

var meshBinding = strings.ReplaceAll(onCreateBinding, "mirror", "mesh")

// What admission makes of an object is no drift. Who asks for an explanation is told of it, with what Git says.
func TestExplainTellsWhatAdmissionChanges(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(deployment)
	c.apply(desired)
	policy, binding := c.parse(mesh), c.parse(meshBinding)
	c.apply(policy)
	c.apply(binding)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = c.resource(binding).Delete(ctx, binding.GetName(), metav1.DeleteOptions{})
		_ = c.resource(policy).Delete(ctx, policy.GetName(), metav1.DeleteOptions{})
	})
	eventually(t, "the policy works", func() bool {
		dry, err := c.tryApply(desired, metav1.DryRunAll)
		return err == nil && image(dry) == "mirror/nginx:1"
	})
	differing := func() (drifted, out []string) {
		in := c.input(desired, api.Drift{})
		for _, e := range drift.Explain(in) {
			if e.Class != "" {
				out = append(out, string(e.Class)+" "+e.Path+" "+e.Desired+" -> "+e.Live+": "+e.Reason)
			}
		}
		return lines(drift.Compare(in)), out
	}
	const (
		proxy = `{"image":"proxy:1","imagePullPolicy":"IfNotPresent","name":"proxy","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}`
		next  = ": not in Git: admission or the API server sets it with the next write"
		there = ": not in Git and nobody's: added by admission or the API server"
	)
	check := func(when string, want, drifted []string) {
		t.Helper()
		gotDrift, got := differing()
		if d := cmp.Diff(drifted, gotDrift); d != "" {
			t.Errorf("%s: drift (-want +got):\n%s", when, d)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: explained (-want +got):\n%s", when, d)
		}
	}
	check("before the next write", []string{
		`removed /metadata/annotations/mesh  -> ` + next + `, to "on"`,
		`removed /spec/template/metadata/annotations  -> ` + next + `, to {"mesh":"on"}`,
		`changed ` + container + `/image "nginx:1" -> "nginx:1": as in Git: admission changes it with the next write`,
		`removed /spec/template/spec/containers/[name=proxy]  -> ` + next + `, to ` + proxy[:40] + "…",
	}, nil)

	c.apply(desired)
	applied := []string{
		`added /metadata/annotations/mesh  -> "on"` + there,
		`added /spec/template/metadata/annotations/mesh  -> "on"` + there,
		`changed ` + container + `/image "nginx:1" -> "mirror/nginx:1": changed by admission as it is applied, or written otherwise by the API server`,
		`added /spec/template/spec/containers/[name=proxy]  -> ` + proxy + there,
	}
	check("applied", applied, nil)

	// Of a dry run that is of another object nothing can be said of what the next write sets.
	in := c.input(desired, api.Drift{})
	in.DryRun = in.DryRun.DeepCopy()
	in.DryRun.SetAnnotations(map[string]string{"elsewhere": "yes"})
	_ = unstructured.SetNestedField(in.DryRun.Object, int64(7), "spec", "progressDeadlineSeconds")
	for _, refused := range []bool{false, true} {
		in.Refused = refused
		told := slices.ContainsFunc(drift.Explain(in), func(e drift.Explained) bool { return e.Path == "/spec/progressDeadlineSeconds" })
		if told == refused {
			t.Errorf("refused %v, and what is not ours is told: %v", refused, told)
		}
	}

	// The policy leaves, and somebody edits: that is drift, and the rest is still explained.
	for _, o := range []*unstructured.Unstructured{binding, policy} {
		if err := c.resource(o).Delete(t.Context(), o.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the policy is gone", func() bool {
		dry, err := c.tryApply(desired, metav1.DryRunAll)
		return err == nil && image(dry) == "nginx:1"
	})
	c.edit(desired, edit, `{"spec":{"replicas":1}}`)
	_, got := differing()
	if !slices.Contains(got, `changed /spec/replicas 0 -> 1: `) || !slices.Contains(got, applied[0]) {
		t.Errorf("after the edit: %q", got)
	}
}

func image(o *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	for _, c := range list {
		if m := c.(map[string]any); m["name"] == "app" {
			return m["image"].(string)
		}
	}
	return ""
}

// stamps has the API server stamp the names of all but the administrator, who is the agent here.
func (c *cluster) stamps(mark string) {
	c.t.Helper()
	own := c.as("flotilla-agent")
	for _, o := range persons.StampPolicy("kubernetes-admin", mark) {
		_ = c.resource(o).Delete(c.t.Context(), o.GetName(), metav1.DeleteOptions{})
		own.apply(o)
		c.t.Cleanup(func() { _ = c.resource(o).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}) })
	}
}

// stamped applies an object of ours and waits until alice's hand is seen on it.
func (c *cluster) stamped(text, mark string) *unstructured.Unstructured {
	c.t.Helper()
	alice, desired := c.as("alice"), c.parse(text)
	desired.SetLabels(map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: "set"})
	c.fresh(desired)
	eventually(c.t, "the policy works", func() bool {
		before, err := c.tryGet(desired)
		if err != nil {
			return false
		}
		_ = alice.tryEdit(desired, "probe", `{"metadata":{"annotations":{"probe":"`+rvOf(before)+`"}}}`)
		after, err := c.tryGet(desired)
		if err != nil {
			return false
		}
		a := after.GetAnnotations()
		return a[api.AnnotationLastEditor] == "alice" && strings.HasSuffix(a[api.AnnotationLastEditorFrom], "/"+mark)
	})
	c.apply(desired)
	// Until the controllers have seen it, the status moves the resource version.
	last := ""
	eventually(c.t, "the object is at rest", func() bool {
		time.Sleep(200 * time.Millisecond)
		before := last
		last = rvOf(c.get(desired))
		return last == before
	})
	return desired
}

// The API server stamps who made the last change. A person is named only where it is proven
// that this change, and no other, led away from what was known to match.
func TestPerson(t *testing.T) {
	c := newCluster(t)
	c.stamps("mark")
	agent, alice, bob := c.as("kubernetes-admin"), c.as("alice"), c.as("bob")
	for name, text := range map[string]string{"Deployment": deployment, "ConfigMap": configMap} {
		desired := agent.stamped(text, "mark")
		spec := api.Drift{Extra: api.ExtraReport, Ignore: []api.IgnoreRule{{Paths: []string{"/metadata/annotations/probe"}}}}
		if got := lines(drift.Compare(agent.input(desired, spec))); got != nil {
			t.Fatalf("%s: the stamp itself is drift: %q", name, got)
		}
		var before *api.InventoryEntry
		var patch, path string
		if name == "Deployment" {
			patch, path = `{"spec":{"revisionHistoryLimit":7}}`, "/spec/revisionHistoryLimit"
		} else {
			patch, path = `{"data":{"a":"7"}}`, "/data/a"
		}
		before = matched(c.get(desired))
		alice.edit(desired, edit, patch)
		in := agent.input(desired, spec)
		in.Matched, in.Stamps = before, "mark"
		check := func(what, want string) {
			t.Helper()
			r := drift.Compare(in)
			if len(r.Fields) != 1 || r.Fields[0].Path != path || r.Fields[0].By.Person != want ||
				(r.Fields[0].By.Confidence == api.ConfidencePerson) != (want != "") {
				t.Errorf("%s, %s: %+v", name, what, r.Fields)
			}
		}
		check("alice's edit", "alice")
		in.Matched = nil
		check("nothing known", "")
		in.Matched = before
		in.Stamps = ""
		check("no policy in force", "")
		in.Stamps = "mark"
		in.Person = func(string) string { return "" }
		check("names left out", "")
		in.Person = func(s string) string { return "hash-of-" + s }
		check("names hashed", "hash-of-alice")

		bob.edit(desired, edit, `{"metadata":{"annotations":{"probe":"bob"}}}`)
		in = agent.input(desired, spec)
		in.Matched, in.Stamps = before, "mark"
		check("bob came after", "")
	}
}

// Writes to /scale carry no stamp, and what is on the object stays there: nobody is named for what another scaled.
func TestPersonAndScale(t *testing.T) {
	c := newCluster(t)
	c.stamps("scale")
	agent, alice, bob := c.as("kubernetes-admin"), c.as("alice"), c.as("bob")
	for name, tt := range map[string]struct {
		patch string
		want  []string
	}{
		"alice edited, then bob scaled": {
			`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`,
			[]string{
				`changed /spec/replicas 0 -> 3 by kubectl/scale`,
				`changed ` + container + `/image "nginx:1" -> "nginx:2" by kubectl-edit (alice)`,
			},
		},
		"alice added a label, then bob scaled": {
			`{"metadata":{"labels":{"theirs":"x"}}}`,
			[]string{
				`changed /spec/replicas 0 -> 3 by kubectl/scale`,
				`added /metadata/labels/theirs  -> "x" by kubectl-edit (alice)`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			agent, alice, bob := agent.in(t), alice.in(t), bob.in(t)
			desired := agent.stamped(deployment, "scale")
			before := matched(agent.get(desired))
			alice.edit(desired, edit, tt.patch)
			bob.edit(desired, "kubectl", `{"spec":{"replicas":3}}`, "scale")
			in := agent.input(desired, api.Drift{Extra: api.ExtraReport, Ignore: []api.IgnoreRule{{Paths: []string{"/metadata/annotations/probe"}}}})
			in.Matched, in.Stamps = before, "scale"
			if d := cmp.Diff(tt.want, lines(drift.Compare(in))); d != "" {
				t.Error(d)
			}
		})
	}
}

// Who ends an opt-out is not blamed for what others did meanwhile, though it is the first change since the object was in order.
func TestPersonAndOptOut(t *testing.T) {
	c := newCluster(t)
	c.stamps("opt")
	agent, alice, bob := c.as("kubernetes-admin"), c.as("alice"), c.as("bob")
	desired := agent.stamped(configMap, "opt")
	bob.edit(desired, edit, `{"metadata":{"annotations":{"flotilla.dev/drift":"ignore"}}}`)
	alice.edit(desired, edit, `{"data":{"a":"7"}}`)
	before := matched(agent.get(desired)) // nobody looked closer
	bob.edit(desired, edit, `{"metadata":{"annotations":{"flotilla.dev/drift":null}}}`)
	in := agent.input(desired, api.Drift{})
	in.Matched, in.Stamps = before, "opt"
	want := []string{`changed /data/a "1" -> "7" by kubectl-edit`}
	if d := cmp.Diff(want, lines(drift.Compare(in))); d != "" {
		t.Error(d)
	}
}

// Whoever writes the stamp by hand is named by it, and nobody else.
func TestStampCannotBeForged(t *testing.T) {
	c := newCluster(t)
	c.stamps("forged")
	agent, bob := c.as("kubernetes-admin"), c.as("bob")
	forged := func(before *api.InventoryEntry) string {
		from := before.ResourceVersion + "/" + strconv.FormatInt(before.Generation, 10) + "/forged"
		return `"` + api.AnnotationLastEditor + `":"alice","` + api.AnnotationLastEditorFrom + `":"` + from + `"`
	}
	for name, do := range map[string]func(bob *cluster, desired *unstructured.Unstructured, stamp string) *unstructured.Unstructured{
		"in the edit itself": func(bob *cluster, desired *unstructured.Unstructured, stamp string) *unstructured.Unstructured {
			bob.edit(desired, edit, `{"spec":{"paused":true,"revisionHistoryLimit":7},"metadata":{"annotations":{`+stamp+`}}}`)
			return nil
		},
		"after it, with an update of the status": func(bob *cluster, desired *unstructured.Unstructured, stamp string) *unstructured.Unstructured {
			bob.edit(desired, edit, `{"spec":{"revisionHistoryLimit":7}}`)
			bob.edit(desired, edit, `{"metadata":{"annotations":{`+stamp+`}}}`, "status")
			return nil
		},
		"while our label is away": func(bob *cluster, desired *unstructured.Unstructured, stamp string) *unstructured.Unstructured {
			bob.edit(desired, edit, `{"spec":{"revisionHistoryLimit":7},"metadata":{"labels":{"`+api.LabelPartOf+`":null}}}`)
			bob.edit(desired, edit, `{"metadata":{"annotations":{`+stamp+`}}}`)
			return nil
		},
		"with an object made anew": func(bob *cluster, desired *unstructured.Unstructured, stamp string) *unstructured.Unstructured {
			again := desired.DeepCopy()
			var a map[string]string
			if err := json.Unmarshal([]byte("{"+stamp+"}"), &a); err != nil {
				bob.t.Fatal(err)
			}
			again.SetAnnotations(a)
			_ = unstructured.SetNestedField(again.Object, int64(7), "spec", "revisionHistoryLimit")
			if err := bob.resource(desired).Delete(bob.t.Context(), desired.GetName(), metav1.DeleteOptions{}); err != nil {
				bob.t.Fatal(err)
			}
			made, err := bob.resource(again).Create(bob.t.Context(), again, metav1.CreateOptions{FieldManager: "kubectl-create"})
			if err != nil {
				bob.t.Fatal(err)
			}
			return made
		},
	} {
		t.Run(name, func(t *testing.T) {
			agent, bob := agent.in(t), bob.in(t)
			desired := agent.stamped(deployment, "forged")
			before := matched(agent.get(desired))
			made := do(bob, desired, forged(before))
			live := agent.get(desired)
			if name != "while our label is away" && live.GetAnnotations()[api.AnnotationLastEditor] != "bob" {
				t.Errorf("the stamp is %v", live.GetAnnotations())
			}
			in := agent.input(desired, api.Drift{})
			in.Matched, in.Stamps = before, "forged"
			r := drift.Compare(in)
			if len(r.Fields) == 0 {
				t.Fatal("no drift")
			}
			for _, f := range r.Fields {
				if f.By.Person != "" && f.By.Person != "bob" {
					t.Errorf("%s is blamed on %s", f.Path, f.By.Person)
				}
			}
			if made != nil && made.GetAnnotations()[api.AnnotationLastEditor] != "bob" {
				t.Errorf("made with the stamp %v", made.GetAnnotations())
			}
		})
	}
}

func rvOf(o *unstructured.Unstructured) string { return o.GetResourceVersion() }

// The values of a Secret are nowhere in what Compare and Observe give out.
func TestSecretValuesStayHidden(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(secret)
	desired.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"token":"MARKER-3"}}`})
	c.fresh(desired)
	c.edit(desired, edit, `{"stringData":{"password":"MARKER-1","more":"MARKER-2"},"data":{"token":null},`+
		`"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"MARKER-4"}}}`)
	in := c.input(desired, api.Drift{Extra: api.ExtraReport})
	r := drift.Compare(in)
	if len(r.Fields) != 4 {
		t.Fatalf("%q", lines(r))
	}
	e, _ := drift.Observe(nil, drift.Observation{Object: api.RefOf(desired), Result: r, At: t0})
	for _, v := range []any{r, e} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, hidden := range []string{"MARKER", "hunter2", "c2VzYW1l", "sesame", "TUFSS0VS", "aHVudGVyMg"} {
			if strings.Contains(string(b), hidden) {
				t.Errorf("%q is in %s", hidden, b)
			}
		}
	}
}

func TestAutoscalersIn(t *testing.T) {
	c := newCluster(t)
	hpa := c.parse(`
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: ns}
spec: {maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: app}}`)
	keda := c.parse(`
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: k, namespace: ns}
spec: {scaleTargetRef: {name: app}}`)
	own := c.parse(`
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: k, namespace: ns}
spec: {minReplicaCount: 2, maxReplicaCount: 3, scaleTargetRef: {apiVersion: sea.example.org/v1, kind: Ship, name: s}}`)
	got := drift.AutoscalersIn([]*unstructured.Unstructured{hpa, keda, own, c.parse(configMap)})
	app := api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "ns", Name: "app"}
	want := []drift.Autoscaler{
		{Target: app, Min: 1, Max: 5},
		{Target: app, Min: 0, Max: 100},
		{Target: api.ObjectRef{Group: "sea.example.org", Kind: "Ship", Namespace: "ns", Name: "s"}, Min: 2, Max: 3},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What was added is removed only where the policy says so, and after what is ours was put right.
func TestStrip(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(configMap)
	c.fresh(desired)
	c.edit(desired, edit, `{"data":{"theirs":"x"}}`)
	for extra, want := range map[api.ExtraMode]drift.Action{
		api.ExtraIgnore: drift.None, api.ExtraReport: drift.None, api.ExtraRemove: drift.Strip,
	} {
		if r := drift.Compare(c.input(desired, api.Drift{Extra: extra})); r.Action != want {
			t.Errorf("extra %q: %q", extra, r.Action)
		}
	}
	if r := drift.Compare(c.input(desired, api.Drift{Extra: api.ExtraRemove, Mode: api.DriftReport})); r.Action != drift.None {
		t.Errorf("mode report: %q", r.Action)
	}
	c.edit(desired, edit, `{"data":{"a":"x"}}`)
	if r := drift.Compare(c.input(desired, api.Drift{Extra: api.ExtraRemove})); r.Action != drift.Correct || len(r.Fields) != 2 {
		t.Errorf("both: %q %q", r.Action, lines(r))
	}
}

// A correction leaves alone what is ignored: it neither takes a field from who owns it, nor drops it.
func TestKeep(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(deployment)
	c.fresh(desired)
	c.edit(desired, "kube-controller-manager", `{"spec":{"replicas":4}}`, "scale")
	c.edit(desired, edit, `{"spec":{"revisionHistoryLimit":6,"paused":true}}`)
	c.edit(desired, edit, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"},`+
		`{"op":"replace","path":"/spec/template/spec/containers/0/ports/1/containerPort","value":54}]`)
	spec := api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{
		"/spec/template/spec/containers/[name=app]/image", "/spec/template/spec/containers/*/ports",
	}}}}
	in := c.input(desired, spec)
	in.Autoscalers = []drift.Autoscaler{{Target: api.RefOf(in.Live), Min: 1, Max: 5}}
	r := drift.Compare(in)
	if got := lines(r); len(got) != 1 || r.Fields[0].Path != "/spec/revisionHistoryLimit" {
		t.Fatalf("%q", got)
	}
	kept := r.Keep(desired)
	if _, found, _ := unstructured.NestedInt64(kept.Object, "spec", "replicas"); found {
		t.Error("replicas are taken from the autoscaler")
	}
	c.apply(kept)
	live := c.get(desired)
	n, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	limit, _, _ := unstructured.NestedInt64(live.Object, "spec", "revisionHistoryLimit")
	if n != 4 || limit != 5 || image(live) != "nginx:2" {
		t.Errorf("replicas %d, limit %d, image %q", n, limit, image(live))
	}

	// Nobody owns the value any more: it stays because we write it.
	c.fresh(desired)
	c.edit(desired, edit, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`)
	c.edit(desired, edit, `{"metadata":{"managedFields":[{}]}}`)
	c.apply(drift.Compare(c.input(desired, spec)).Keep(desired))
	if got := image(c.get(desired)); got != "nginx:2" {
		t.Errorf("image %q", got)
	}
}

// The rule that is printed can be committed as it is, and ends the drift.
func TestRuleEndsDrift(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(deployment)
	c.fresh(desired)
	c.edit(desired, edit, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"},`+
		`{"op":"replace","path":"/metadata/annotations/example.com~1note","value":"x"},`+
		`{"op":"remove","path":"/spec/template/spec/containers/0/ports/1"}]`)
	in := c.input(desired, api.Drift{})
	r := drift.Compare(in)
	if len(r.Fields) != 3 {
		t.Fatalf("%q", lines(r))
	}
	e, _ := drift.Observe(nil, drift.Observation{Object: api.RefOf(desired), Bundle: "b", Result: r, At: t0})
	text := drift.RuleYAML(drift.RuleFor(*e))
	bundle := "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b}\nspec:\n" + indent(text)
	decoded, err := api.DecodeBundle("bundle.yaml", []byte(bundle))
	if err != nil {
		t.Fatalf("%v in\n%s", err, bundle)
	}
	in.Spec = decoded.Spec.Drift
	if got := lines(drift.Compare(in)); got != nil {
		t.Errorf("%q with\n%s", got, text)
	}
	var any map[string]any
	if err := yaml.Unmarshal([]byte(text), &any); err != nil {
		t.Error(err)
	}
}

// Looking away is no healing: the episode says that nobody looks any more, and where that stands.
func TestSwitchedOff(t *testing.T) {
	c := newCluster(t)
	ignoring := api.Drift{Ignore: []api.IgnoreRule{{Managers: []string{"nobody"}}, {Paths: []string{"/data"}}}}
	order := map[string]string{api.AnnotationDrift: "ignore"}
	once := map[string]string{api.AnnotationSSA: "IfNotPresent"}
	for name, tt := range map[string]struct {
		before api.Drift
		patch  string // what somebody does to the object; empty deletes it
		change func(desired *unstructured.Unstructured, in *drift.Input)
		want   string
	}{
		"an annotation on the live object": {
			patch:  `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Live.SetAnnotations(order) },
			want:   "no longer looked at: the annotation flotilla.dev/drift: ignore on the live object",
		},
		"an annotation in Git": {
			patch: `{"data":{"a":"x"}}`,
			change: func(desired *unstructured.Unstructured, in *drift.Input) {
				desired.SetAnnotations(order)
				in.Live.SetAnnotations(order)
			},
			want: "no longer looked at: the annotation flotilla.dev/drift: ignore in Git",
		},
		"made once": {
			patch:  `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Live.SetAnnotations(once) },
			want:   "no longer looked at: the annotation flotilla.dev/ssa: IfNotPresent on the live object",
		},
		"the policy": {
			patch:  `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Spec.Mode = api.DriftIgnore },
			want:   "no longer looked at: the policy says mode: ignore",
		},
		"an ignore rule for the field": {
			patch:  `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Spec = ignoring },
			want:   "no longer looked at: /data/a (ignore rule 2)",
		},
		"an ignore rule for a field that was removed": {
			patch:  `{"data":{"a":null}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Spec = ignoring },
			want:   "no longer looked at: /data/a (ignore rule 2)",
		},
		"an ignore rule for a field that was added": {
			before: api.Drift{Extra: api.ExtraReport}, patch: `{"data":{"theirs":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) {
				in.Spec = ignoring
				in.Spec.Extra = api.ExtraReport
			},
			want: "no longer looked at: /data/theirs (ignore rule 2)",
		},
		"nobody asks for what others add": {
			before: api.Drift{Extra: api.ExtraReport}, patch: `{"data":{"theirs":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) { in.Spec.Extra = api.ExtraIgnore },
			want:   "no longer looked at: the policy says extra: ignore",
		},
		"an ignore rule for an object that is gone": {
			change: func(_ *unstructured.Unstructured, in *drift.Input) {
				in.Spec = api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{"/"}}}}
			},
			want: "no longer looked at: ignore rule 1, for the whole object",
		},
		"put back by hand, with a rule for other fields": {
			patch: `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) {
				in.Live = in.DryRun
				in.Spec = api.Drift{Ignore: []api.IgnoreRule{{Paths: []string{"/data/b"}}}}
			},
			want: "resolved: the object matches again",
		},
		"put back by hand, with a rule for the field": {
			patch: `{"data":{"a":"x"}}`,
			change: func(_ *unstructured.Unstructured, in *drift.Input) {
				in.Live, in.Spec = in.DryRun, ignoring
			},
			want: "resolved: the object matches again",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			desired := c.parse(configMap)
			c.fresh(desired)
			in := drift.Input{Desired: desired, Spec: tt.before}
			if tt.patch != "" {
				c.edit(desired, edit, tt.patch)
				in = c.input(desired, tt.before)
			}
			o := drift.Observation{Object: api.RefOf(desired), Result: drift.Compare(in), At: t0}
			e, _ := drift.Observe(nil, o)
			if e == nil || !e.Open() {
				t.Fatalf("%+v", e)
			}
			tt.change(desired, &in)
			o.Result = drift.Compare(in)
			e, _ = drift.Observe(e, o)
			outcome := api.OutcomeIgnored
			if strings.HasPrefix(tt.want, "resolved") {
				outcome = api.OutcomeResolved
			}
			if last := e.Timeline[len(e.Timeline)-1].What; e.Open() || e.Outcome != outcome || last != tt.want {
				t.Errorf("%s: %q, want %q", e.Outcome, last, tt.want)
			}
		})
	}
}

// What others wrote in another version of the API is seen as well.
func TestAddedInAnotherVersion(t *testing.T) {
	c := newCluster(t)
	desired := c.parse(scaler)
	c.fresh(desired)
	v1 := desired.DeepCopy()
	v1.SetAPIVersion("autoscaling/v1")
	c.edit(v1, edit, `{"metadata":{"labels":{"theirs":"x"}},"spec":{"targetCPUUtilizationPercentage":50}}`)
	got := lines(drift.Compare(c.input(desired, api.Drift{Extra: api.ExtraReport})))
	want := []string{`added /metadata/labels/theirs  -> "x" by kubectl-edit`}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

const scaler = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: versions}
spec: {minReplicas: 1, maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: nothing}}
`

// Finalizers and owners that Git declares are compared like any other field; those of others are theirs.
func TestFinalizersAndOwners(t *testing.T) {
	c := newCluster(t)
	owner := c.parse(strings.Replace(configMap, "settings", "owner", 1))
	c.fresh(owner)
	other := c.parse(strings.Replace(configMap, "settings", "other", 1))
	c.fresh(other)
	ref := func(o *unstructured.Unstructured, more string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","name":"` + o.GetName() + `","uid":"` + string(c.get(o).GetUID()) + `"` + more + `}`
	}
	uid := "/metadata/ownerReferences/[uid=" + string(c.get(owner).GetUID()) + "]"
	for name, tt := range map[string]struct {
		patch string
		want  []string
	}{
		"a finalizer of another": {patch: `[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/theirs"}]`},
		"our finalizer removed": {
			patch: `{"metadata":{"finalizers":null}}`,
			want:  []string{`removed /metadata/finalizers/[=example.com~1ours] "example.com/ours" ->  by unknown`},
		},
		"our finalizer replaced": {
			patch: `{"metadata":{"finalizers":["example.com/theirs"]}}`,
			want:  []string{`removed /metadata/finalizers/[=example.com~1ours] "example.com/ours" ->  by unknown`},
		},
		"an owner of another": {patch: `[{"op":"add","path":"/metadata/ownerReferences/-","value":` + ref(other, "") + `}]`},
		"our owner removed": {
			patch: `{"metadata":{"ownerReferences":null}}`,
			want:  []string{`removed ` + uid + ` ` + ref(owner, "") + ` ->  by unknown`},
		},
		"our owner made to hold the deletion": {
			patch: `[{"op":"add","path":"/metadata/ownerReferences/0/blockOwnerDeletion","value":true}]`, // an owner is one value
			want:  []string{`changed ` + uid + `/blockOwnerDeletion  -> true by kubectl-edit`},
		},
		"our owner's name": {
			patch: `[{"op":"replace","path":"/metadata/ownerReferences/0/name","value":"somebody"}]`,
			want:  []string{`changed ` + uid + `/name "owner" -> "somebody" by kubectl-edit`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			desired := c.parse(strings.Replace(configMap, "{name: settings}", `{name: held, finalizers: [example.com/ours], ownerReferences: [`+ref(owner, "")+`]}`, 1))
			c.apply(desired)
			t.Cleanup(func() {
				r, ctx := c.resource(desired), context.WithoutCancel(t.Context())
				_, _ = r.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
				_ = r.Delete(ctx, "held", metav1.DeleteOptions{})
			})
			if got := lines(drift.Compare(c.input(desired, api.Drift{}))); got != nil {
				t.Fatalf("as applied: %q", got)
			}
			c.edit(desired, edit, tt.patch)
			in := c.input(desired, api.Drift{})
			r := drift.Compare(in)
			if d := cmp.Diff(tt.want, lines(r)); d != "" {
				t.Error(d)
			}
			c.converges(desired, in, r)
		})
	}
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}

// What others added to an object that says Merge is theirs, whatever the policy says.
func TestMergeLeavesWhatOthersAdded(t *testing.T) {
	c := newCluster(t)
	for _, merge := range []bool{true, false} {
		desired := c.parse("{apiVersion: v1, kind: ConfigMap, metadata: {name: m" + strconv.FormatBool(merge) + "}, data: {a: b}}")
		if merge {
			desired.SetAnnotations(map[string]string{api.AnnotationSSA: "Merge"})
		}
		c.apply(desired)
		c.edit(desired, edit, `{"data":{"c":"mine"}}`)
		r := drift.Compare(c.input(desired, api.Drift{Extra: api.ExtraRemove}))
		if want := map[bool]drift.Action{true: drift.None, false: drift.Strip}[merge]; r.Class != api.ClassAdded || r.Action != want {
			t.Errorf("Merge %v: %s %q, want %q", merge, r.Class, r.Action, want)
		}
	}
}
