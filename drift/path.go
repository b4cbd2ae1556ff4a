package drift

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// step is one step from an object down to a field.
type step struct {
	elem fieldpath.PathElement
	// text is the step as it is written in a path.
	text string
	// index is the item's place in the list, -1 for a field of a map; item is the item itself.
	index int
	item  any
}

// trail is the way from an object to a field.
type trail []step

// String is a JSON pointer, with list items by key as in managedFields:
// /spec/template/spec/containers/[name=app]/image.
func (t trail) String() string {
	var b strings.Builder
	for _, s := range t {
		b.WriteByte('/')
		b.WriteString(s.text)
	}
	return b.String()
}

// path is the trail as managedFields know it.
func (t trail) path() fieldpath.Path {
	p := make(fieldpath.Path, len(t))
	for i, s := range t {
		p[i] = s.elem
	}
	return p
}

// under reports whether the trail begins with the given field names.
func (t trail) under(names ...string) bool {
	if len(t) < len(names) {
		return false
	}
	for i, n := range names {
		if t[i].elem.FieldName == nil || *t[i].elem.FieldName != n {
			return false
		}
	}
	return true
}

// field is the name of the trail's n-th field from the end (0 is the last); empty for a list item.
func (t trail) field(n int) string {
	if n >= len(t) || t[len(t)-1-n].elem.FieldName == nil {
		return ""
	}
	return *t[len(t)-1-n].elem.FieldName
}

// then is the trail one step further. It never shares memory with its siblings.
func (t trail) then(s step) trail { return append(slices.Clip(t), s) }

func fieldStep(name string) step {
	return step{elem: fieldpath.FieldNameElement(name), text: escape(name), index: -1}
}

func itemStep(elem fieldpath.PathElement, index int, item any) step {
	return step{elem: elem, text: itemText(elem), index: index, item: item}
}

func itemText(elem fieldpath.PathElement) string {
	switch {
	case elem.FieldName != nil:
		return escape(*elem.FieldName)
	case elem.Key != nil:
		parts := make([]string, 0, len(*elem.Key))
		for _, f := range *elem.Key {
			parts = append(parts, escape(f.Name)+"="+escape(scalar(f.Value.Unstructured())))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case elem.Value != nil:
		return "[=" + escape(scalar((*elem.Value).Unstructured())) + "]"
	case elem.Index != nil:
		return strconv.Itoa(*elem.Index)
	}
	return ""
}

func scalar(v any) string {
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

func escape(s string) string { return escaper.Replace(s) }

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

// segment is one part of a rule's path.
type segment struct {
	// text is the part as it was written; literal is what it says.
	text, literal string
	any           bool
	// keys are the fields that a list item must have, where the part is written [key=value].
	keys []pair
}

type pair struct{ name, value string }

// pattern is a rule's path: a JSON pointer with "*" and "[key=value]".
type pattern []segment

// compile reads a rule's path. Every string that begins with a slash is one; "/" stands for the whole object.
func compile(path string) pattern {
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return nil
	}
	var out pattern
	for {
		text, rest, more := cutSegment(path)
		s := segment{text: text, literal: unescaper.Replace(text), any: text == "*"}
		if inner, ok := bracketed(text); ok {
			for part := range strings.SplitSeq(inner, ",") {
				name, value, _ := strings.Cut(part, "=")
				s.keys = append(s.keys, pair{unescaper.Replace(name), unescaper.Replace(value)})
			}
		}
		out = append(out, s)
		if !more {
			return out
		}
		path = rest
	}
}

// cutSegment takes the first part off a path. A slash inside brackets does not end it.
func cutSegment(path string) (text, rest string, more bool) {
	if strings.HasPrefix(path, "[") {
		if i := strings.Index(path, "]/"); i >= 0 {
			return path[:i+1], path[i+2:], true
		}
		if strings.HasSuffix(path, "]") {
			return path, "", false
		}
	}
	return strings.Cut(path, "/")
}

func bracketed(text string) (string, bool) {
	if len(text) > 2 && text[0] == '[' && text[len(text)-1] == ']' && strings.Contains(text, "=") {
		return text[1 : len(text)-1], true
	}
	return "", false
}

// covers reports whether the pattern names the field or something above it.
func (p pattern) covers(t trail) bool {
	if len(p) > len(t) {
		return false
	}
	for i, s := range p {
		if !s.matches(t[i]) {
			return false
		}
	}
	return true
}

func (s segment) matches(at step) bool {
	if s.any || s.text == at.text {
		return true
	}
	if at.elem.FieldName != nil {
		return s.literal == *at.elem.FieldName
	}
	if len(s.keys) > 0 {
		return s.matchesItem(at)
	}
	n, err := strconv.Atoi(s.literal)
	return err == nil && at.index >= 0 && n == at.index
}

// matchesItem reports whether a list item has all the fields; [=x] stands for the item x itself.
func (s segment) matchesItem(at step) bool {
	fields, isMap := at.item.(map[string]any)
	for _, k := range s.keys {
		switch {
		case k.name == "" && !isMap && scalar(at.item) == k.value:
		case k.name != "" && isMap && fields[k.name] != nil && scalar(fields[k.name]) == k.value:
		default:
			return false
		}
	}
	return true
}
