package render

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clusterScoped are the kinds of Kubernetes itself that have no namespace, by group.
var clusterScoped = map[string][]string{
	"":                             {"Namespace", "Node", "PersistentVolume", "ComponentStatus"},
	"admissionregistration.k8s.io": {"*"},
	"apiextensions.k8s.io":         {"*"},
	"apiregistration.k8s.io":       {"*"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"flowcontrol.apiserver.k8s.io": {"*"},
	"networking.k8s.io":            {"IngressClass", "IPAddress", "ServiceCIDR"},
	"node.k8s.io":                  {"RuntimeClass"},
	"policy":                       {"PodSecurityPolicy"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"resource.k8s.io":              {"DeviceClass", "ResourceSlice", "DeviceTaintRule"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"storage.k8s.io":               {"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"},
	"storagemigration.k8s.io":      {"*"},
	"internal.apiserver.k8s.io":    {"*"},
	"apps":                         nil,
	"autoscaling":                  nil,
	"batch":                        nil,
	"coordination.k8s.io":          nil,
	"discovery.k8s.io":             nil,
	"events.k8s.io":                nil,
	"extensions":                   nil,
}

// flotillaScope are flotilla's own kinds.
var flotillaScope = map[string]bool{"Suspension": false, "BundleDeployment": true}

// builtinScope tells whether a kind of Kubernetes itself is namespaced.
func builtinScope(gk schema.GroupKind) (namespaced, known bool) {
	if strings.HasPrefix(gk.Group, "flotilla.dev") {
		n, ok := flotillaScope[gk.Kind]
		return n, ok
	}
	kinds, known := clusterScoped[gk.Group]
	if !known {
		return false, false
	}
	for _, k := range kinds {
		if k == "*" || k == gk.Kind {
			return false, true
		}
	}
	return true, true
}
