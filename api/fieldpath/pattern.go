package fieldpath

import (
	"slices"
	"strconv"
	"strings"
)

// segment is one part of a rule's path.
type segment struct {
	// text is the part as it was written; literal is what it says.
	text, literal string
	any           bool
	// keys are the fields that a list item must have, where the part is written [key=value].
	keys []pair
}

type pair struct{ name, value string }

// Pattern is a rule's path. The empty pattern is the whole object.
type Pattern []segment

// Parse reads a rule's path. Every string that begins with a slash is one; "/" stands for the whole object.
func Parse(path string) Pattern {
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return nil
	}
	var out Pattern
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

// String is the pattern as it is written.
func (p Pattern) String() string {
	if len(p) == 0 {
		return "/"
	}
	var b strings.Builder
	for _, s := range p {
		b.WriteByte('/')
		b.WriteString(s.text)
	}
	return b.String()
}

// Covers reports whether the pattern names the field or something above it.
func (p Pattern) Covers(t Trail) bool {
	return len(p) <= len(t) && !slices.ContainsFunc(indices(len(p)), func(i int) bool { return !p[i].matches(t[i]) })
}

// Within reports whether the pattern may name something below the place.
func (p Pattern) Within(t Trail) bool {
	return len(p) > len(t) && !slices.ContainsFunc(indices(len(t)), func(i int) bool { return !p[i].matches(t[i]) })
}

// ByIndex reports whether the n-th part of the pattern is a number: an item by its place.
func (p Pattern) ByIndex(n int) bool {
	if n >= len(p) {
		return false
	}
	_, err := strconv.Atoi(p[n].literal)
	return err == nil
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (s segment) matches(at Step) bool {
	if s.any || s.text == at.Text {
		return true
	}
	if at.Elem.FieldName != nil {
		return s.literal == *at.Elem.FieldName
	}
	if len(s.keys) > 0 {
		return s.matchesItem(at)
	}
	n, err := strconv.Atoi(s.literal)
	return err == nil && at.Index >= 0 && n == at.Index
}

// matchesItem reports whether a list item has all the fields; [=x] stands for the item x itself.
func (s segment) matchesItem(at Step) bool {
	fields, isMap := at.Item.(map[string]any)
	for _, k := range s.keys {
		switch {
		case k.name == "" && !isMap && Scalar(at.Item) == k.value:
		case k.name != "" && isMap && fields[k.name] != nil && Scalar(fields[k.name]) == k.value:
		default:
			return false
		}
	}
	return true
}

// Part is one part of a field's path, read back.
type Part struct {
	// Name is the field of a map, or the number of a list's item; empty if Keys or Value say which item.
	Name string
	// Keys are the fields that tell the item of a list from the others.
	Keys []PartKey
	// Value is the item itself, in a list that is a set; nil otherwise.
	Value *string
}

// PartKey is one field of a list's item.
type PartKey struct{ Name, Value string }

// Parts reads a path as a Trail writes it. The path of the whole object has none.
func Parts(path string) []Part {
	var out []Part
	for _, s := range Parse(path) {
		switch {
		case strings.HasPrefix(s.text, "[=") && strings.HasSuffix(s.text, "]"):
			v := unescaper.Replace(s.text[2 : len(s.text)-1])
			out = append(out, Part{Value: &v})
		case len(s.keys) > 0:
			p := Part{}
			for _, k := range s.keys {
				if n := len(p.Keys); k.name != "" || n == 0 {
					p.Keys = append(p.Keys, PartKey{k.name, k.value})
				}
			}
			out = append(out, p)
		default:
			out = append(out, Part{Name: s.literal})
		}
	}
	return out
}

// Label is the name of the label that a path is of; empty if it is of something else.
func Label(path string) string {
	p := Parts(path)
	if len(p) != 3 || p[0].Name != "metadata" || p[1].Name != "labels" {
		return ""
	}
	return p[2].Name
}
