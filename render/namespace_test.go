package render_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// widget is a CustomResourceDefinition whose conversion is a webhook.
func widget(kind, scope string) string {
	plural := strings.ToLower(kind) + "s"
	return `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ` + plural + `.example.com}
spec:
  group: example.com
  names: {kind: ` + kind + `, plural: ` + plural + `}
  scope: ` + scope + `
  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {service: {name: elsewhere, namespace: old}}}}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
}

// scattered are objects of several namespaces, with references among them and to others.
func scattered() string {
	return strings.Join([]string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: old}}\n",
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: own, namespace: old}}\n",
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: bare}}\n",
		"{apiVersion: v1, kind: Service, metadata: {name: hook, namespace: old}, spec: {ports: [{port: 443}]}}\n",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: elsewhere}, data: {namespace: old}}\n",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: old}, rules: []}\n",
		`apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: r, namespace: old}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects:
- {kind: ServiceAccount, name: own, namespace: old}
- {kind: ServiceAccount, name: bare, namespace: default}
- {kind: ServiceAccount, name: default, namespace: old}
- {kind: ServiceAccount, name: own, namespace: monitoring}
- {kind: ServiceAccount, name: other, namespace: old}
- {kind: User, name: ops, apiGroup: rbac.authorization.k8s.io}
`,
		`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: r}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects:
- {kind: ServiceAccount, name: own, namespace: old}
- {kind: Group, name: ops, apiGroup: rbac.authorization.k8s.io}
`,
		`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: w}
webhooks:
- {name: own.example.com, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {service: {name: hook, namespace: old, path: /x}}}
- {name: other.example.com, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {service: {name: other, namespace: old}}}
- {name: url.example.com, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {url: "https://example.com"}}
`,
		`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: w}
