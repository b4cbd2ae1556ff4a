package drift

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	smd "sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

var (
	twinEdits = flag.Int("twin.edits", 400, "how many random edits TestTwins makes")
	twinSeed  = flag.Uint64("twin.seed", 11, "the seed of TestTwins; 0 takes one from the clock")
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
	// words is the twin with the words of the object, and content all of it that can be declared.
	words, content map[string]any
	// fields are those that a fresh manager claims when it applies Git's manifest.
	fields *smd.Set
}

// stage is where the twins live.
type stage struct {
	*rig
	bundle api.RenderedBundle
	pairs  []*pair
	other  string // the twins' namespace
	// counts of what was tried
	refused, drifted, untold atomic.Int64
}

// player edits one object of Git, and judges what is said of it.
type player struct {
	*stage
	t    *testing.T
	rand *rand.Rand
	log  string // what was done to the object since it was as Git says
}

// An object of Git and its twin that nobody touches: after each random edit the verdict in report is that of a judge of its own;
// after some, in correct Git's fields are as the twin's and nothing else changes, and in remove the object is its twin.
// The judge is a dry run of Git's manifest by a fresh manager, and the twin, field by field.
func TestTwins(t *testing.T) {
	seed := *twinSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("go test ./test/drift -run TestTwins -twin.seed %d -twin.edits %d", seed, *twinEdits)
	s := newStage(t)
	pairs := s.pairs[1:] // the first is the CRD of one of the others
	edits := (*twinEdits + len(pairs) - 1) / len(pairs)
	t.Run("kinds", func(t *testing.T) {
		for i, p := range pairs {
			t.Run(p.desired.GetKind(), func(t *testing.T) {
				t.Parallel()
				s := player{stage: s, t: t, rand: rand.New(rand.NewPCG(seed, uint64(i)))}
				s.play(p, edits)
			})
		}
	})
	t.Logf("%d edits of %d kinds: %d drifts, %d corrections refused, %d additions under before-first-apply",
		edits*len(pairs), len(pairs), s.drifted.Load(), s.refused.Load(), s.untold.Load())
}

// play makes edits one after the other, with a correction now and then.
func (s *player) play(p *pair, edits int) {
	for done, tries := 0, 0; done < edits; tries++ {
		if tries > 200*edits {
			s.t.Fatalf("of %d edits the API server takes %d", tries, done)
		}
		if !s.spoil(p) {
			continue
		}
		done++
		live := s.judge(p)
		if live == nil || done == edits || s.rand.IntN(3) == 0 {
			s.mend(p, live)
		}
	}
}

func newStage(t *testing.T) *stage {
	t.Helper()
	r := newRig(t, agenttest.Config{})
	s := &stage{rig: r, other: r.NS + "twin"}
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
		p.words, p.content = s.translated(p.twin), s.content(p.twin)
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
