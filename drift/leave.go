package drift

import (
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Leave returns the fields, as JSON pointers, that an apply of the desired object leaves as they are
// on the live one, since the difference would be no drift: replicas that an autoscaler may have chosen,
// a CA bundle that was injected in place of a placeholder, the rules of an aggregated ClusterRole.
func Leave(desired, live *unstructured.Unstructured, scalers []Autoscaler) []string {
	var out []string
	for _, path := range append(scaled(live), replicasPath) {
		at := trail{}
		var want, have any = desired.Object, live.Object
		for _, part := range paths.Parts(path) {
			at = at.Then(paths.Field(part.Name))
			want, have = asMap(want)[part.Name], asMap(have)[part.Name]
		}
		d := difference{path: at, want: want, have: have}
		if want != nil && !paths.Equal(want, have) && !slices.Contains(out, path) && (Input{Live: live, Autoscalers: scalers}).autoscaled(d) {
			out = append(out, path)
		}
	}
	if desired.Object["rules"] != nil && aggregated(desired) {
		out = append(out, "/rules")
	}
	return placeholders(out, "", desired.Object, live.Object)
}

// placeholders adds the paths of CA bundles that Git leaves open and the cluster fills in.
func placeholders(out []string, at string, want, have any) []string {
	switch w := want.(type) {
	case map[string]any:
		h := asMap(have)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			path := at + "/" + paths.Escape(k)
			if k == "caBundle" && placeholder(w[k]) && !placeholder(h[k]) {
				out = append(out, path)
			} else {
				out = placeholders(out, path, w[k], h[k])
			}
		}
	case []any:
		h, _ := have.([]any)
		for i, item := range w {
			if other := counterpart(item, i, h); other != nil {
				out = placeholders(out, at+"/"+strconv.Itoa(i), item, other)
			}
		}
	}
	return out
}

// counterpart is the live item of a desired one: of the same name where items have names, else at the same place.
func counterpart(item any, i int, live []any) any {
	if name, ok := asMap(item)["name"]; ok {
		j := slices.IndexFunc(live, func(o any) bool { return asMap(o)["name"] == name })
		if j < 0 {
			return nil
		}
		return live[j]
	}
	if i < len(live) {
		return live[i]
	}
	return nil
}
