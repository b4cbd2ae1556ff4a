package drift_test

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const configMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1", b: "2"}
`

const secret = `
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: hunter2}
data: {token: c2VzYW1l}
`

const service = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, name: http}]
`

// endpoints are in no order, as people write them.
const endpoints = `
apiVersion: v1
kind: Endpoints
metadata: {name: by-hand}
subsets:
- addresses: [{ip: 192.0.2.20}, {ip: 192.0.2.3}, {ip: 192.0.2.11}]
  ports: [{port: 5432}]
`

// dropsFields has a field that the API server does not keep.
const dropsFields = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.$NS.example.org}
spec:
  group: $NS.example.org
  scope: Namespaced
  preserveUnknownFields: false
  names: {kind: Boat, plural: boats, singular: boat, listKind: BoatList, shortNames: [bt]}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

const aggregated = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $NS-aggregated}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {x: $NS}}]}
rules: []
`

const clusterRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $NS-plain}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
`

// ca and otherCA are certificates, which the API server insists on.
var ca, otherCA = certificate("one"), certificate("two")

func webhook(bundle string) string {
	return `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: $NS-webhook}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  rules: [{apiGroups: [nothing.example.com], apiVersions: [v1], operations: [CREATE], resources: [nothings]}]
  clientConfig:
    service: {namespace: $NS, name: hook, path: /a}
    ` + bundle + `
`
}

// apiService is of a group that nobody serves.
func apiService(bundle string) string {
	return `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.$NS.example.com}
spec:
  group: $NS.example.com
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 15
  service: {namespace: $NS, name: hook, port: 443}
  ` + bundle + `
`
}

// converted is a CRD whose versions a webhook converts.
func converted(bundle string) string {
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.$NS.example.com}
spec:
  group: $NS.example.com
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat, listKind: BoatList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig:
        service: {namespace: $NS, name: hook, path: /convert}
        ` + bundle + `
`
}

const ship = `
apiVersion: sea.example.org/v1
kind: Ship
metadata: {name: ship}
status: {where: nowhere}
spec:
  flags: [blue, red]
  stops: [{port: a}, {port: b}]
  resources: {limits: {cpu: "0.1"}}
`

const shipCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ships.sea.example.org}
spec:
  group: sea.example.org
  scope: Namespaced
  preserveUnknownFields: false
  names: {kind: Ship, plural: ships, singular: ship, listKind: ShipList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
          spec:
            type: object
            properties:
              speed: {type: integer, default: 10}
              flags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              stops: {type: array, items: {type: object, properties: {port: {type: string}, wait: {type: boolean, default: false}}}}
              resources:
                type: object
                properties:
                  limits: {type: object, additionalProperties: {type: string}}
`

// ships defines a custom resource with defaults, sets and plain lists.
func (c *cluster) ships() {
	c.t.Helper()
	crd := c.parse(shipCRD)
	c.apply(crd)
	probe := c.parse(ship)
	eventually(c.t, "Ship is served", func() bool {
		_, err := c.mapping(probe)
		return err == nil
	})
	probe.SetName("probe")
	eventually(c.t, "Ship can be made", func() bool {
		_, err := c.tryApply(probe, metav1.DryRunAll)
		return err == nil
	})
}

// fresh applies an object that was not there before.
func (c *cluster) fresh(o *unstructured.Unstructured) {
	c.t.Helper()
	r := c.resource(o)
	if err := r.Delete(c.t.Context(), o.GetName(), metav1.DeleteOptions{}); err == nil {
		eventually(c.t, "deleted", func() bool {
			_, err := r.Get(c.t.Context(), o.GetName(), metav1.GetOptions{})
			return err != nil
		})
	}
	c.apply(o)
}

func (c *cluster) fill(s string) string { return strings.ReplaceAll(s, "$NS", c.ns) }

// manyKinds are objects of the kinds that controllers, defaults and conversions work on.
const manyKinds = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: many, annotations: {a: b}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: many}
spec:
  serviceName: many
  replicas: 1
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      containers: [{name: app, image: nginx, ports: [{containerPort: 80}], readinessProbe: {httpGet: {path: /, port: 80}}}]
  volumeClaimTemplates:
  - metadata: {name: data, creationTimestamp: null}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1024Mi}}}
    status: {}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: many}
spec:
  selector: {matchLabels: {app: ds}}
  template: {metadata: {labels: {app: ds}}, spec: {containers: [{name: app, image: nginx, securityContext: {}}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: many}
spec:
  schedule: "*/5 * * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: nginx}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: many}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: nginx}]}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: many}
spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: many}
spec: {podSelector: {}, policyTypes: [Egress, Ingress], ingress: [{ports: [{port: 80}]}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: many}
spec: {minAvailable: 1, selector: {matchLabels: {app: many}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: many}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: many}
  metrics:
  - {type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 80}}}
  - {type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 0.5}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: many}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: many}
spec: {hard: {pods: "10", requests.cpu: 1000m}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: many}
spec: {limits: [{type: Container, default: {cpu: 0.1}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: many}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: many, namespace: $NS}]
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {clusterIP: None, selector: {app: many}, ports: [{port: 53, protocol: UDP, name: u}, {port: 53, protocol: TCP, name: t}]}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: $NS-many}
value: 10
---
apiVersion: v1
kind: Namespace
metadata: {name: $NS-many, creationTimestamp: null}
spec: {}
status: {}
`
