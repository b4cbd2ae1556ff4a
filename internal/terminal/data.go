package terminal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	goyaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// JSON encodes a value as indented JSON. Bytes that are no UTF-8 become U+FFFD, as encoding/json has it.
// Characters that a terminal may obey stand in strings only, and are written as \u escapes there: the data is the same.
func JSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return escaped(b.Bytes(), jsonEscape), nil
}

// YAML encodes a value as YAML, by way of its JSON.
// Where it holds characters that a terminal may obey, every string is quoted, and these characters are written as escapes:
// the data is the same.
func YAML(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	j := escaped(b, yamlEscape)
	if bytes.Equal(j, b) && !separates(b) {
		if y, err := yaml.JSONToYAML(b); err == nil {
			return y, nil
		}
	}
	var doc goyaml.Node
	if err := goyaml.Unmarshal(j, &doc); err != nil {
		return append(j, '\n'), nil //nolint:nilerr // JSON is YAML, too, and a key may be longer than YAML's own form allows
	}
	unfold(&doc)
	var out bytes.Buffer
	enc := goyaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
		return nil, err
	}
	return escaped(out.Bytes(), yamlEscape), nil
}

// separates reports whether JSON holds the separators of lines, which encoding/json writes as escapes.
func separates(b []byte) bool {
	return bytes.Contains(b, []byte(`\u2028`)) || bytes.Contains(b, []byte(`\u2029`))
}

// unfold has lists and maps written in lines. Strings keep their quotes.
func unfold(n *goyaml.Node) {
	if n.Kind != goyaml.ScalarNode && len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		unfold(c)
	}
}

// escaped replaces what a terminal may obey.
func escaped(b []byte, escape func(rune) string) []byte {
	var out bytes.Buffer
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == '\n' || r == '\t' || !obeyed(r) {
			out.Write(b[:size])
		} else {
			out.WriteString(escape(r))
		}
		b = b[size:]
	}
	return out.Bytes()
}

func jsonEscape(r rune) string {
	if r <= 0xffff {
		return fmt.Sprintf(`\u%04x`, r)
	}
	high, low := utf16.EncodeRune(r)
	return fmt.Sprintf(`\u%04x\u%04x`, high, low)
}

func yamlEscape(r rune) string {
	if r <= 0xffff {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
