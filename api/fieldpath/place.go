package fieldpath

import (
	"slices"
	"strconv"
)

// Get is the value at the place that a field's path names; see Parts.
func Get(v any, path []Part) (any, bool) {
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = x[p.Name]; !ok || p.Name == "" {
				return nil, false
			}
		case []any:
			i := Index(x, p)
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

// Index is the place of the item that a part of a path means, -1 if there is none; see Find.
func Index(list []any, p Part) int {
	if p.Name == "" {
		if i := slices.IndexFunc(list, p.selectsExactly); i >= 0 {
			return i
		}
		return slices.IndexFunc(list, p.selects)
	}
	i, err := strconv.Atoi(p.Name)
	if err != nil || i < 0 || i >= len(list) {
		return -1
	}
	return i
}

// selectsExactly is selects for an item that has all the key fields.
func (p Part) selectsExactly(item any) bool {
	m := asMap(item)
	return p.selects(item) && !slices.ContainsFunc(p.Keys, func(k PartKey) bool { _, there := m[k.Name]; return !there })
}

// selects reports whether a part means a list's item, by its keys or by its value.
// A key that the item leaves out is one that the API server fills in, and does not count.
func (p Part) selects(item any) bool {
	if p.Value != nil {
		return Scalar(item) == *p.Value
	}
	m, found := asMap(item), false
	for _, k := range p.Keys {
		v, there := m[k.Name]
		if there && Scalar(v) != k.Value {
			return false
		}
		found = found || there
	}
	return found
}

// Set puts a value at a place of an object, in place; a nil value takes away what is there.
// What lies above the place must be there already: else nothing changes. It returns what v is afterwards.
func Set(v any, at Trail, to any) any {
	if len(at) == 0 {
		return to
	}
	s := at[0]
	if s.Elem.FieldName != nil {
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		name := *s.Elem.FieldName
		if _, there := m[name]; !there {
			return v
		}
		if next := Set(m[name], at[1:], to); next != nil {
			m[name] = next
		} else {
			delete(m, name)
		}
		return m
	}
	list, ok := v.([]any)
	if !ok {
		return v
	}
	i := Find(list, s.Elem)
	if i < 0 {
		return v
	}
	if next := Set(list[i], at[1:], to); next != nil {
		list[i] = next
		return list
	}
	return slices.Delete(list, i, i+1)
}

// Remove takes away the value at the place that a path of names and numbers names. An item of a list becomes null,
// so that the items behind it keep their places.
func Remove(object map[string]any, path []Part) {
	if len(path) == 0 {
		return
	}
	parent, _ := Get(object, path[:len(path)-1])
	last := path[len(path)-1]
	switch x := parent.(type) {
	case map[string]any:
		delete(x, last.Name)
	case []any:
		if i := Index(x, last); i >= 0 {
			x[i] = nil
		}
	}
}

// Maps are the items of a list that are maps; nil for anything else.
func Maps(list any) []map[string]any {
	items, _ := list.([]any)
	var out []map[string]any
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// Hollow reports a value without parts: nothing, or an empty map or list.
func Hollow(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}
