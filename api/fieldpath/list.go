package fieldpath

import (
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Identity says what tells the items of a list apart: some fields, or (without fields) the item itself.
type Identity struct{ fields []string }

// Identify reads from a list's part of managedFields how the list is merged; nil means as one.
func Identify(shape *fieldpath.Set) *Identity {
	var id *Identity
	see := func(pe fieldpath.PathElement) bool {
		switch {
		case pe.Key != nil:
			id = &Identity{}
			for _, f := range *pe.Key {
				id.fields = append(id.fields, f.Name)
			}
		case pe.Value != nil:
			id = &Identity{}
		}
		return id == nil
	}
	for pe := range shape.Members.All() {
		if !see(pe) {
			return id
		}
	}
	for p := range shape.All() {
		if !see(p[0]) {
			return id
		}
	}
	return id
}

// Items are a list's items, by identity.
type Items struct {
	Order []Step
	index fieldpath.PathElementMap
}

// Find is the item of an identity.
func (s *Items) Find(pe fieldpath.PathElement) (Step, bool) {
	i, ok := s.index.Get(pe)
	if !ok {
		return Step{}, false
	}
	return s.Order[i.(int)], true
}

// Names lists the items by what tells them apart.
func (s *Items) Names() []any {
	out := make([]any, len(s.Order))
	for i, it := range s.Order {
		out[i] = it.Text
	}
	return out
}

// ItemsOf sorts a list by identity. It reports false if two items share one, or one has none.
func ItemsOf(list []any, id *Identity) (*Items, bool) {
	out := &Items{index: fieldpath.MakePathElementMap(len(list))}
	if id == nil {
		return out, false
	}
	for i, item := range list {
		pe := fieldpath.ValueElement(value.NewValueInterface(item))
		if len(id.fields) > 0 {
			m := asMap(item)
			key := value.FieldList{}
			for _, f := range id.fields {
				if m[f] != nil {
					key = append(key, value.Field{Name: f, Value: value.NewValueInterface(m[f])})
				}
			}
			if len(key) == 0 {
				return out, false
			}
			key.Sort()
			pe = fieldpath.PathElement{Key: &key}
		}
		if _, twice := out.index.Get(pe); twice {
			return out, false
		}
		out.index.Insert(pe, i)
		out.Order = append(out.Order, Item(pe, i, item))
	}
	return out, true
}
