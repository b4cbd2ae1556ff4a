package check_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/check"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

const head = "apiVersion: flotilla.dev/v1alpha1\n"

// base is a fleet without findings.
var base = rendertest.Files{
	"clusters/one/cluster.yaml": head + "kind: Cluster\nmetadata: {name: one, labels: {env: prod}}\n",
	"clusters/two/cluster.yaml": head + "kind: Cluster\nmetadata: {name: two, labels: {env: test}}\n",
	"web/bundle.yaml":           head + "kind: Bundle\nmetadata: {name: web}\nspec: {namespace: web, createNamespace: {}}\n",
	"web/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx:1.27
        envFrom:
        - configMapRef: {name: web}
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: web
data: {a: b}
`,
}

// replaced changes web.yaml.
func replaced(from, to string) rendertest.Files {
	if !strings.Contains(base["web/web.yaml"], from) {
		panic(from)
	}
	return base.With("web/web.yaml", strings.Replace(base["web/web.yaml"], from, to, 1))
}

// more adds a file to the bundle.
func more(text string) rendertest.Files { return base.With("web/more.yaml", text) }

func pod(spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: 'busybox:1'}]\n  " + spec + "\n"
}

func env(from string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: busybox:1\n    env:\n    - name: A\n      valueFrom: {" + from + "}\n"
}

const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - {name: v1alpha1, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, maximum: 9}, secret: {type: string}}}}
---
`

func widget(version, spec string) string {
	return "apiVersion: example.com/" + version + "\nkind: Widget\nmetadata: {name: db}\nspec: " + spec + "\n"
}

func ingress(annotations, spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, annotations: {" + annotations + "}}\nspec:\n  " + strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

const autoscaler = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s}}\n"

const binding = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: %s, name: %s}\nsubjects: [{kind: ServiceAccount, name: %s}]\n"

const overlays = head + "kind: Bundle\nmetadata: {name: k}\nspec:\n  targets:\n  - clusters: [one]\n    overlay: overlays/a\n  - clusters: [%s]\n    overlay: overlays/b\n"

var kustomized = base.With(
	"k/base/kustomization.yaml", "resources: [c.yaml]\n",
	"k/base/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k, namespace: web}\n",
	"k/overlays/a/kustomization.yaml", "resources: [../../base]\n",
	"k/overlays/b/kustomization.yaml", "resources: [../../base]\n",
)

