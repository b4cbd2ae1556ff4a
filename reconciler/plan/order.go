package plan

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
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

// StageOf returns the stage in which an object is applied.
func StageOf(ref api.ObjectRef) Stage { return positionOf(ref.Kind).stage }

// CompareOrder orders refs as they are applied; pruning goes the other way.
func CompareOrder(a, b api.ObjectRef) int {
	p, q := positionOf(a.Kind), positionOf(b.Kind)
	return cmp.Or(cmp.Compare(p.stage, q.stage), cmp.Compare(p.place, q.place), api.CompareRefs(a, b))
}

// Stages sorts objects into the order of application, one slice per stage; empty stages are there too.
func Stages(objs []*unstructured.Unstructured) [StageWebhooks + 1][]*unstructured.Unstructured {
	sorted := slices.Clone(objs)
	slices.SortStableFunc(sorted, func(a, b *unstructured.Unstructured) int {
		return CompareOrder(api.RefOf(a), api.RefOf(b))
	})
	var out [StageWebhooks + 1][]*unstructured.Unstructured
	for _, o := range sorted {
		s := StageOf(api.RefOf(o))
		out[s] = append(out[s], o)
	}
	return out
}
