package render

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/helm"
)

// DefaultAPIVersions are the API versions that charts see where no cluster is known.
func DefaultAPIVersions() []string { return helm.DefaultAPIVersions() }

// WithCRDs returns the facts with what a rendering itself brings to the cluster: the kinds of its CustomResourceDefinitions.
// It reports whether there is one that charts did not see before; they are then rendered again, as on a cluster that has it.
func WithCRDs(facts api.ClusterFacts, r api.Rendering) (api.ClusterFacts, bool) {
	have := facts.APIVersions
	if len(have) == 0 {
		have = DefaultAPIVersions()
	}
	all := slices.Clone(have)
	for _, b := range r.Bundles {
		for _, o := range b.Objects {
			all = append(all, served(o)...)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, v := range all {
		if !slices.Contains(have, v) {
			facts.APIVersions = all
			return facts, true
		}
	}
	return facts, false
}

// served are the versions that a CustomResourceDefinition serves, in the words of .Capabilities.APIVersions.
func served(o *unstructured.Unstructured) []string {
	if o.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	var out []string
	for _, v := range versions {
		m, _ := v.(map[string]any)
		name, _ := m["name"].(string)
		if on, told := m["served"].(bool); name == "" || told && !on {
			continue
		}
		out = append(out, group+"/"+name, group+"/"+name+"/"+kind)
	}
	return out
}
