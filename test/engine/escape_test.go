package engine

import (
	"cmp"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// bound is a fleet whose tenants are bound in every way that fleet.yaml knows, except by keys.
const bound = `apiVersion: flotilla.dev/v1alpha1
kind: Fleet
spec:
  variables: {elsewhere: NS-b}
  tenants:
  - name: a
    path: teams/a
    serviceAccount: {namespace: NS-a, name: deployer}
    namespaces: [NS-a, NS-a-*, NS]
    kinds: {deny: [ResourceQuota]}
    charts: [oci://registry.example.com/a/*]
    images: [registry.example.com/a/*]
    rights: {drift: [correct, report], annotations: [flotilla.dev/prune, flotilla.dev/drift], suspend: true}
  - name: b
    path: teams/b
    serviceAccount: {namespace: NS-b, name: deployer}
    namespaces: ["NS-b*", "*"]
    kinds: {allow: [ConfigMap, Secret]}
    rights: {annotations: []}
`

// wayOut is a bundle by which a tenant tries to get what is not its own.
type wayOut struct {
	name string
	spec string // of bundle.yaml
	// files and links are in the bundle's directory.
	files files
	links files
	// tenant is a, unless it says b.
	tenant string
	words  string
}

// the is a file with one object, which is named escape wherever it is.
func the(apiVersion, kind, metadata, rest string) files {
	if metadata != "" {
		metadata = ", " + metadata
	}
	return files{"x.yaml": "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: NS-escape" + metadata + "}\n" + rest}
}

func pod(spec string) files {
	return the("apps/v1", "Deployment", "namespace: NS-a", "spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {"+spec+"}}}\n")
}

func waysOut() []wayOut {
	in := func(namespace string) files {
		return the("v1", "ConfigMap", "namespace: "+namespace, "data: {key: a}\n")
	}
	kustomized := func(text string) files {
		return files{"kustomization.yaml": "namespace: NS-a\n" + text, "x.yaml": in("NS-a")["x.yaml"]}
	}
	marked := func(metadata string) files {
		return the("v1", "ConfigMap", "namespace: NS-a, "+metadata, "data: {key: a}\n")
	}
	suspension := func(scope string) files {
		return the("flotilla.dev/v1alpha1", "Suspension", "", "spec: {reason: r, until: 2030-01-31T10:00:00Z, scope: "+scope+"}\n")
	}
	const clusterWide = "the kind has no namespace, and kinds.allow does not name it"
	return []wayOut{
		{name: "another's namespace", files: in("NS-b"), words: `the namespace "NS-b" is not one of NS-a, NS-a-*, NS`},
		{name: "the agent's namespace", files: in("flotilla-system"), words: `the namespace "flotilla-system" is not one of`},
		{name: "the default namespace", files: the("v1", "ConfigMap", "", ""), words: `the namespace "default" is not one of`},
		{name: "a namespace of Kubernetes", files: in("kube-system"), tenant: "b", words: `the namespace "kube-system" is not one of NS-b*, *`},
		{name: "the namespace of the bundle", spec: "namespace: NS-b", files: the("v1", "ConfigMap", "", ""), words: `ConfigMap/NS-b/NS-escape: the namespace "NS-b"`},
		{name: "the namespace of a kustomization", files: files{"kustomization.yaml": "namespace: NS-b\nresources: [x.yaml]\n", "x.yaml": in("NS-a")["x.yaml"]}, words: `x.yaml:1: tenant "a" may not have ConfigMap/NS-b/NS-escape`},
		{name: "a variable", spec: "substitute: true", files: in(`"${elsewhere}"`), words: `the namespace "NS-b" is not one of`},
		{name: "a hook", spec: "helm: {chart: ./}", files: files{
			"Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "templates/x.yaml": marked("")["x.yaml"] + "---\n" + the("v1", "ConfigMap", "namespace: NS-b, annotations: {helm.sh/hook: pre-install}", "")["x.yaml"],
		}, words: `templates/x.yaml:`},
		{name: "a ClusterRoleBinding", files: the("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "namespace: NS-a", "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n"), words: "ClusterRoleBinding.rbac.authorization.k8s.io/NS-escape: " + clusterWide},
		{name: "a Namespace", files: the("v1", "Namespace", "", ""), words: "Namespace/NS-escape: " + clusterWide},
		{name: "a webhook", files: the("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", ""), words: "MutatingWebhookConfiguration.admissionregistration.k8s.io/NS-escape: " + clusterWide},
		{name: "an APIService", files: the("apiregistration.k8s.io/v1", "APIService", "", ""), words: "APIService.apiregistration.k8s.io/NS-escape: " + clusterWide},
		{name: "a definition", files: files{"x.yaml": crd}, words: "CustomResourceDefinition.apiextensions.k8s.io/things.NS.example.com: " + clusterWide},
		{name: "a kind that is denied", files: the("v1", "ResourceQuota", "namespace: NS-a", ""), words: "the kind is denied"},
		{name: "a kind that is not allowed", files: the("v1", "Service", "namespace: NS-b", ""), tenant: "b", words: "the kind is not among those of kinds.allow"},
		{name: "a kind of the agent", files: the("flotilla.dev/v1alpha1", "BundleDeployment", "namespace: flotilla-system", ""), words: "written by the agent only"},
		{name: "a suspension of everything", files: suspension("{all: true}"), words: "may suspend its own bundles, by their names, and not"},
		{name: "a suspension of another's bundle", files: suspension("{bundles: [NS-platform]}"), words: `may not suspend bundle "NS-platform": it is not its own`},
		{name: "a suspension of an object", files: suspension("{objects: [{kind: Secret, namespace: x, name: y}]}"), words: "may suspend its own bundles, by their names, and not"},
		{name: "a suspension without the right", files: suspension("{bundles: [NS-b-app]}"), tenant: "b", words: "it has no right to suspend"},
		{name: "another account", spec: "serviceAccount: {namespace: NS-b, name: deployer}", files: in("NS-a"), words: "is applied as the service account NS-a/deployer, and not as NS-b/deployer"},
		{name: "an image", files: pod("containers: [{name: c, image: evil.example.com/x}]"), words: `may not run the image "evil.example.com/x"`},
		{name: "an image of an init container", files: pod("initContainers: [{name: i, image: evil.example.com/i}], containers: [{name: c, image: registry.example.com/a/x}]"), words: `may not run the image "evil.example.com/i"`},
		{name: "an image as a volume", files: pod("volumes: [{name: v, image: {reference: evil.example.com/v}}], containers: [{name: c, image: registry.example.com/a/x}]"), words: `may not run the image "evil.example.com/v"`},
		{name: "an image that reads like another", files: pod("containers: [{name: c, image: registry.example.com/a/../b}]"), words: `may not run the image "registry.example.com/a/../b"`},
		{name: "the mark of another's set", files: marked("labels: {applyset.kubernetes.io/part-of: x}"), words: "may not set the label applyset.kubernetes.io/part-of"},
		{name: "the mark of another's bundle", files: marked("labels: {flotilla.dev/bundle: NS-platform}"), words: "may not set the label flotilla.dev/bundle"},
		{name: "a set of its own", files: marked("annotations: {applyset.kubernetes.io/tooling: x}"), words: "annotations.applyset.kubernetes.io/tooling"},
		{name: "another's name on an edit", files: marked("annotations: {flotilla.dev/last-editor: alice}"), words: "annotations.flotilla.dev/last-editor"},
		{name: "what is not corrected", files: marked("annotations: {flotilla.dev/reconcile: disabled}"), words: `has no right to set it to "disabled"`},
		{name: "what is replaced by force", files: marked("annotations: {flotilla.dev/force: enabled}"), words: "annotations.flotilla.dev/force"},
		{name: "drift that nobody sees", files: marked("annotations: {flotilla.dev/drift: ignore}"), words: `has no right to set it to "ignore"`},
		{name: "an annotation where none is allowed", files: the("v1", "ConfigMap", "namespace: NS-b, annotations: {flotilla.dev/prune: disabled}", ""), tenant: "b", words: "annotations.flotilla.dev/prune"},
		{name: "a drift mode", spec: "drift: {mode: ignore}", files: in("NS-a"), words: `may not choose the drift mode "ignore"`},
		{name: "rules that ignore", spec: "drift: {ignore: [{paths: [/data]}]}", files: in("NS-a"), words: "may not have drift ignored"},
		{name: "a chart from elsewhere", spec: "helm: {chart: c, repo: https://evil.example.com, version: 1.0.0}", words: "may not have the chart https://evil.example.com/c"},
		{name: "a chart that reads like another", spec: "helm: {chart: oci://registry.example.com/a/../b/c, version: 1.0.0}", words: "may not have the chart oci://registry.example.com/a/../b/c"},
		{name: "a chart of another tenant", spec: "helm: {chart: ../../b/chart}", words: `belongs to tenant "b"`},
		{name: "values of another tenant", spec: "helm: {chart: ./, valuesFiles: [../../b/values.yaml]}", files: files{"Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}"}, words: "spec.helm.valuesFiles.0"},
		{name: "a base of the platform", files: kustomized("resources: [x.yaml, ../../../platform]\n"), words: `cannot read "platform": it is not below teams/a`},
		{name: "a file of another tenant", files: kustomized("resources: [x.yaml, ../../b/app/x.yaml]\n"), words: `cannot read "teams/b/app/x.yaml": it belongs to tenant "b"`},
		{name: "a patch of another tenant", files: kustomized("resources: [x.yaml]\npatches: [{path: ../../b/values.yaml}]\n"), words: "kustomization.yaml:3: patches.path"},
		{name: "a generator over the fleet's file", files: kustomized("configMapGenerator: [{name: g, files: [../../../fleet.yaml]}]\n"), words: `cannot read "fleet.yaml"`},
		{name: "a component of the platform", files: kustomized("components: [../../../platform]\n"), words: "kustomization.yaml:2: components"},
		{name: "an overlay of another tenant", spec: "targets: [{overlay: ../../b/app}]", words: "spec.targets.0.overlay"},
		{name: "a link to another tenant's file", links: files{"l.yaml": "../../b/app/x.yaml"}, words: `it is a symbolic link to "teams/b/app/x.yaml", which belongs to tenant "b"`},
		{name: "a link to a directory of the platform", files: kustomized("resources: [d]\n"), links: files{"d": "../../../platform"}, words: "is not below teams/a"},
		{name: "a remote base", files: kustomized("resources: [https://evil.example.com/x.yaml]\n"), words: "is remote: only files of the fleet repository are read"},
		{name: "a name that is a path", files: files{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ../../secrets/NS-escape, namespace: NS-a}\n"}, words: "../../secrets/NS-escape"},
		{name: "another tenant's object", files: files{"x.yaml": mapIn("NS", "shared", "a")}, words: `ConfigMap/NS/shared is declared by bundle "NS-b-app", too, which has it`},
		{name: "the platform's object", files: files{"x.yaml": mapIn("NS-a", "policy", "a")}, words: `ConfigMap/NS-a/policy is declared by bundle "NS-platform", too, which has it`},
		{name: "more rights than its own", files: the("rbac.authorization.k8s.io/v1", "RoleBinding", "namespace: NS-a", "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\nsubjects: [{kind: ServiceAccount, name: deployer, namespace: NS-a}]\n"), words: "attempting to grant RBAC permissions not currently held"},
		{name: "a kind that its account may not have", files: the("v1", "Service", "namespace: NS-a", "spec: {ports: [{port: 80}]}\n"), words: `User "system:serviceaccount:NS-a:deployer" cannot patch resource "services"`},
	}
}

// What a tenant tries in one commit fails, each with its own message. Nothing of it comes onto the cluster,
// and the bundles of everybody, also those of the tenant itself, go on.
func TestTenancy_waysOut(t *testing.T) {
	r := newTown(t)
	ways := waysOut()
	if len(ways) < 40 {
		t.Errorf("there are %d ways", len(ways))
	}
	write := files{
		"fleet.yaml": bound, "teams/a/app/x.yaml": mapIn("NS-a", "x", "two"), "teams/b/app/x.yaml": mapIn("NS-b", "x", "two"),
		"teams/b/chart/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "teams/b/values.yaml": "password: hunter2\n",
	}
	links := files{}
	for i, w := range ways {
		dir := fmt.Sprintf("teams/%s/way-%d/", cmp.Or(w.tenant, "a"), i)
		write[dir+"bundle.yaml"] = bundle(fmt.Sprintf("way-%d", i), w.spec)
		for name, text := range w.files {
			write[dir+name] = text
		}
		for name, to := range w.links {
			links[dir+name] = to
		}
	}
	revision := r.Do(gitserver.Commit{Write: write, Link: links})
	r.is("NS-a", "x", "two")
	r.is("NS-b", "x", "two")
	for i, w := range ways {
		t.Log(w.name)
		r.Failed(fmt.Sprintf("NS-way-%d", i), w.words)
	}
	r.Ready("NS-a-app", revision)
	r.Ready("NS-b-app", revision)
	r.Ready("NS-platform", "")
	r.is("NS", "shared", "b")
	r.is("NS-a", "policy", "platform")
	for _, gvr := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "configmaps"},
		{Version: "v1", Resource: "secrets"},
		{Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "resourcequotas"},
		{Version: "v1", Resource: "namespaces"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
		crds, suspensions,
	} {
		list, err := r.Dynamic.Resource(gvr).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if o.GetName() == r.NS+"-escape" || o.GetName() == r.Text("things.NS.example.com") {
				t.Errorf("%s %s/%s is on the cluster", gvr.Resource, o.GetNamespace(), o.GetName())
			}
		}
	}
}
