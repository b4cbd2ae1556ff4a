package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/render"
)

// What other tools heed and flotilla does not is told, with what is written instead; what flotilla heeds is not.
func TestForeignMarks(t *testing.T) {
	for mark, instead := range map[string]string{
		`argocd.argoproj.io/sync-wave: "-5"`:                                "spec.dependsOn",
		`argocd.argoproj.io/hook: PreSync`:                                  "helm.sh/hook",
		`argocd.argoproj.io/sync-options: "Prune=false, Replace=true"`:      "for Replace=true write the annotation flotilla.dev/force: enabled",
		`argocd.argoproj.io/sync-options: Force=true`:                       "flotilla.dev/force: enabled",
		`argocd.argoproj.io/sync-options: PruneLast=true`:                   "spec.dependsOn",
		`argocd.argoproj.io/sync-options: Validate=false`:                   "validated",
		`argocd.argoproj.io/sync-options: ServerSideApply=true`:             "",
		`argocd.argoproj.io/sync-options: Delete=false`:                     "",
		`argocd.argoproj.io/sync-options: SkipDryRunOnMissingResource=true`: "",
		`argocd.argoproj.io/compare-options: IgnoreExtraneous`:              "spec.drift.extra",
		`argocd.argoproj.io/compare-options: ServerSideDiff=true`:           "",
		`argocd.argoproj.io/ignore-healthcheck: "true"`:                     "spec.health",
		`kustomize.toolkit.fluxcd.io/reconcile: disabled`:                   "flotilla.dev/reconcile: disabled",
		`kustomize.toolkit.fluxcd.io/reconcile: enabled`:                    "",
		`kustomize.toolkit.fluxcd.io/prune: disabled`:                       "",
		`kustomize.toolkit.fluxcd.io/force: Enabled`:                        "flotilla.dev/force: enabled",
		`kustomize.toolkit.fluxcd.io/ssa: Merge`:                            "flotilla.dev/ssa: Merge",
		`kustomize.toolkit.fluxcd.io/ssa: IfNotPresent`:                     "flotilla.dev/ssa: IfNotPresent",
		`kustomize.toolkit.fluxcd.io/ssa: Ignore`:                           "flotilla.dev/reconcile: disabled",
		`kustomize.toolkit.fluxcd.io/ssa: Override`:                         "",
		`kustomize.toolkit.fluxcd.io/substitute: disabled`:                  "flotilla.dev/substitute: disabled",
		`helm.toolkit.fluxcd.io/driftDetection: disabled`:                   "flotilla.dev/drift: ignore",
		`helm.sh/resource-policy: keep`:                                     "",
		`helm.sh/resource-policy: delete`:                                   `"keep"`,
		`helm.sh/hook: post-install`:                                        "spec.helm",
		`objectset.rio.cattle.io/id: x`:                                     "Rancher Fleet",
		`config.kubernetes.io/depends-on: apps/namespaces/a/Deployment/b`:   "spec.dependsOn",
		`config.kubernetes.io/local-config: "true"`:                         "take it out",
		`client.lifecycle.config.k8s.io/deletion: detach`:                   "flotilla.dev/prune: disabled",
		`client.lifecycle.config.k8s.io/mutation: ignore`:                   "flotilla.dev/ssa: IfNotPresent",
		`configmanagement.gke.io/managed: disabled`:                         "flotilla.dev/reconcile: disabled",
		`kapp.k14s.io/change-rule.x: upsert after upserting y`:              "spec.dependsOn",
		`kapp.k14s.io/delete-strategy: orphan`:                              "flotilla.dev/prune: disabled",
		`kapp.k14s.io/update-strategy: fallback-on-replace`:                 "flotilla.dev/force: enabled",
		`example.com/sync-wave: "1"`:                                        "",
	} {
		key, _, _ := strings.Cut(mark, ": ")
		object := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  namespace: default\n  name: %\n  annotations:\n    " + mark + "\n"
		files := fleet().With("a/bundle.yaml", bundleYAML("a", "{substitute: true}"),
			"a/cm.yaml", strings.ReplaceAll(object, "%", "x")+"---\n"+strings.ReplaceAll(object, "%", "y"))
		b := bundle(t, mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one"), "a")
		if b.Err != nil {
			t.Errorf("%s: %v", mark, b.Err)
			continue
		}
		if instead == "" {
			if len(b.Warnings) > 0 {
				t.Errorf("%s: there are warnings: %q", mark, b.Warnings)
			}
			continue
		}
		const want = "a/cm.yaml:7: the annotation % on ConfigMap/default/x (and on 1 more) has no effect: "
		if len(b.Warnings) != 1 || !strings.HasPrefix(b.Warnings[0], strings.ReplaceAll(want, "%", key)) || !strings.Contains(b.Warnings[0], instead) {
			t.Errorf("%s: got %q, want %q", mark, b.Warnings, instead)
		}
	}
}

// Labels, kustomizations and charts: the place is where it is written, and hooks of charts are hooks.
func TestForeignMarks_where(t *testing.T) {
	files := withChart("  helm: {chart: ./chart}\n").With(
		"c/chart/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n{{- if true }}\n  annotations:\n    argocd.argoproj.io/sync-wave: \"1\"\n{{- end }}\n",
		"c/chart/templates/hook.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: h, annotations: {helm.sh/hook: pre-install, argocd.argoproj.io/hook: PreSync}}\n",
		"c/chart/crds/crd.yaml", strings.Replace(widget("Widget", "Cluster"), "metadata: {", "metadata: {annotations: {helm.sh/hook: crd-install}, ", 1),
		"k/bundle.yaml", bundleYAML("k", "{substitute: false}"), "k/kustomization.yaml", "resources: [base]\n", "k/base/kustomization.yaml", "resources: [x.yaml]\n",
		"k/base/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y # has no kustomize.toolkit.fluxcd.io/prune\n  namespace: default\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: x\n  namespace: default\n  labels:\n    argocd.argoproj.io/hook: PreSync\n    kustomize.toolkit.fluxcd.io/prune: disabled\n    kustomize.toolkit.fluxcd.io/substitute: disabled\n",
		"b/bundle.yaml", bundleYAML("b", ""),
		"b/x.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: y\n  namespace: default\n  labels: {kustomize.toolkit.fluxcd.io/prune: disabled}\n  annotations: {flotilla.dev/prune: disabled}\n",
	)
	out := mustRender(t, newRenderer(t, render.Config{}), files.Snapshot(), "one")
	for name, want := range map[string][]string{
		"c": {"c/chart/templates/cm.yaml:7: the annotation argocd.argoproj.io/sync-wave on ConfigMap/default/c has no effect: objects are applied by kind, and bundles after those in spec.dependsOn"},
		"k": {"k/base/x.yaml:14: the label kustomize.toolkit.fluxcd.io/prune on Secret/default/x has no effect: write the annotation flotilla.dev/prune: disabled"},
		"b": nil,
	} {
		b := bundle(t, out, name)
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if diff := cmp.Diff(want, b.Warnings); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
