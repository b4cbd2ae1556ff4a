package drift

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

var (
	twinEdits = flag.Int("twin.edits", 400, "how many random edits TestTwins makes")
	twinSeed  = flag.Uint64("twin.seed", 0, "the seed of TestTwins; 0 takes one from the clock")
)

// twins are the objects of Git, of more than twenty kinds. NS is the namespace, and part of what has none.
const twins = `
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.NS.example.com}, spec: {group: NS.example.com, scope: Namespaced,
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}, versions: [{name: v1, served: true, storage: true, subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}},
  schema: {openAPIV3Schema: {type: object, properties: {status: {type: object, x-kubernetes-preserve-unknown-fields: true}, spec: {type: object, properties: {
    size: {type: integer}, level: {type: integer, default: 3}, free: {type: object, additionalProperties: {type: string}},
    whole: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: string}}, any: {type: object, x-kubernetes-preserve-unknown-fields: true},
    args: {type: array, items: {type: string}}, set: {type: array, x-kubernetes-list-type: set, items: {type: string}},
    items: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, value: {type: string}, more: {type: string}}}},
    ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [port, protocol], items: {type: object, required: [port], properties: {port: {type: integer}, protocol: {type: string, default: TCP}, target: {type: string}}}}}}}}}}]}}
---
{apiVersion: NS.example.com/v1, kind: Thing, metadata: {name: thing, namespace: NS}, spec: {size: 2, free: {a: b}, whole: {a: b}, any: {x: {y: z}}, args: [a, b], set: [a, b],
  items: [{name: a, value: a}, {name: b, value: b}], ports: [{port: 1, target: a}, {port: 1, protocol: UDP, target: b}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: NS, labels: {a: b}, annotations: {c: d}}, data: {a: "1", b: "2"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: NS}, stringData: {a: one}, data: {b: dHdv}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: NS}, spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa, namespace: NS, labels: {a: b}}, automountServiceAccountToken: false}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota, namespace: NS}, spec: {hard: {pods: "1000", requests.cpu: "100"}}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: limits, namespace: NS}, spec: {limits: [{type: Container, default: {cpu: 100m}, defaultRequest: {cpu: 50m}}]}}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: template, namespace: NS}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: "a:1"}]}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: NS}, spec: {replicas: 0, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {securityContext: {},
  volumes: [{name: tmp, emptyDir: {}}], containers: [{name: web, image: "web:1", args: [a, b], env: [{name: A, value: a}, {name: B, value: b}], resources: {limits: {cpu: 0.1}}, securityContext: {}, ports: [{containerPort: 80}], volumeMounts: [{name: tmp, mountPath: /tmp}]}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: NS}, spec: {replicas: 0, serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: "db:1"}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: node, namespace: NS}, spec: {selector: {matchLabels: {app: node}}, template: {metadata: {labels: {app: node}}, spec: {nodeSelector: {none: here}, containers: [{name: node, image: "node:1"}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: NS}, spec: {suspend: true, schedule: "0 0 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "a:1"}]}}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: NS}, spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: NS}, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}]}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web, namespace: NS}, spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: nothing, namespace: NS}, spec: {minReplicas: 1, maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: nothing}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: NS}, rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader, namespace: NS}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}, subjects: [{kind: ServiceAccount, name: sa, namespace: NS}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: NS-reader}, rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: NS-reader}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NS-reader}, subjects: [{kind: ServiceAccount, name: sa, namespace: NS}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: by-hand, namespace: NS}, addressType: IPv4, endpoints: [{addresses: [192.0.2.1]}], ports: [{name: a, port: 1}]}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: lease, namespace: NS}, spec: {holderIdentity: a, leaseDurationSeconds: 15}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: NS-class}, spec: {controller: example.com/c}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: NS-hook}, webhooks: [{name: a.example.com, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Ignore,
  rules: [{apiGroups: [nothing.example.com], apiVersions: [v1], operations: [CREATE], resources: [nothings]}], clientConfig: {service: {namespace: NS, name: hook}}}]}
`