// cases are what raises each reason, as REASON PLACE FIELD, and their neighbors that do not.
var cases = []struct {
	name  string
	files rendertest.Files
	kube  int
	want  []string
}{
	{"a fleet without findings", base, 0, nil},

	{"a cluster file with an unknown field", base.With("clusters/two/cluster.yaml", head+"kind: Cluster\nmetadata: {name: two}\nspce: {}\n"), 0, []string{"BadFleetFile clusters/two/cluster.yaml:4 spce"}},
	{"a bundle with an unknown field", base.With("web/bundle.yaml", head+"kind: Bundle\nmetadata: {name: web}\nspec:\n  namespce: web\n"), 0, []string{"BadFleetFile web/bundle.yaml:5 spec.namespce"}},
	{"what cannot be rendered", base.With("web/bundle.yaml", head+"kind: Bundle\nmetadata: {name: web}\nspec:\n  dependsOn: [db]\n"), 0, []string{"CannotRender web/bundle.yaml:5 spec.dependsOn.0"}},
	{"a dependency that is there", base.With("db/bundle.yaml", head+"kind: Bundle\nmetadata: {name: db}\n", "db/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: web}\n", "web/bundle.yaml", base["web/bundle.yaml"][:len(base["web/bundle.yaml"])-2]+", dependsOn: [db]}\n"), 0, nil},
	{"what a tenant may not have", base.With("fleet.yaml", tenantFleet, "teams/a/bundle.yaml", head+"kind: Bundle\nmetadata: {name: a}\n", "teams/a/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: kube-system}\n"), 0, []string{"TenantDenied teams/a/c.yaml:1 "}},
	{"what a tenant may have", base.With("fleet.yaml", tenantFleet, "teams/a/bundle.yaml", head+"kind: Bundle\nmetadata: {name: a}\n", "teams/a/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: web}\n"), 0, nil},
	{"one object in two bundles", base.With("b/bundle.yaml", head+"kind: Bundle\nmetadata: {name: b}\n", "b/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: web}\ndata: {a: b}\n"), 0, []string{"DeclaredTwice web/web.yaml:25 "}},
	{"one name in two namespaces", base.With("b/bundle.yaml", head+"kind: Bundle\nmetadata: {name: b}\n", "b/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web, namespace: default}\n"), 0, nil},
	{"a warning of the rendering", base.With("n/bundle.yaml", head+"kind: Bundle\nmetadata: {name: n}\n", "n/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: n}\n"), 0, []string{"RenderWarning n/bundle.yaml:1 "}},
	{"a rendering without warning", base.With("n/bundle.yaml", head+"kind: Bundle\nmetadata: {name: n}\n", "n/c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: n, namespace: web}\n"), 0, nil},

	{"a field that is none", replaced("replicas: 2", "replica: 2"), 0, []string{"UnknownField web/web.yaml:6 spec.replica"}},
	{"a field of a list item that is none", replaced("image: nginx:1.27", "imagee: nginx:1.27"), 0, []string{"UnknownField web/web.yaml:13 spec.template.spec.containers.[name=web].imagee"}},
	{"a value of another type", replaced("replicas: 2", "replicas: two"), 0, []string{"BadValue web/web.yaml:6 spec.replicas"}},
	{"a field that is new in a later Kubernetes", replaced("replicas: 2", "replica: 2"), 40, nil},
	{"a kind that is none", more("apiVersion: apps/v2\nkind: Deployment\nmetadata: {name: x}\n"), 0, []string{"UnknownKind web/more.yaml:1 apiVersion"}},
	{"an API that is gone", more("apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: web}}}\n"), 0, []string{"RemovedAPI web/more.yaml:1 apiVersion"}},
	{"an API that k8s.io/api forgot", more("apiVersion: autoscaling/v2beta2\nkind: HorizontalPodAutoscaler\nmetadata: {name: x}\n"), 0, []string{"RemovedAPI web/more.yaml:1 apiVersion"}},
	{"an API that will be gone", more("apiVersion: autoscaling/v2beta2\nkind: HorizontalPodAutoscaler\nmetadata: {name: x}\n"), 25, []string{"DeprecatedAPI web/more.yaml:1 apiVersion", "UnknownKind web/more.yaml:1 apiVersion"}},
	{"the API that took its place", more("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: web}}}\n"), 0, nil},

	{"a custom resource", more(crd + widget("v1", "{size: 1}")), 0, nil},
	{"a custom resource with a field that is none", more(crd + widget("v1", "{sise: 1}")), 0, []string{"UnknownField web/more.yaml:26 spec.sise"}},
	{"a custom resource with a value that is refused", more(crd + widget("v1", "{size: 10}")), 0, []string{"BadValue web/more.yaml:26 spec.size"}},
	{"a version that is not served", more(crd + widget("v1alpha1", "{}")), 0, []string{"NotServed web/more.yaml:23 apiVersion"}},
	{"a version that is deprecated", more(crd + widget("v1beta1", "{}")), 0, []string{"DeprecatedAPI web/more.yaml:23 apiVersion"}},
	{"a custom resource without definition", more(widget("v1", "{}")), 0, []string{"NoSchema web/more.yaml:1 "}},
	{"a definition that is none", more(strings.Replace(crd, "{type: integer, maximum: 9}", "{type: integer, items: {type: string, $ref: x}}", 1)), 0, []string{"BadDefinition web/more.yaml:8 spec.versions"}},

	{"a selector beside its pods", replaced("matchLabels: {app: web}", "matchLabels: {app: wbe}"), 0, []string{"SelectorMismatch web/web.yaml:7 spec.selector"}},

	{"a pod that is enforced to be restricted", levels("enforce: restricted"), 0, []string{"PodSecurity web/web.yaml:10 spec.template.spec"}},
	{"a pod that is warned of", levels("warn: restricted"), 0, []string{"PodSecurityAdvice web/web.yaml:10 spec.template.spec"}},
	{"a pod that a baseline allows", levels("enforce: baseline"), 0, nil},
	{"a level that is none", levels("enforce: strict"), 0, []string{"BadValue web/bundle.yaml: metadata.labels"}},

	{"a ConfigMap that is not there", replaced("configMapRef: {name: web}", "configMapRef: {name: wbe}"), 0, []string{"MissingObject web/web.yaml:15 spec.template.spec.containers.[name=web].envFrom.0.configMapRef.name"}},
	{"a ConfigMap that is optional", replaced("configMapRef: {name: web}", "configMapRef: {name: wbe, optional: true}"), 0, nil},
	{"a ConfigMap that every namespace has", more(pod("volumes: [{name: v, configMap: {name: kube-root-ca.crt}}]")), 0, nil},
	{"a Secret that is not there", more(pod("volumes: [{name: v, secret: {secretName: db}}]")), 0, []string{"MissingObject web/more.yaml:6 spec.volumes.[name=v].secret"}},
	{"a Secret that a custom resource names", more(crd + widget("v1", "{secret: x}") + "---\n" + pod("volumes: [{name: v, secret: {secretName: x}}]")), 0, nil},
	{"a Secret that is named after a custom resource", more(crd + widget("v1", "{}") + "---\n" + pod("volumes: [{name: v, secret: {secretName: db-credentials}}]")), 0, nil},
	{"a Secret that a container is told of", more(pod("volumes: [{name: v, secret: {secretName: ca}}]") + "---\n" + strings.Replace(pod("initContainers: [{name: i, image: 'busybox:1', args: [--ca-secret=ca]}]"), "name: p", "name: q", 1)), 0, nil},
	{"a claim that is not there", more(pod("volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]")), 0, []string{"MissingObject web/more.yaml:6 spec.volumes.[name=v].persistentVolumeClaim.claimName"}},
	{"a claim that is there", more(pod("volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]") + "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n"), 0, nil},
	{"a service account that is not there", more(pod("serviceAccountName: deployer")), 0, []string{"MissingObject web/more.yaml:6 spec.serviceAccountName"}},
	{"the service account of every namespace", more(pod("serviceAccountName: default")), 0, nil},
	{"a priority class beside others", more(pod("priorityClassName: hihg") + "---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1\n"), 0, []string{"MissingObject web/more.yaml:6 spec.priorityClassName"}},
	{"a priority class where Git has none", more(pod("priorityClassName: high")), 0, nil},
	{"a key that is there", more(env("configMapKeyRef: {name: web, key: a}")), 0, nil},
	{"a key that is not there", more(env("configMapKeyRef: {name: web, key: z}")), 0, []string{"MissingKey web/more.yaml:10 spec.containers.[name=c].env.[name=A].valueFrom.configMapKeyRef"}},
	{"a port of an Ingress", more(ingress("", "defaultBackend: {service: {name: web, port: {name: http}}}")), 0, nil},
	{"a port of an Ingress that is not there", more(ingress("", "defaultBackend: {service: {name: web, port: {number: 8080}}}")), 0, []string{"MissingPort web/more.yaml:5 spec.defaultBackend.service"}},
	{"a Service of an Ingress that is not there", more(ingress("", "defaultBackend: {service: {name: wbe, port: {number: 80}}}")), 0, []string{"MissingObject web/more.yaml:5 spec.defaultBackend.service"}},
	{"a certificate that is not there", more(ingress("", "defaultBackend: {service: {name: web, port: {number: 80}}}\ntls: [{secretName: tls}]")), 0, []string{"MissingObject web/more.yaml:6 spec.tls.0.secretName"}},
	{"a certificate that cert-manager makes", more(ingress("cert-manager.io/cluster-issuer: x", "defaultBackend: {service: {name: web, port: {number: 80}}}\ntls: [{secretName: tls}]")), 0, nil},
	{"a class beside others", more(ingress("", "ingressClassName: ngnix\ndefaultBackend: {service: {name: web, port: {number: 80}}}") + "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: nginx}\nspec: {controller: x.io/y}\n"), 0, []string{"MissingObject web/more.yaml:5 spec.ingressClassName"}},
	{"a class where Git has none", more(ingress("", "ingressClassName: alb\ndefaultBackend: {service: {name: web, port: {number: 80}}}")), 0, nil},
	{"what is scaled", more(fmt.Sprintf(autoscaler, "web")), 0, nil},
	{"what is scaled and not there", more(fmt.Sprintf(autoscaler, "wbe")), 0, []string{"MissingObject web/more.yaml:4 spec.scaleTargetRef"}},
	{"a role of every cluster", more(fmt.Sprintf(binding, "ClusterRole", "edit", "default")), 0, nil},
	{"a role that is not there", more(fmt.Sprintf(binding, "Role", "edit", "default")), 0, []string{"MissingObject web/more.yaml:4 roleRef"}},
	{"a subject that is not there", more(fmt.Sprintf(binding, "ClusterRole", "edit", "deployer")), 0, []string{"MissingObject web/more.yaml:5 subjects.0"}},
	{"a namespace that is not there", more("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: wbe}\n"), 0, []string{"MissingObject web/more.yaml:3 metadata.namespace"}},

	{"a Service that chooses nothing", replaced("selector: {app: web}\n  ports", "selector: {app: wbe}\n  ports"), 0, []string{"SelectsNothing web/web.yaml:22 spec.selector"}},
	{"a Service without selector", replaced("  selector: {app: web}\n  ports", "  ports"), 0, nil},
	{"a Service that chooses one of a StatefulSet", replaced("selector: {app: web}\n  ports", "selector: {app: web, statefulset.kubernetes.io/pod-name: web-0}\n  ports"), 0, nil},
	{"a Service for pods of an operator", more(crd + widget("v1", "{}") + "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {selector: {cluster: db}, ports: [{port: 5432}]}\n"), 0, nil},
	{"a budget that chooses nothing", more("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: x}\nspec: {selector: {matchLabels: {app: wbe}}}\n"), 0, []string{"SelectsNothing web/more.yaml:4 spec.selector"}},

	{"a Secret in plain text", more("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  password: correct-horse\n"), 0, []string{"PlainTextSecret web/more.yaml:5 data.password"}},
	{"a Secret in base64", more("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  password: Y29ycmVjdC1ob3JzZQ==\n"), 0, []string{"PlainTextSecret web/more.yaml:5 data.password"}},
	{"a Secret whose value stands in the values", secretChart("password: correct-horse"), 0, []string{"PlainTextSecret s/values.yaml:1 data.password"}},
	{"a Secret whose value is made by a chart", secretChart("{}"), 0, nil},
	{"a Secret with a certificate", more("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  tls.crt: correct-horse\n"), 0, nil},
	{"a Secret without values", more("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"), 0, nil},

	{"an image without tag", replaced("nginx:1.27", "registry.example.com:5000/nginx"), 0, []string{"UnpinnedImage web/web.yaml:13 spec.template.spec.containers.[name=web].image"}},
	{"the latest image", replaced("nginx:1.27", "nginx:latest"), 0, []string{"UnpinnedImage web/web.yaml:13 spec.template.spec.containers.[name=web].image"}},
	{"an image with a digest", replaced("nginx:1.27", "nginx@sha256:"+strings.Repeat("a", 64)), 0, nil},

	{"a target for a cluster that is none", kustomized.With("k/bundle.yaml", fmt.Sprintf(overlays, "two, tow")), 0, []string{"UnknownCluster k/bundle.yaml:8 spec.targets.1.clusters.1"}},
	{"overlays that are used", kustomized.With("k/bundle.yaml", fmt.Sprintf(overlays, "two")), 0, nil},
	{"an overlay that no cluster uses", kustomized.With("k/bundle.yaml", fmt.Sprintf(overlays, "one")), 0, []string{"UnusedOverlay k/bundle.yaml:9 spec.targets.1.overlay"}},
	{"an overlay that no target names", kustomized.With("k/bundle.yaml", fmt.Sprintf(overlays, "two"), "k/overlays/c/kustomization.yaml", "resources: [../../base]\n"), 0, []string{"UnusedOverlay k/overlays/c/kustomization.yaml:1 "}},
	{"an overlay that another one reads", kustomized.With("k/bundle.yaml", fmt.Sprintf(overlays, "two"), "k/overlays/c/kustomization.yaml", "resources: [../../base]\n", "k/overlays/b/kustomization.yaml", "resources: [../c]\n"), 0, nil},
	{"a bundle that no cluster has", base.With("b/bundle.yaml", head+"kind: Bundle\nmetadata: {name: b}\nspec:\n  targets: [{clusterSelector: {matchLabels: {env: prdo}}}]\n"), 0, []string{"UnusedBundle b/bundle.yaml:5 spec.targets"}},
	{"a bundle that is meant for none", base.With("b/bundle.yaml", head+"kind: Bundle\nmetadata: {name: b}\nspec: {targets: []}\n"), 0, nil},
	{"a cluster without bundles", base.With("web/bundle.yaml", strings.Replace(base["web/bundle.yaml"], "spec: {", "spec: {targets: [{clusters: [one]}], ", 1)), 0, []string{"UnreachedCluster clusters/two/cluster.yaml:1 "}},

	{"a hook of a chart", hooked("busybox"), 0, []string{"UnpinnedImage h/chart/templates/hook.yaml:10 spec.template.spec.containers.[name=c].image"}},
	{"an order in the template of a hook", hooked("busybox # flotilla:ignore UnpinnedImage: it is ours"), 0, nil},
	{"kinds of every cluster that have no schema", more(fmt.Sprintf(apiService, "v1.example.com") +
		"apiVersion: flotilla.dev/v1alpha1\nkind: Suspension\nmetadata: {name: db}\nspec: {scope: {all: true}, reason: x, until: 2030-01-01T00:00:00Z}\n"), 0, nil},
	{"a Secret that is named after an APIService", more(fmt.Sprintf(apiService, "db") + pod("volumes: [{name: v, secret: {secretName: db-credentials}}]")), 0, []string{"MissingObject web/more.yaml:11 spec.volumes.[name=v].secret"}},
	{"one of two objects with a prefix", prefixed, 0, []string{"UnpinnedImage p/pods.yaml:12 spec.containers.[name=c].image"}},

	{"an order without a word of why", replaced("image: nginx:1.27", "image: nginx # flotilla:ignore UnpinnedImage"), 0, []string{"BadIgnore web/web.yaml:13 ", "UnpinnedImage web/web.yaml:13 spec.template.spec.containers.[name=web].image"}},
	{"an order for no reason", replaced("image: nginx:1.27", "image: nginx # flotilla:ignore UnpinedImage: it is ours"), 0, []string{"BadIgnore web/web.yaml:13 ", "UnpinnedImage web/web.yaml:13 spec.template.spec.containers.[name=web].image"}},
	{"an order on its line", replaced("image: nginx:1.27", "image: nginx # flotilla:ignore UnpinnedImage: it is ours"), 0, nil},
	{"an order on the line above", replaced("image: nginx:1.27", "# flotilla:ignore UnpinnedImage: it is ours\n        image: nginx"), 0, nil},
	{"an order for the file", replaced("apiVersion: apps/v1", "# flotilla:ignore MissingObject: the pipeline makes it\napiVersion: apps/v1").With("web/bundle.yaml", base["web/bundle.yaml"]), 0, nil},
	{"an order for something else", replaced("image: nginx:1.27", "image: nginx # flotilla:ignore MissingObject: it is ours"), 0, []string{"UnpinnedImage web/web.yaml:13 spec.template.spec.containers.[name=web].image"}},
	{"an order beside the object", replaced("metadata:\n  name: web\nspec:\n  replicas: 2", "metadata:\n  name: web\n  annotations:\n    flotilla.dev/check-ignore: 'SelectorMismatch: no'\nspec:\n  replicas: 2"), 0, nil},
}

