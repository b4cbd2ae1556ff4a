package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// Where the objects live: the agent's, and those of the bare client.
const (
	agentNamespace = "bench"
	clusterName    = "bench"
)

const clusterYAML = `apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: bench}
`

// object is one object to apply, with its address.
type object struct {
	path string
	body map[string]any
}

func (o object) json() []byte {
	b, err := json.Marshal(o.body)
	if err != nil {
		panic(err) // only strings, numbers and maps
	}
	return b
}

func bundleName(i int) string { return fmt.Sprintf("app-%04d", i) }

// objects are the four of one bundle.
func objects(namespace string, i, version int) []object {
	return []object{
		serviceAccount(namespace, i), service(namespace, i), deployment(namespace, i, version), ingress(namespace, i),
	}
}

func labels(i int) map[string]any {
	return map[string]any{"app.kubernetes.io/name": bundleName(i), "app.kubernetes.io/component": "server"}
}

func newObject(apiVersion, kind, resource, namespace string, i int, spec map[string]any) object {
	prefix := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		prefix = "/api/" + apiVersion
	}
	body := map[string]any{
		"apiVersion": apiVersion, "kind": kind,
		"metadata": map[string]any{"name": bundleName(i), "namespace": namespace, "labels": labels(i)},
	}
	if spec != nil {
		body["spec"] = spec
	}
	return object{path: prefix + "/namespaces/" + namespace + "/" + resource + "/" + bundleName(i), body: body}
}

func serviceAccount(namespace string, i int) object {
	return newObject("v1", "ServiceAccount", "serviceaccounts", namespace, i, nil)
}

func service(namespace string, i int) object {
	return newObject("v1", "Service", "services", namespace, i, map[string]any{
		"selector": map[string]any{"app": bundleName(i)},
		"ports":    []any{map[string]any{"name": "http", "port": 80, "targetPort": "http"}},
	})
}

func ingress(namespace string, i int) object {
	backend := map[string]any{"service": map[string]any{"name": bundleName(i), "port": map[string]any{"name": "http"}}}
	return newObject("networking.k8s.io/v1", "Ingress", "ingresses", namespace, i, map[string]any{
		"ingressClassName": "nginx",
		"rules": []any{map[string]any{
			"host": bundleName(i) + ".example.com",
			"http": map[string]any{"paths": []any{map[string]any{"path": "/", "pathType": "Prefix", "backend": backend}}},
		}},
	})
}

// historyLimit is a field of every Deployment that can be edited without any controller doing anything about it.
const historyLimit = 3

func deployment(namespace string, i, version int) object {
	probe := map[string]any{"httpGet": map[string]any{"path": "/healthz", "port": "http"}, "periodSeconds": 10}
	container := map[string]any{
		"name": "server", "image": fmt.Sprintf("registry.example.com/%s:1.0.%d", bundleName(i), version),
		"args":  []any{"--listen=:8080", "--log-format=json"},
		"ports": []any{map[string]any{"name": "http", "containerPort": 8080}},
		"env": []any{
			map[string]any{"name": "REGION", "value": "eu-central-1"},
			map[string]any{"name": "POD_NAME", "valueFrom": map[string]any{"fieldRef": map[string]any{"fieldPath": "metadata.name"}}},
		},
		"readinessProbe": probe, "livenessProbe": probe,
		"resources": map[string]any{
			"requests": map[string]any{"cpu": "50m", "memory": "64Mi"}, "limits": map[string]any{"memory": "128Mi"},
		},
	}
	return newObject("apps/v1", "Deployment", "deployments", namespace, i, map[string]any{
		"replicas": 0, "revisionHistoryLimit": historyLimit,
		"selector": map[string]any{"matchLabels": map[string]any{"app": bundleName(i)}},
		"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"app": bundleName(i)}},
			"spec": map[string]any{
				"serviceAccountName": bundleName(i), "containers": []any{container},
				"securityContext": map[string]any{"runAsNonRoot": true},
			},
		},
	})
}

// plainObjects are four that no controller does anything about.
func plainObjects(namespace string, i int) []object {
	cm := newObject("v1", "ConfigMap", "configmaps", namespace, i, nil)
	cm.body["data"] = map[string]any{"config.yaml": "listen: :8080\nlog: {format: json, level: info}\n", "region": "eu-central-1"}
	role := newObject("rbac.authorization.k8s.io/v1", "Role", "roles", namespace, i, nil)
	role.body["rules"] = []any{map[string]any{
		"apiGroups": []any{""}, "resources": []any{"configmaps"}, "resourceNames": []any{bundleName(i)}, "verbs": []any{"get", "watch"},
	}}
	binding := newObject("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", namespace, i, nil)
	binding.body["roleRef"] = map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": bundleName(i)}
	binding.body["subjects"] = []any{map[string]any{"kind": "ServiceAccount", "name": bundleName(i), "namespace": namespace}}
	return []object{cm, serviceAccount(namespace, i), role, binding}
}

// files are one bundle with its objects in the fleet repository.
func files(objs []object, i int) map[string]string {
	dir := "apps/" + bundleName(i) + "/"
	out := map[string]string{
		dir + "bundle.yaml": fmt.Sprintf("apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: %s}\nspec: {namespace: %s}\n",
			bundleName(i), agentNamespace),
	}
	for _, o := range objs {
		text, err := yaml.Marshal(o.body)
		if err != nil {
			panic(err) // only strings, numbers and maps
		}
		out[dir+strings.ToLower(o.body["kind"].(string))+".yaml"] = string(text)
	}
	return out
}

// deploymentFile is the one file that a new version of a bundle changes.
func deploymentFile(i, version int) (name, text string) {
	name = "apps/" + bundleName(i) + "/deployment.yaml"
	return name, files([]object{deployment(agentNamespace, i, version)}, i)[name]
}
