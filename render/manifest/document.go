package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
)

// Document is one YAML document, still parsed rather than decoded:
// its nodes know their lines and how they were quoted.
type Document struct {
	// File is where it comes from; Line offsets are those of the nodes.
	File string
	Node *yaml.Node
	// Decoded is the document as another reading than ours decoded it, with the types that Value has; nil means ours.
	// The nodes then serve errors only.
	Decoded map[string]any
}

// Line is where the document begins; 0 if that is not known.
func (d Document) Line() int {
	if d.Node == nil {
		return 0
	}
	return d.Node.Line
}

// errorf reports something wrong at a node of the document.
func (d Document) errorf(n *yaml.Node, field, format string, args ...any) *api.Error {
	line := d.Line()
	if n != nil && n.Line > 0 {
		line = n.Line
	}
	return badManifest(d.File, line, field, fmt.Errorf(format, args...))
}

func badManifest(file string, line int, field string, err error) *api.Error {
	return &api.Error{Kind: api.Stalled, Reason: "BadManifest", File: file, Line: line, Field: field, Err: err}
}

// Parse splits a stream into its documents, leaving out empty ones.
func Parse(file string, data []byte) ([]Document, error) {
	// The YAML parser refuses the tabs that JSON may be indented with.
	if t := bytes.TrimSpace(data); len(t) > 0 && (t[0] == '{' || t[0] == '[') && bytes.IndexByte(t, '\t') >= 0 {
		if json.Valid(t) { // which has none in its strings
			data = bytes.ReplaceAll(t, []byte("\t"), []byte(" "))
		}
	}
	data = withoutMarks(data)
	if n := Weight(data); n > maxValues {
		return nil, badManifest(file, 0, "", fmt.Errorf("the text may hold %d values, which is more than %d", n, maxValues))
	}
	var docs []Document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlError(file, err)
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) == 0 {
			continue
		}
		root := n.Content[0]
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
			continue
		}
		docs = append(docs, Document{File: file, Node: root})
	}
}

// Weight is how many values a text holds at most, up to a small factor, told without parsing it:
// each is behind one of these signs, or behind the end of a line. A parsed value takes a hundred times the memory of its sign.
func Weight(text []byte) int {
	n := 0
	for _, c := range text {
		switch c {
		case '\n', ',', ':', '-', '?', '[', '{':
			n++
		}
	}
	return n
}

// MaxWeight is the weight that what is parsed together may have.
const MaxWeight = maxValues

const byteOrderMark = "\xef\xbb\xbf"

// markBefore and markBehind find byte order marks where a document begins that is not the first: before a separator,
// as files leave it that are put one behind another, and behind one. Nothing but separators stands there in a stream.
var (
	markBefore = regexp.MustCompile(`(?m)^\x{FEFF}(---(?:\s|$))`)
	markBehind = regexp.MustCompile(`(?m)^(---[^\n]*\n)\x{FEFF}`)
)

// withoutMarks takes byte order marks off the documents behind the first, whose own the parser knows.
func withoutMarks(data []byte) []byte {
	if bytes.LastIndex(data, []byte(byteOrderMark)) <= 0 {
		return data
	}
	return markBehind.ReplaceAll(markBefore.ReplaceAll(data, []byte("$1")), []byte("$1"))
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// yamlError turns the parser's words into file and line.
func yamlError(file string, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = strings.Replace(msg, m[0], "", 1)
	}
	return badManifest(file, line, "", errors.New(msg))
}

// Get returns the value below a path of keys, or nil.
func Get(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		n = get(n, key)
	}
	return n
}

func get(n *yaml.Node, key string) *yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// at returns what is below a path of keys, by the reading that decoded the document; nil if nothing is.
func (d Document) at(keys ...string) any {
	var v any = d.Decoded
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// text is the scalar below a path of keys; empty if there is none.
func (d Document) text(keys ...string) string {
	if d.Decoded == nil {
		return text(Get(d.Node, keys...))
	}
	switch v := d.at(keys...).(type) {
	case nil, map[string]any, []any:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// isString reports whether a text is below a path of keys.
func (d Document) isString(keys ...string) bool {
	if d.Decoded == nil {
		n := Get(d.Node, keys...)
		return n != nil && n.ShortTag() == "!!str"
	}
	_, ok := d.at(keys...).(string)
	return ok
}

// has reports whether anything is below a path of keys.
func (d Document) has(keys ...string) bool {
	if d.Decoded == nil {
		return Get(d.Node, keys...) != nil
	}
	return d.at(keys...) != nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return ""
	}
	return n.Value
}
