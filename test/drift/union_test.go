package drift

import (
	"encoding/json"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

var unionsAll = flag.Bool("unions.all", false, "have TestUnions swap every member for every other")

// swapsOfUnion is how many swaps of one union a usual run of TestUnions makes.
const swapsOfUnion = 5

// union is a place in an object where one of several members may be.
type union struct {
	// of is the type whose pointers are the members; nil if they are told here alone.
	of reflect.Type
	// gated are members of it that the API server takes only with a feature gate.
	gated []string
	// members are what stands in the place, as YAML maps, with #N for the number of the item.
	members []string
	// item is what each item of a list has besides a member, with %d for its number; empty where there is one place alone.
	item string
	// object is the rest, with PLACE for the place or the list.
	object string
	// once is a field with a default that the API server sets only as the object is made: nobody's afterwards.
	once []string
	// at are the fields that somebody replaces who swaps the member, and more is what somebody else has in the object.
	at   []string
	more string
}

const (
	unionPod = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: NAME}, spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {%s}}}}`
	lensPod  = `{spec: {template: {metadata: {annotations: {lens: x}}, spec: {terminationGracePeriodSeconds: 7, volumes: [{name: lens, emptyDir: {}}], containers: [{name: lens, image: "l:1"}]}}}}`
	lensMeta = `{metadata: {annotations: {lens: x}}}`
	podSpec  = "spec.template.spec."
)

var handlers = []string{
	`exec: {command: [a]}`, `httpGet: {port: 80, path: /a}`, `tcpSocket: {port: 80}`,
}

// unions are those of the built-in kinds that can change on a live object.
var unions = map[string]union{
	"volume": {
		of: reflect.TypeFor[corev1.VolumeSource](), item: `name: v%d`, at: []string{podSpec + "volumes"}, more: lensPod,
		object: fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1"}], volumes: PLACE`),
		members: []string{
			`hostPath: {path: /a}`, `emptyDir: {}`, `gcePersistentDisk: {pdName: a}`, `awsElasticBlockStore: {volumeID: a}`,
			`gitRepo: {repository: a}`, `secret: {secretName: a}`, `nfs: {server: a, path: /a}`,
			`iscsi: {targetPortal: a, iqn: "iqn.2020-01.com.example:a", lun: 1}`, `glusterfs: {endpoints: a, path: a}`,
			`persistentVolumeClaim: {claimName: a}`, `rbd: {monitors: [a], image: a}`, `flexVolume: {driver: a/b}`,
			`cinder: {volumeID: a}`, `cephfs: {monitors: [a]}`, `flocker: {datasetName: a}`,
			`downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.name}}]}`, `fc: {targetWWNs: [a], lun: 1}`,
			`azureFile: {secretName: a, shareName: a}`, `configMap: {name: a}`, `vsphereVolume: {volumePath: a}`,
			`quobyte: {registry: "a:1", volume: a}`, `azureDisk: {diskName: a, diskURI: "https://a.example.com/a"}`,
			`photonPersistentDisk: {pdID: a}`, `projected: {sources: [{secret: {name: a}}]}`, `portworxVolume: {volumeID: a}`,
			`scaleIO: {gateway: a, system: a, volumeName: a, secretRef: {name: a}}`, `storageos: {volumeName: a}`, `csi: {driver: a.example.com}`,
			`ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}`, `image: {reference: a}`,
		},
	},
	"projected volume": {
		of: reflect.TypeFor[corev1.VolumeProjection](), gated: []string{"clusterTrustBundle", "podCertificate"}, item: ` `,
		at: []string{podSpec + "volumes"}, more: lensPod,
		object: fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1"}], volumes: [{name: a, projected: {sources: PLACE}}]`),
		members: []string{
			`secret: {name: a}`, `downwardAPI: {items: [{path: "a#N", fieldRef: {fieldPath: metadata.name}}]}`, `configMap: {name: b}`, `serviceAccountToken: {path: "t#N"}`,
		},
	},
	"variable": {
		of: reflect.TypeFor[corev1.EnvVarSource](), gated: []string{"fileKeyRef"}, item: `name: V%d`, at: []string{podSpec + "containers.0.env"}, more: lensPod,
		object: fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1", env: PLACE}]`),
		members: []string{
			`value: a`, `valueFrom: {fieldRef: {fieldPath: metadata.name}}`, `valueFrom: {resourceFieldRef: {resource: limits.cpu}}`,
			`valueFrom: {configMapKeyRef: {name: a, key: a}}`, `valueFrom: {secretKeyRef: {name: a, key: a}}`,
		},
	},
	"probe": {
		of: reflect.TypeFor[corev1.ProbeHandler](), at: []string{podSpec + "containers.0.livenessProbe"}, more: lensPod,
		object:  fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1", livenessProbe: PLACE}]`),
		members: append(slices.Clone(handlers), `grpc: {port: 80}`),
	},
	"lifecycle handler": {
		of: reflect.TypeFor[corev1.LifecycleHandler](), at: []string{podSpec + "containers.0.lifecycle"}, more: lensPod,
		object:  fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1", lifecycle: {preStop: PLACE}}]`),
		members: append(slices.Clone(handlers), `sleep: {seconds: 1}`),
	},
	"seccomp profile": {
		at: []string{podSpec + "securityContext"}, more: lensPod,
		object:  fmt.Sprintf(unionPod, `containers: [{name: web, image: "web:1"}], securityContext: {seccompProfile: PLACE, appArmorProfile: PLACE}`),
		members: []string{`type: RuntimeDefault`, `type: Unconfined`, `type: Localhost, localhostProfile: a`},
	},
	"strategy of a Deployment": {
		at: []string{"spec.strategy"}, more: lensPod, object: `{apiVersion: apps/v1, kind: Deployment, metadata: {name: NAME}, spec: {replicas: 0, strategy: PLACE,
			selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`,
		members: []string{`type: Recreate`, `type: RollingUpdate`, `rollingUpdate: {maxSurge: 2}`, `type: RollingUpdate, rollingUpdate: {maxUnavailable: 2}`, ` `},
	},
	"strategy of a DaemonSet": {
		once: []string{"spec", "updateStrategy", "rollingUpdate"}, at: []string{"spec.updateStrategy"}, more: lensPod, object: `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: NAME}, spec: {updateStrategy: PLACE,
			selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {none: here}, containers: [{name: web, image: "web:1"}]}}}}`,
		members: []string{`type: OnDelete`, `type: RollingUpdate`, `type: RollingUpdate, rollingUpdate: {maxUnavailable: 2}`, ` `},
	},
	"strategy of a StatefulSet": {
		once: []string{"spec", "updateStrategy", "rollingUpdate"}, at: []string{"spec.updateStrategy"}, more: lensPod, object: `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: NAME}, spec: {replicas: 0, serviceName: a, updateStrategy: PLACE,
			selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`,
		members: []string{`type: OnDelete`, `type: RollingUpdate`, `type: RollingUpdate, rollingUpdate: {partition: 2}`, ` `},
	},
	"limit of disruptions": {
		at: []string{"spec.minAvailable", "spec.maxUnavailable"}, more: lensMeta,
		object:  `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: NAME}, spec: PLACE}`,
		members: []string{`selector: {matchLabels: {a: b}}, minAvailable: 1`, `selector: {matchLabels: {a: b}}, maxUnavailable: 1`},
	},
	"type of a Service": {
		at: []string{"spec.type", "spec.externalName", "spec.externalTrafficPolicy", "spec.clusterIP"}, more: lensMeta,
		object: `{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: PLACE}`,
		members: []string{
			`selector: {a: b}, ports: [{port: 80}]`, `selector: {a: b}, ports: [{port: 80}], type: NodePort`, `selector: {a: b}, ports: [{port: 80}], type: LoadBalancer`,
			`selector: {a: b}, ports: [{port: 80}], type: ExternalName, externalName: a.example.com`,
			`selector: {a: b}, ports: [{port: 80}], type: LoadBalancer, externalTrafficPolicy: Local`,
		},
	},
	"affinity of a Service": {
		at: []string{"spec.sessionAffinity", "spec.sessionAffinityConfig"}, more: lensMeta,
		object: `{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: PLACE}`,
		members: []string{
			`ports: [{port: 80}], sessionAffinity: None`, `ports: [{port: 80}], sessionAffinity: ClientIP`,
			`ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}`, `ports: [{port: 80}]`,
		},
	},
	"backend of an Ingress": {
		of: reflect.TypeFor[networkingv1.IngressBackend](), at: []string{"spec.defaultBackend"}, more: lensMeta,
		object: `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: NAME}, spec: {defaultBackend: PLACE}}`,
		members: []string{
			`service: {name: a, port: {number: 80}}`, `service: {name: a, port: {name: http}}`, `resource: {apiGroup: example.com, kind: A, name: a}`,
		},
	},
	"peer of a NetworkPolicy": {
		of: reflect.TypeFor[networkingv1.NetworkPolicyPeer](), item: ` `, at: []string{"spec.ingress"}, more: lensMeta,
		object:  `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: NAME}, spec: {podSelector: {}, ingress: [{from: PLACE}]}}`,
		members: []string{`podSelector: {matchLabels: {a: b}}`, `namespaceSelector: {}`, `ipBlock: {cidr: 192.0.2.0/24}`},
	},
	"metric of an autoscaler": {
		item: ` `, at: []string{"spec.metrics"}, more: lensMeta,
		object: `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: NAME}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: none}, metrics: PLACE}}`,
		members: []string{
			`type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}`, `type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: "1"}}`,
			`type: Pods, pods: {metric: {name: a}, target: {type: AverageValue, averageValue: "1"}}`,
			`type: Object, object: {metric: {name: a}, describedObject: {kind: Service, name: a}, target: {type: Value, value: "1"}}`,
			`type: External, external: {metric: {name: a}, target: {type: AverageValue, averageValue: "1"}}`,
			`type: ContainerResource, containerResource: {name: cpu, container: a, target: {type: Utilization, averageUtilization: 50}}`,
		},
	},
	"behavior of an autoscaler": {
		at: []string{"spec.behavior"}, more: lensMeta,
		object: `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: NAME}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: none}, behavior: PLACE}}`,
		members: []string{
			`scaleUp: {selectPolicy: Disabled}`, `scaleUp: {policies: [{type: Pods, value: 4, periodSeconds: 60}]}`,
			`scaleDown: {stabilizationWindowSeconds: 0, policies: [{type: Percent, value: 4, periodSeconds: 60}]}`,
		},
	},
	"client of a webhook": {
		at: []string{"webhooks.0.clientConfig"}, more: lensMeta,
		object: `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: NAME}, webhooks: [{name: a.example.com, admissionReviewVersions: [v1], sideEffects: None,
			failurePolicy: Ignore, rules: [{apiGroups: [nothing.example.com], apiVersions: [v1], operations: [CREATE], resources: [nothings]}], clientConfig: PLACE}]}`,
		members: []string{`url: "https://a.example.com"`, `service: {namespace: a, name: a}`},
	},
	"level of priority": {
		at: []string{"spec"}, more: lensMeta,
		object: `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: NAME}, spec: PLACE}`,
		members: []string{
			`type: Limited, limited: {nominalConcurrencyShares: 1, limitResponse: {type: Reject}}`,
			`type: Limited, limited: {nominalConcurrencyShares: 1, limitResponse: {type: Queue, queuing: {queues: 2, handSize: 1, queueLengthLimit: 5}}}`,
		},
	},
	"parameters of a policy": {
		at: []string{"spec.paramRef"}, more: lensMeta,
		object:  `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: NAME}, spec: {policyName: none, validationActions: [Audit], paramRef: PLACE}}`,
		members: []string{`name: a, parameterNotFoundAction: Allow`, `selector: {matchLabels: {a: b}}, parameterNotFoundAction: Allow`},
	},
}

