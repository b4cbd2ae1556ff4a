package drift

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
)

// entry is one entry of an object's managedFields.
type entry struct {
	manager     string
	operation   string
	subresource string
	apiVersion  string
	time        time.Time
	fields      *fieldpath.Set
	// applied is set for what we apply; ours, for all that stands under our name.
	applied, ours bool
}

// entriesOf reads managedFields. Entries that cannot be read are left out: they prove nothing.
func entriesOf(o *unstructured.Unstructured, manager string) []entry {
	var out []entry
	for _, m := range o.GetManagedFields() {
		if m.FieldsV1 == nil {
			continue
		}
		set := &fieldpath.Set{}
		if set.FromJSON(m.FieldsV1.GetRawReader()) != nil {
			continue
		}
		e := entry{
			manager: m.Manager, operation: string(m.Operation), subresource: m.Subresource,
			apiVersion: m.APIVersion, fields: set, ours: m.Manager == manager && m.Subresource == "",
		}
		if m.Time != nil {
			e.time = m.Time.UTC()
		}
		e.applied = e.ours && m.Operation == metav1.ManagedFieldsOperationApply
		out = append(out, e)
	}
	return out
}

// owns reports whether the entry owns a path: the path itself, something below it,
// or a whole above it that has no parts (an atomic list or map).
func (e entry) owns(p fieldpath.Path) bool {
	set := e.fields
	for i, pe := range p {
		below, member := set.WithPrefix(pe), set.Members.Has(pe)
		if i == len(p)-1 {
			return member || !below.Empty()
		}
		if below.Empty() {
			return member
		}
		set = below
	}
	return false
}

// owner is the entry that owns a path: somebody else's before ours, then the latest.
func owner(entries []entry, p fieldpath.Path) *entry {
	var best *entry
	for i, e := range entries {
		if !e.owns(p) {
			continue
		}
		if best == nil || (best.ours && !e.ours) || (best.ours == e.ours && e.time.After(best.time)) {
			best = &entries[i]
		}
	}
	return best
}

// attribution puts an owner in words. Nobody is nobody: there is no guess.
func attribution(e *entry) api.Attribution {
	if e == nil {
		return api.Attribution{Confidence: api.ConfidenceUnknown}
	}
	a := api.Attribution{
		Manager: e.manager, Operation: e.operation, Subresource: e.subresource, Time: e.time,
		Confidence: api.ConfidenceTool,
	}
	if nobody(e.manager) {
		a.Confidence = api.ConfidenceUnknown
	}
	return a
}

// nobody reports names under which the API server itself lumps owners together.
func nobody(manager string) bool {
	return manager == "" || manager == "ancient-changes" || manager == "before-first-apply"
}

// controllers are field managers of well-known controllers: what they add to an object is their work.
var controllers = []string{
	"kube-controller-manager", "kube-scheduler", "kubelet", "kube-apiserver", "kube-proxy",
	"cluster-autoscaler", "vpa-updater", "vpa-admission-controller", "keda", "keda-operator",
	"pilot-discovery", "istiod", "cilium-agent", "calico-node", "calico-kube-controllers", "coredns",
	"metallb", "velero", "velero-server", "external-secrets", "sealed-secrets", "linkerd-identity",
	"cainjector", "cert-manager-cainjector", "kwok",
}

// controller reports whether a manager is a controller, by its name or by how controllers are named.
func controller(manager string) bool {
	if slices.Contains(controllers, manager) {
		return true
	}
	for _, suffix := range []string{"-controller", "-controller-manager", "-operator", "-webhook", "-provisioner", "-injector"} {
		if strings.HasSuffix(manager, suffix) {
			return true
		}
	}
	return strings.HasPrefix(manager, "cert-manager-")
}

// person names who made the last change to the object, where the cluster stamps it and
// it can be proven that this change, and no other, led away from the state that was known to match.
func person(live *unstructured.Unstructured, matched *api.InventoryEntry, metadata bool) string {
	a := live.GetAnnotations()
	from := a[api.AnnotationLastEditorFrom]
	rv, generation, ok := strings.Cut(from, "/")
	if matched == nil || !ok || a[api.AnnotationLastEditor] == "" {
		return ""
	}
	// The stamp tells from which state the editor started. The same resource version is proof
	// for any field; the same generation only for what moves the generation.
	sameGeneration := !metadata && matched.Generation > 0 && live.GetGeneration() == matched.Generation+1 &&
		generation == formatInt(matched.Generation)
	if (rv != "" && rv == matched.ResourceVersion) || sameGeneration {
		return a[api.AnnotationLastEditor]
	}
	return ""
}
