package fieldpath

import (
	"maps"
	"testing"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

func key(index int, fields map[string]any) Step {
	var l value.FieldList
	for k, v := range fields {
		l = append(l, value.Field{Name: k, Value: value.NewValueInterface(v)})
	}
	l.Sort()
	item := map[string]any{"image": "nginx"}
	maps.Copy(item, fields)
	return Item(fieldpath.PathElement{Key: &l}, index, item)
}

func TestRulePaths(t *testing.T) {
	set := fieldpath.ValueElement(value.NewValueInterface("a/b"))
	image := Trail{Field("spec"), Field("containers"), key(1, map[string]any{"name": "app"}), Field("image")}
	port := Trail{Field("ports"), key(0, map[string]any{"port": int64(53), "protocol": "UDP"})}
	annotation := Trail{Field("metadata"), Field("annotations"), Field("example.com/a~b")}
	flag := Trail{Field("flags"), Item(set, 2, "a/b")}
	arg := Trail{Field("args"), Item(fieldpath.IndexElement(3), 3, "-v")}
	tests := []struct {
		rule string
		at   Trail
		want bool
	}{
		{"/spec/containers/[name=app]/image", image, true},
		{"/spec/containers/[name=app]", image, true},
		{"/spec/containers/[name=other]/image", image, false},
		{"/spec/containers/[name=app]/image/x", image, false},
		{"/spec/containers/*/image", image, true},
		{"/spec/*/*/image", image, true},
		{"/spec/*/image", image, false},
		{"/spec/containers/1/image", image, true},
		{"/spec/containers/0/image", image, false},
		{"/spec/containers/[image=nginx]/image", image, true},
		{"/spec/containers/[name=app,image=nginx]", image, true},
		{"/spec/containers/[name=app,image=other]", image, false},
		{"/spec/containers/app/image", image, false},
		{"/", image, true},
		{"/spec", image, true},
		{"/spe", image, false},
		{"/ports/[port=53]", port, true},
		{"/ports/[port=53,protocol=UDP]", port, true},
		{"/ports/[protocol=UDP,port=53]", port, true},
		{"/ports/[port=53,protocol=TCP]", port, false},
		{"/metadata/annotations/example.com~1a~0b", annotation, true},
		{"/metadata/annotations/example.com/a~b", annotation, false},
		{"/metadata/annotations/*", annotation, true},
		{"/flags/[=a~1b]", flag, true},
		{"/flags/[=a/b]", flag, true},
		{"/flags/[=a]", flag, false},
		{"/flags/2", flag, true},
		{"/args/3", arg, true},
		{"/args/2", arg, false},
	}
	for _, tt := range tests {
		if got := Parse(tt.rule).Covers(tt.at); got != tt.want {
			t.Errorf("%q covers %q: %v, want %v", tt.rule, tt.at, got, tt.want)
		}
	}
}

func TestEqual(t *testing.T) {
	m := func(kv ...any) map[string]any {
		out := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i].(string)] = kv[i+1]
		}
		return out
	}
	tests := []struct {
		a, b any
		want bool
	}{
		{nil, nil, true},
		{int64(1), float64(1), true},
		{float64(1.5), int64(1), false},
		{"1", int64(1), false},
		{m("a", nil), m(), true},
		{m("a", nil), m("b", nil), true},
		{m("a", "x"), m(), false},
		{m(), nil, false},
		{[]any{"a", "b"}, []any{"b", "a"}, false},
		{[]any{}, nil, false},
		{m("a", []any{m("b", nil)}), m("a", []any{m()}), true},
		{true, true, true},
		{true, "true", false},
	}
	for _, tt := range tests {
		if Equal(tt.a, tt.b) != tt.want || Equal(tt.b, tt.a) != tt.want {
			t.Errorf("Equal(%v, %v) is not %v", tt.a, tt.b, tt.want)
		}
	}
}
