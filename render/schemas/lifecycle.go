package schemas

import "k8s.io/apimachinery/pkg/runtime/schema"

// Lifecycle says from which minor version of Kubernetes on, as 1.N, a kind is deprecated and gone. Zero is never, or not known.
type Lifecycle struct {
	Deprecated, Removed int
	// Use is the kind that takes its place; empty if none does.
	Use schema.GroupVersionKind
}

// Lifecycle returns what k8s.io/api says of one of Kubernetes' own kinds, and what it said of those that it has no more.
func (b Builtin) Lifecycle(gvk schema.GroupVersionKind) Lifecycle {
	if l, ok := gone[gvk]; ok {
		return l
	}
	var out Lifecycle
	o, err := b.scheme.New(gvk)
	if err != nil {
		return out
	}
	if d, ok := o.(interface{ APILifecycleDeprecated() (major, minor int) }); ok {
		_, out.Deprecated = d.APILifecycleDeprecated()
	}
	if r, ok := o.(interface{ APILifecycleRemoved() (major, minor int) }); ok {
		_, out.Removed = r.APILifecycleRemoved()
	}
	if r, ok := o.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		out.Use = r.APILifecycleReplacement()
	}
	return out
}

// gone are kinds that k8s.io/api has no more, or of which it does not say when they went.
var gone = map[schema.GroupVersionKind]Lifecycle{
	{Group: "extensions", Version: "v1beta1", Kind: "PodSecurityPolicy"}:                             {Deprecated: 11, Removed: 16},
	{Group: "policy", Version: "v1beta1", Kind: "PodSecurityPolicy"}:                                 {Deprecated: 21, Removed: 25},
	{Group: "autoscaling", Version: "v2beta1", Kind: "HorizontalPodAutoscaler"}:                      {Deprecated: 22, Removed: 25, Use: autoscaler},
	{Group: "autoscaling", Version: "v2beta2", Kind: "HorizontalPodAutoscaler"}:                      {Deprecated: 23, Removed: 26, Use: autoscaler},
	{Group: "batch", Version: "v2alpha1", Kind: "CronJob"}:                                           {Removed: 21, Use: schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "CronJob"}},
	{Group: "apiextensions.k8s.io", Version: "v1beta1", Kind: "CustomResourceDefinition"}:            {Deprecated: 16, Removed: 22, Use: definition},
	{Group: "apiregistration.k8s.io", Version: "v1beta1", Kind: "APIService"}:                        {Deprecated: 19, Removed: 22, Use: schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}},
	{Group: "settings.k8s.io", Version: "v1alpha1", Kind: "PodPreset"}:                               {Removed: 20},
	{Group: "scheduling.k8s.io", Version: "v1alpha1", Kind: "PriorityClass"}:                         {Removed: 22, Use: schema.GroupVersionKind{Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass"}},
	{Group: "rbac.authorization.k8s.io", Version: "v1alpha1", Kind: "Role"}:                          {Removed: 22, Use: rights("Role")},
	{Group: "rbac.authorization.k8s.io", Version: "v1alpha1", Kind: "RoleBinding"}:                   {Removed: 22, Use: rights("RoleBinding")},
	{Group: "rbac.authorization.k8s.io", Version: "v1alpha1", Kind: "ClusterRole"}:                   {Removed: 22, Use: rights("ClusterRole")},
	{Group: "rbac.authorization.k8s.io", Version: "v1alpha1", Kind: "ClusterRoleBinding"}:            {Removed: 22, Use: rights("ClusterRoleBinding")},
	{Group: "resource.k8s.io", Version: "v1alpha2", Kind: "ResourceClaim"}:                           {Removed: 31, Use: schema.GroupVersionKind{Group: "resource.k8s.io", Version: "v1", Kind: "ResourceClaim"}},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1alpha1", Kind: "FlowSchema"}:                 {Removed: 24, Use: schema.GroupVersionKind{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Kind: "FlowSchema"}},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1alpha1", Kind: "PriorityLevelConfiguration"}: {Removed: 24, Use: schema.GroupVersionKind{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Kind: "PriorityLevelConfiguration"}},
}

var (
	autoscaler = schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}
	definition = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
)

func rights(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: kind}
}
