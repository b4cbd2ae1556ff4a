package helm

import (
	"bytes"
	encoding "encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// Values reads values as "helm -f" does, and returns those below a path of keys; nil if there are none.
// A yes, no, on or off is a boolean, and every number is a float64.
func Values(file string, data []byte, keys ...string) (map[string]any, error) {
	var compact bytes.Buffer
	if encoding.Compact(&compact, data) == nil { // the parser refuses the tabs that JSON may be indented with
		data = compact.Bytes()
	}
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, unreadable(file, 0, err)
	}
	for _, key := range keys {
		switch x := v.(type) {
		case map[string]any:
			v = x[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(x) {
				return nil, nil
			}
			v = x[i]
		default:
			return nil, nil
		}
	}
	if v == nil {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadValues", File: file, Err: errors.New("values are a mapping")}
	}
	return m, nil
}

// Boolean reports whether Helm reads an unquoted word as a boolean.
func Boolean(word string) bool {
	var v any
	if len(word) > len("false") || yaml.Unmarshal([]byte(word), &v) != nil {
		return false
	}
	_, ok := v.(bool)
	return ok
}

// documents splits what a chart wrote into documents as Helm does, and reads each as Helm does.
// Twice are the keys that a mapping has twice.
func documents(file, text string) (docs []manifest.Document, twice []Repeated, err error) {
	parts := releaseutil.SplitManifests(text)
	names := make([]string, 0, len(parts))
	for name := range parts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return number(a) - number(b) })
	line, rest := 0, text // line breaks before rest
	for _, name := range names {
		at := strings.Index(rest, parts[name])
		line += strings.Count(rest[:at], "\n")
		rest = rest[at:]
		// Helm puts a line break behind each.
		d, err := document(file, line, parts[name]+"\n")
		if err != nil {
			return nil, nil, err
		}
		if d.Node == nil {
			continue
		}
		docs = append(docs, d)
		twice = append(twice, repeated(file, d.Node)...)
	}
	return docs, twice, nil
}

// number is the order of a document, which its name ends with.
func number(name string) int {
	n, _ := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
	return n
}

// document reads one document that begins behind a number of lines. Its node is nil if it holds nothing.
func document(file string, before int, text string) (manifest.Document, error) {
	d := manifest.Document{File: file}
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return d, unreadable(file, before, err)
	}
	var v any
	if err := json.Unmarshal(asJSON, &v); err != nil {
		return d, unreadable(file, before, err)
	}
	if v == nil {
		return d, nil
	}
	parsed, err := manifest.Parse(file, []byte(text))
	if err == nil && len(parsed) > 0 {
		d.Node = parsed[0].Node
		shift(d.Node, before)
	} else { // the parser of our own files is stricter
		d.Node = &yamlv3.Node{}
		if err := d.Node.Encode(v); err != nil {
			return d, unreadable(file, before, err)
		}
		d.Node.Line = before + 1
	}
	var ok bool
	if d.Decoded, ok = v.(map[string]any); !ok {
		return d, unreadable(file, before, errors.New("the document is not an object: it has no apiVersion and kind"))
	}
	return d, nil
}

func shift(n *yamlv3.Node, lines int) {
	n.Line += lines
	for _, c := range n.Content {
		shift(c, lines)
	}
}

// Repeated is a key that a mapping has twice. The last one counts. The line is that of the rendered output.
type Repeated struct {
	Position
	Key string
}

// repeated finds the keys that occur twice in one mapping.
func repeated(file string, n *yamlv3.Node) []Repeated {
	var out []Repeated
	seen := map[string]bool{}
	for i, c := range n.Content {
		if n.Kind == yamlv3.MappingNode && i%2 == 0 {
			if c.Kind == yamlv3.ScalarNode && seen[c.Value] && c.ShortTag() != "!!merge" {
				out = append(out, Repeated{Position{file, c.Line}, c.Value})
			}
			seen[c.Value] = true
			continue
		}
		out = append(out, repeated(file, c)...)
	}
	return out
}

var (
	readingLine  = regexp.MustCompile(`line (\d+): `)
	readingWords = regexp.MustCompile(`^(?:error converting YAML to JSON: |error unmarshaling JSON: |while decoding JSON: |yaml: |unmarshal errors:\s+)+`)
)

// unreadable is an error of Helm's reading, with the line.
func unreadable(file string, before int, err error) *api.Error {
	msg := readingWords.ReplaceAllString(err.Error(), "")
	e := &api.Error{Kind: api.Stalled, Reason: "BadManifest", File: file, Line: before + 1}
	if m := readingLine.FindStringSubmatch(msg); m != nil {
		n, _ := strconv.Atoi(m[1])
		e.Line, msg = before+n, strings.Replace(msg, m[0], "", 1)
	}
	e.Err = fmt.Errorf("%s", msg)
	return e
}
