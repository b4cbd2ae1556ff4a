package plan

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Stage is a group of kinds that are applied together, in parallel; stages follow each other.
type Stage int

// The stages, in order.
const (
	// StageDefinitions: namespaces and CRDs, without which nothing else is accepted.
	StageDefinitions Stage = iota
	// StageClasses: classes, quotas and roles, which others name when they are admitted.
	StageClasses
	// StageSettings: what workloads read or run as.
	StageSettings
	// StageRest: workloads, and every kind that is not named here.
	StageRest
	// StageWebhooks: last, so that they do not stand in the way of what serves them.
	StageWebhooks
	// StageAdmitted: after all, instances of custom kinds that the bundle's own webhooks admit.
	StageAdmitted
)

// rank orders kinds inside and across stages; kinds that are not here are in StageRest.
var rank = rankKinds([][]string{
	StageDefinitions: {"CustomResourceDefinition", "Namespace"},
	StageClasses: {
		"ClusterRole", "ClusterClass", "RuntimeClass", "PriorityClass", "StorageClass", "VolumeSnapshotClass",
		"IngressClass", "GatewayClass", "DeviceClass", "ResourceQuota", "LimitRange", "ServiceAccount", "Role",
	},
	StageSettings: {
		"ClusterRoleBinding", "RoleBinding", "ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim",
		"Service", "NetworkPolicy",
	},
	StageRest:     {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "PodDisruptionBudget"},
	StageWebhooks: {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"},
})

type position struct {
	stage Stage
	place int
}

func rankKinds(stages [][]string) map[string]position {
	m := map[string]position{}
	for stage, kinds := range stages {
		for i, k := range kinds {
			m[k] = position{Stage(stage), i}
		}
	}
	return m
}

func positionOf(kind string) position {
	if p, ok := rank[kind]; ok {
		return p
	}
	return position{StageRest, len(rank)}
}

// StageOf returns the stage in which an object is applied, unless a webhook of its bundle admits it.
func StageOf(ref api.ObjectRef) Stage { return positionOf(ref.Kind).stage }

// Governs reports whether the API server accepts other objects, or not, by what such an object says.
func Governs(ref api.ObjectRef) bool {
	switch ref.Group {
	case "apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io", "rbac.authorization.k8s.io":
		return true
	}
	return ref.Kind != "ServiceAccount" && StageOf(ref) <= StageClasses
}

// CompareOrder orders refs as they are applied; pruning goes the other way.
func CompareOrder(a, b api.ObjectRef) int {
	p, q := positionOf(a.Kind), positionOf(b.Kind)
	return cmp.Or(cmp.Compare(p.stage, q.stage), cmp.Compare(p.place, q.place), api.CompareRefs(a, b))
}

// Stages sorts objects into the order of application, one slice per stage; empty stages are there too.
func Stages(objs []*unstructured.Unstructured) [StageAdmitted + 1][]*unstructured.Unstructured {
	sorted := slices.Clone(objs)
	slices.SortStableFunc(sorted, func(a, b *unstructured.Unstructured) int {
		return CompareOrder(api.RefOf(a), api.RefOf(b))
	})
	admitted := admittedGroups(objs)
	var out [StageAdmitted + 1][]*unstructured.Unstructured
	for _, o := range sorted {
		ref := api.RefOf(o)
		s := StageOf(ref)
		if s == StageRest && Custom(ref) && admitted[ref.Group] {
			s = StageAdmitted
		}
		out[s] = append(out[s], o)
	}
	return out
}

// admittedGroups are the API groups that webhooks among the objects name in their rules.
// A rule for every group is for what others bring: it says nothing about the bundle's own objects.
func admittedGroups(objs []*unstructured.Unstructured) map[string]bool {
	out := map[string]bool{}
	for _, o := range objs {
		if StageOf(api.RefOf(o)) != StageWebhooks {
			continue
		}
		for _, hook := range fieldpath.Maps(o.Object["webhooks"]) {
			for _, rule := range fieldpath.Maps(hook["rules"]) {
				groups, _ := rule["apiGroups"].([]any)
				for _, g := range groups {
					if name, ok := g.(string); ok {
						out[name] = true
					}
				}
			}
		}
	}
	return out
}

// WebhookServices are the Services, by namespace and name, that the webhooks among the objects are served by.
func WebhookServices(objs []*unstructured.Unstructured) [][2]string {
	var out [][2]string
	for _, o := range objs {
		for _, hook := range fieldpath.Maps(o.Object["webhooks"]) {
			namespace, _, _ := unstructured.NestedString(hook, "clientConfig", "service", "namespace")
			name, _, _ := unstructured.NestedString(hook, "clientConfig", "service", "name")
			if at := [2]string{namespace, name}; name != "" && !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out
}