// pair is an object of Git and its twin, which nobody touches.
type pair struct {
	desired *unstructured.Unstructured
	at      dynamic.ResourceInterface
	gvr     schema.GroupVersionResource
	twin    *unstructured.Unstructured
	// fields are those that a fresh manager claims when it applies Git's manifest.
	fields *smd.Set
}

// stage is where the twins live.
type stage struct {
	*rig
	bundle api.RenderedBundle
	pairs  []*pair
	rand   *rand.Rand
	other  string // the twins' namespace
	log    string // what was done to the object at hand
	// counts of what was tried
	refused, drifted int
}

// An object of Git and its twin that nobody touches: after a random edit the verdict in report is that of a judge of its own,
// in correct Git's fields are as the twin's and nothing else changes, and in remove the object is its twin.
// The judge is a dry run of Git's manifest by a fresh manager, and the twin, field by field.
func TestTwins(t *testing.T) {
	seed := *twinSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("go test ./test/drift -run TestTwins -twin.seed %d -twin.edits %d", seed, *twinEdits)
	s := newStage(t, seed)
	for done, tries := 0, 0; done < *twinEdits; tries++ {
		if tries > 60**twinEdits {
			t.Fatalf("of %d edits the API server takes %d", tries, done)
		}
		p := s.pairs[1+s.rand.IntN(len(s.pairs)-1)] // the first is the CRD of one of the others
		if !s.spoil(p) {
			continue
		}
		done++
		s.judge(p)
	}
	t.Logf("%d edits of %d kinds: %d drifts, %d corrections refused", *twinEdits, len(s.pairs), s.drifted, s.refused)
}

