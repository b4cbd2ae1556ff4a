package compare

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// immutable says of a kind which paths cannot change, and which below them can all the same.
type immutable struct{ paths, except []string }

// immutables are Kubernetes' own, by group/Kind. A field that was not set may become so.
var immutables = map[string]immutable{
	"apps/Deployment": {paths: []string{"/spec/selector"}},
	"apps/DaemonSet":  {paths: []string{"/spec/selector"}},
	"apps/ReplicaSet": {paths: []string{"/spec/selector"}},
	"apps/StatefulSet": {paths: []string{"/spec"}, except: []string{
		"/spec/replicas", "/spec/ordinals", "/spec/template", "/spec/updateStrategy", "/spec/revisionHistoryLimit",
		"/spec/persistentVolumeClaimRetentionPolicy", "/spec/minReadySeconds",
	}},
	"batch/Job":                             {paths: []string{"/spec/selector", "/spec/template", "/spec/completionMode"}},
	"/Service":                              {paths: []string{"/spec/clusterIP"}},
	"/PersistentVolumeClaim":                {paths: []string{"/spec"}, except: []string{"/spec/resources", "/spec/volumeAttributesClassName"}},
	"/Secret":                               {paths: []string{"/type"}},
	"rbac.authorization.k8s.io/RoleBinding": {paths: []string{"/roleRef"}},
	"rbac.authorization.k8s.io/ClusterRoleBinding": {paths: []string{"/roleRef"}},
	"storage.k8s.io/StorageClass":                  {paths: []string{"/provisioner", "/parameters", "/reclaimPolicy", "/volumeBindingMode"}},
	"networking.k8s.io/IngressClass":               {paths: []string{"/spec/controller"}},
	"scheduling.k8s.io/PriorityClass":              {paths: []string{"/value", "/preemptionPolicy"}},
	"node.k8s.io/RuntimeClass":                     {paths: []string{"/handler"}},
	"apiextensions.k8s.io/CustomResourceDefinition": {paths: []string{
		"/spec/scope", "/spec/group", "/spec/names/kind", "/spec/names/plural",
	}},
}

// immutableFields are the fields of an object that cannot change, and do.
func immutableFields(before, after *unstructured.Unstructured) []string {
	id := after.GroupVersionKind().Group + "/" + after.GetKind()
	rule := immutables[id]
	if (id == "/ConfigMap" || id == "/Secret") && at(before.Object, "immutable") == true {
		rule.paths = append(slices.Clone(rule.paths), "/data", "/binaryData", "/stringData", "/immutable")
	}
	if len(rule.paths) == 0 {
		return nil
	}
	var out []string
	for _, f := range fieldsOf(before.Object, after.Object, "", nil) {
		below := func(path string) bool { return f.Path == path || strings.HasPrefix(f.Path, path+"/") }
		if slices.ContainsFunc(rule.paths, below) && !slices.ContainsFunc(rule.except, below) {
			out = append(out, f.Path)
		}
	}
	return out
}
