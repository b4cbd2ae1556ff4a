package compare

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Reason says why a change is dangerous.
type Reason string

// The reasons, the worst first.
const (
	CannotRender     Reason = "CannotRender"     // the bundle cannot be rendered any more: it stays as it is on the cluster
	GuardRefuses     Reason = "GuardRefuses"     // the agent refuses the whole pass
	DeletesData      Reason = "DeletesData"      // what is deleted takes data with it
	Prunes           Reason = "Prunes"           // something is deleted
	WidensRights     Reason = "WidensRights"     // somebody may do more through the API server
	WidensHostAccess Reason = "WidensHostAccess" // a Pod gets more of its node
	ChangesImmutable Reason = "ChangesImmutable" // the API server refuses the change
	StopsServing     Reason = "StopsServing"     // a version of a kind goes
	ScalesToZero     Reason = "ScalesToZero"     // nothing runs afterwards
	RunsHook         Reason = "RunsHook"         // a hook of a chart runs
	MajorVersion     Reason = "MajorVersion"     // an image or a chart gets another major version
	Suspended        Reason = "Suspended"        // the change waits for the end of a suspension in Git
)

var order = []Reason{
	CannotRender, GuardRefuses, DeletesData, Prunes, WidensRights, WidensHostAccess, ChangesImmutable, StopsServing, ScalesToZero,
	RunsHook, MajorVersion, Suspended,
}

// Reasons lists all of them, the worst first.
func Reasons() []Reason { return slices.Clone(order) }

// Danger is something that a reviewer must not miss.
type Danger struct {
	Reason Reason `json:"reason"`
	// Bundle is empty for what concerns a whole cluster.
	Bundle string        `json:"bundle,omitempty"`
	Object api.ObjectRef `json:"object,omitzero"`
	Detail string        `json:"detail"`
	// Clusters are those on which it is so.
	Clusters []string `json:"clusters"`
	// gone is the kind, with its version, that StopsServing is about.
	gone string
}

// SortDangers puts the worst first.
func SortDangers(all []Danger) {
	slices.SortFunc(all, func(a, b Danger) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Reason), slices.Index(order, b.Reason)), strings.Compare(a.Bundle, b.Bundle),
			api.CompareRefs(a.Object, b.Object), strings.Compare(a.Detail, b.Detail))
	})
}

// danger notes a danger on a cluster.
func (d *differ) danger(x Danger, cluster string) {
	id := strings.Join([]string{string(x.Reason), x.Bundle, x.Object.ID(), x.Detail}, "\x00")
	if d.dangers[id] == nil {
		x.Clusters = nil
		d.dangers[id] = &x
	}
	if !slices.Contains(d.dangers[id].Clusters, cluster) {
		d.dangers[id].Clusters = append(d.dangers[id].Clusters, cluster)
	}
}

// ofCluster notes what is dangerous about a change because of what else the cluster has.
func (d *differ) ofCluster(bundle string, v *Variant, to api.Rendering, cluster string) {
	if s := to.Cluster.Spec.Suspend; s != nil {
		d.danger(Danger{Reason: Suspended, Detail: fmt.Sprintf("until %s: %s", s.Until.Format(time.RFC3339), s.Reason)}, cluster)
	}
	for _, danger := range v.Dangers {
		if danger.Reason != StopsServing {
			continue
		}
		for _, b := range to.Bundles {
			for _, o := range b.Objects {
				if gone := o.GetAPIVersion() + "/" + o.GetKind(); danger.gone == gone {
					d.danger(Danger{
						Reason: StopsServing, Bundle: b.Name, Object: api.RefOf(o), Detail: "uses " + gone + ", which bundle " + bundle + " stops serving",
					}, cluster)
				}
			}
		}
	}
}

