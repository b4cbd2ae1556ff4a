package compare

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
)

// Hidden stands for a value that is not shown.
const Hidden = "(hidden)"

// masker hides what is secret in the fields of one bundle.
type masker struct{ forms []string }

// maskerOf knows the texts that were decrypted for either side, in the forms in which they can stand in a value.
func maskerOf(sides ...api.RenderedBundle) masker {
	var m masker
	for _, b := range sides {
		if b.Inputs == nil {
			continue
		}
		for _, secret := range b.Inputs.Secrets {
			quoted, _ := json.Marshal(secret) // a string
			m.forms = append(m.forms, secret, strings.Trim(string(quoted), `"`), base64.StdEncoding.EncodeToString([]byte(secret)))
		}
	}
	slices.SortFunc(m.forms, func(a, b string) int { return len(b) - len(a) }) // the longest first: one may hold another
	m.forms = slices.Compact(slices.DeleteFunc(m.forms, func(s string) bool { return s == "" }))
	return m
}

// object hides the values of a Secret, and decrypted texts anywhere.
func (m masker) object(o *unstructured.Unstructured, fields []Field) []Field {
	secret := o.GetKind() == "Secret" && o.GroupVersionKind().Group == ""
	for i, f := range fields {
		if secret && (strings.HasPrefix(f.Path, "/data") || strings.HasPrefix(f.Path, "/stringData")) {
			fields[i].Before, fields[i].After = hide(f.Before), hide(f.After)
			continue
		}
		fields[i].Before, fields[i].After = m.text(f.Before), m.text(f.After)
	}
	return fields
}

func (m masker) text(s string) string {
	for _, form := range m.forms {
		s = strings.ReplaceAll(s, form, Hidden)
	}
	return s
}

func hide(s string) string {
	if s == "" {
		return ""
	}
	return Hidden
}
