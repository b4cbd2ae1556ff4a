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
	version     string // of the API, in which the fields are named
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
			manager: m.Manager, operation: string(m.Operation), subresource: m.Subresource, version: m.APIVersion,
			fields: set, ours: m.Manager == manager && m.Subresource == "",
		}
		if m.Time != nil {
			e.time = m.Time.UTC()
		}
		e.applied = e.ours && m.Operation == metav1.ManagedFieldsOperationApply
		out = append(out, e)
	}
	return out
}

// owns reports whether the entry owns a path.
func (e entry) owns(p fieldpath.Path) bool { return owns(e.fields, p) }

// owns reports whether a set has a path: the path itself, something below it,
// or a whole above it that has no parts (an atomic list or map).
func owns(set *fieldpath.Set, p fieldpath.Path) bool {
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

// owner is the entry that owns a path: one that claims the path or its parts before one that claims a whole above it,
// somebody else's before ours, then the latest.
// A claim to a whole in which others claim parts is what stayed of an earlier one, and owns none of them.
func owner(entries []entry, p fieldpath.Path) *entry {
	var best *entry
	exactly := false
	for i, e := range entries {
		exact := holds(e.fields, p)
		if !exact && (exactly || !e.owns(p) || outlived(entries, e, p)) {
			continue
		}
		if best == nil || exact && !exactly || (best.ours && !e.ours) || (best.ours == e.ours && e.time.After(best.time)) {
			best, exactly = &entries[i], exact
		}
	}
	return best
}

// outlived reports whether others claim parts, in the same version of the API, of the whole above a path that an entry claims.
func outlived(entries []entry, e entry, p fieldpath.Path) bool {
	whole := wholeAbove(e.fields, p)
	return whole != nil && slices.ContainsFunc(entries, func(o entry) bool {
		return o.version == e.version && !below(o.fields, whole).Empty()
	})
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

// impersonal is an attribution without the person.
func impersonal(a api.Attribution) api.Attribution {
	if a.Person != "" {
		a.Person, a.Confidence = "", api.ConfidenceTool
	}
	if nobody(a.Manager) {
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
	// Names that client libraries and well-known operators use without a suffix.
	"manager", "controller", "operator", "speaker", "rancher",
}

// deployers write what somebody declared, and are no controllers, however they are named.
var deployers = []string{"kustomize-controller", "helm-controller", "argocd-controller", "argocd-application-controller"}

// controller reports whether a manager is a controller, by its name or by how controllers are named.
func controller(manager string) bool {
	switch {
	case slices.Contains(controllers, manager):
		return true
	case slices.Contains(deployers, manager):
		return false
	}
	for _, suffix := range []string{"-controller", "-controller-manager", "-operator", "-webhook", "-provisioner", "-injector"} {
		if strings.HasSuffix(manager, suffix) {
			return true
		}
	}
	return strings.HasPrefix(manager, "cert-manager-")
}

// person names who made a difference, where the cluster stamps it and it can be proven that this person's change,
// and no other, led away from the state that was known to match. In doubt it is nobody.
func (w *walker) person(d difference, by *entry) string {
	live, m := w.in.Live, w.in.Matched
	a := live.GetAnnotations()
	from := strings.Split(a[api.AnnotationLastEditorFrom], "/")
	_, labelled := live.GetLabels()[api.LabelPartOf]
	switch {
	case w.in.Stamps == "", len(from) != 3, from[2] != w.in.Stamps:
		return "" // not by the policy that is in force: anybody may have written it
	case !labelled:
		return "" // the policy lets such an object pass
	case m == nil, m.UID == "", m.UID != string(live.GetUID()):
		return "" // not the object that is known to have matched
	case w.unstamped(d, by):
		return ""
	}
	// The stamp tells from which state the editor started. The same resource version is proof
	// for any field; the same generation only for what moves the generation.
	sameVersion := from[0] != "" && from[0] == m.ResourceVersion
	sameGeneration := !d.path.Under("metadata") && m.Generation > 0 && live.GetGeneration() == m.Generation+1 &&
		from[1] == formatInt(m.Generation)
	if sameVersion || sameGeneration {
		return a[api.AnnotationLastEditor]
	}
	return ""
}

// unstamped reports whether a difference can come from a write that leaves the stamp as it is: one to a subresource,
// such as /scale, which the policy does not see. What stands on the object is then about an earlier write, of somebody else.
func (w *walker) unstamped(d difference, by *entry) bool {
	if by == nil {
		// A removal leaves no owner. An update of the status can carry annotations and finalizers away.
		_, status := w.in.Live.Object["status"]
		return d.have != nil && !d.order || status && d.path.Under("metadata")
	}
	for _, e := range w.live {
		switch {
		case e.ours:
		case e.subresource != "" && e.owns(d.path.Path()):
			return true
		case e.subresource == "" && e.manager != by.manager && e.time.After(by.time):
			return true // the stamp may be about this write
		}
	}
	return nobody(by.manager)
}
