package drift

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// What stands in place of a value that must not be shown. The words say only which values differ:
// there is no digest, which somebody could find the value to by trying.
const (
	maskedDesired = `"(value A)"`
	maskedLive    = `"(value B)"`
	maskedValue   = "(value)"
)

// lastApplied holds a whole object, a Secret's values included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// masker knows which values of an object must not be shown.
type masker struct{ secret bool }

func maskFor(o *unstructured.Unstructured) masker { return masker{secret: isSecret(o)} }

func isSecret(o *unstructured.Unstructured) bool {
	gvk := o.GroupVersionKind()
	return gvk.Kind == "Secret" && gvk.Group == ""
}

func (m masker) hides(at trail) bool {
	if m.secret && (at.Under("data") || at.Under("stringData")) {
		return true
	}
	return at.Under("metadata", "annotations") && (len(at) == 2 || at.Field(0) == lastApplied)
}

// pair writes two values as they may be shown; absent is empty.
func (m masker) pair(at trail, want, have any) (string, string) {
	if m.hides(at) {
		a, b := "", ""
		if want != nil {
			a = maskedDesired
		}
		if have != nil {
			b = maskedLive
		}
		return a, b
	}
	return bounded(text(want), text(have))
}

func text(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return string(b)
}

// bounded cuts two values to api.MaxValueBytes, around the place where they begin to differ.
func bounded(a, b string) (string, string) {
	if len(a) <= api.MaxValueBytes && len(b) <= api.MaxValueBytes {
		return a, b
	}
	const before = 64
	from := 0
	for from < len(a) && from < len(b) && a[from] == b[from] {
		from++
	}
	from = max(0, from-before)
	return window(a, from), window(b, from)
}

// window is the part of a value from an offset, with a note on what was left out.
func window(s string, from int) string {
	const room = 64 // for the note
	if s == "" {
		return ""
	}
	from = min(from, len(s))
	part := s[from:min(len(s), from+api.MaxValueBytes-room)]
	if len(part) == len(s) {
		return s
	}
	return fmt.Sprintf("…%s… (bytes %d to %d of %d)", strings.ToValidUTF8(part, ""), from, from+len(part), len(s))
}

// maskObject replaces all values of an object that must not be shown.
func maskObject(o *unstructured.Unstructured) {
	if a := o.GetAnnotations(); a[lastApplied] != "" {
		a[lastApplied] = maskedValue
		o.SetAnnotations(a)
	}
	if !isSecret(o) {
		return
	}
	for _, field := range []string{"data", "stringData"} {
		if o.Object[field] == nil {
			continue
		}
		m, ok := o.Object[field].(map[string]any)
		if !ok {
			o.Object[field] = maskedValue
		}
		for k := range m {
			m[k] = maskedValue
		}
	}
}
