package drift

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

func large(data map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": data,
		"metadata": map[string]any{"name": "big", "uid": "u", "resourceVersion": "7"},
	}}
}

// Evidence that is too large keeps what differs, and says what it left out.
func TestEvidenceIsFitted(t *testing.T) {
	long := strings.Repeat("<x>", 100<<10)
	many := map[string]any{"changed": "the new value"}
	for i := range 5000 {
		many[fmt.Sprintf("key-%04d", i)] = strings.Repeat("y", 50)
	}
	lots := map[string]any{"changed": strings.Repeat("z", 30<<10) + "END"}
	for i := range 200 {
		lots[fmt.Sprintf("key-%04d", i)] = strings.Repeat("y", 2<<10)
	}
	for name, tt := range map[string]struct {
		data map[string]any
		want []string
	}{
		"one large value beside what changed": {map[string]any{"changed": "the new value", "other": long}, []string{"the new value", `"other":`}},
		"the value that changed is large":     {map[string]any{"changed": long, "small": "s"}, []string{`"changed":"\u003cx\u003e`, `"small":"s"`}},
		"many small values":                   {many, []string{"the new value", "key-0000", "fields, "}},
		"many larger values":                  {lots, []string{"zEND", "fields, "}},
	} {
		t.Run(name, func(t *testing.T) {
			o := large(tt.data)
			e := evidenceOf(o, []trail{{paths.Field("data"), paths.Field("changed")}, {paths.Field("metadata"), paths.Field("uid")}})
			if len(e.Live) > api.MaxEvidenceBytes || len(e.Live) < api.MaxEvidenceBytes/2 {
				t.Errorf("%d bytes", len(e.Live))
			}
			var back map[string]any
			if err := json.Unmarshal([]byte(e.Live), &back); err != nil {
				t.Fatal(err)
			}
			for _, part := range append(tt.want, `"uid":"u"`, "(omitted: ", "sha256:") {
				if !strings.Contains(e.Live, part) {
					t.Errorf("%q is not in %.300s … %s", part, e.Live, e.Live[len(e.Live)-300:])
				}
			}
		})
	}
	t.Run("managedFields", func(t *testing.T) {
		o := large(map[string]any{"a": "b"})
		fields := map[string]any{}
		for key := range many {
			fields["f:"+key] = map[string]any{}
		}
		var entries []any
		for i := range 4 {
			entries = append(entries, map[string]any{"manager": fmt.Sprintf("tool-%d", i), "operation": "Update", "fieldsV1": map[string]any{"f:data": fields}})
		}
		_ = unstructured.SetNestedSlice(o.Object, entries, "metadata", "managedFields")
		e := EvidenceOf(o)
		if len(e.ManagedFields) > api.MaxEvidenceBytes || !strings.Contains(e.ManagedFields, "omitted: ") || !strings.Contains(e.Live, `"a":"b"`) {
			t.Errorf("%d bytes: %.200s", len(e.ManagedFields), e.ManagedFields)
		}
		for i := range 4 {
			if !strings.Contains(e.ManagedFields, fmt.Sprintf("tool-%d", i)) {
				t.Errorf("tool-%d is left out", i)
			}
		}
	})
	t.Run("a list", func(t *testing.T) {
		var items []any
		for i := range 3000 {
			items = append(items, map[string]any{"name": fmt.Sprintf("item-%d", i), "value": strings.Repeat("v", 40)})
		}
		o := large(nil)
		o.Object["list"] = items
		at := trail{paths.Field("list"), key(2999, map[string]any{"name": "item-2999"}), paths.Field("value")}
		e := evidenceOf(o, []trail{at})
		if len(e.Live) > api.MaxEvidenceBytes || !strings.Contains(e.Live, `"item-2999"`) || !strings.Contains(e.Live, "items, ") {
			t.Errorf("%d bytes, … %s", len(e.Live), e.Live[len(e.Live)-300:])
		}
	})
	t.Run("what is small is whole", func(t *testing.T) {
		if e := EvidenceOf(large(map[string]any{"a": "b"})); strings.Contains(e.Live, "omitted") {
			t.Error(e.Live)
		}
	})
}

// Whatever the value and the room, what comes out is JSON and fits.
func FuzzFit(f *testing.F) {
	f.Add(`{"a":["b",{"c":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"}],"e":1}`, uint16(200))
	f.Add(`["<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<","é\ufffd"]`, uint16(300))
	f.Fuzz(func(t *testing.T, in string, room uint16) {
		var v any
		if json.Unmarshal([]byte(in), &v) != nil {
			return
		}
		// Repeated, so that it is large.
		list := []any{v, v, map[string]any{"x": v, "y": []any{v, v}, in: strings.Repeat(in, 20)}}
		want := max(int(room), 2*noteBytes)
		if got := text(fit(list, want, nil)); len(got) > want || !json.Valid([]byte(got)) {
			t.Fatalf("%d of %d bytes: %s", len(got), want, got)
		}
	})
}
