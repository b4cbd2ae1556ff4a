package yamledit

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// source is a file as lines, with the places of its nodes.
type source struct {
	lines []string // with their ends
	eol   string
}

func newSource(data []byte) *source {
	s := &source{eol: "\n"}
	if bytes.Contains(data, []byte("\r\n")) {
		s.eol = "\r\n"
	}
	s.lines = strings.SplitAfter(string(data), "\n")
	if n := len(s.lines); s.lines[n-1] == "" {
		s.lines = s.lines[:n-1]
	}
	return s
}

// splice makes the change in the text itself. It reports false where it does not know how;
// what it returns must be read back, for it trusts the layout.
func splice(data []byte, docs []Document, at int, c Change) ([]byte, bool) {
	s := newSource(data)
	n := docs[at].root()
	for i, p := range c.Path {
		if n.Style&yaml.FlowStyle != 0 && n.Kind != yaml.ScalarNode {
			return s.flow(n, c.Path[i:], c)
		}
		k := childIndex(n, p)
		if k < 0 {
			if c.Remove {
				return nil, false
			}
			return s.insert(n, c.Path[i:], c)
		}
		if i == len(c.Path)-1 {
			return s.change(n, k, c)
		}
		n = n.Content[k]
	}
	return nil, false
}

// flow changes a scalar inside {…} or […].
func (s *source) flow(n *yaml.Node, path []fieldpath.Part, c Change) ([]byte, bool) {
	for _, p := range path {
		if n = child(n, p); n == nil {
			return nil, false
		}
	}
	if c.Remove || n.Kind != yaml.ScalarNode {
		return nil, false
	}
	return s.replaceScalar(n, c.Value)
}

// change changes or removes the k-th child of a block collection.
func (s *source) change(n *yaml.Node, k int, c Change) ([]byte, bool) {
	old := n.Content[k]
	if !c.Remove && old.Kind == yaml.ScalarNode {
		if out, ok := s.replaceScalar(old, c.Value); ok {
			return out, true
		}
	}
	from, key := old, ""
	if n.Kind == yaml.MappingNode {
		from, key = n.Content[k-1], n.Content[k-1].Value
	}
	last := s.lastLine(old, from.Column-1)
	if last < 0 || from.Line < 1 {
		return nil, false
	}
	lead := s.lead(from)
	first := from.Line - 1
	blank := strings.TrimSpace(lead) == ""
	if n.Kind == yaml.SequenceNode {
		blank = strings.TrimSpace(lead) == "-"
		lead = strings.Repeat(" ", max(0, n.Column-1))
	}
	if c.Remove {
		if !blank {
			return nil, false
		}
		return s.replace(first, last+1, ""), true
	}
	if !blank {
		return nil, false
	}
	text, ok := s.block(key, c.Value, len(lead))
	if !ok {
		return nil, false
	}
	return s.replace(first, last+1, text), true
}

// insert adds a field or an item at the end of a block collection.
func (s *source) insert(n *yaml.Node, path []fieldpath.Part, c Change) ([]byte, bool) {
	key, value, err := Missing(path, c)
	if err != nil || len(n.Content) == 0 || (key == "") != (n.Kind == yaml.SequenceNode) || n.Kind == yaml.ScalarNode {
		return nil, false
	}
	last := s.lastLine(n, n.Column-2)
	if last < 0 {
		return nil, false
	}
	text, ok := s.block(key, value, n.Column-1)
	if !ok {
		return nil, false
	}
	if l := s.lines[last]; !strings.HasSuffix(l, "\n") {
		s.lines[last] = l + s.eol
	}
	return s.replace(last+1, last+1, text), true
}

// block writes "key: value", or "- value" without a key, at an indentation.
func (s *source) block(key string, value any, indent int) (string, bool) {
	var v any = []any{value}
	if key != "" {
		v = map[string]any{key: value}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if compact([]byte(strings.Join(s.lines, ""))) {
		enc.CompactSeqIndent()
	}
	if enc.Encode(v) != nil || enc.Close() != nil {
		return "", false
	}
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			out.WriteString(strings.Repeat(" ", indent) + line)
		}
		out.WriteString(s.eol)
	}
	return out.String(), true
}

// replace puts text in the place of the lines from first up to, but without, end.
func (s *source) replace(first, end int, text string) []byte {
	out := slices.Concat(s.lines[:first], []string{text}, s.lines[end:])
	return []byte(strings.Join(out, ""))
}

// lead is what stands before a node on its line.
func (s *source) lead(n *yaml.Node) string {
	l, i := s.lines[n.Line-1], offset(s.lines[n.Line-1], n.Column)
	return l[:i]
}

