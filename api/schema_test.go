package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/docs/schema"
	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
)

var update = flag.Bool("update", false, "write docs/schema anew")

// TestSchema_generated compares the published schemas with the types.
func TestSchema_generated(t *testing.T) {
	all := generated(t)
	if len(all) != len(schema.Kinds()) {
		t.Errorf("there are %d schemas, and %d kinds", len(all), len(schema.Kinds()))
	}
	for _, kind := range schema.Kinds() {
		text := write(t, all[kind])
		if *update {
			if err := os.WriteFile(filepath.Join("../docs/schema", schema.File(kind)), text, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		published, _ := schema.Of(kind)
		if diff := cmp.Diff(string(published), string(text)); diff != "" {
			t.Errorf("docs/schema/%s is not what the types say; write it anew with go test ./api -run TestSchema_generated -update (-file +types):\n%s", schema.File(kind), diff)
		}
	}
}

// compiled is the published schema of a kind.
func compiled(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	text, ok := schema.Of(kind)
	if !ok {
		t.Fatalf("no schema for %s", kind)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schema.Base+schema.File(kind), doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(schema.Base + schema.File(kind))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asEditors read YAML: as YAML 1.2, where a time is a text.
func asEditors(t *testing.T, n *yaml.Node) any {
	t.Helper()
	switch n.Kind {
	case yaml.DocumentNode:
		return asEditors(t, n.Content[0])
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			out[n.Content[i].Value] = asEditors(t, n.Content[i+1])
		}
		return out
	case yaml.SequenceNode:
		out := []any{}
		for _, c := range n.Content {
			out = append(out, asEditors(t, c))
		}
		return out
	case yaml.AliasNode:
		return asEditors(t, n.Alias)
	default:
	}
	if n.ShortTag() == "!!timestamp" {
		return n.Value
	}
	var v any
	if err := n.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return n.Value
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func parsed(t *testing.T, text []byte) *yaml.Node {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return &n
}

// documentedExamples are the files of the reference, by kind. Together they have every field; see TestReference_examples.
func documentedExamples(t *testing.T) map[string][][]byte {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][][]byte{}
	for _, m := range yamlBlock.FindAllSubmatch(text, -1) {
		var head struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
		}
		if yaml.Unmarshal(m[1], &head) == nil && head.APIVersion == api.APIVersion {
			out[head.Kind] = append(out[head.Kind], m[1])
		}
	}
	return out
}

// TestSchema_example: the example's files are good, and name the schema that says so.
func TestSchema_example(t *testing.T) {
	kinds := map[string]string{"fleet.yaml": api.KindFleet, "cluster.yaml": api.KindCluster, "bundle.yaml": api.KindBundle}
	seen := map[string]int{}
	err := fs.WalkDir(fleetexample.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		kind := kinds[path.Base(name)]
		if err != nil || kind == "" {
			return err
		}
		text, err := fs.ReadFile(fleetexample.FS(), name)
		if err != nil {
			return err
		}
		seen[kind]++
		if err := compiled(t, kind).Validate(asEditors(t, parsed(t, text))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := "# yaml-language-server: $schema=" + schema.Base + schema.File(kind) + "\n"; !strings.HasPrefix(string(text), want) {
			t.Errorf("%s does not begin with\n%s", name, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if seen[kind] == 0 {
			t.Errorf("the example has no %s", kind)
		}
	}
}

// TestSchema_agrees changes every node of every documented example, and compares the schema with the decoder:
// what the decoder takes, the schema takes; and an unknown field is refused by both.
func TestSchema_agrees(t *testing.T) {
	values := []string{"", "~", "x", "1", "1.5", "true", "off", "'0'", "5m", "2030-01-31T10:00:00Z", "[]", "{}", "[x]", "{x: y}", "[~]", "[{}]"}
	for kind, texts := range documentedExamples(t) {
		s := compiled(t, kind)
		for _, text := range texts {
			if err := s.Validate(asEditors(t, parsed(t, text))); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			doc := parsed(t, text)
			for _, at := range places(doc) {
				for _, v := range values {
					changed := parsed(t, text)
					*find(changed, at) = *valueOf(t, v)
					compareVerdicts(t, s, kind, changed, fmt.Sprintf("%v := %s", at, v))
				}
				if without := parsed(t, text); drop(without, at) {
					compareVerdicts(t, s, kind, without, fmt.Sprintf("without %v", at))
				}
			}
		}
	}
}

// TestSchema_unknownFields adds a field to every mapping of every documented example.
func TestSchema_unknownFields(t *testing.T) {
	for kind, texts := range documentedExamples(t) {
		s := compiled(t, kind)
		for _, text := range texts {
			for _, at := range places(parsed(t, text)) {
				changed := parsed(t, text)
				n := find(changed, at)
				if n.Kind != yaml.MappingNode {
					continue
				}
				n.Content = append(n.Content, valueOf(t, "notAField"), valueOf(t, "x"))
				asText, err := yaml.Marshal(changed)
				if err != nil {
					t.Fatal(err)
				}
				_, refused := decoders[kind]("file.yaml", asText)
				if got := s.Validate(asEditors(t, changed)); (got != nil) != (refused != nil) {
					t.Errorf("%s: a field more at %v: the decoder says %v, and the schema %v", kind, at, refused, got)
				}
			}
		}
	}
}

func compareVerdicts(t *testing.T, s *jsonschema.Schema, kind string, doc *yaml.Node, what string) {
	t.Helper()
	text, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decoders[kind]("file.yaml", text); err != nil {
		return
	}
	if err := s.Validate(asEditors(t, parsed(t, text))); err != nil {
		t.Errorf("%s, %s: the decoder takes it, and the schema does not: %v", kind, what, err)
	}
}

// places are the paths of all nodes below the document's.
func places(doc *yaml.Node) [][]int {
	var out [][]int
	var walk func(n *yaml.Node, at []int)
	walk = func(n *yaml.Node, at []int) {
		for i, c := range n.Content {
			here := append(slices.Clone(at), i)
			if n.Kind != yaml.MappingNode || i%2 == 1 {
				out = append(out, here)
				walk(c, here)
			}
		}
	}
	walk(doc, nil)
	return out
}

func find(doc *yaml.Node, at []int) *yaml.Node {
	for _, i := range at {
		doc = doc.Content[i]
	}
	return doc
}

// drop removes what is at a place, with its key.
func drop(doc *yaml.Node, at []int) bool {
	parent, i := find(doc, at[:len(at)-1]), at[len(at)-1]
	switch parent.Kind {
	case yaml.MappingNode:
		parent.Content = slices.Delete(parent.Content, i-1, i+1)
	case yaml.SequenceNode:
		parent.Content = slices.Delete(parent.Content, i, i+1)
	default:
		return false
	}
	return true
}

func valueOf(t *testing.T, text string) *yaml.Node {
	t.Helper()
	if text == "" {
		text = strconv.Quote("")
	}
	return parsed(t, []byte(text)).Content[0]
}

// TestSchema_refuses: what the decoders refuse for its form, an editor shows.
func TestSchema_refuses(t *testing.T) {
	refused := 0
	for _, tt := range refusedExamples() {
		if _, err := decoders[tt.kind]("file.yaml", []byte(tt.text)); err == nil {
			t.Errorf("%s is taken:\n%s", tt.name, tt.text)
			continue
		}
		err := compiled(t, tt.kind).Validate(asEditors(t, parsed(t, []byte(tt.text))))
		if _, beyond := beyondSchemas[tt.name]; (err == nil) != beyond {
			t.Errorf("%s: %v\n%s", tt.name, err, tt.text)
		}
		refused++
	}
	if refused < 40 {
		t.Errorf("there are %d examples only", refused)
	}
}

// TestSchema_suspension holds the examples of the CustomResourceDefinition against what is published.
func TestSchema_suspension(t *testing.T) {
	s := compiled(t, api.KindSuspension)
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Suspension\nmetadata: {name: inc-1}\n"
	for text, good := range map[string]bool{
		"spec: {scope: {all: true}, reason: INC-1, until: 2030-01-31T10:00:00Z}\n":                                            true,
		"spec: {scope: {objects: [{kind: Deployment, namespace: a, name: b}]}, reason: INC-1, until: 2030-01-31T10:00:00Z}\n": true,
		"spec: {scope: {objects: [{kind: Deployment, nmespace: a, name: b}]}, reason: INC-1, until: 2030-01-31T10:00:00Z}\n":  false,
		"spec: {scope: {all: true}, until: 2030-01-31T10:00:00Z}\n":                                                           false,
		"spec: {scope: {all: true}, reason: '', until: 2030-01-31T10:00:00Z}\n":                                               false,
		"spec: {scope: {everything: true}, reason: INC-1, until: 2030-01-31T10:00:00Z}\n":                                     false,
		"spec: {scope: {all: true}, reason: INC-1, until: 2030-01-31T10:00:00Z}\nsubjects: []\n":                              false,
		"spec: {scope: {all: 'yes'}, reason: INC-1, until: 2030-01-31T10:00:00Z}\n":                                           false,
	} {
		if err := s.Validate(asEditors(t, parsed(t, []byte(head+text)))); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
