package render

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

// decrypt returns the plain bytes of a file, and the texts in it that are secret.
// A file of several documents may hold encrypted and plain ones side by side.
func decrypt(keys sops.Keys, name string, data []byte) ([]byte, []string, error) {
	if !bytes.Contains(data, []byte("sops")) {
		return data, nil, nil
	}
	if err := bounded(name, data); err != nil {
		return nil, nil, err
	}
	if parts, mixed := encryptedParts(name, data); mixed {
		return decryptParts(keys, name, parts)
	}
	if !sops.Encrypted(name, data) {
		return data, nil, nil
	}
	plain, err := keys.Decrypt(name, data)
	if err != nil {
		var nodes []*yaml.Node
		if docs, perr := manifest.Parse(name, data); perr == nil {
			for _, d := range docs {
				nodes = append(nodes, d.Node)
			}
		}
		locate(err, nodes)
		locateLine(err, data)
		return nil, nil, err
	}
	return plain, secretsIn(name, plain), nil
}

// bounded refuses what sops would expand without bound: it follows each alias anew.
func bounded(name string, data []byte) error {
	if bytes.IndexByte(data, '&') < 0 || bytes.IndexByte(data, '*') < 0 {
		return nil
	}
	docs, err := manifest.Parse(name, data)
	if err != nil {
		return nil //nolint:nilerr // no YAML, and then there are no aliases
	}
	for _, d := range docs {
		if err := d.Bounded(); err != nil {
			return err
		}
	}
	return nil
}

// locate adds to an error of a file the field, and the line of the document that holds it.
// Where sops named no field, it is the first that is encrypted.
func locate(err error, docs []*yaml.Node) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return
	}
	if e.Field == "" {
		for _, d := range docs {
			if e.Field = encryptedKey(d, ""); e.Field != "" {
				e.Line = d.Line
				return
			}
		}
		return
	}
	var lines []int
	for _, d := range docs {
		if line := fieldLine(d, e.Field); line > 0 {
			lines = append(lines, line)
		}
	}
	if len(lines) == 1 {
		e.Line = lines[0]
		return
	}
	docs = slices.DeleteFunc(docs, func(d *yaml.Node) bool { return !holds(d, e.Field) })
	// Documents that were encrypted as one share their metadata. Which of them holds another field cannot be told.
	if len(docs) == 1 || len(docs) > 1 && strings.HasPrefix(e.Field, "sops") {
		e.Line = docs[0].Line
	}
}

// locateLine does for a file of KEY=VALUE lines what locate does for documents.
func locateLine(err error, data []byte) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Line > 0 {
		return
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		key, value, _ := strings.Cut(line, "=")
		if e.Field == "" && strings.HasPrefix(value, sopsMark) {
			e.Field = key
		}
		if e.Field != "" && key == strings.ReplaceAll(e.Field, "sops.", "sops_") {
			e.Line = n
			return
		}
	}
}

// encryptedKey is the path of the first value that sops encrypted; empty if there is none.
func encryptedKey(n *yaml.Node, at string) string {
	switch n.Kind {
	case yaml.ScalarNode:
		if strings.HasPrefix(n.Value, sopsMark) {
			return at
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if at == "" && key == "sops" {
				continue
			}
			if f := encryptedKey(n.Content[i+1], strings.TrimPrefix(at+"."+key, ".")); f != "" {
				return f
			}
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if f := encryptedKey(c, at); f != "" {
				return f
			}
		}
	default:
	}
	return ""
}

// fieldLine is the line of a field, whose keys may have dots in them; 0 if there is no such field.
func fieldLine(n *yaml.Node, field string) int {
	if n.Kind != yaml.MappingNode {
		return 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if field == key {
			return n.Content[i].Line
		}
		if rest, ok := strings.CutPrefix(field, key+"."); ok {
			if line := fieldLine(n.Content[i+1], rest); line > 0 {
				return line
			}
		}
	}
	return 0
}

// holds reports whether a document has the first key of a field's path.
func holds(doc *yaml.Node, field string) bool {
	if doc.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(doc.Content); i += 2 {
		key := doc.Content[i].Value
		if field == key || strings.HasPrefix(field, key+".") {
			return true
		}
	}
	return false
}