// offset is where a column (counted in characters, from 1) begins.
func offset(line string, column int) int {
	at := 0
	for range column - 1 {
		if at >= len(line) {
			break
		}
		_, n := utf8.DecodeRuneInString(line[at:])
		at += n
	}
	return at
}

// replaceScalar puts another scalar in the place of one that stands on a single line.
func (s *source) replaceScalar(n *yaml.Node, value any) ([]byte, bool) {
	from, to, ok := s.extent(n)
	if !ok {
		return nil, false
	}
	text, ok := scalarText(value, n.Style)
	if !ok {
		return nil, false
	}
	l := n.Line - 1
	line := s.lines[l]
	return s.replace(l, l+1, line[:from]+text+line[to:]), true
}

// extent is where a scalar stands on its line.
func (s *source) extent(n *yaml.Node) (from, to int, ok bool) {
	if n.Kind != yaml.ScalarNode || n.Line < 1 || n.Line > len(s.lines) || n.Style&yaml.TaggedStyle != 0 {
		return 0, 0, false
	}
	line := strings.TrimRight(s.lines[n.Line-1], "\r\n")
	from = offset(line, n.Column)
	switch n.Style {
	case yaml.DoubleQuotedStyle:
		to = quoted(line, from, '"')
	case yaml.SingleQuotedStyle:
		to = quoted(line, from, '\'')
	case 0:
		if n.Value == "" || !strings.HasPrefix(line[from:], n.Value) {
			return 0, 0, false
		}
		return from, from + len(n.Value), true
	default: // a block's text stands on other lines
	}
	return from, to, to > from
}

// quoted is where a quoted scalar ends, 0 if it does not end on the line.
func quoted(line string, from int, mark byte) int {
	if from >= len(line) || line[from] != mark {
		return 0
	}
	for i := from + 1; i < len(line); i++ {
		switch {
		case mark == '"' && line[i] == '\\':
			i++
		case line[i] == mark && mark == '\'' && i+1 < len(line) && line[i+1] == mark:
			i++
		case line[i] == mark:
			return i + 1
		}
	}
	return 0
}

// scalarText writes a scalar on one line, quoted as the one before where both are strings.
func scalarText(value any, style yaml.Style) (string, bool) {
	switch value.(type) {
	case map[string]any, []any:
		return "", false
	}
	n := nodeOf(value)
	if n.Tag == "!!str" && style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		n.Style = style
	}
	b, err := yaml.Marshal(n)
	text := strings.TrimSuffix(string(b), "\n")
	return text, err == nil && !strings.Contains(text, "\n")
}

// lastLine is the last line (from 0) that belongs to a node whose parent is indented by indent; -1 if that is not known.
func (s *source) lastLine(n *yaml.Node, indent int) int {
	l := n.Line - 1
	switch {
	case l < 0 || l >= len(s.lines) || n.Kind == yaml.AliasNode:
		return -1
	case n.Kind == yaml.ScalarNode && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		for i := l + 1; i < len(s.lines); i++ {
			if t := strings.TrimSpace(s.lines[i]); t != "" && indentOf(s.lines[i]) <= indent {
				break
			} else if t != "" {
				l = i
			}
		}
		return l
	case n.Kind == yaml.ScalarNode:
		if n.Value == "" && n.Style == 0 {
			return l
		}
		if _, _, ok := s.extent(n); !ok {
			return -1
		}
		return l
	case n.Style&yaml.FlowStyle != 0:
		return s.flowEnd(n)
	}
	for i, c := range n.Content {
		below := n.Column - 1
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		end := s.lastLine(c, below)
		if end < 0 {
			return -1
		}
		l = max(l, end)
	}
	return l
}

// flowEnd is the line on which {…} or […] ends; -1 if it cannot be told.
func (s *source) flowEnd(n *yaml.Node) int {
	depth := 0
	col := offset(s.lines[n.Line-1], n.Column)
	for l := n.Line - 1; l < len(s.lines); l++ {
		line := strings.TrimRight(s.lines[l], "\r\n")
		for i := col; i < len(line); i++ {
			switch ch := line[i]; {
			case ch == '"' || ch == '\'':
				end := quoted(line, i, ch)
				if end == 0 {
					return -1
				}
				i = end - 1
			case ch == '#' && i > 0 && line[i-1] == ' ':
				i = len(line)
			case ch == '{' || ch == '[':
				depth++
			case ch == '}' || ch == ']':
				if depth--; depth == 0 {
					return l
				}
			}
		}
		col = 0
	}
	return -1
}
