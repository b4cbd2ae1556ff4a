package adopt

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// change is one field that is to have another value.
type change struct {
	path  []fieldpath.Part
	text  string // the path as it is written
	value any    // as JSON has it, numbers as int64 or float64
	// remove takes the field away.
	remove bool
}

func (c change) String() string { return c.text }

// changesOf reads the fields of an episode.
func changesOf(e api.Episode) ([]change, error) {
	var out []change
	for _, f := range e.Fields {
		c := change{path: fieldpath.Parts(f.Path), text: f.Path, remove: f.Class == api.ClassRemoved}
		if len(c.path) == 0 {
			return nil, fmt.Errorf("%q is not the path of a field", f.Path)
		}
		if !c.remove {
			var err error
			if c.value, err = parseJSON(f.Live); err != nil {
				return nil, fmt.Errorf("the live value of %s was not recorded whole", f.Path)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// parseJSON reads one value and tells integers from other numbers.
func parseJSON(text string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("there is more than one value")
	}
	return numbers(v), nil
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for k, e := range v {
			v[k] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	}
	return v
}

// normal is a value as it comes out of its YAML: what two spellings have in common.
func normal(v any) (any, error) {
	b, err := yaml.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	return out, yaml.Unmarshal(b, &out)
}

// guess is the value that a path's text stands for: a number where it looks like one.
func guess(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
		return n
	}
	return text
}

// find returns the place of the item that a part means, -1 if there is none.
// A key that the item leaves out is one that the API server fills in, and does not count.
func find(list []any, p fieldpath.Part) int {
	return slices.IndexFunc(list, func(item any) bool {
		if p.Value != nil {
			return fieldpath.Scalar(item) == *p.Value
		}
		m, ok := item.(map[string]any)
		found := false
		for _, k := range p.Keys {
			v, there := m[k.Name]
			if there && fieldpath.Scalar(v) != k.Value {
				return false
			}
			found = found || there
		}
		return ok && found
	})
}

// keyed is a new item of a list with nothing but what tells it from the others.
func keyed(p fieldpath.Part) map[string]any {
	m := map[string]any{}
	for _, k := range p.Keys {
		m[k.Name] = guess(k.Value)
	}
	return m
}

// get returns the value at a path.
func get(v any, path []fieldpath.Part) (any, bool) {
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = x[p.Name]; !ok || p.Name == "" {
				return nil, false
			}
		case []any:
			i := index(x, p)
			if i < 0 {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// index is the place of the item that a part means, -1 for none.
func index(list []any, p fieldpath.Part) int {
	if p.Name == "" {
		return find(list, p)
	}
	i, err := strconv.Atoi(p.Name)
	if err != nil || i < 0 || i >= len(list) {
		return -1
	}
	return i
}

// set returns v with the change made; v itself may be changed. What is missing on the way is made.
func set(v any, path []fieldpath.Part, c change) (any, error) {
	if len(path) == 0 {
		return c.value, nil
	}
	p, last := path[0], len(path) == 1
	if p.Name == "" || isNumberOf(v, p) {
		return setItem(v, path, c)
	}
	if v == nil {
		v = map[string]any{}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s leads through something that is no mapping", c)
	}
	if c.remove && last {
		delete(m, p.Name)
		return m, nil
	}
	below, there := m[p.Name]
	if c.remove && !there {
		return m, nil
	}
	next, err := set(below, path[1:], c)
	m[p.Name] = next
	return m, err
}

func isNumberOf(v any, p fieldpath.Part) bool {
	_, list := v.([]any)
	_, err := strconv.Atoi(p.Name)
	return list && err == nil
}

func setItem(v any, path []fieldpath.Part, c change) (any, error) {
	p, last := path[0], len(path) == 1
	list, ok := v.([]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("%s leads through something that is no list", c)
	}
	i := index(list, p)
	switch {
	case i < 0 && c.remove:
		return v, nil
	case c.remove && last:
		return slices.Delete(list, i, i+1), nil
	case i < 0 && p.Name != "":
		return nil, fmt.Errorf("%s names an item that is not there", c)
	case i < 0 && last:
		return append(list, c.value), nil
	case i < 0:
		list, i = append(list, any(keyed(p))), len(list)
	}
	next, err := set(list[i], path[1:], c)
	list[i] = next
	return list, err
}