const apiService = "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: %s}\nspec: {group: example.com, version: v1, groupPriorityMinimum: 1, versionPriority: 1}\n---\n"

func hooked(image string) rendertest.Files {
	return base.With(
		"h/bundle.yaml", head+"kind: Bundle\nmetadata: {name: h}\nspec: {namespace: web, helm: {chart: ./chart}}\n",
		"h/chart/Chart.yaml", "apiVersion: v2\nname: h\nversion: 1.0.0\n",
		"h/chart/templates/hook.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: h, annotations: {helm.sh/hook: pre-install}}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - name: c\n        image: "+image+"\n",
	)
}

// prefixed are two Pods in one file, whose names a kustomization changes.
var prefixed = base.With(
	"p/bundle.yaml", head+"kind: Bundle\nmetadata: {name: p}\nspec: {namespace: web}\n", "p/kustomization.yaml", "namePrefix: x-\nresources: [pods.yaml]\n",
	"p/pods.yaml", strings.Replace(pod(""), "name: p", "name: a", 1)+"---\n"+strings.NewReplacer("name: p", "name: b", "busybox:1", "busybox").Replace(pod("")),
)

func secretChart(values string) rendertest.Files {
	return base.With(
		"s/bundle.yaml", head+"kind: Bundle\nmetadata: {name: s}\nspec: {namespace: web, helm: {chart: ./chart, valuesFiles: [values.yaml]}}\n", "s/values.yaml", values+"\n",
		"s/chart/Chart.yaml", "apiVersion: v2\nname: s\nversion: 1.0.0\n",
		"s/chart/templates/s.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  password: {{ .Values.password | default \"battery-staple\" }}\n",
	)
}

