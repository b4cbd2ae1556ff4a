package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// want is a reference of an object to another one.
type want struct {
	kind            schema.GroupKind
	namespace, name string
	// key is one of a ConfigMap or Secret, port one of a Service, by name or number; empty if none is named.
	key, port string
	field     string
	// classes says that clusters often have objects of the kind that Git does not: the reference counts only where Git has some.
	classes bool
}

var (
	configMap      = schema.GroupKind{Kind: "ConfigMap"}
	secret         = schema.GroupKind{Kind: "Secret"}
	service        = schema.GroupKind{Kind: "Service"}
	serviceAccount = schema.GroupKind{Kind: "ServiceAccount"}
	volumeClaim    = schema.GroupKind{Kind: "PersistentVolumeClaim"}
	namespaceKind  = schema.GroupKind{Kind: "Namespace"}
	ingressClass   = schema.GroupKind{Group: "networking.k8s.io", Kind: "IngressClass"}
	priorityClass  = schema.GroupKind{Group: "scheduling.k8s.io", Kind: "PriorityClass"}
	runtimeClass   = schema.GroupKind{Group: "node.k8s.io", Kind: "RuntimeClass"}
)

// wantsOf lists the references of an object.
func wantsOf(i *item) []want {
	var out []want
	if i.pod != nil {
		out = i.pod.wants(i.namespace())
	}
	if i.ref.Namespace != "" {
		out = append(out, want{kind: namespaceKind, name: i.ref.Namespace, field: "metadata.namespace", classes: true})
	}
	switch (schema.GroupKind{Group: i.ref.Group, Kind: i.ref.Kind}) {
	case schema.GroupKind{Group: "networking.k8s.io", Kind: "Ingress"}:
		out = append(out, ingressWants(i)...)
	case schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}, schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:
		out = append(out, bindingWants(i)...)
	case schema.GroupKind{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}:
		out = append(out, scaleWants(i)...)
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		if name, _, _ := unstructured.NestedString(i.object.Object, "spec", "serviceName"); name != "" {
			out = append(out, want{kind: service, namespace: i.namespace(), name: name, field: "spec.serviceName"})
		}
	case schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}, schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:
		out = append(out, webhookWants(i)...)
	}
	return out
}

// wants lists what pods need to start.
func (p *pod) wants(namespace string) []want {
	var out []want
	add := func(kind schema.GroupKind, name, key, field string, optional *bool) {
		if name != "" && (optional == nil || !*optional) {
			out = append(out, want{kind: kind, namespace: namespace, name: name, key: key, field: field})
		}
	}
	add(serviceAccount, p.spec.ServiceAccountName, "", p.at+".serviceAccountName", nil)
	if name := p.spec.PriorityClassName; name != "" {
		out = append(out, want{kind: priorityClass, name: name, field: p.at + ".priorityClassName", classes: true})
	}
	if name := p.spec.RuntimeClassName; name != nil {
		out = append(out, want{kind: runtimeClass, name: *name, field: p.at + ".runtimeClassName", classes: true})
	}
	for _, v := range p.spec.Volumes {
		volumeWants(v, p.at+".volumes.[name="+v.Name+"]", add)
	}
	for _, c := range p.containers() {
		for n, e := range c.EnvFrom {
			at := fmt.Sprintf("%s.envFrom.%d", c.at, n)
			if r := e.ConfigMapRef; r != nil {
				add(configMap, r.Name, "", at+".configMapRef.name", r.Optional)
			}
			if r := e.SecretRef; r != nil {
				add(secret, r.Name, "", at+".secretRef.name", r.Optional)
			}
		}
		for _, e := range c.Env {
			at := c.at + ".env.[name=" + e.Name + "].valueFrom"
			if e.ValueFrom == nil {
				continue
			}
			if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
				add(configMap, r.Name, r.Key, at+".configMapKeyRef", r.Optional)
			}
			if r := e.ValueFrom.SecretKeyRef; r != nil {
				add(secret, r.Name, r.Key, at+".secretKeyRef", r.Optional)
			}
		}
	}
	return out
}

