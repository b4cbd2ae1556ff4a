package yamledit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// Selector says which document of a file is meant.
type Selector func(root any) bool

// First is any document: for files that hold one.
func First(any) bool { return true }

// errNoDocument is returned by Edit if no document is the one that is meant.
var errNoDocument = errors.New("no document of the file is the object")

// Edit makes changes in one document of a YAML file. All else stays as it is, to the byte where that can be done:
// the text around a value is kept, and only where that is impossible is the file written anew, with its comments.
// Either way the result is read back: it says what was asked for, and nothing else is different.
func Edit(data []byte, which Selector, changes []Change) ([]byte, error) {
	for _, c := range changes {
		var err error
		if data, err = editOne(data, which, c); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func editOne(data []byte, which Selector, c Change) ([]byte, error) {
	docs, err := Parse(data)
	if err != nil {
		return nil, err
	}
	at, err := Select(docs, which)
	if err != nil {
		return nil, err
	}
	want := make([]any, len(docs))
	for i := range docs {
		if want[i], err = docs[i].Value(); err != nil {
			return nil, err
		}
	}
	changed, err := Set(want[at], c.Path, c)
	if err != nil {
		return nil, err
	}
	if want[at], err = normal(changed); err != nil {
		return nil, err
	}
	if old, err := docs[at].Value(); err == nil && reflect.DeepEqual(old, want[at]) {
		return data, nil
	}
	if shared(docs[at].node, c.Path) {
		return nil, fmt.Errorf("%s is written with a YAML anchor or alias, and would change elsewhere too", c)
	}
	for _, how := range []func([]byte, []Document, int, Change) ([]byte, bool){splice, rewrite} {
		if out, ok := how(data, docs, at, c); ok && says(out, want) {
			return out, nil
		}
	}
	return nil, fmt.Errorf("the file cannot be edited at %s without changing more", c)
}

// Document is one document of a file.
type Document struct {
	node *yaml.Node // of kind DocumentNode
}

// Value is what the document holds.
func (d Document) Value() (any, error) {
	var v any
	if err := d.node.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

func (d Document) root() *yaml.Node { return d.node.Content[0] }

// Parse reads the documents of a file. An empty one is an error: nobody can tell where it is.
func Parse(data []byte) ([]Document, error) {
	var out []Document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) == 0 {
			return nil, errors.New("a document of the file is empty")
		}
		out = append(out, Document{&n})
	}
}

// Select returns the place of the one document that is meant. None, or several, are an error.
func Select(docs []Document, which Selector) (int, error) {
	at := -1
	for i, d := range docs {
		v, err := d.Value()
		if err != nil {
			return -1, err
		}
		if !which(v) {
			continue
		}
		if at >= 0 {
			return -1, errors.New("several documents of the file could be meant")
		}
		at = i
	}
	if at < 0 {
		return -1, errNoDocument
	}
	return at, nil
}

// says reports whether a file reads as the values.
func says(data []byte, want []any) bool {
	docs, err := Parse(data)
	if err != nil || len(docs) != len(want) {
		return false
	}
	for i, d := range docs {
		if v, err := d.Value(); err != nil || !reflect.DeepEqual(v, want[i]) {
			return false
		}
	}
	return true
}

// shared reports an anchor or alias on the way to, or below, a path.
func shared(n *yaml.Node, path []fieldpath.Part) bool {
	n = n.Content[0]
	for _, p := range path {
		if n.Anchor != "" || n.Kind == yaml.AliasNode {
			return true
		}
		if n = child(n, p); n == nil {
			return false
		}
	}
	return anchored(n)
}

func anchored(n *yaml.Node) bool {
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return true
	}
	return slices.ContainsFunc(n.Content, anchored)
}

// child is the node below n that a part of a path means, nil if there is none.
func child(n *yaml.Node, p fieldpath.Part) *yaml.Node {
	if i := childIndex(n, p); i >= 0 {
		return n.Content[i]
	}
	return nil
}

// childIndex is the child's place in Content: of the value, in a mapping.
func childIndex(n *yaml.Node, p fieldpath.Part) int {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if p.Name != "" && n.Content[i].Value == p.Name {
				return i + 1
			}
		}
	case yaml.SequenceNode:
		var list []any
		if n.Decode(&list) == nil {
			return fieldpath.Index(list, p)
		}
	default: // a scalar has no children
	}
	return -1
}

// rewrite writes the file anew from its nodes. Comments stay, blank lines do not.
func rewrite(data []byte, docs []Document, at int, c Change) ([]byte, bool) {
	root := docs[at].root()
	if !setNode(root, c.Path, c) {
		return nil, false
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if compact(data) {
		enc.CompactSeqIndent()
	}
	for _, d := range docs {
		if enc.Encode(d.node) != nil {
			return nil, false
		}
	}
	if enc.Close() != nil {
		return nil, false
	}
	return b.Bytes(), true
}

// compact reports whether the file writes lists without indentation.
func compact(data []byte) bool {
	lines := strings.Split(string(data), "\n")
	for i := 1; i < len(lines); i++ {
		above, here := lines[i-1], lines[i]
		if strings.HasSuffix(strings.TrimSpace(above), ":") && strings.HasPrefix(strings.TrimSpace(here), "- ") {
			return indentOf(above) == indentOf(here)
		}
	}
	return true
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// setNode makes the change below a node.
func setNode(n *yaml.Node, path []fieldpath.Part, c Change) bool {
	p, last := path[0], len(path) == 1
	i := childIndex(n, p)
	if i < 0 {
		return !c.Remove && addNode(n, path, c)
	}
	if !last {
		return setNode(n.Content[i], path[1:], c)
	}
	if c.Remove {
		from := i
		if n.Kind == yaml.MappingNode {
			from--
		}
		n.Content = append(n.Content[:from:from], n.Content[i+1:]...)
		return true
	}
	fresh := nodeOf(c.Value)
	fresh.HeadComment, fresh.LineComment, fresh.FootComment = n.Content[i].HeadComment, n.Content[i].LineComment, n.Content[i].FootComment
	n.Content[i] = fresh
	return true
}

// addNode adds what is missing at a node.
func addNode(n *yaml.Node, path []fieldpath.Part, c Change) bool {
	key, value, err := Missing(path, c)
	switch {
	case err != nil:
		return false
	case key == "" && n.Kind == yaml.SequenceNode:
		n.Content = append(n.Content, nodeOf(value))
	case key != "" && n.Kind == yaml.MappingNode:
		n.Content = append(n.Content, nodeOf(key), nodeOf(value))
	default:
		return false
	}
	if len(n.Content) <= 2 {
		n.Style &^= yaml.FlowStyle
	}
	return true
}

// Missing is what has to be added for a path: a field with its value, or (without a key) an item.
func Missing(path []fieldpath.Part, c Change) (key string, value any, err error) {
	if path[0].Name == "" {
		v, err := Set([]any{}, path, c)
		if err != nil {
			return "", nil, err
		}
		return "", v.([]any)[0], nil
	}
	v, err := Set(nil, path[1:], c)
	return path[0].Name, v, err
}

func nodeOf(v any) *yaml.Node {
	var n yaml.Node
	if n.Encode(v) != nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	return &n
}
