package drift

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// builtin says why a difference in a field of ours is no drift; empty if it is drift.
func (w *walker) builtin(d difference, by *entry) string {
	switch {
	case d.path.Under("metadata", "annotations") && stamp(d.path.Field(0)):
		return "stamped by the cluster"
	case d.have == nil && d.want == api.ValueDisabled && d.path.Under("metadata", "annotations") && d.path.Field(0) == api.AnnotationReconcile:
		return "with this in Git, nothing is written, nor is it"
	case aggregated(w.in.DryRun) && d.path.Under("rules"):
		return "rules of an aggregated ClusterRole are filled in by the control plane"
	case d.path.Field(0) == "caBundle" && placeholder(d.want):
		return "caBundle is a placeholder in Git and injected on the cluster"
	case unordered(d.path, w.in.Live) && sameItems(d.want, d.have):
		return "the order of this list has no meaning"
	case sameQuantity(d):
		return "the same quantity, written otherwise"
	case w.in.autoscaled(d):
		return "an autoscaler owns replicas within its bounds"
	case !w.in.Unapplied && by != nil && by.applied && d.want != nil && d.have != nil && w.untouched(d):
		return asApplied
	}
	return ""
}

// asApplied is the reason for a value of ours that admission put in place of Git's.
const asApplied = "changed by admission as it was applied"

// stamp reports annotations that say who touched the object, and are no state.
func stamp(key string) bool {
	return key == api.AnnotationLastEditor || key == api.AnnotationLastEditorFrom
}

func aggregated(o *unstructured.Unstructured) bool {
	if o.GetKind() != "ClusterRole" || o.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
		return false
	}
	rule, found, _ := unstructured.NestedMap(o.Object, "aggregationRule")
	return found && len(rule) > 0
}

// placeholder reports a CA bundle that Git declares only to make the field be there.
func placeholder(v any) bool {
	s, isString := v.(string)
	return v == nil || (isString && (s == "" || s == "Cg==" || s == "\n"))
}

// untouched reports whether a value that stands under our name and is not what we sent can have
// been put there as we sent it. If somebody wrote it since the object was last known to match, it cannot.
func (w *walker) untouched(d difference) bool {
	m := w.in.Matched
	switch {
	case m == nil, m.ResourceVersion == w.in.Live.GetResourceVersion():
		return true
	case w.othersSince(m.Claimed) && !w.in.Refused:
		// Whoever writes a value takes the claim to it, unless they write in our name: that would have moved the time.
		return m.UID == string(w.in.Live.GetUID()) && m.Claimed == api.ClaimedAt(w.in.Live)
	case d.path.Under("metadata"):
		return api.SameLabels(m.MetaDigest, api.MetaDigest(w.in.Live))
	default:
		return m.Generation == w.in.Live.GetGeneration() && (m.Generation > 0 || api.SameMeta(m.MetaDigest, api.MetaDigest(w.in.Live)))
	}
}

// othersSince reports whether somebody else wrote since a time, in seconds since 1970: then the object is not as it was for that.
func (w *walker) othersSince(at int64) bool {
	return at != 0 && slices.ContainsFunc(w.live, func(e entry) bool {
		return !e.ours && e.subresource == "" && e.time.Unix() >= at
	})
}

// ordered reports keyed lists whose order has a meaning nevertheless:
// init containers run one after the other, and a variable may refer to those before it.
func ordered(at trail) bool {
	switch at.Field(0) {
	case "initContainers":
		return at.Field(1) == "spec"
	case "env":
		return len(at) > 2 && (at.Field(2) == "containers" || at.Field(2) == "initContainers")
	}
	return false
}

// unorderedFields are lists that the API replaces as one and whose order has no meaning, by group.
var unorderedFields = map[string][]string{
	"":                             {"accessModes", "addresses", "notReadyAddresses", "subsets", "ports"},
	"discovery.k8s.io":             {"endpoints", "addresses", "ports"},
	"rbac.authorization.k8s.io":    {"rules", "subjects", "verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"},
	"admissionregistration.k8s.io": {"rules", "operations", "apiGroups", "apiVersions", "resources", "admissionReviewVersions"},
	"apiextensions.k8s.io":         {"shortNames", "categories", "conversionReviewVersions"},
	"networking.k8s.io":            {"policyTypes"},
}

func unordered(at trail, o *unstructured.Unstructured) bool {
	return slices.Contains(unorderedFields[o.GroupVersionKind().Group], at.Field(0))
}

// scalars reports a list without maps or lists in it: its items say nothing about each other's place.
func scalars(l []any) bool {
	return !slices.ContainsFunc(l, func(v any) bool {
		switch v.(type) {
		case map[string]any, []any:
			return true
		}
		return false
	})
}