// The members of a union of the Kubernetes API are all told, so that a new one is not forgotten.
func TestUnions_allMembers(t *testing.T) {
	for name, u := range unions {
		if u.of == nil {
			continue
		}
		text := strings.Join(u.members, "\n")
		for f := range u.of.Fields() {
			member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Type.Kind() == reflect.Pointer && strings.Contains(text, member+":") == slices.Contains(u.gated, member) {
				t.Errorf("%s: the member %s", name, member)
			}
		}
	}
}

// Whatever member of a union is live, by a commit before or by hand, what Git says now takes its place, and nothing else goes:
// after a commit the object is as if it had been made anew, and after a correction it holds what Git says, and what others had in it.
// With extra: remove it is as Git says and no more.
func TestUnions(t *testing.T) {
	r := newRig(t, agenttest.Config{})
	if err := r.Applier.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, u := range unions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := u.swaps(t)
			for i, c := range all {
				if every := max(1, len(all)/swapsOfUnion); !*unionsAll && i%every != 0 {
					continue
				}
				s := swap{rig: r, t: t, union: u, git: c[1], before: c[0]}
				for _, o := range []*unstructured.Unstructured{s.git, s.before} {
					o.SetName(fmt.Sprintf("%s-%s-%d", r.NS, strings.ReplaceAll(strings.ToLower(name), " ", "-"), i))
					o.SetAnnotations(map[string]string{api.AnnotationForce: api.ValueEnabled})
					if gvk := o.GroupVersionKind(); gvk.Group != "admissionregistration.k8s.io" && gvk.Group != "flowcontrol.apiserver.k8s.io" {
						o.SetNamespace(r.NS)
					}
				}
				s.run()
			}
		})
	}
}