const tenantFleet = head + "kind: Fleet\nspec:\n  tenants:\n  - {name: a, path: teams/a, serviceAccount: {namespace: web, name: a}, namespaces: [web]}\n"

func levels(label string) rendertest.Files {
	return base.With("web/bundle.yaml", head+"kind: Bundle\nmetadata: {name: web}\nspec: {namespace: web, createNamespace: {labels: {pod-security.kubernetes.io/"+label+"}}}\n")
}

// found checks a fleet, rendered in this process.
func found(t *testing.T, snap api.Snapshot, keys *sops.Keyring, kube int) []check.Finding {
	t.Helper()
	r, err := render.New(render.Config{Keys: keys, KeepAll: true})
	if err != nil {
		t.Fatal(err)
	}
	names, err := render.ClusterNames(snap.Tree)
	if err != nil {
		t.Fatal(err)
	}
	in := check.Input{Tree: snap.Tree, KubeMinor: kube}
	for _, name := range names {
		got, err := r.Render(t.Context(), snap, name, api.ClusterFacts{KubeVersion: "v1.37.0"})
		in.Clusters = append(in.Clusters, compare.On{Cluster: name, Rendering: got, Err: err})
	}
	declared, err := render.DeclaredIn(snap.Tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range declared {
		in.Bundles = append(in.Bundles, check.Bundle(d))
	}
	out, err := check.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func brief(f check.Finding) string {
	line := ""
	if f.Line > 0 {
		line = fmt.Sprint(f.Line)
	}
	return fmt.Sprintf("%s %s:%s %s", f.Reason, f.File, line, f.Field)
}

func TestRun(t *testing.T) {
	raised := map[check.Reason]bool{}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			all := found(t, tt.files.Snapshot(), nil, tt.kube)
			for _, f := range all {
				if f.Ignored == "" {
					got = append(got, brief(f))
					raised[f.Reason] = true
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%q, want\n%q\n%+v", got, tt.want, all)
			}
		})
	}
	for _, a := range check.Reasons() {
		if !raised[a.Reason] {
			t.Errorf("no case raises %s", a.Reason)
		}
	}
}