// dangersOf are those that the two forms of a bundle tell by themselves.
func dangersOf(x, y api.RenderedBundle, pairs []pair) []Danger {
	name := cmp.Or(y.Name, x.Name)
	hidden := maskerOf(x, y)
	var out []Danger
	note := func(reason Reason, ref api.ObjectRef, format string, args ...any) {
		out = append(out, Danger{Reason: reason, Bundle: name, Object: ref, Detail: hidden.text(fmt.Sprintf(format, args...))})
	}
	var pruned []string
	for _, p := range pairs {
		switch {
		case p.Kind == Deleted && holdsData(p.Object.Object):
			note(DeletesData, p.Object.Object, "is deleted, and what it holds with it")
		case p.Kind == Deleted:
			pruned = append(pruned, p.Object.Object.String())
		}
		if p.after == nil {
			continue
		}
		for _, right := range addedRights(p.before, p.after) {
			note(WidensRights, p.Object.Object, "%s", right)
		}
		for _, access := range addedHostAccess(p.before, p.after) {
			note(WidensHostAccess, p.Object.Object, "%s", access)
		}
		if p.before == nil {
			continue
		}
		for _, field := range immutableFields(p.before, p.after) {
			what := "the API server refuses to change %s"
			if p.after.GetAnnotations()[api.AnnotationForce] == api.ValueEnabled {
				what = "%s changes, so it is deleted and created anew"
			}
			note(ChangesImmutable, p.Object.Object, what, field)
		}
		for _, version := range stoppedVersions(p.before, p.after) {
			note(StopsServing, p.Object.Object, "stops serving %s", version)
			out[len(out)-1].gone = version
		}
		if was, is := replicas(p.before), replicas(p.after); was > 0 && is == 0 {
			note(ScalesToZero, p.Object.Object, "from %d replicas", was)
		}
		for _, jump := range majorImages(p.before, p.after) {
			note(MajorVersion, p.Object.Object, "%s", jump)
		}
	}
	if len(pruned) > 0 {
		note(Prunes, api.ObjectRef{}, "deletes %s", some(pruned))
	}
	if jump := majorChart(x, y); jump != "" {
		note(MajorVersion, api.ObjectRef{}, "%s", jump)
	}
	for _, hook := range hooksOf(x, y) {
		note(RunsHook, hook.ref, "%s", hook.phases)
	}
	return out
}

func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// holdsData reports whether something that Git cannot bring back goes with an object.
func holdsData(ref api.ObjectRef) bool {
	switch ref.Group + "/" + ref.Kind {
	case "/Namespace", "/PersistentVolumeClaim", "/PersistentVolume", "apps/StatefulSet", "apiextensions.k8s.io/CustomResourceDefinition":
		return true
	}
	return false
}

// replicas is how many Pods an object wants; -1 if that is not its to say.
func replicas(o *unstructured.Unstructured) int64 {
	switch o.GroupVersionKind().Group + "/" + o.GetKind() {
	case "apps/Deployment", "apps/StatefulSet", "apps/ReplicaSet", "/ReplicationController":
	default:
		return -1
	}
	switch n := at(o.Object, "spec", "replicas").(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 1
}

type hookRun struct {
	ref    api.ObjectRef
	phases string
}

// hooksOf are the hooks that run for a change, with the moments at which they do.
func hooksOf(x, y api.RenderedBundle) []hookRun {
	phases, hooks := []api.HookPhase{api.HookPreUpgrade, api.HookPostUpgrade}, y.Hooks
	switch {
	case x.Name == "":
		phases = []api.HookPhase{api.HookPreInstall, api.HookPostInstall}
	case y.Name == "":
		phases, hooks = []api.HookPhase{api.HookPreDelete, api.HookPostDelete}, x.Hooks
		if !x.Spec.PruneEnabled() {
			return nil
		}
	}
	var out []hookRun
	for _, h := range hooks {
		var words []string
		for _, phase := range phases {
			if slices.Contains(h.Phases, phase) {
				words = append(words, string(phase))
			}
		}
		if len(words) > 0 {
			out = append(out, hookRun{api.RefOf(h.Object), strings.Join(words, ", ")})
		}
	}
	return out
}

// stoppedVersions are the kinds, with their versions, that a CustomResourceDefinition serves no more.
func stoppedVersions(before, after *unstructured.Unstructured) []string {
	if after.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	now := served(after)
	var out []string
	for _, v := range slices.Sorted(maps.Keys(served(before))) {
		if !now[v] {
			out = append(out, v)
		}
	}
	return out
}

func served(crd *unstructured.Unstructured) map[string]bool {
	group, _ := at(crd.Object, "spec", "group").(string)
	kind, _ := at(crd.Object, "spec", "names", "kind").(string)
	out := map[string]bool{}
	for _, v := range list(crd.Object, "spec", "versions") {
		name, _ := v["name"].(string)
		if on, told := v["served"].(bool); on || !told {
			out[group+"/"+name+"/"+kind] = true
		}
	}
	return out
}