// adder notes a reference, unless it is optional.
type adder func(kind schema.GroupKind, name, key, field string, optional *bool)

func volumeWants(v corev1.Volume, at string, add adder) {
	if s := v.ConfigMap; s != nil {
		keyWants(configMap, s.Name, s.Items, at+".configMap", s.Optional, add)
	}
	if s := v.Secret; s != nil {
		keyWants(secret, s.SecretName, s.Items, at+".secret", s.Optional, add)
	}
	if s := v.PersistentVolumeClaim; s != nil {
		add(volumeClaim, s.ClaimName, "", at+".persistentVolumeClaim.claimName", nil)
	}
	if v.Projected == nil {
		return
	}
	for n, s := range v.Projected.Sources {
		at := fmt.Sprintf("%s.projected.sources.%d", at, n)
		if s.ConfigMap != nil {
			keyWants(configMap, s.ConfigMap.Name, s.ConfigMap.Items, at+".configMap", s.ConfigMap.Optional, add)
		}
		if s.Secret != nil {
			keyWants(secret, s.Secret.Name, s.Secret.Items, at+".secret", s.Secret.Optional, add)
		}
	}
}

func keyWants(kind schema.GroupKind, name string, items []corev1.KeyToPath, at string, optional *bool, add adder) {
	if len(items) == 0 {
		add(kind, name, "", at, optional)
	}
	for n, item := range items {
		add(kind, name, item.Key, fmt.Sprintf("%s.items.%d", at, n), optional)
	}
}

func ingressWants(i *item) []want {
	var in networkingv1.Ingress
	if i.ref.Version != "v1" || runtime.DefaultUnstructuredConverter.FromUnstructured(i.object.Object, &in) != nil {
		return nil
	}
	var out []want
	backend := func(b *networkingv1.IngressBackend, at string) {
		if b == nil || b.Service == nil {
			return
		}
		port := b.Service.Port.Name
		if port == "" && b.Service.Port.Number != 0 {
			port = fmt.Sprint(b.Service.Port.Number)
		}
		out = append(out, want{kind: service, namespace: i.namespace(), name: b.Service.Name, port: port, field: at + ".service"})
	}
	backend(in.Spec.DefaultBackend, "spec.defaultBackend")
	for n, r := range in.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for m := range r.HTTP.Paths {
			backend(&r.HTTP.Paths[m].Backend, fmt.Sprintf("spec.rules.%d.http.paths.%d.backend", n, m))
		}
	}
	if class := in.Spec.IngressClassName; class != nil {
		out = append(out, want{kind: ingressClass, name: *class, field: "spec.ingressClassName", classes: true})
	}
	for key := range in.Annotations {
		if strings.HasPrefix(key, "cert-manager.io/") || strings.HasSuffix(key, "/tls-acme") {
			return out // the certificates are made from the annotation
		}
	}
	for n, tls := range in.Spec.TLS {
		if tls.SecretName != "" {
			out = append(out, want{kind: secret, namespace: i.namespace(), name: tls.SecretName, field: fmt.Sprintf("spec.tls.%d.secretName", n)})
		}
	}
	return out
}

func bindingWants(i *item) []want {
	ref, _, _ := unstructured.NestedStringMap(i.object.Object, "roleRef")
	out := []want{{kind: schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: ref["kind"]}, name: ref["name"], field: "roleRef"}}
	if ref["kind"] == "Role" {
		out[0].namespace = i.namespace()
	}
	subjects, _, _ := unstructured.NestedSlice(i.object.Object, "subjects")
	for n, s := range subjects {
		subject, _ := s.(map[string]any)
		name, _ := subject["name"].(string)
		namespace, _ := subject["namespace"].(string)
		if subject["kind"] == "ServiceAccount" && name != "" {
			out = append(out, want{kind: serviceAccount, namespace: cmp.Or(namespace, i.namespace()), name: name, field: fmt.Sprintf("subjects.%d", n)})
		}
	}
	return out
}