type part struct {
	node      *yaml.Node
	encrypted bool
	mac       string
}

// encryptedParts splits a YAML file into its documents if each must be decrypted alone:
// when only some are encrypted, or when they were encrypted one by one.
func encryptedParts(name string, data []byte) ([]part, bool) {
	docs, err := manifest.Parse(name, data)
	if err != nil || len(docs) < 2 {
		return nil, false
	}
	parts := make([]part, len(docs))
	for i, d := range docs {
		parts[i].node = d.Node
		if m := manifest.Get(d.Node, "sops", "mac"); m != nil {
			parts[i].encrypted, parts[i].mac = true, m.Value
		}
	}
	any := slices.ContainsFunc(parts, func(p part) bool { return p.encrypted })
	same := !slices.ContainsFunc(parts, func(p part) bool { return !p.encrypted || p.mac != parts[0].mac })
	return parts, any && !same
}

func decryptParts(keys sops.Keys, name string, parts []part) ([]byte, []string, error) {
	var out bytes.Buffer
	var secrets []string
	for _, p := range parts {
		text, err := yaml.Marshal(p.node)
		if err != nil {
			return nil, nil, fmt.Errorf("split %q: %w", name, err)
		}
		if p.encrypted {
			if text, err = keys.Decrypt(name, text); err != nil {
				locate(err, []*yaml.Node{p.node})
				return nil, nil, err
			}
			secrets = append(secrets, secretsIn(name, text)...)
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes(), secrets, nil
}

// secretsIn lists the texts of a decrypted file that an error must not repeat.
func secretsIn(name string, plain []byte) []string {
	var out []string
	docs, err := manifest.Parse(name, plain)
	structured := err == nil && len(docs) > 0 && docs[0].Node.Kind == yaml.MappingNode
	if structured {
		for _, d := range docs {
			out = objectLeaves(d.Node, out)
		}
		return out
	}
	for line := range strings.SplitSeq(string(plain), "\n") {
		if _, v, ok := strings.Cut(line, "="); ok {
			out = secretText(out, v)
		}
		out = secretText(out, line)
	}
	return out
}

// objectLeaves leaves out what names an object.
func objectLeaves(n *yaml.Node, out []string) []string {
	object := manifest.Get(n, "kind") != nil && manifest.Get(n, "apiVersion") != nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "apiVersion", "kind", "metadata", "type":
			if object {
				continue
			}
		}
		out = leaves(n.Content[i+1], out)
	}
	return out
}

func leaves(n *yaml.Node, out []string) []string {
	if n == nil {
		return out
	}
	if n.Kind == yaml.ScalarNode {
		out = secretText(out, n.Value)
		if b, err := base64.StdEncoding.DecodeString(n.Value); err == nil {
			out = secretText(out, string(b))
		}
		return out
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		out = leaves(c, out)
	}
	return out
}

// secretText adds a text unless it is too short, or too common, to be told from ordinary words.
func secretText(out []string, s string) []string {
	if s = strings.TrimSpace(s); len(s) < 4 || s == "true" || s == "false" {
		return out
	}
	return append(out, s)
}

// scrub takes secrets out of an error's message, as they are, quoted and in base64.
func scrub(err error, secrets []string) error {
	if err == nil || len(secrets) == 0 {
		return err
	}
	msg := err.Error()
	clean := func(s string) string {
		for _, secret := range secrets {
			quoted, _ := json.Marshal(secret)
			for _, form := range []string{secret, strings.Trim(string(quoted), `"`), base64.StdEncoding.EncodeToString([]byte(secret))} {
				s = strings.ReplaceAll(s, form, "[secret]")
			}
		}
		return s
	}
	if clean(msg) == msg {
		return err
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		c := *e
		c.Err, c.Hint = errors.New(clean(e.Err.Error())), clean(e.Hint)
		return &c
	}
	return &api.Error{Kind: api.KindOf(err), Err: errors.New(clean(msg))}
}
