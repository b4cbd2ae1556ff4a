package manifest

import (
	"math"
	"unique"

	"go.yaml.in/yaml/v3"
)

// maxValues bounds what the documents of one call may expand to together,
// so that a few lines of aliases cannot fill the memory. A text counts once more for each textUnit of it.
const maxValues = 1 << 21

const textUnit = 32

// maxDepth bounds nesting.
const maxDepth = 200

// Value decodes the document as JSON would hold it:
// map[string]any, []any, string, int64, float64, bool and nil.
// Unlike a plain decode it refuses duplicate keys and documents that expand without bound.
func (d Document) Value() (any, error) {
	budget := maxValues
	return d.value(&budget)
}

func (d Document) value(budget *int) (any, error) {
	c := converter{doc: d, budget: budget}
	if d.Decoded != nil {
		return d.Decoded, c.bounded(d.Decoded, 0)
	}
	return c.value(d.Node, 0)
}

// bounded checks what is decoded already.
func (c *converter) bounded(v any, depth int) error {
	text, _ := v.(string)
	if *c.budget -= 1 + len(text)/textUnit; *c.budget < 0 {
		return c.doc.tooLarge(nil)
	}
	if depth > maxDepth {
		return c.tooDeep(nil)
	}
	switch x := v.(type) {
	case map[string]any:
		for _, e := range x {
			if err := c.bounded(e, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for _, e := range x {
			if err := c.bounded(e, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *converter) tooDeep(n *yaml.Node) error {
	return c.doc.errorf(n, "", "the document is nested deeper than %d levels", maxDepth)
}

func (d Document) tooLarge(n *yaml.Node) error {
	return d.errorf(n, "", "the documents expand to more than %d values, or %d MB of text", maxValues, maxValues*textUnit>>20)
}

// Bounded refuses a document whose aliases expand without bound, and nothing else.
func (d Document) Bounded() error {
	budget := maxValues
	c := converter{doc: d, budget: &budget}
	return c.weigh(d.Node, 0)
}

func (c *converter) weigh(n *yaml.Node, depth int) error {
	if *c.budget -= 1 + len(n.Value)/textUnit; *c.budget < 0 {
		return c.doc.tooLarge(n)
	}
	if depth > maxDepth {
		return c.tooDeep(n)
	}
	if n.Kind == yaml.AliasNode {
		return c.weigh(n.Alias, depth+1)
	}
	for _, e := range n.Content {
		if err := c.weigh(e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

type converter struct {
	doc    Document
	budget *int // what is left
}

func (c *converter) value(n *yaml.Node, depth int) (any, error) {
	if *c.budget -= 1 + len(n.Value)/textUnit; *c.budget < 0 {
		return nil, c.doc.tooLarge(n)
	}
	if depth > maxDepth {
		return nil, c.tooDeep(n)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return c.value(n.Alias, depth+1)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		return m, c.mapping(n, m, depth)
	case yaml.SequenceNode:
		s := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := c.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			s = append(s, v)
		}
		return s, nil
	default:
		return c.scalar(n)
	}
}

// mapping fills m; keys that a merge (<<) brings never replace those that are written out.
func (c *converter) mapping(n *yaml.Node, m map[string]any, depth int) error {
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := resolve(n.Content[i])
		if k.Kind != yaml.ScalarNode {
			return c.doc.errorf(k, "", "a key is not a string")
		}
		if k.Value == "<<" && k.ShortTag() == "!!merge" {
			merges = append(merges, n.Content[i+1])
			continue
		}
		*c.budget -= len(k.Value) / textUnit
		key := unique.Make(k.Value).Value() // keys repeat in every object: keep one copy
		if _, twice := m[key]; twice {
			return c.doc.errorf(k, "", "key %q occurs twice in one mapping", key)
		}
		v, err := c.value(n.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		m[key] = v
	}
	for _, mg := range merges {
		if err := c.merge(mg, m, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *converter) merge(n *yaml.Node, m map[string]any, depth int) error {
	n = resolve(n)
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = n.Content
	}
	for _, s := range sources {
		s = resolve(s)
		if s.Kind != yaml.MappingNode {
			return c.doc.errorf(s, "", "what is merged (<<) is not a mapping")
		}
		v, err := c.value(s, depth+1)
		if err != nil {
			return err
		}
		for k, x := range v.(map[string]any) {
			if _, have := m[k]; !have {
				m[k] = x
			}
		}
	}
	return nil
}

func (c *converter) scalar(n *yaml.Node) (any, error) {
	var v any
	switch n.ShortTag() {
	case "!!str":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!int", "!!float", "!!bool":
		if err := n.Decode(&v); err != nil {
			return nil, c.doc.errorf(n, "", "a scalar is not the %s it is tagged as", n.ShortTag())
		}
	default: // strings, and what JSON has no word for: timestamps, binary
		return n.Value, nil
	}
	switch x := v.(type) {
	case int:
		return int64(x), nil
	case uint64:
		return float64(x), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, c.doc.errorf(n, "", "a number is not finite")
		}
	}
	return v, nil
}