func scaleWants(i *item) []want {
	ref, _, _ := unstructured.NestedStringMap(i.object.Object, "spec", "scaleTargetRef")
	gv, err := schema.ParseGroupVersion(ref["apiVersion"])
	if err != nil || ref["name"] == "" {
		return nil
	}
	return []want{{kind: schema.GroupKind{Group: gv.Group, Kind: ref["kind"]}, namespace: i.namespace(), name: ref["name"], field: "spec.scaleTargetRef"}}
}

func webhookWants(i *item) []want {
	var out []want
	hooks, _, _ := unstructured.NestedSlice(i.object.Object, "webhooks")
	for n, h := range hooks {
		hook, _ := h.(map[string]any)
		ref, found, _ := unstructured.NestedMap(hook, "clientConfig", "service")
		name, _ := ref["name"].(string)
		namespace, _ := ref["namespace"].(string)
		if !found || name == "" {
			continue
		}
		port := "443"
		if p, ok := ref["port"]; ok {
			port = fmt.Sprint(p)
		}
		out = append(out, want{kind: service, namespace: namespace, name: name, port: port, field: fmt.Sprintf("webhooks.%d.clientConfig.service", n)})
	}
	return out
}

// references reports references that lead nowhere.
func (v *view) references(add func(Finding)) {
	for _, i := range v.items {
		for _, w := range i.wants {
			target := v.find(w.kind, w.namespace, w.name)
			switch {
			case target == nil && !v.allowed(w):
				add(i.finding(MissingObject, w.field, fmt.Sprintf("%s is not in Git", w)))
			case target == nil || target.hook:
			case w.key != "" && lacksKey(target, w.key):
				add(i.finding(MissingKey, w.field, fmt.Sprintf("%s (%s) has no key %q", w, target.file, w.key)))
			case w.port != "" && lacksPort(target, w.port):
				add(i.finding(MissingPort, w.field, fmt.Sprintf("%s (%s) has no port %q", w, target.file, w.port)))
			}
		}
	}
}

// String names what is referred to.
func (w want) String() string {
	if w.namespace == "" {
		return w.kind.Kind + " " + w.name
	}
	return fmt.Sprintf("%s %s in namespace %s", w.kind.Kind, w.name, w.namespace)
}

// givens are objects that every cluster has.
var givens = map[string][]string{
	"ConfigMap": {"kube-root-ca.crt"}, "ServiceAccount": {"default"}, "Service": {"kubernetes"},
	"ClusterRole": {"cluster-admin", "admin", "edit", "view"}, "Namespace": {"default"},
}

// allowed reports whether what is not in Git may well be on the cluster.
func (v *view) allowed(w want) bool {
	switch {
	case w.name == "" || slices.Contains(givens[w.kind.Kind], w.name):
		return true
	case w.classes && !v.kinds[w.kind]:
		return true
	case strings.HasPrefix(w.namespace, "kube-") || strings.HasPrefix(w.name, "system:") || strings.HasPrefix(w.name, "system-"):
		return true
	case w.kind == namespaceKind:
		return strings.HasPrefix(w.name, "kube-") || w.name == "flotilla-system"
	}
	return v.mayBeMade(w.namespace, w.name)
}

// lacksKey reports whether a ConfigMap or Secret has data, and not this key. One without data is filled by somebody else.
func lacksKey(i *item, key string) bool {
	some := false
	for _, field := range []string{"data", "binaryData", "stringData"} {
		values, _ := i.object.Object[field].(map[string]any)
		if _, has := values[key]; has {
			return false
		}
		some = some || len(values) > 0
	}
	return some && i.object.GetAnnotations()["kubernetes.io/service-account.name"] == ""
}

// lacksPort reports whether a Service has ports, and none of this name or number.
func lacksPort(i *item, port string) bool {
	ports, _, _ := unstructured.NestedSlice(i.object.Object, "spec", "ports")
	return len(ports) > 0 && !slices.ContainsFunc(ports, func(p any) bool {
		m, _ := p.(map[string]any)
		return m["name"] == port || fmt.Sprint(m["port"]) == port
	})
}
