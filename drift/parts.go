package drift

import "strings"

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

// Parts reads a path as it stands in api.FieldDiff. The path of the whole object has none.
func Parts(path string) []Part {
	var out []Part
	for _, s := range compile(path) {
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