// swaps are pairs of objects: what was before, and what is to be. In a list all members are swapped at once.
func (u union) swaps(t *testing.T) (out [][2]*unstructured.Unstructured) {
	place := func(items []int) *unstructured.Unstructured {
		var texts []string
		for i, m := range items {
			item := strings.ReplaceAll(u.members[m], "#N", strconv.Itoa(i))
			if strings.TrimSpace(u.item) != "" {
				item = fmt.Sprintf(u.item, i) + ", " + item
			}
			texts = append(texts, "{"+item+"}")
		}
		text := texts[0]
		if u.item != "" {
			text = "[" + strings.Join(texts, ", ") + "]"
		}
		return fromYAML(t, strings.ReplaceAll(u.object, "PLACE", text))
	}
	for a := range u.members {
		var before, git []int
		for b := range u.members {
			if a == b {
				continue
			}
			before, git = append(before, a), append(git, b)
			if u.item == "" {
				out = append(out, [2]*unstructured.Unstructured{place([]int{a}), place([]int{b})})
			}
		}
		if u.item != "" {
			out = append(out, [2]*unstructured.Unstructured{place(before), place(git)})
		}
	}
	return out
}

func fromYAML(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(raw); err != nil {
		if err := json.Unmarshal(raw, &o.Object); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// swap is one object whose members are swapped.
type swap struct {
	*rig
	t           *testing.T
	union       union
	git, before *unstructured.Unstructured
}

func (s *swap) run() {
	at := s.place()
	if !s.correct(s.before, "it is made") {
		return
	}
	s.lens(s.git.GetName())
	if !s.correct(s.git, "by a commit") {
		return
	}
	after := s.declared(s.live())
	fresh := s.git.DeepCopy()
	fresh.SetName(s.git.GetName() + "-fresh")
	fresh, err := at.Create(s.t.Context(), fresh, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		for _, name := range []string{fresh.GetName(), s.git.GetName()} {
			if err := at.Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
				s.t.Error(err)
			}
		}
	}()
	if diff := cmp.Diff(s.declared(s.lens(fresh.GetName())), after); diff != "" {
		s.fail("by a commit it is not as if it were made anew (-new +it):\n%s", diff)
	}
	if !s.byHand() || !s.correct(s.git, "by hand") {
		return
	}
	live := s.live()
	if !holds(s.git.Object["spec"], live.Object["spec"]) || !holds(fromYAML(s.t, s.union.more).Object, live.Object) {
		s.fail("by hand, and corrected, it is\n%s", text(live))
	}
	p := player{stage: &stage{rig: s.rig, bundle: api.RenderedBundle{Name: s.NS + "-unions"}}, t: s.t, log: text(s.before)}
	if !p.settles(&pair{desired: s.git, at: at}, api.Drift{Mode: api.DriftCorrect, Extra: api.ExtraRemove}) {
		s.fail("with extra: remove it is refused")
	} else if diff := cmp.Diff(s.declared(fresh), s.declared(s.live())); diff != "" {
		s.fail("with extra: remove it is not as if it were made anew (-new +it):\n%s", diff)
	}
}

func (s *swap) fail(format string, args ...any) {
	s.t.Errorf("%s: from\n%s\nto\n%s\n%s", s.git.GetName(), text(s.before), text(s.git), fmt.Sprintf(format, args...))
}

// holds reports whether a value has all of another one: of a list, the items in any place.
func holds(want, have any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		for k, v := range w {
			ok = ok && holds(v, h[k])
		}
		return ok
	case []any:
		h, _ := have.([]any)
		return !slices.ContainsFunc(w, func(item any) bool {
			return !slices.ContainsFunc(h, func(other any) bool { return holds(item, other) })
		})
	}
	return fieldpath.Equal(want, have)
}

