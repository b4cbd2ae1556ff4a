package drift

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"k8s.io/apimachinery/pkg/runtime"

	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Keep is the desired object as it must be written so that a correction leaves alone
// what the result ignores: the fields of ignore rules, replicas that an autoscaler chose.
// Such a field is left out where somebody else owns it, and has its live value where nobody would own it without us:
// also where a correction takes over what others own, as extra: remove has it.
// Desired itself is not changed; it is returned as it is if there is nothing to leave alone.
func (r Result) Keep(desired *unstructured.Unstructured) *unstructured.Unstructured {
	if len(r.kept) == 0 {
		return desired
	}
	out := desired.DeepCopy()
	for _, d := range r.kept {
		switch {
		case d.order: // cannot be left alone without leaving the items alone
		case d.have == nil, d.shared && !r.takesAll:
			set(out.Object, d.path, nil)
		default:
			set(out.Object, d.path, runtime.DeepCopyJSONValue(d.have))
		}
	}
	return out
}

// set sets or (with nil) removes the value at a trail. What is on the way must be there already:
// a field that Git does not declare needs no leaving alone.
func set(v any, at trail, to any) any {
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
		if next := set(m[name], at[1:], to); next != nil {
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
	i := slices.IndexFunc(list, func(item any) bool { return paths.IsItem(s.Elem, item) })
	if s.Elem.Index != nil && *s.Elem.Index < len(list) {
		i = *s.Elem.Index
	}
	if i < 0 {
		return v
	}
	if next := set(list[i], at[1:], to); next != nil {
		list[i] = next
		return list
	}
	return slices.Delete(list, i, i+1)
}
