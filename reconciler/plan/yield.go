package plan

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/flotilla-fleet/flotilla/api"
)

// RulesFor returns the ignore rules whose target an object matches.
func RulesFor(ref api.ObjectRef, d api.Drift) []api.IgnoreRule {
	var out []api.IgnoreRule
	for _, r := range d.Ignore {
		if r.Target.Matches(ref) {
			out = append(out, r)
		}
	}
	return out
}

// Yield returns the desired object with the live values of all fields that the rules leave to others:
// what Git says of them holds only when the object is created.
// Neither object is changed.
func Yield(desired, live *unstructured.Unstructured, rules []api.IgnoreRule) *unstructured.Unstructured {
	out := desired.DeepCopy()
	for _, r := range rules {
		for _, p := range r.Paths {
			if p == "/" {
				yieldAll(out, live)
				continue
			}
			out.Object, _ = yieldPath(out.Object, live.Object, pointer(p)).(map[string]any)
		}
		for _, e := range live.GetManagedFields() {
			if !slices.Contains(r.Managers, e.Manager) || e.Manager == api.FieldManager {
				continue
			}
			if s, ok := fieldSet(e); ok {
				s.Leaves().Iterate(func(p fieldpath.Path) {
					if steps, ok := steps(p); ok {
						out.Object, _ = yieldPath(out.Object, live.Object, steps).(map[string]any)
					}
				})
			}
		}
	}
	return out
}

// yieldAll replaces all that Git says of an object by what is live, except whose it is.
func yieldAll(out, live *unstructured.Unstructured) {
	for k := range out.Object {
		switch k {
		case "apiVersion", "kind":
		case "metadata":
			for _, field := range []string{"labels", "annotations"} {
				for key := range stringsAt(out, field) {
					if key != api.LabelPartOf && key != api.LabelManagedBy && key != api.LabelBundle {
						out.Object, _ = yieldPath(out.Object, live.Object, []step{{key: k}, {key: field}, {key: key}}).(map[string]any)
					}
				}
			}
		default:
			out.Object, _ = yieldPath(out.Object, live.Object, []step{{key: k}}).(map[string]any)
		}
	}
}

func stringsAt(o *unstructured.Unstructured, field string) map[string]string {
	m, _, _ := unstructured.NestedStringMap(o.Object, "metadata", field)
	return m
}

// step is one part of a path: a key, an index, any of them, or a list item by some of its fields.
type step struct {
	key    string
	any    bool
	fields map[string]string
}

// pointer splits a JSON pointer as api.IgnoreRule writes it.
func pointer(p string) []step {
	var out []step
	for part := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch {
		case part == "*":
			out = append(out, step{any: true})
		case strings.HasPrefix(part, "[") && strings.HasSuffix(part, "]"):
			fields := map[string]string{}
			for f := range strings.SplitSeq(part[1:len(part)-1], ",") {
				k, v, _ := strings.Cut(f, "=")
				fields[k] = v
			}
			out = append(out, step{fields: fields})
		default:
			out = append(out, step{key: part})
		}
	}
	return out
}

// steps turns a path of managedFields into ours. Items of sets, which have no path of their own, report false.
func steps(p fieldpath.Path) ([]step, bool) {
	var out []step
	for _, e := range p {
		switch {
		case e.FieldName != nil:
			if *e.FieldName == "metadata" && len(out) == 0 {
				// Labels and annotations below are fine; the rest of the metadata is not Git's to yield.
				if len(p) < 2 || p[1].FieldName == nil || (*p[1].FieldName != "labels" && *p[1].FieldName != "annotations") {
					return nil, false
				}
			}
			out = append(out, step{key: *e.FieldName})
		case e.Key != nil:
			fields := map[string]string{}
			for _, f := range *e.Key {
				fields[f.Name] = strings.Trim(value.ToString(f.Value), `"`)
			}
			out = append(out, step{fields: fields})
		case e.Index != nil:
			out = append(out, step{key: strconv.Itoa(*e.Index)})
		default:
			return nil, false
		}
	}
	return out, len(out) > 0
}

// yieldPath returns want with the value at the path replaced by that of live;
// where live has none it is left out. What want does not set stays unset.
func yieldPath(want, live any, path []step) any {
	if len(path) == 0 {
		return live
	}
	switch w := want.(type) {
	case map[string]any:
		l, _ := live.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if !path[0].any && path[0].key != k {
				continue
			}
			lv, there := l[k]
			switch {
			case there:
				w[k] = yieldPath(w[k], lv, path[1:])
			case len(path) == 1:
				delete(w, k)
			}
		}
	case []any:
		l, _ := live.([]any)
		for i := range w {
			if !path[0].picks(w[i], i) {
				continue
			}
			if j := counterpart(w[i], i, l, path[0]); j >= 0 {
				w[i] = yieldPath(w[i], l[j], path[1:])
			}
		}
	}
	return want
}

// picks reports whether a step of a path stands for a list item.
func (s step) picks(item any, i int) bool {
	if s.any {
		return true
	}
	if s.fields == nil {
		return s.key == strconv.Itoa(i)
	}
	m, ok := item.(map[string]any)
	if !ok {
		return false
	}
	for k, v := range s.fields {
		// A key that Git leaves out has a default that the path spells out (a port's protocol).
		if text, set := m[k]; set && textOf(text) != v {
			return false
		}
	}
	return true
}

// counterpart finds the live item that a desired one became: by the fields of the path,
// by name where items have names, else by position.
func counterpart(item any, i int, live []any, s step) int {
	if s.fields != nil {
		return slices.IndexFunc(live, func(l any) bool { return s.picks(l, -1) })
	}
	if m, ok := item.(map[string]any); ok {
		if name, ok := m["name"]; ok {
			return slices.IndexFunc(live, func(l any) bool {
				lm, ok := l.(map[string]any)
				return ok && lm["name"] == name
			})
		}
	}
	if i < len(live) {
		return i
	}
	return -1
}

func textOf(v any) string {
	switch t := v.(type) {
	case string:
		return t
	case int64:
		return strconv.FormatInt(t, 10)
	case bool:
		return strconv.FormatBool(t)
	case float64:
		return strconv.FormatFloat(t, 'g', -1, 64)
	}
	return ""
}