// lens has somebody else own something in an object.
func (s *swap) lens(name string) *unstructured.Unstructured {
	more := fromYAML(s.t, s.union.more)
	more.SetGroupVersionKind(s.git.GroupVersionKind())
	more.SetName(name)
	more.SetNamespace(s.git.GetNamespace())
	out, err := s.place().Apply(s.t.Context(), name, more, metav1.ApplyOptions{FieldManager: "Lens", Force: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func text(o *unstructured.Unstructured) string {
	b, _ := json.Marshal(o.Object)
	return string(b)
}

func (s *swap) place() dynamic.ResourceInterface {
	gvk := s.git.GroupVersionKind()
	plural := strings.ToLower(gvk.Kind) + "s"
	switch gvk.Kind {
	case "NetworkPolicy":
		plural = "networkpolicies"
	case "Ingress":
		plural = "ingresses"
	}
	all := s.Dynamic.Resource(gvk.GroupVersion().WithResource(plural))
	if s.git.GetNamespace() == "" {
		return all
	}
	return all.Namespace(s.git.GetNamespace())
}

func (s *swap) live() *unstructured.Unstructured {
	o, err := s.place().Get(s.t.Context(), s.git.GetName(), metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// correct writes what Git says. It reports false if that is refused.
func (s *swap) correct(desired *unstructured.Unstructured, when string) bool {
	b := api.RenderedBundle{Name: s.NS + "-unions"}
	var err error
	for range 40 { // a controller may write a status in between
		ins := s.Applier.Inspect(s.t.Context(), b, desired)
		if ins.Err != nil {
			s.t.Fatal(ins.Err)
		}
		if _, err = s.Applier.Correct(s.t.Context(), b, desired, ins.Live); !kube.IsConflict(err) {
			break
		}
	}
	if err != nil {
		s.fail("%s it is refused: %v", when, err)
	}
	return err == nil
}

// byHand swaps the members back, as an editor that sends the whole object.
func (s *swap) byHand() bool {
	var err error
	for range 40 {
		o := s.live()
		o.SetManagedFields(nil)
		for _, field := range s.union.at {
			put(o.Object, s.before.Object, strings.Split(field, "."))
		}
		_, err = s.place().Update(s.t.Context(), o, metav1.UpdateOptions{FieldManager: "kubectl-edit"})
		if !kube.IsConflict(err) {
			break
		}
	}
	if err != nil {
		s.fail("nobody can do that by hand: %v", err)
	}
	return err == nil
}

// put sets a field of one object as it is in another. Items of a list by the name of which the other has none stay.
func put(to, from any, path []string) {
	if l, ok := to.([]any); ok {
		from, _ := from.([]any)
		put(l[0], from[0], path[1:])
		return
	}
	t, _ := to.(map[string]any)
	f, _ := from.(map[string]any)
	key := path[0]
	if len(path) > 1 {
		put(t[key], f[key], path[1:])
		return
	}
	v, ok := f[key]
	if !ok {
		delete(t, key)
		return
	}
	v = runtime.DeepCopyJSONValue(v)
	if items, ok := v.([]any); ok {
		for _, item := range t[key].([]any) {
			if m, ok := item.(map[string]any); ok && m["name"] == "lens" {
				items = append(items, m)
			}
		}
		v = items
	}
	t[key] = v
}

// declared is all that can be declared of an object but what the API server gives to each.
func (s *swap) declared(o *unstructured.Unstructured) map[string]any {
	out := map[string]any{"annotations": map[string]any{"lens": o.GetAnnotations()["lens"]}}
	for k, v := range o.Object {
		if k != "metadata" && k != "status" && k != "apiVersion" && k != "kind" {
			out[k] = v
		}
	}
	if o.GetAnnotations()["lens"] == "" {
		delete(out, "annotations")
	}
	if _, inGit, _ := unstructured.NestedFieldNoCopy(s.git.Object, s.union.once...); !inGit {
		unstructured.RemoveNestedField(out, s.union.once...)
	}
	if o.GetKind() == "Service" {
		for _, field := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
			unstructured.RemoveNestedField(out, "spec", field)
		}
		ports, _, _ := unstructured.NestedSlice(out, "spec", "ports")
		for _, p := range ports {
			delete(p.(map[string]any), "nodePort")
		}
		if err := unstructured.SetNestedSlice(out, ports, "spec", "ports"); err != nil {
			s.t.Fatal(err)
		}
	}
	return out
}