func newStage(t *testing.T, seed uint64) *stage {
	t.Helper()
	r := newRig(t, agenttest.Config{})
	s := &stage{rig: r, rand: rand.New(rand.NewPCG(seed, seed)), other: r.NS + "twin"}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.other}}
	if _, err := r.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Applier.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.bundle = s.rendered(r.NS)
	others := s.rendered(s.other)
	for _, b := range []api.RenderedBundle{s.bundle, others} {
		if res := r.Applier.Apply(t.Context(), apply.Request{Bundle: b}); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	for i, o := range s.bundle.Objects {
		p := &pair{desired: o}
		p.gvr, p.at = s.place(o)
		_, twin := s.place(others.Objects[i])
		var err error
		if p.twin, err = twin.Get(t.Context(), others.Objects[i].GetName(), metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		fresh := o.DeepCopy()
		if o.GetKind() != "CustomResourceDefinition" {
			fresh.SetName(o.GetName() + "-judge")
		}
		fresh, err = p.at.Apply(t.Context(), fresh.GetName(), fresh, metav1.ApplyOptions{FieldManager: "judge", Force: true, DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		p.fields = claimed(fresh, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "judge" })
		s.pairs = append(s.pairs, p)
	}
	return s
}

func (s *stage) rendered(ns string) api.RenderedBundle {
	b := api.RenderedBundle{Name: ns + "-twins", Origin: map[string]string{}}
	for doc := range strings.SplitSeq(twins, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(doc, "NS", ns)))
		if err != nil {
			s.t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := json.Unmarshal(raw, o); err != nil {
			s.t.Fatal(err)
		}
		b.Objects = append(b.Objects, o)
	}
	return b
}

func (s *stage) place(o *unstructured.Unstructured) (schema.GroupVersionResource, dynamic.ResourceInterface) {
	gvk := o.GroupVersionKind()
	plural := strings.ToLower(gvk.Kind) + "s"
	switch gvk.Kind {
	case "NetworkPolicy":
		plural = "networkpolicies"
	case "Ingress", "IngressClass":
		plural = strings.ToLower(gvk.Kind) + "es"
	}
	gvr := gvk.GroupVersion().WithResource(plural)
	if o.GetNamespace() == "" {
		return gvr, s.Dynamic.Resource(gvr)
	}
	return gvr, s.Dynamic.Resource(gvr).Namespace(o.GetNamespace())
}

// claimed are the leaves that some entries of an object claim.
func claimed(o *unstructured.Unstructured, which func(metav1.ManagedFieldsEntry) bool) *smd.Set {
	out := smd.NewSet()
	for _, e := range o.GetManagedFields() {
		set := smd.NewSet()
		if e.FieldsV1 != nil && e.Subresource != "status" && which(e) && set.FromJSON(e.FieldsV1.GetRawReader()) == nil {
			out = out.Union(set.Leaves())
		}
	}
	return out
}

// look compares an object as the agent does.
func (s *stage) look(p *pair, spec api.Drift) (drift.Result, apply.Inspection) {
	b := s.bundle
	b.Spec.Drift = spec
	for {
		ins := s.Applier.Inspect(s.t.Context(), b, p.desired)
		if ins.Err != nil {
			s.t.Fatalf("%s: %v", s.log, ins.Err)
		}
		in := drift.Input{Desired: ins.Desired, Live: ins.Live, DryRun: ins.DryRun, Refused: ins.Refused != nil, Spec: spec}
		if patch := drift.Additions(in); patch != nil && ins.Refused == nil {
			var err error
			if in.Stripped, err = s.Applier.Without(s.t.Context(), b, ins, patch); err != nil {
				if conflicts(err) {
					continue
				}
				s.t.Fatalf("%s: %v", s.log, err)
			}
		}
		return drift.Compare(in), ins
	}
}

func conflicts(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Reason == "Conflict" || apierrors.IsConflict(err)
}

// judge holds the verdict on an object against the twin, has it corrected, and then has what was added taken away.
func (s *stage) judge(p *pair) {
	r, ins := s.look(p, api.Drift{Mode: api.DriftReport, Extra: api.ExtraReport})
	if r.Class != "" {
		s.drifted++
	}
	if ins.Live == nil {
		if r.Class != api.ClassMissing {
			s.fail(p, "it is gone, and the verdict is %q", r.Class)
		}
	} else {
		s.alarms(p, r, ins.Live)
		s.misses(p, r, ins.Live)
	}
	if !s.settles(p, api.Drift{Mode: api.DriftCorrect}) {
		return
	}
	live := s.live(p)
	for q := range p.fields.All() {
		s.same(p, q.Copy(), live, "after the correction")
	}
	s.stays(p, ins.Live, live)
	if !s.settles(p, api.Drift{Mode: api.DriftCorrect, Extra: api.ExtraRemove}) {
		return
	}
	live = s.live(p)
	for q := range p.fields.All() {
		s.same(p, q.Copy(), live, "after what was added is gone")
	}
	if a, b := s.content(live), s.content(p.twin); !within(decoded(s.t, a), decoded(s.t, b)) {
		s.fail(p, "with extra: remove it is not its twin\n%s\ntwin\n%s", a, b)
		s.anew(p)
	}
}

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// within reports whether all of a value is in another one. A default that somebody took away, and that the API server
// does not set again, is nobody's: neither Git nor an addition.
func within(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		for k := range x {
			ok = ok && within(x[k], y[k])
		}
		return ok
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, within)
	}
	return fieldpath.Equal(a, b)
}

// alarms finds fields that are told and are as the twin's.
func (s *stage) alarms(p *pair, r drift.Result, live *unstructured.Unstructured) {
	for _, f := range r.Fields {
		if strings.HasPrefix(f.Path, "/metadata/labels/") && (strings.Contains(f.Path, "managed-by") || strings.Contains(f.Path, "part-of") || strings.Contains(f.Path, "flotilla.dev")) {
			continue // the twin is another bundle's
		}
		if have, want := valueAt(live.Object, f.Path), valueAt(s.translated(p.twin), f.Path); fieldpath.Equal(have, want) {
			s.fail(p, "false alarm: %s %s is %v, as the twin's", f.Class, f.Path, have)
		}
	}
}