// The example is what people begin with: there is nothing to find.
func TestRun_example(t *testing.T) {
	key := t.TempDir() + "/key.txt"
	text, err := fleetexample.FS().Open(fleetexample.AgeKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = text.Close() }()
	data, err := io.ReadAll(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, data, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := sops.Open(sops.Config{Files: []string{key}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found(t, api.Snapshot{Revision: "test", Tree: rendertest.FromFS(fleetexample.FS())}, keys, 0) {
		t.Errorf("%+v", f)
	}
}

// What is so on several clusters is one finding; without the clusters it is the same one.
func TestRun_clusters(t *testing.T) {
	all := found(t, replaced("nginx:1.27", "nginx").Snapshot(), nil, 0)
	if len(all) != 1 || !slices.Equal(all[0].Clusters, []string{"one", "two"}) || all[0].Severity != check.Warning || all[0].Do == "" {
		t.Fatalf("%+v", all)
	}
	fewer := found(t, replaced("nginx:1.27", "nginx").With("clusters/two/cluster.yaml", "").Snapshot(), nil, 0)
	if len(fewer) != 1 || fewer[0].ID() != all[0].ID() {
		t.Errorf("%+v", fewer)
	}
}

// A value of a Secret is in no finding.
func TestRun_keepsSecrets(t *testing.T) {
	const hush = "correct-horse-battery"
	for _, text := range []string{
		"stringData:\n  password: " + hush + "\n", "stringData:\n  password: [" + hush + "]\n", "data: " + hush + "\n", "stringData: {" + hush + ": {a: b}}\n",
		"type: [" + hush + "]\n", "stringData: {a: " + hush + ", b: 1}\n",
	} {
		for _, f := range found(t, more("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"+text).Snapshot(), nil, 0) {
			if strings.Contains(f.Message+f.Do, hush) {
				t.Errorf("%q: %+v", text, f)
			}
		}
	}
}

const page = "../../docs/check.md"

var heading = regexp.MustCompile(`(?m)^### (\w+)\n\n(\w+)`)

// docs/check.md explains each reason, in the order in which they are listed, with its severity.
func TestReasons_documented(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+strings.ToLower(m[2]))
	}
	for _, a := range check.Reasons() {
		want = append(want, string(a.Reason)+" "+string(a.Severity))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has\n%s\nand there are\n%s", page, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
