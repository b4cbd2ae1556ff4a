package fieldpath

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Step is one step from an object down to a field.
type Step struct {
	// Elem is the step as managedFields know it.
	Elem fieldpath.PathElement
	// Text is the step as it is written in a path.
	Text string
	// Index is the item's place in the list, -1 for a field of a map; Item is the item itself.
	Index int
	Item  any
}

// Field is the step to a field of a map.
func Field(name string) Step {
	return Step{Elem: fieldpath.FieldNameElement(name), Text: Escape(name), Index: -1}
}

// Item is the step to an item of a list.
func Item(elem fieldpath.PathElement, index int, item any) Step {
	return Step{Elem: elem, Text: itemText(elem), Index: index, Item: item}
}

func itemText(elem fieldpath.PathElement) string {
	switch {
	case elem.FieldName != nil:
		return Escape(*elem.FieldName)
	case elem.Key != nil:
		parts := make([]string, 0, len(*elem.Key))
		for _, f := range *elem.Key {
			parts = append(parts, Escape(f.Name)+"="+Escape(Scalar(f.Value.Unstructured())))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case elem.Value != nil:
		return "[=" + Escape(Scalar((*elem.Value).Unstructured())) + "]"
	case elem.Index != nil:
		return strconv.Itoa(*elem.Index)
	}
	return ""
}

// Scalar is a value as paths write it.
func Scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

var (
	escaper   = strings.NewReplacer("~", "~0", "/", "~1")
	unescaper = strings.NewReplacer("~1", "/", "~0", "~")
)

// Escape is a key as a path writes it: a / is ~1, a ~ is ~0.
func Escape(key string) string { return escaper.Replace(key) }

// Trail is the way from an object to a field.
type Trail []Step

// String is a JSON pointer, with list items by key as in managedFields:
// /spec/template/spec/containers/[name=app]/image.
func (t Trail) String() string {
	var b strings.Builder
	for _, s := range t {
		b.WriteByte('/')
		b.WriteString(s.Text)
	}
	return b.String()
}

// Path is the trail as managedFields know it.
func (t Trail) Path() fieldpath.Path {
	p := make(fieldpath.Path, len(t))
	for i, s := range t {
		p[i] = s.Elem
	}
	return p
}

// Under reports whether the trail begins with the given field names.
func (t Trail) Under(names ...string) bool {
	if len(t) < len(names) {
		return false
	}
	for i, n := range names {
		if t[i].Elem.FieldName == nil || *t[i].Elem.FieldName != n {
			return false
		}
	}
	return true
}

// Field is the name of the trail's n-th field from the end (0 is the last); empty for a list item.
func (t Trail) Field(n int) string {
	if n >= len(t) || t[len(t)-1-n].Elem.FieldName == nil {
		return ""
	}
	return *t[len(t)-1-n].Elem.FieldName
}

// Label is the name of the label that a trail leads to; empty if it leads elsewhere.
func (t Trail) Label() string {
	if len(t) != 3 || !t.Under("metadata", "labels") {
		return ""
	}
	return t.Field(0)
}

// Then is the trail one step further. It never shares memory with its siblings.
func (t Trail) Then(s Step) Trail { return append(slices.Clip(t), s) }

// Locate finds a path of managedFields in an object. What is null is not there.
func Locate(object map[string]any, p fieldpath.Path) (Trail, any, bool) {
	var at Trail
	var v any = object
	for _, pe := range p {
		switch {
		case pe.FieldName != nil:
			v = asMap(v)[*pe.FieldName]
			at = at.Then(Field(*pe.FieldName))
		default:
			list, _ := v.([]any)
			i := Find(list, pe)
			if i < 0 {
				return nil, nil, false
			}
			v = list[i]
			at = at.Then(Item(pe, i, v))
		}
		if v == nil {
			return nil, nil, false
		}
	}
	return at, v, len(at) > 0
}

// Find is the index of the item that a step of managedFields means, -1 if there is none:
// one that has all the key fields before one that leaves some to their defaults.
func Find(list []any, pe fieldpath.PathElement) int {
	if pe.Index != nil {
		if *pe.Index < 0 || *pe.Index >= len(list) {
			return -1
		}
		return *pe.Index
	}
	if i := slices.IndexFunc(list, func(item any) bool { return IsExactly(pe, item) }); i >= 0 {
		return i
	}
	return slices.IndexFunc(list, func(item any) bool { return IsItem(pe, item) })
}

// IsExactly is IsItem for an item that has all the key fields.
func IsExactly(pe fieldpath.PathElement, item any) bool {
	m := asMap(item)
	return IsItem(pe, item) && (pe.Key == nil || !slices.ContainsFunc(*pe.Key, func(f value.Field) bool {
		_, there := m[f.Name]
		return !there
	}))
}

// IsItem reports whether a path element selects a list item. A key field that the item leaves out
// is one that the API server fills in, and does not count.
func IsItem(pe fieldpath.PathElement, item any) bool {
	switch {
	case pe.Key != nil:
		m := asMap(item)
		found := false
		for _, f := range *pe.Key {
			if v, there := m[f.Name]; there {
				if !Equal(v, f.Value.Unstructured()) {
					return false
				}
				found = true
			}
		}
		return found
	case pe.Value != nil:
		return Equal(item, (*pe.Value).Unstructured())
	}
	return false
}

// RemoveNull takes a field out of an object that is there and null.
func RemoveNull(object map[string]any, p fieldpath.Path) {
	if len(p) == 0 || p[len(p)-1].FieldName == nil {
		return
	}
	var v any = object
	if len(p) > 1 {
		_, v, _ = Locate(object, p[:len(p)-1])
	}
	m, name := asMap(v), *p[len(p)-1].FieldName
	if null, there := m[name]; there && null == nil {
		delete(m, name)
	}
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// Equal compares JSON values. Null is the same as absent, and 1 the same as 1.0.
func Equal(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return false
		}
		for k := range x {
			if !Equal(x[k], y[k]) {
				return false
			}
		}
		for k := range y {
			if _, both := x[k]; !both && y[k] != nil {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, Equal)
	case int64:
		if y, ok := b.(float64); ok {
			return float64(x) == y
		}
	case float64:
		if y, ok := b.(int64); ok {
			return x == float64(y)
		}
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}
