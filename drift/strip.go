package drift

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Additions is a JSON patch that makes of the live object what a correction would, and takes away what others added, as far
// as that is known without a dry run of just this patch: the answer is Input.Stripped. A default may hang on a field of Git's,
// such as the imagePullPolicy on the image, so that the question is of no use while Git's fields are not back.
// It is nil if nothing was added, or the answer is there already.
func Additions(in Input) []byte {
	if !in.Spec.AsksForExtra() || in.Stripped != nil {
		return nil
	}
	r := Compare(in)
	if len(r.added) == 0 || r.Evidence == nil {
		return nil
	}
	if r.Class == api.ClassAdded {
		return r.StripPatch()
	}
	to := in.DryRun.DeepCopy()
	for _, d := range r.kept {
		if !d.order {
			paths.Set(to.Object, d.path, runtime.DeepCopyJSONValue(d.have))
		}
	}
	return patchOf(in.Live, append(changes(in.Live.Object, to.Object), removals(to.Object, r.added)...))
}

// StripPatch is a JSON patch (RFC 6902) that removes the added fields from the live object it was
// compared with, and from no later one. It is nil if there are none.
func (r Result) StripPatch() []byte {
	if len(r.added) == 0 || r.Evidence == nil {
		return nil
	}
	return patchOf(r.live, removals(r.live.Object, r.added))
}

// op is an operation of a JSON patch.
type op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patchOf is a JSON patch for an object as it was read, and no later.
func patchOf(live *unstructured.Unstructured, ops []op) []byte {
	test := op{Op: "test", Path: "/metadata/resourceVersion", Value: live.GetResourceVersion()}
	b, err := json.Marshal(append([]op{test}, ops...))
	if err != nil {
		return nil // JSON always marshals
	}
	return b
}

// changes make one object of another, as far as that can drift, in its outermost fields.
func changes(from, to map[string]any) []op {
	var out []op
	put := func(path string, from, to any) {
		switch {
		case paths.Equal(from, to):
		case to == nil:
			out = append(out, op{Op: "remove", Path: path})
		default:
			out = append(out, op{Op: "add", Path: path, Value: to})
		}
	}
	for _, key := range keys(from, to) {
		switch key {
		case "apiVersion", "kind", "status", "metadata":
		default:
			put("/"+paths.Field(key).Text, from[key], to[key])
		}
	}
	for _, key := range []string{"annotations", "labels"} {
		put("/metadata/"+key, asMap(from["metadata"])[key], asMap(to["metadata"])[key])
	}
	return out
}

// removals take additions away from an object, as far as it has them.
func removals(object map[string]any, added []difference) []op {
	var at []trail
	for _, d := range added {
		at = append(at, everywhere(object, d.top.Path())...)
	}
	// The last item of a list goes first, so that the others stay where they are.
	slices.SortFunc(at, func(a, b trail) int { return comparePositions(b, a) })
	at = slices.CompactFunc(at, func(a, b trail) bool { return comparePositions(a, b) == 0 })
	var out []op
	for _, t := range at {
		path := ""
		for _, s := range t {
			if s.Index >= 0 {
				path += "/" + strconv.Itoa(s.Index)
			} else {
				path += "/" + s.Text
			}
		}
		out = append(out, op{Op: "remove", Path: path})
	}
	return out
}

// everywhere are the places of a path. There are several for the item of a list that holds the same item more than once,
// as the API server lets a PUT do with container ports.
func everywhere(object map[string]any, p fieldpath.Path) []trail {
	at, _, ok := paths.Locate(object, p)
	if !ok {
		return nil
	}
	last := p[len(p)-1]
	if last.Key == nil && last.Value == nil {
		return []trail{at}
	}
	_, list, _ := paths.Locate(object, p[:len(p)-1])
	var out []trail
	items, _ := list.([]any)
	for i, item := range items {
		if paths.IsExactly(last, item) {
			out = append(out, at[:len(at)-1].Then(paths.Item(last, i, item)))
		}
	}
	if len(out) == 0 {
		return []trail{at} // with key fields that it leaves out
	}
	return out
}

func comparePositions(a, b trail) int {
	for i := range min(len(a), len(b)) {
		if c := cmp.Or(cmp.Compare(a[i].Index, b[i].Index), cmp.Compare(a[i].Text, b[i].Text)); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}
