package drift_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
)

// matched is what the agent remembers of an object that is as it should be.
func matched(o *unstructured.Unstructured) *api.InventoryEntry {
	return &api.InventoryEntry{
		UID: string(o.GetUID()), ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(),
		MetaDigest: api.MetaDigest(o.GetLabels(), o.GetAnnotations()),
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
		n, _, _ := unstructured.NestedInt64(c.get(dep).Object, "status", "availableReplicas")
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

	// A Service's EndpointSlice inherits the Service's labels, and is the control plane's.
	svc := c.parse(service)
	svc.SetLabels(made.GetLabels())
	c.apply(svc)
	slice := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}}
	eventually(t, "EndpointSlice", func() bool {
		list, err := c.resource(slice).List(t.Context(), metav1.ListOptions{LabelSelector: api.LabelPartOf + "=set"})
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
		_ = c.resource(binding).Delete(t.Context(), binding.GetName(), metav1.DeleteOptions{})
		_ = c.resource(policy).Delete(t.Context(), policy.GetName(), metav1.DeleteOptions{})
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
	before := in.Matched
	c.edit(desired, edit, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"nginx:2"}]`)
	in = c.input(desired, api.Drift{})
	if got := lines(drift.Compare(in)); len(got) != 1 {
		t.Errorf("edited: %q", got)
	}
	// Somebody applies another image under our name.
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

// The API server stamps who made the last change. A person is named only where it is proven
// that this change, and no other, led away from what was known to match.
func TestPerson(t *testing.T) {
	c := newCluster(t)
	for _, o := range drift.StampPolicy("kubernetes-admin") {
		_ = c.resource(o).Delete(t.Context(), o.GetName(), metav1.DeleteOptions{})
		own := c.as("flotilla-agent")
		own.apply(o)
		t.Cleanup(func() { _ = c.resource(o).Delete(t.Context(), o.GetName(), metav1.DeleteOptions{}) })
	}
	agent, alice, bob := c.as("kubernetes-admin"), c.as("alice"), c.as("bob")
	for name, text := range map[string]string{"Deployment": deployment, "ConfigMap": configMap} {
		desired := c.parse(text)
		desired.SetLabels(map[string]string{api.LabelManagedBy: api.ManagedBy, api.LabelPartOf: "set"})
		agent.fresh(desired)
		eventually(t, "the policy works", func() bool {
			_ = alice.tryEdit(desired, "probe", `{"metadata":{"annotations":{"probe":"`+rvOf(c.get(desired))+`"}}}`)
			return c.get(desired).GetAnnotations()[api.AnnotationLastEditor] == "alice"
		})
		agent.apply(desired)
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
		in.Matched = before
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
		in.Person = func(string) string { return "" }
		check("names left out", "")
		in.Person = func(s string) string { return "hash-of-" + s }
		check("names hashed", "hash-of-alice")

		bob.edit(desired, edit, `{"metadata":{"annotations":{"probe":"bob"}}}`)
		in = agent.input(desired, spec)
		in.Matched = before
		check("bob came after", "")
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
	failed := drift.Corrected(*e, t0, &api.Error{Kind: api.Stalled, Err: textError(`data.token: Invalid value: "MARKER-5"`)})
	for _, v := range []any{r, e, failed} {
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
	if !strings.Contains(failed.Error, "stalled") {
		t.Errorf("error %q", failed.Error)
	}
}

type textError string

func (e textError) Error() string { return string(e) }

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

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}
