package yamledit

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Change is one field that is to have another value.
type Change struct {
	Path  []fieldpath.Part
	Text  string // the path as it is written
	Value any    // as JSON has it, numbers as int64 or float64
	// Remove takes the field away.
	Remove bool
}

// String is the path.
func (c Change) String() string { return c.Text }

// ParseJSON reads one value and tells integers from other numbers.
func ParseJSON(text string) (any, error) {
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

// Guess is the value that a path's text stands for: a number where it looks like one.
func Guess(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
		return n
	}
	return text
}

// Keyed is a new item of a list with nothing but what tells it from the others.
func Keyed(p fieldpath.Part) map[string]any {
	m := map[string]any{}
	for _, k := range p.Keys {
		m[k.Name] = Guess(k.Value)
	}
	return m
}

// Set returns v with the change made; v itself may be changed. What is missing on the way is made.
func Set(v any, path []fieldpath.Part, c Change) (any, error) {
	if len(path) == 0 {
		return c.Value, nil
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
	if c.Remove && last {
		delete(m, p.Name)
		return m, nil
	}
	below, there := m[p.Name]
	if c.Remove && !there {
		return m, nil
	}
	next, err := Set(below, path[1:], c)
	m[p.Name] = next
	return m, err
}

func isNumberOf(v any, p fieldpath.Part) bool {
	_, list := v.([]any)
	_, err := strconv.Atoi(p.Name)
	return list && err == nil
}

func setItem(v any, path []fieldpath.Part, c Change) (any, error) {
	p, last := path[0], len(path) == 1
	list, ok := v.([]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("%s leads through something that is no list", c)
	}
	i := fieldpath.Index(list, p)
	switch {
	case i < 0 && c.Remove:
		return v, nil
	case c.Remove && last:
		return slices.Delete(list, i, i+1), nil
	case i < 0 && p.Name != "":
		return nil, fmt.Errorf("%s names an item that is not there", c)
	case i < 0 && last:
		return append(list, c.Value), nil
	case i < 0:
		list, i = append(list, any(Keyed(p))), len(list)
	}
	next, err := Set(list[i], path[1:], c)
	list[i] = next
	return list, err
}
