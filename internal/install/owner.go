package install

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// marks are the labels and annotations by which other tools know what they manage. A value of "" stands for any.
var marks = []struct{ key, value, tool string }{
	{api.LabelManagedBy, "Helm", "Helm"},
	{"helm.toolkit.fluxcd.io/name", "", "Flux's helm-controller"},
	{"kustomize.toolkit.fluxcd.io/name", "", "Flux's kustomize-controller"},
	{"argocd.argoproj.io/tracking-id", "", "Argo CD"},
	{"argocd.argoproj.io/instance", "", "Argo CD"},
	{"objectset.rio.cattle.io/hash", "", "Rancher Fleet"},
	{"configmanagement.gke.io/managed", "enabled", "Config Sync"},
	{api.LabelPartOf, "", FleetRepository},
}

// FleetRepository is how Owner names an agent that manages what it finds.
const FleetRepository = "a fleet repository"

// Owner names the tool that manages an object, or "" if none is known to.
// A tool that installed flotilla, Git included, goes on with it: whoever installs over it would fight with that tool.
func Owner(live *unstructured.Unstructured) string {
	if live == nil {
		return ""
	}
	for _, m := range marks {
		for _, have := range []map[string]string{live.GetLabels(), live.GetAnnotations()} {
			if v, ok := have[m.key]; ok && (m.value == "" || v == m.value) {
				return m.tool
			}
		}
	}
	return ""
}

// ClusterOf returns the cluster that an installed agent looks after, or "" if the Deployment does not tell.
func ClusterOf(deployment *unstructured.Unstructured) string {
	if deployment == nil {
		return ""
	}
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		container, _ := c.(map[string]any)
		args, _, _ := unstructured.NestedStringSlice(container, "args")
		for _, arg := range args {
			if name, ok := strings.CutPrefix(arg, "--cluster="); ok {
				return name
			}
		}
	}
	return ""
}