// sameItems reports whether two lists hold the same items in whatever order.
func sameItems(a, b any) bool {
	x, okX := a.([]any)
	y, okY := b.([]any)
	if !okX || !okY || len(x) != len(y) {
		return false
	}
	texts := func(l []any) []string {
		out := make([]string, len(l))
		for i, v := range l {
			j, _ := json.Marshal(v)
			out[i] = string(j)
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(texts(x), texts(y))
}

// sameQuantity compares amounts of resources, which custom resources keep as they were written.
func sameQuantity(d difference) bool {
	if parent := d.path.Field(1); parent != "limits" && parent != "requests" {
		return false
	}
	a, errA := resource.ParseQuantity(paths.Scalar(d.want))
	b, errB := resource.ParseQuantity(paths.Scalar(d.have))
	return d.want != nil && d.have != nil && errA == nil && errB == nil && a.Cmp(b) == 0
}

// Autoscaler is something that sets an object's replicas.
type Autoscaler struct {
	// Target is the object; its Version does not matter.
	Target api.ObjectRef
	// Min and Max are the bounds within which it may choose, both included.
	Min, Max int64
	// Also are numbers that it may choose outside of them: idle, and paused at.
	Also []int64
}

// chooses reports whether an autoscaler may have chosen a number.
func (a Autoscaler) chooses(n int64) bool {
	return a.Min <= n && n <= a.Max || slices.Contains(a.Also, n)
}

// autoscaled reports replicas that an autoscaler may have chosen: spec.replicas, and what was set through the scale
// subresource, which a custom resource may keep elsewhere.
func (in Input) autoscaled(d difference) bool {
	n, isNumber := d.have.(int64)
	if !isNumber || d.path.String() != replicasPath && !slices.Contains(scaled(in.Live), d.path.String()) {
		return false
	}
	id := api.RefOf(in.Live).ID()
	return slices.ContainsFunc(in.Autoscalers, func(a Autoscaler) bool { return a.Target.ID() == id && a.chooses(n) })
}

const replicasPath = "/spec/replicas"

// scaled are the fields of an object that were set through its scale subresource.
func scaled(live *unstructured.Unstructured) []string {
	var out []string
	for _, e := range entriesOf(live, api.FieldManager) {
		if e.subresource != "scale" {
			continue
		}
		for p := range e.fields.Leaves().All() {
			if at, _, ok := paths.Locate(live.Object, p.Copy()); ok {
				out = append(out, at.String())
			}
		}
	}
	return out
}

// AutoscalersIn reads the bounds from HorizontalPodAutoscalers and KEDA's ScaledObjects among the objects.
func AutoscalersIn(objects []*unstructured.Unstructured) []Autoscaler {
	var out []Autoscaler
	for _, o := range objects {
		var min, max, ref string
		a := Autoscaler{}
		switch gvk := o.GroupVersionKind(); {
		case gvk.Group == "autoscaling" && gvk.Kind == "HorizontalPodAutoscaler":
			min, max, ref, a.Min = "minReplicas", "maxReplicas", "", 1
		case gvk.Group == "keda.sh" && gvk.Kind == "ScaledObject":
			min, max, ref, a.Max = "minReplicaCount", "maxReplicaCount", "apps", 100
			// Paused, it leaves what it chose before, or goes to the number that it is paused at.
			if n, err := strconv.ParseInt(o.GetAnnotations()["autoscaling.keda.sh/paused-replicas"], 10, 64); err == nil {
				a.Also = append(a.Also, n)
			}
		default:
			continue
		}
		spec := asMap(o.Object["spec"])
		target := asMap(spec["scaleTargetRef"])
		a.Target = api.ObjectRef{Group: ref, Namespace: o.GetNamespace()}
		a.Target.Name, _ = target["name"].(string)
		a.Target.Kind, _ = target["kind"].(string)
		if v, ok := target["apiVersion"].(string); ok {
			a.Target.Group, _, _ = strings.Cut(v, "/")
			if !strings.Contains(v, "/") {
				a.Target.Group = ""
			}
		}
		if a.Target.Kind == "" && ref != "" {
			a.Target.Kind = "Deployment"
		}
		if n, ok := spec[min].(int64); ok {
			a.Min = n
		}
		if n, ok := spec[max].(int64); ok {
			a.Max = n
		}
		if n, ok := spec["idleReplicaCount"].(int64); ok && ref != "" {
			a.Also = append(a.Also, n)
		}
		if a.Target.Kind != "" && a.Target.Name != "" {
			out = append(out, a)
		}
	}
	return out
}
