package fieldpath

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

const places = `{"m":{"a/b":"x"},"items":[{"name":"/data","v":1},{"name":"b","v":2}],"ports":[{"port":53}],"set":["a","b/c"],"args":["-v","-w"]}`

func TestGet(t *testing.T) {
	for path, want := range map[string]any{
		"/m/a~1b":                            "x",
		"/m/a":                               nil,
		"/items/[name=/data]/v":              float64(1),
		"/items/[name=b]/v":                  float64(2),
		"/items/[name=c]/v":                  nil,
		"/items/1/v":                         float64(2),
		"/items/2":                           nil,
		"/items/name":                        nil,
		"/ports/[port=53,protocol=UDP]/port": float64(53),
		"/set/[=b~1c]":                       "b/c",
		"/set/[=z]":                          nil,
		"/args/0":                            "-v",
		"/m/a~1b/x":                          nil,
	} {
		got, there := Get(object(t, places), Parts(path))
		if diff := cmp.Diff(want, got); there && diff != "" || there != (want != nil) {
			t.Errorf("%s: %v, %v", path, got, there)
		}
	}
}

func TestSetAndRemove(t *testing.T) {
	b := key(1, map[string]any{"name": "b"})
	for name, tt := range map[string]struct {
		at   Trail
		to   any
		want string
	}{
		"a field":              {Trail{Field("m"), Field("a/b")}, "y", `{"m":{"a/b":"y"}}`},
		"a field that goes":    {Trail{Field("m"), Field("a/b")}, nil, `{"m":{}}`},
		"a field not there":    {Trail{Field("m"), Field("z")}, "y", `{"m":{"a/b":"x"}}`},
		"an item's field":      {Trail{Field("items"), b, Field("v")}, "y", `{"items":[{"name":"/data","v":1},{"name":"b","v":"y"}]}`},
		"an item that goes":    {Trail{Field("items"), b}, nil, `{"items":[{"name":"/data","v":1}]}`},
		"an item of a set":     {Trail{Field("set"), Item(fieldpath.ValueElement(value.NewValueInterface("b/c")), 1, "b/c")}, nil, `{"set":["a"]}`},
		"an item by its place": {Trail{Field("args"), Item(fieldpath.IndexElement(1), 1, "-w")}, "-x", `{"args":["-v","-x"]}`},
		"a place beyond":       {Trail{Field("args"), Item(fieldpath.IndexElement(7), 7, "-w")}, "-x", `{"args":["-v","-w"]}`},
	} {
		o, want := object(t, places), object(t, places)
		Set(o, tt.at, tt.to)
		maps.Copy(want, object(t, tt.want))
		if diff := cmp.Diff(want, o); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for path, want := range map[string]string{
		"/m/a~1b":    `{"m":{}}`,
		"/items/1/v": `{"items":[{"name":"/data","v":1},{"name":"b"}]}`,
		"/args/0":    `{"args":[null,"-w"]}`,
		"/args/7":    `{}`,
		"/nothing/x": `{}`,
		"/":          `{}`,
	} {
		o, expected := object(t, places), object(t, places)
		Remove(o, Parts(path))
		maps.Copy(expected, object(t, want))
		if diff := cmp.Diff(expected, o); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func TestLabel(t *testing.T) {
	for path, want := range map[string]string{
		"/metadata/labels/app.kubernetes.io~1managed-by": "app.kubernetes.io/managed-by",
		"/metadata/labels":   "",
		"/metadata/labels/a": "a",
		"/spec/labels/a":     "",
		"/":                  "",
	} {
		if got := Label(path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// An item that has all the key fields comes before one that leaves some to their defaults.
func TestPlaceOfItemsThatLeaveKeysOut(t *testing.T) {
	const ports = `{"ports":[{"port":53,"v":"tcp"},{"port":53,"protocol":"UDP","v":"udp"}]}`
	if v, _ := Get(object(t, ports), Parts("/ports/[port=53,protocol=UDP]/v")); v != "udp" {
		t.Errorf("got %v", v)
	}
	o := object(t, ports)
	Set(o, Trail{Field("ports"), key(1, map[string]any{"port": int64(53), "protocol": "UDP"}), Field("v")}, "x")
	if diff := cmp.Diff(object(t, `{"ports":[{"port":53,"v":"tcp"},{"port":53,"protocol":"UDP","v":"x"}]}`), o); diff != "" {
		t.Error(diff)
	}
}