webhooks:
- {name: own.example.com, admissionReviewVersions: [v1], sideEffects: None, clientConfig: {service: {name: hook, namespace: old}}}
`,
		"{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.x.example.com}, spec: {group: x.example.com, version: v1, groupPriorityMinimum: 1, versionPriority: 1, service: {name: other, namespace: old}}}\n",
		widget("Widget", "Namespaced"),
		"{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: old}}\n",
	}, "---\n")
}

// What spec.namespace.override makes of objects is what Kustomize makes of them with namespace.
// (But for a User with the name of a ServiceAccount: Kustomize gives it a namespace, which no user has.)
func TestNamespaceOverride_asKustomize(t *testing.T) {
	files := fleet().With("a/cm.yaml", "",
		"a/bundle.yaml", bundleYAML("a", "{namespace: {override: shop}}"), "a/all.yaml", scattered(),
		"b/bundle.yaml", bundleYAML("b", ""), "b/base/all.yaml", scattered(), "b/kustomization.yaml", "resources: [base/all.yaml]\nnamespace: shop\n")
	out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
	a, b := bundle(t, out, "a"), bundle(t, out, "b")
	if a.Err != nil || b.Err != nil {
		t.Fatal(a.Err, b.Err)
	}
	if diff := cmp.Diff(refs(b), refs(a)); diff != "" {
		t.Fatalf("not the objects that Kustomize makes:\n%s", diff)
	}
	for i := range a.Objects {
		if diff := cmp.Diff(b.Objects[i].Object, a.Objects[i].Object); diff != "" {
			t.Errorf("%s is not what Kustomize makes of it:\n%s", refs(a)[i], diff)
		}
	}
	if w := strings.Join(a.Warnings, "\n"); w != "" {
		t.Errorf("there are warnings: %s", w)
	}
}

// A chart's namespaces give way in objects and hooks alike, and so do those of objects whose kind another bundle defines.
func TestNamespaceOverride(t *testing.T) {
	const role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: %[1]s, namespace: old, annotations: {helm.sh/hook: pre-install}}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\nsubjects: [{kind: ServiceAccount, name: own, namespace: old}, {kind: ServiceAccount, name: hook, namespace: old}]\n"
	files := withChart("  helm: {chart: ./chart}\n  namespace: {override: shop}\n  createNamespace: {labels: {team: web}}\n  patches: [{target: {kind: Service}, patch: \"- {op: add, path: /metadata/namespace, value: kube-system}\"}]\n").With(
		"c/chart/templates/sa.yaml", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: own, namespace: old, labels: {ns: {{ .Release.Namespace }}}}}\n",
		"c/chart/templates/svc.yaml", "{apiVersion: v1, kind: Service, metadata: {name: svc}}\n",
		"c/chart/templates/hooksa.yaml", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: hook, namespace: old, annotations: {helm.sh/hook: pre-install}}}\n",
		"c/chart/templates/role.yaml", strings.ReplaceAll(role, "%[1]s", "r"),
		"c/chart/templates/widgets.yaml", "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: old}}\n---\n{apiVersion: example.com/v1, kind: Gadget, metadata: {name: g, namespace: old}}\n---\n{apiVersion: other.example.com/v1, kind: Unknown, metadata: {name: u, namespace: old}}\n",
		"d/bundle.yaml", bundleYAML("d", ""), "d/crds.yaml", widget("Widget", "Namespaced")+"---\n"+widget("Gadget", "Cluster"),
	)
	b := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "c")
	if b.Err != nil {
		t.Fatal(b.Err)
	}
	want := []string{
		"ConfigMap/shop/c", "Deployment.apps/shop/web", "Gadget.example.com/g", "Namespace/shop", "Service/shop/svc",
		"ServiceAccount/shop/own", "Unknown.other.example.com/shop/u", "Widget.example.com/shop/w",
	}
	got := refs(b)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, o := range b.Objects {
		if o.GetName() == "own" && o.GetLabels()["ns"] != "shop" {
			t.Errorf("the release's namespace is %q", o.GetLabels()["ns"])
		}
		if o.GetKind() == "Namespace" && o.GetLabels()["team"] != "web" {
			t.Errorf("the namespace's labels are %v", o.GetLabels())
		}
	}
	for _, h := range b.Hooks {
		if h.Object.GetNamespace() != "shop" {
			t.Errorf("the hook %s is not in the namespace", api.RefOf(h.Object))
		}
		if h.Object.GetKind() == "RoleBinding" {
			for _, s := range field(t, h.Object, "subjects").([]any) {
				if s.(map[string]any)["namespace"] != "shop" {
					t.Errorf("the hook's subject is %v", s)
				}
			}
		}
	}
	// The plain form goes on meaning: where none is given.
	plain := files.With("c/bundle.yaml", strings.Replace(files["c/bundle.yaml"], "{override: shop}", "shop", 1))
	b = bundle(t, mustRender(t, newRenderer(t, render.Config{}), plain.Snapshot(), "one"), "c")
	for _, o := range b.Objects {
		if o.GetName() == "own" && o.GetNamespace() != "old" {
			t.Errorf("without override the chart's namespace is %q", o.GetNamespace())
		}
	}
}

// Errors of the field, and of what it brings together.
func TestNamespaceOverride_errors(t *testing.T) {
	in := func(spec string) rendertest.Files {
		return fleet().With("a/bundle.yaml", head+"kind: Bundle\nmetadata: {name: a}\nspec:\n"+spec, "a/cm.yaml", configMap("a", "")+"---\n"+strings.Replace(configMap("a", ""), "default", "other", 1))
	}
	for spec, tt := range map[string]struct {
		want api.Error
		text string
	}{
		"  namespace: {override: shop}\n":           {api.Error{Reason: "DuplicateObject", File: "a/cm.yaml", Line: 6}, "also in a/cm.yaml"},
		"  namespace:\n    override: Shop_1\n":      {api.Error{Reason: api.ReasonImpossibleName, File: "a/bundle.yaml", Line: 6, Field: "spec.namespace.override"}, "Shop_1"},
		"  namespace:\n    overide: shop\n":         {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 6, Field: "spec.namespace.overide"}, "unknown field"},
		"  namespace: {}\n":                         {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 5}, "{override: name}"},
		"  namespace: {override: }\n":               {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 5}, "{override: name}"},
		"  namespace: {override: [a]}\n":            {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 5}, "{override: name}"},
		"  namespace: [shop]\n":                     {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 5}, "{override: name}"},
		"  namespace: a\n  createNamespace: null\n": {api.Error{Reason: "BadFleetFile", File: "a/bundle.yaml", Line: 6, Field: "spec.createNamespace"}, "nothing is below it"},
	} {
		out := mustRender(t, newRenderer(t, render.Config{}), in(spec).Snapshot(), "one")
		wantError(t, bundle(t, out, "a").Err, tt.want, tt.text)
	}
}

// A tenant's objects are where the override puts them, and nowhere else.
func TestNamespaceOverride_tenant(t *testing.T) {
	const tenants = "tenants: [{name: t, path: c, serviceAccount: {namespace: t, name: d}, namespaces: [shop], kinds: {allow: [\"*\", \"*.apps\", \"*.batch\", \"*.example.com\"]}}]"
	for override, admitted := range map[string]bool{"shop": true, "kube-system": false} {
		files := withChart("  helm: {chart: ./chart}\n  namespace: {override: "+override+"}\n").With("fleet.yaml", head+"kind: Fleet\nspec: {"+tenants+"}\n",
			"c/chart/templates/svc.yaml", "{apiVersion: v1, kind: Service, metadata: {name: svc, namespace: monitoring}}\n",
			"c/chart/templates/w.yaml", "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w, namespace: monitoring}}\n",
			"d/bundle.yaml", bundleYAML("d", ""), "d/crds.yaml", widget("Widget", "Namespaced"))
		err := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "c").Err
		if admitted && err != nil || !admitted && api.KindOf(err) != api.Forbidden {
			t.Errorf("%s: got %v", override, err)
		}
	}
}
