package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// AnyVariable stands among the names of Mentioned for all variables.
const AnyVariable = "*"

// mention begins an expression that names a variable.
var mention = regexp.MustCompile(`\$\{#?([A-Za-z_][A-Za-z0-9_]*)`)

// Mentioned returns the names of the variables that Substitute may look up in the documents, sorted.
// It may name more than are looked up, and never fewer: where an expression begins in a way that is not understood,
// AnyVariable is among the names.
func Mentioned(docs []Document) []string {
	found := map[string]bool{}
	note := func(s string) {
		if !strings.Contains(s, "${") {
			return
		}
		names := mention.FindAllStringSubmatch(s, -1)
		if len(names) != strings.Count(s, "${") {
			found[AnyVariable] = true
		}
		for _, m := range names {
			found[m[1]] = true
		}
	}
	seen := map[*yaml.Node]bool{}
	for _, d := range docs {
		noteNode(d.Node, seen, note)
		noteValue(d.Decoded, note)
	}
	return slices.Sorted(maps.Keys(found))
}

func noteNode(n *yaml.Node, seen map[*yaml.Node]bool, note func(string)) {
	if n == nil || n.Anchor != "" && seen[n] {
		return
	}
	if n.Anchor != "" {
		seen[n] = true
	}
	note(n.Value)
	noteNode(n.Alias, seen, note)
	for _, c := range n.Content {
		noteNode(c, seen, note)
	}
}

func noteValue(v any, note func(string)) {
	switch x := v.(type) {
	case string:
		note(x)
	case map[string]any:
		for k, below := range x {
			note(k)
			noteValue(below, note)
		}
	case []any:
		for _, below := range x {
			noteValue(below, note)
		}
	}
}