// misses finds fields that Git or somebody else claims, that are not as the twin's, and that are not told.
func (s *stage) misses(p *pair, r drift.Result, live *unstructured.Unstructured) {
	if len(r.Ignored) > 0 {
		return // of what is no drift by its nature a judge knows nothing
	}
	twin := s.translated(p.twin)
	theirs := claimed(live, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager != api.FieldManager && e.Subresource == "" && e.APIVersion == live.GetAPIVersion() && !strings.HasPrefix(e.Manager, "kube-")
	})
	for q := range p.fields.Union(theirs).All() {
		q := q.Copy()
		at, have, ok := fieldpath.Locate(live.Object, q)
		if !ok {
			at, _, ok = fieldpath.Locate(twin, q)
		}
		if !ok || at.Under("status") || at.Under("metadata", "labels") && strings.Contains(at.String(), "flotilla") || at.Under("metadata") && !at.Under("metadata", "labels") && !at.Under("metadata", "annotations") ||
			strings.Contains(at.String(), "deployment.kubernetes.io") || strings.Contains(at.String(), "deprecated.daemonset") || strings.Contains(at.String(), "managed-by") || strings.Contains(at.String(), "part-of") {
			continue
		}
		_, want, _ := fieldpath.Locate(twin, q)
		if s := at.String(); s == "/metadata/labels" || s == "/metadata/annotations" {
			continue // a claim to the map alone, whose parts come by themselves
		}
		if m, isMap := have.(map[string]any); fieldpath.Equal(have, want) || isMap && len(m) > 0 && want == nil || allocated(at.String()) {
			continue
		}
		if !slices.ContainsFunc(r.Fields, func(f api.FieldDiff) bool { return related(f.Path, at.String()) }) {
			s.fail(p, "missed: %s is %v, and the twin's %v; told are %v", at, have, want, r.Fields)
		}
	}
}

func related(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// allocated are fields that the API server gives to each object.
func allocated(path string) bool {
	return strings.HasPrefix(path, "/spec/clusterIP") || strings.HasSuffix(path, "/nodePort") || path == "/spec/healthCheckNodePort"
}

// same holds one field of Git against the twin's.
func (s *stage) same(p *pair, q smd.Path, live *unstructured.Unstructured, when string) {
	at, want, ok := fieldpath.Locate(s.translated(p.twin), q)
	if !ok {
		return
	}
	if m, isMap := want.(map[string]any); isMap && len(m) == 0 {
		return // Git leaves it empty, and others may fill it
	}
	if _, have, _ := fieldpath.Locate(live.Object, q); !fieldpath.Equal(have, want) {
		s.fail(p, "%s %s is %v, and the twin's %v", when, at, have, want)
	}
}

// stays holds what others added before a correction against what is there after it.
func (s *stage) stays(p *pair, before, after *unstructured.Unstructured) {
	if before == nil || before.GetUID() != after.GetUID() {
		return
	}
	twin := s.translated(p.twin)
	for q := range claimed(before, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "Lens" || e.Manager == "HashiCorp" }).All() {
		q := q.Copy()
		at, was, ok := fieldpath.Locate(before.Object, q)
		if _, _, inTwin := fieldpath.Locate(twin, q); !ok || inTwin || p.fields.Has(q) || at.Under("metadata", "managedFields") {
			continue
		}
		if _, is, there := fieldpath.Locate(after.Object, q); !there && !fieldpath.Equal(was, is) {
			s.fail(p, "a correction took %s away, which is somebody else's", at)
		}
	}
}

