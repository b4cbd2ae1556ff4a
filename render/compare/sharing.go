package compare

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

// On is what a revision says about one cluster.
type On struct {
	Cluster   string
	Rendering api.Rendering
	// Err is why there is no rendering.
	Err error
}

// Shared says how often a bundle was rendered for the clusters that have it.
type Shared struct {
	Bundle     string      `json:"bundle"`
	Clusters   int         `json:"clusters"`
	Renderings []Rendering `json:"renderings"`
	// Failed are clusters on which the bundle cannot be rendered.
	Failed []string `json:"failed,omitempty"`
	// Apart says in which inputs the renderings differ; empty if there is one.
	Apart []string `json:"apart,omitempty"`
}

// Rendering is one rendering of a bundle, and the clusters that share it.
type Rendering struct {
	Clusters  []string          `json:"clusters"`
	Target    int               `json:"target"`
	Overlay   string            `json:"overlay,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
	Unset     []string          `json:"unset,omitempty"`
	Chart     string            `json:"chart,omitempty"`
	Paths     []string          `json:"paths"`
	facts     string
}

// Sharing tells for each bundle, by name, which clusters share a rendering of it, and why the others do not.
func Sharing(fleet []On) []Shared {
	byBundle := map[string]*Shared{}
	at := map[string]map[*api.Inputs]int{} // bundle -> inputs -> index among its renderings
	for _, on := range fleet {
		for _, b := range on.Rendering.Bundles {
			s := byBundle[b.Name]
			if s == nil {
				s = &Shared{Bundle: b.Name}
				byBundle[b.Name], at[b.Name] = s, map[*api.Inputs]int{}
			}
			s.Clusters++
			if b.Inputs == nil {
				s.Failed = append(s.Failed, on.Cluster)
				continue
			}
			i, known := at[b.Name][b.Inputs]
			if !known {
				i = len(s.Renderings)
				at[b.Name][b.Inputs] = i
				s.Renderings = append(s.Renderings, renderingOf(b.Inputs))
			}
			s.Renderings[i].Clusters = append(s.Renderings[i].Clusters, on.Cluster)
		}
	}
	out := make([]Shared, 0, len(byBundle))
	for _, name := range slices.Sorted(maps.Keys(byBundle)) {
		s := byBundle[name]
		slices.SortStableFunc(s.Renderings, func(a, b Rendering) int {
			return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(len(b.Clusters), len(a.Clusters)), slices.Compare(a.Clusters, b.Clusters))
		})
		s.Apart = apart(s.Renderings)
		out = append(out, *s)
	}
	return out
}

func renderingOf(in *api.Inputs) Rendering {
	return Rendering{
		Target: in.Target, Overlay: in.Overlay, Variables: in.Variables, Unset: in.Unset,
		Chart: in.Chart, Paths: in.Paths, facts: in.Facts,
	}
}

// apart names the inputs in which renderings differ.
func apart(all []Rendering) []string {
	if len(all) < 2 {
		return nil
	}
	var out []string
	differ := func(what string, of func(Rendering) string) {
		for _, r := range all[1:] {
			if of(r) != of(all[0]) {
				out = append(out, what)
				return
			}
		}
	}
	differ("targets", func(r Rendering) string { return fmt.Sprint(r.Target) })
	names := map[string]bool{}
	for _, r := range all {
		for name := range r.Variables {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		differ("variable "+name, func(r Rendering) string {
			value, set := r.Variables[name]
			return fmt.Sprint(set, value)
		})
	}
	differ("kinds and version of the cluster", func(r Rendering) string { return r.facts })
	differ("chart", func(r Rendering) string { return r.Chart })
	differ("files", func(r Rendering) string { return strings.Join(r.Paths, "\x00") })
	if len(out) == 0 {
		out = []string{"settings of the bundle"}
	}
	return out
}
