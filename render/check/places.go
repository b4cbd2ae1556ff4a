package check

import (
	"regexp"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// places finds lines in the files of a tree.
type places struct {
	tree  api.Tree
	files map[string]*file
}

// file is a file of the repository.
type file struct {
	text string
	// docs are its documents, as far as it is YAML: a template is not. They are read when somebody asks.
	docs func() []manifest.Document
}

// lines are empty for a file that is not there.
func (f *file) lines() []string {
	if f.text == "" {
		return nil
	}
	return strings.Split(f.text, "\n")
}

func newPlaces(tree api.Tree) *places { return &places{tree: tree, files: map[string]*file{}} }

// file reads a file; one that is not there is empty.
func (p *places) file(name string) *file {
	if f := p.files[name]; f != nil {
		return f
	}
	f := &file{}
	p.files[name] = f
	if p.tree != nil {
		data, _ := p.tree.ReadFile(name)
		f.text = string(data)
	}
	f.docs = sync.OnceValue(func() []manifest.Document { return documents(f.text) })
	return f
}

func documents(text string) []manifest.Document {
	var out []manifest.Document
	dec := yaml.NewDecoder(strings.NewReader(text))
	for {
		var doc yaml.Node
		if dec.Decode(&doc) != nil {
			return out
		}
		if len(doc.Content) > 0 {
			out = append(out, manifest.Document{Node: doc.Content[0]})
		}
	}
}

// line returns the line of a finding: that of its field, else of the nearest parent that is written down, else of its object.
// It is 0 where that cannot be told.
func (p *places) line(f Finding) int {
	if f.File == "" {
		return 0
	}
	in := p.file(f.File)
	switch {
	case in.text == "":
		return 0
	case f.Object == nil && f.Field == "":
		return 1
	case f.Object == nil && len(in.docs()) > 0:
		return lineBelow(in.docs()[0].Node, f.Field)
	case f.Object == nil:
		return 0
	}
	if doc := in.describing(*f.Object); doc != nil {
		return lineBelow(doc, f.Field)
	}
	return in.mentions(f.Object.Kind)
}

// describing returns what describes an object: by kind and name, or by its kind alone where only one has it,
// because kustomizations replace names.
func (f *file) describing(ref api.ObjectRef) *yaml.Node {
	if n := kustomize.Declared(f.docs(), ref.Kind, ref.Name); n != nil {
		return n
	}
	var same []*yaml.Node
	for _, d := range f.docs() {
		for _, n := range members(d.Node) {
			if value(n, "kind") == ref.Kind {
				same = append(same, n)
			}
		}
	}
	if len(same) == 1 {
		return same[0]
	}
	return nil
}

// members are the objects of a document: the items of a list, or itself.
func members(doc *yaml.Node) []*yaml.Node {
	if items := manifest.Get(doc, "items"); strings.HasSuffix(value(doc, "kind"), "List") && items != nil {
		return items.Content
	}
	return []*yaml.Node{doc}
}

// mentions returns the first line of a template that names a kind; 0 if none does.
func (f *file) mentions(kind string) int {
	for n, line := range f.lines() {
		if word, ok := strings.CutPrefix(strings.TrimSpace(line), "kind:"); ok && strings.Trim(strings.TrimSpace(word), `"'`) == kind {
			return n + 1
		}
	}
	return 0
}

// part is one step of a field's path: a list item in brackets, or a key.
var part = regexp.MustCompile(`\[[^\]]*\]|[^.\[\]]+`)

func lineBelow(n *yaml.Node, field string) int {
	line := n.Line
	for _, step := range part.FindAllString(field, -1) {
		at, next := into(n, step)
		if next == nil {
			break
		}
		n, line = next, at.Line
	}
	return line
}

// into returns what is below a step, and the node that says where it begins.
func into(n *yaml.Node, step string) (at, next *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		step = strings.Trim(step, "[]")
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
		for _, c := range n.Content {
			if identified(c, step) {
				return c, c
			}
		}
	default: // nothing is below a scalar
	}
	return nil, nil
}

// identified reports whether a list item has all of KEY=VALUE,KEY=VALUE.
func identified(n *yaml.Node, keys string) bool {
	for pair := range strings.SplitSeq(keys, ",") {
		key, want, ok := strings.Cut(pair, "=")
		if !ok || value(n, key) != want {
			return false
		}
	}
	return true
}

func value(n *yaml.Node, key string) string {
	if v := manifest.Get(n, key); v != nil {
		return v.Value
	}
	return ""
}
