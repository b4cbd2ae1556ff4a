package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Field is one field that a revision adds, removes or changes. Values are JSON; empty means that the field is not there.
type Field struct {
	// Path is a JSON pointer, where list items go by what tells them apart: /spec/containers/[name=app]/image.
	Path   string `json:"path"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// fieldsOf lists what differs between two values, in the order of paths.
func fieldsOf(before, after any, at string, out []Field) []Field {
	if reflect.DeepEqual(before, after) {
		return out
	}
	x, isMap := before.(map[string]any)
	y, isMapToo := after.(map[string]any)
	if isMap && isMapToo {
		for _, key := range keysOf(x, y) {
			out = fieldsOf(x[key], y[key], at+"/"+fieldpath.Escape(key), out)
		}
		return out
	}
	a, isList := before.([]any)
	b, isListToo := after.([]any)
	if isList && isListToo {
		if items, ok := paired(a, b); ok {
			for _, key := range items.order {
				out = fieldsOf(items.before[key], items.after[key], at+"/["+key+"]", out)
			}
			return out
		}
	}
	return append(out, Field{Path: at, Before: text(before), After: text(after)})
}

func keysOf(a, b map[string]any) []string {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// identities tell items of Kubernetes' lists apart, the first that all items have and no two share.
var identities = [][]string{
	{"name"}, {"mountPath"}, {"containerPort", "protocol"}, {"port", "protocol"}, {"key"}, {"type"}, {"host"}, {"path"}, {"topologyKey"},
}

type pairs struct {
	order         []string
	before, after map[string]any
}

// paired matches the items of two lists, and reports whether they can be told apart.
func paired(a, b []any) (pairs, bool) {
	for _, fields := range identities {
		p := pairs{before: map[string]any{}, after: map[string]any{}}
		if p.add(p.before, a, fields) && p.add(p.after, b, fields) {
			return p, true
		}
	}
	return pairs{}, false
}

func (p *pairs) add(into map[string]any, list []any, fields []string) bool {
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return false
		}
		var words []string
		for _, f := range fields {
			if v, there := m[f]; there {
				words = append(words, fmt.Sprintf("%s=%s", f, fieldpath.Escape(fmt.Sprint(v))))
			}
		}
		key := strings.Join(words, ",")
		if _, twice := into[key]; twice || m[fields[0]] == nil {
			return false
		}
		into[key] = item
		if !slices.Contains(p.order, key) {
			p.order = append(p.order, key)
		}
	}
	return true
}

func text(v any) string {
	if v == nil {
		return ""
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil { // objects come from YAML
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// at returns what is below a path of keys; nil if nothing is.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

// list is at for a list of mappings; what is none is left out.
func list(v any, keys ...string) []map[string]any {
	return fieldpath.Maps(at(v, keys...))
}
