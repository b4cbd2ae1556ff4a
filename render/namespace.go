package render

import (
	"cmp"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// setNamespace sets an object's namespace if it needs one or the bundle's takes its place, takes it away if it must have none,
// and reports whether it had to fall back to the default.
func setNamespace(o *unstructured.Unstructured, of api.Namespace, namespaced bool) (fellBack bool) {
	switch {
	case !namespaced:
		unstructured.RemoveNestedField(o.Object, "metadata", "namespace")
	case o.GetNamespace() == "" || of.Override != "":
		o.SetNamespace(cmp.Or(of.Name(), defaultNamespace))
		return of.IsZero()
	}
	return false
}

// moveReferences has references follow objects into the namespace in which spec.namespace.override puts all of a bundle's,
// as Kustomize's namespace transformer does. The objects themselves move when it is known which of them have a namespace.
// Objects are not copied: nobody else has them yet.
func moveReferences(to string, all built) {
	objects := make([]*unstructured.Unstructured, 0, len(all.objects)+len(all.hooks))
	for _, o := range all.objects {
		objects = append(objects, o.Unstructured)
	}
	for _, h := range all.hooks {
		objects = append(objects, h.Object)
	}
	m := moved{to: to, from: map[api.ObjectRef]bool{}}
	for _, o := range objects {
		if ref := api.RefOf(o); ref.Group == "" {
			m.from[api.ObjectRef{Kind: ref.Kind, Name: ref.Name, Namespace: cmp.Or(ref.Namespace, defaultNamespace)}] = true
		}
	}
	for _, o := range objects {
		m.object(o)
	}
}

// moved knows which ServiceAccounts and Services go to another namespace.
type moved struct {
	to string
	// from are the core objects of the bundle, where they were.
	from map[api.ObjectRef]bool
}

// object changes the references in one object.
func (m moved) object(o *unstructured.Unstructured) {
	switch gk := o.GroupVersionKind().GroupKind(); gk.String() {
	case "Namespace":
		o.SetName(m.to)
	case "RoleBinding.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io":
		for _, s := range fieldpath.Maps(o.Object["subjects"]) {
			if s["kind"] == "ServiceAccount" && (s["name"] == "default" || m.has("ServiceAccount", s)) {
				s["namespace"] = m.to
			}
		}
	case "MutatingWebhookConfiguration.admissionregistration.k8s.io", "ValidatingWebhookConfiguration.admissionregistration.k8s.io":
		for _, w := range fieldpath.Maps(o.Object["webhooks"]) {
			if s := below(w, "clientConfig", "service"); s != nil && m.has("Service", s) {
				s["namespace"] = m.to
			}
		}
	case "CustomResourceDefinition.apiextensions.k8s.io":
		if s := below(o.Object, "spec", "conversion", "webhook", "clientConfig", "service"); s != nil {
			s["namespace"] = m.to
		}
	case "APIService.apiregistration.k8s.io":
		if s := below(o.Object, "spec", "service"); s != nil {
			s["namespace"] = m.to
		}
	}
}

// has reports whether a reference is to an object of the bundle.
func (m moved) has(kind string, reference map[string]any) bool {
	name, _ := reference["name"].(string)
	namespace, _ := reference["namespace"].(string)
	return m.from[api.ObjectRef{Kind: kind, Name: name, Namespace: cmp.Or(namespace, defaultNamespace)}]
}

// below is the mapping below a path of keys; nil if there is none.
func below(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		m, _ = m[k].(map[string]any)
	}
	return m
}