// settles corrects an object until nothing is left to do. It reports false, and makes the object anew, if that is refused.
func (s *stage) settles(p *pair, spec api.Drift) bool {
	b := s.bundle
	b.Spec.Drift = spec
	var err error
	for range 40 {
		r, ins := s.look(p, spec)
		switch r.Action {
		case drift.None:
			return true
		case drift.Strip:
			_, err = s.Applier.Strip(s.t.Context(), b, ins.Live, r.StripPatch())
		default:
			_, err = s.Applier.Correct(s.t.Context(), b, r.Keep(ins.Desired), ins.Live)
		}
		if err != nil && !conflicts(err) {
			if api.KindOf(err) != api.Stalled {
				s.fail(p, "not corrected: %v", err)
			}
			s.refused++
			s.anew(p)
			return false
		}
	}
	s.fail(p, "it does not settle: %v", err)
	s.anew(p)
	return false
}

// anew makes an object as Git says, by deleting it first.
func (s *stage) anew(p *pair) {
	name := p.desired.GetName()
	if err := p.at.Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	s.Eventually(name+" is gone", func(ctx context.Context) error {
		_, err := p.at.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("still there"), err)
	})
	if _, err := s.Applier.Correct(s.t.Context(), s.bundle, p.desired, nil); err != nil {
		s.t.Fatalf("%s: %v", s.log, err)
	}
}

func (s *stage) live(p *pair) *unstructured.Unstructured {
	o, err := p.at.Get(s.t.Context(), p.desired.GetName(), metav1.GetOptions{})
	if err != nil {
		s.t.Fatalf("%s: %v", s.log, err)
	}
	return o
}

func (s *stage) fail(p *pair, format string, args ...any) {
	s.t.Errorf("%s: %s: %s", api.RefOf(p.desired), s.log, fmt.Sprintf(format, args...))
}

// translated is the twin with the words of the object.
func (s *stage) translated(twin *unstructured.Unstructured) map[string]any {
	b, err := json.Marshal(twin.Object)
	if err != nil {
		s.t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(b), s.other, s.NS)), o); err != nil {
		s.t.Fatal(err)
	}
	return o.Object
}

// content is all that can be declared of an object, as text.
func (s *stage) content(o *unstructured.Unstructured) string {
	c := &unstructured.Unstructured{Object: s.translated(o)}
	out := map[string]any{}
	for k, v := range c.Object {
		if k != "metadata" && k != "status" {
			out[k] = v
		}
	}
	for name, m := range map[string]map[string]string{"labels": c.GetLabels(), "annotations": c.GetAnnotations()} {
		kept := map[string]string{}
		for k, v := range m {
			if k != api.LabelPartOf && k != api.LabelBundle && k != "deployment.kubernetes.io/revision" && k != "deprecated.daemonset.template.generation" {
				kept[k] = v
			}
		}
		out["metadata."+name] = kept
	}
	if o.GetKind() == "Service" {
		for _, field := range []string{"clusterIP", "clusterIPs"} {
			unstructured.RemoveNestedField(out, "spec", field)
		}
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// managers are tools of all kinds.
var twinManagers = []string{"kubectl-edit", "kubectl-client-side-apply", "kubectl-patch", "HashiCorp", "Lens", "k9s", "helm", "pulumi-kubernetes"}

// spoil does something random to an object. It reports false if the API server does not take it, or nothing changes.
func (s *stage) spoil(p *pair) bool {
	live := s.live(p)
	manager := twinManagers[s.rand.IntN(len(twinManagers))]
	ctx, name := s.t.Context(), p.desired.GetName()
	var err error
	switch n := s.rand.IntN(40); {
	case n == 0 && p.desired.GetKind() != "CustomResourceDefinition":
		s.log = "deleted"
		err = p.at.Delete(ctx, name, metav1.DeleteOptions{})
		s.Eventually("it is gone", func(ctx context.Context) error {
			_, err := p.at.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("still there"), err)
		})
		if s.rand.IntN(2) == 0 && err == nil {
			s.log = "made anew by " + manager
			_, err = p.at.Create(ctx, p.desired.DeepCopy(), metav1.CreateOptions{FieldManager: manager})
		}
		return err == nil
	case n == 1 && slices.Contains([]string{"Deployment", "StatefulSet", "Thing"}, live.GetKind()):
		s.log = "scaled by " + manager
		_, err = p.at.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 4+s.rand.IntN(3)), metav1.PatchOptions{FieldManager: manager}, "scale")
		return err == nil
	case n == 2 && live.GetKind() == "HorizontalPodAutoscaler":
		s.log = "patched in autoscaling/v1 by " + manager
		gvr := schema.GroupVersionResource{Group: "autoscaling", Version: "v1", Resource: p.gvr.Resource}
		_, err = s.Dynamic.Resource(gvr).Namespace(s.NS).Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"maxReplicas":7},"metadata":{"labels":{"v1":"x"}}}`), metav1.PatchOptions{FieldManager: manager})
		return err == nil
	}
	next := live.DeepCopy()
	s.log = ""
	for range 1 + s.rand.IntN(2) {
		s.log += s.mutate(next.Object) + " "
	}
	before, after := s.content(live), s.content(next)
	if before == after {
		return false
	}
	switch how := s.rand.IntN(3); how {
	case 0:
		s.log += "by PUT of " + manager
		next.SetManagedFields(nil)
		_, err = p.at.Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	case 1:
		s.log += "by an apply of " + manager
		for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"} {
			unstructured.RemoveNestedField(next.Object, "metadata", field)
		}
		delete(next.Object, "status")
		_, err = p.at.Apply(ctx, name, next, metav1.ApplyOptions{FieldManager: manager, Force: true})
	default:
		s.log += "by a patch of " + manager
		patch, perr := mergePatch(live.Object, next.Object)
		if perr != nil {
			s.t.Fatal(perr)
		}
		_, err = p.at.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	}
	return err == nil
}

// mergePatch is a JSON merge patch (RFC 7386) from one object to another.
func mergePatch(a, b map[string]any) ([]byte, error) {
	var diff func(a, b map[string]any) map[string]any
	diff = func(a, b map[string]any) map[string]any {
		out := map[string]any{}
		for k := range a {
			if _, stays := b[k]; !stays {
				out[k] = nil
			}
		}
		for k, v := range b {
			x, okX := a[k].(map[string]any)
			y, okY := v.(map[string]any)
			switch {
			case fieldpath.Equal(a[k], v):
			case okX && okY:
				out[k] = diff(x, y)
			default:
				out[k] = v
			}
		}
		return out
	}
	return json.Marshal(diff(a, b))
}

// additions are fields of well-known kinds that somebody may add, by the map that they are added to.
var twinAdditions = map[string][]any{
	"spec":            {"paused", true, "minReadySeconds", int64(7), "sessionAffinity", "ClientIP", "revisionHistoryLimit", int64(4), "priorityClassName", "system-node-critical", "level", int64(9), "acquireTime", nil},
	"securityContext": {"runAsUser", int64(7), "privileged", true, "runAsNonRoot", true},
	"resources":       {"requests", map[string]any{"cpu": "10m"}},
	"emptyDir":        {"medium", "Memory"},
	"strategy":        {"rollingUpdate", map[string]any{"maxSurge": int64(3), "maxUnavailable": int64(1)}},
}

// mutate changes something at a random place of an object, and says what.
func (s *stage) mutate(o map[string]any) string {
	var keys []string
	for k := range o {
		if k != "apiVersion" && k != "kind" && k != "status" {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	key := keys[s.rand.IntN(len(keys))]
	if key == "metadata" {
		md := o["metadata"].(map[string]any)
		key = []string{"labels", "annotations"}[s.rand.IntN(2)]
		m, _ := md[key].(map[string]any)
		if m == nil {
			m = map[string]any{}
			md[key] = m
		}
		if s.rand.IntN(8) == 0 && key == "annotations" {
			delete(md, key)
			return "metadata." + key + " removed,"
		}
		return "metadata." + key + s.inMap(key, m)
	}
	switch v := o[key].(type) {
	case map[string]any:
		return key + s.inMap(key, v)
	case []any:
		l, said := s.inList(v)
		o[key] = l
		return key + said
	default:
		o[key] = s.another(v)
		return key + " changed,"
	}
}

func (s *stage) inMap(name string, m map[string]any) string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	keys = slices.DeleteFunc(keys, func(k string) bool {
		return k == api.LabelPartOf || k == api.LabelBundle // they say whose the object is: another tool's is left alone
	})
	if n := s.rand.IntN(6); n == 0 || len(keys) == 0 {
		if more := twinAdditions[name]; len(more) > 0 {
			i := 2 * s.rand.IntN(len(more)/2)
			m[more[i].(string)] = more[i+1]
			return fmt.Sprintf(".%s added,", more[i])
		}
		m["extra"] = "eHg="
		return ".extra added,"
	}
	k := keys[s.rand.IntN(len(keys))]
	if s.rand.IntN(6) == 0 {
		delete(m, k)
		return "." + k + " removed,"
	}
	switch v := m[k].(type) {
	case map[string]any:
		return "." + k + s.inMap(k, v)
	case []any:
		l, said := s.inList(v)
		m[k] = l
		return "." + k + said
	default:
		m[k] = s.another(v)
		return "." + k + " changed,"
	}
}

func (s *stage) inList(l []any) ([]any, string) {
	if len(l) == 0 {
		return append(l, "extra"), "[] added,"
	}
	i := s.rand.IntN(len(l))
	switch s.rand.IntN(6) {
	case 0:
		return slices.Delete(slices.Clone(l), i, i+1), fmt.Sprintf("[%d] removed,", i)
	case 1:
		b, _ := json.Marshal(l[i])
		other := &unstructured.Unstructured{Object: map[string]any{}}
		if m, ok := l[i].(map[string]any); ok && json.Unmarshal(b, &m) == nil {
			for k, v := range m {
				switch k {
				case "name", "port", "containerPort", "host", "mountPath":
					m[k] = s.another(v)
				}
			}
			other.Object = m
			return append(slices.Clone(l), other.Object), "[] added,"
		}
		return append(slices.Clone(l), s.another(l[i])), "[] added,"
	}
	switch v := l[i].(type) {
	case map[string]any:
		return l, fmt.Sprintf("[%d]%s", i, s.inMap("", v))
	case []any:
		in, said := s.inList(v)
		l[i] = in
		return l, fmt.Sprintf("[%d]%s", i, said)
	default:
		l[i] = s.another(v)
		return l, fmt.Sprintf("[%d] changed,", i)
	}
}

// another is a value of the same type.
func (s *stage) another(v any) any {
	switch v := v.(type) {
	case string:
		return []string{v + "x", "zz", "2", "eHg=", "true", "Always"}[s.rand.IntN(6)]
	case int64:
		return v + 1 + int64(s.rand.IntN(3))
	case float64:
		return v + 1
	case bool:
		return !v
	}
	return v
}

// valueAt is the value at a path as episodes write it; nil if there is none.
func valueAt(v any, path string) any {
	for _, part := range fieldpath.Parts(path) {
		switch x := v.(type) {
		case map[string]any:
			v = x[part.Name]
		case []any:
			i := slices.IndexFunc(x, func(item any) bool { return isPart(item, part) })
			if i < 0 {
				var n int
				if _, err := fmt.Sscanf(part.Name, "%d", &n); err != nil || n >= len(x) {
					return nil
				}
				i = n
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func isPart(item any, part fieldpath.Part) bool {
	if part.Value != nil {
		return fieldpath.Scalar(item) == *part.Value
	}
	m, _ := item.(map[string]any)
	for _, k := range part.Keys {
		if fieldpath.Scalar(m[k.Name]) != k.Value {
			return false
		}
	}
	return len(part.Keys) > 0
}
