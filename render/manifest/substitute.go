package manifest

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
)

// AnnotationSubstitute with the value "disabled" leaves an object's ${…} alone.
const AnnotationSubstitute = api.Group + "/substitute"

// Variables are what ${name} stands for.
type Variables map[string]string

// maxText bounds what one string may expand to. No object that an API server takes is as large.
const maxText = 4 << 20

var expression = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:=)(.*))?$`)

// UnsetError says that a variable is not set. It is told apart so that the error can name the place where the variable is used.
type UnsetError struct{ Name string }

func (e UnsetError) Error() string {
	return fmt.Sprintf("variable %q is not set on this cluster and has no default", e.Name)
}

// Unset returns the name of the variable that an error of Substitute is about, if it is that the variable is not set.
func Unset(err error) (name string, ok bool) {
	unset, ok := errors.AsType[UnsetError](err)
	return unset.Name, ok
}

// MalformedError holds what stands in the braces, so that its place can be found. It is not shown: it may be part of a secret.
type MalformedError struct {
	Body string
	Why  string
}

func (e MalformedError) Error() string { return e.Why }

// Malformed returns what follows the ${ that an error of Substitute is about, if it is that nobody can read it.
func Malformed(err error) (body string, ok bool) {
	malformed, ok := errors.AsType[MalformedError](err)
	return malformed.Body, ok
}

// Expand replaces ${name} and ${name:-default} in s; $${ stands for a literal ${.
// The default is used where the variable is unset or empty.
// Values are taken as they are: a ${ in a value is not looked at again.
func (v Variables) Expand(s string) (string, error) {
	if !strings.Contains(s, "${") {
		return s, nil
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		body, rest, closed := strings.Cut(s[i+2:], "}")
		if !closed {
			first, _, _ := strings.Cut(body, "\n")
			return "", MalformedError{first, "a ${ is not closed (write $${ for a literal ${)"}
		}
		value, err := v.lookup(body)
		if err != nil {
			return "", err
		}
		if b.Len()+len(value) > maxText {
			return "", fmt.Errorf("its variables expand to more than %d MB", maxText>>20)
		}
		b.WriteString(value)
		s = rest
	}
}

func (v Variables) lookup(body string) (string, error) {
	m := expression.FindStringSubmatch(body)
	if m == nil {
		return "", MalformedError{body, "a ${…} is neither ${name} nor ${name:-default} (write $${ for a literal ${)"}
	}
	name, hasDefault, def := m[1], m[2] != "", m[3]
	if strings.Contains(def, "${") {
		return "", MalformedError{body, fmt.Sprintf("the default of %q holds another ${, which is not supported", name)}
	}
	value, set := v[name]
	switch {
	case hasDefault && value == "":
		return def, nil
	case !set:
		return "", UnsetError{name}
	default:
		return value, nil
	}
}

// Substitute expands the variables in every key and string of the document, in place.
//
// A scalar that is written without quotes and is nothing but one ${…} takes the type that its value
// looks like: "3" becomes a number and "true" a boolean. In quotes it stays a string, and so
// it does below labels, annotations, matchLabels, nodeSelector, and the data of a ConfigMap or Secret,
// where Kubernetes knows only strings.
func (d Document) Substitute(vars Variables) error {
	return d.SubstituteWhere(vars, func(s string) bool { return s == "true" || s == "false" })
}

// SubstituteWhere is Substitute for a document whose reader takes more words for booleans.
func (d Document) SubstituteWhere(vars Variables, boolean func(word string) bool) error {
	s := substituter{doc: d, vars: vars, boolean: boolean, seen: map[*yaml.Node]bool{}, left: maxValues * textUnit}
	kind := text(Get(d.Node, "kind"))
	s.dataIsText = kind == "ConfigMap" || kind == "Secret"
	return s.walk(d.Node, "", false)
}

// substitutable reports whether the object's annotation allows substitution.
func (d Document) substitutable() bool {
	return text(Get(d.Node, "metadata", "annotations", AnnotationSubstitute)) != api.ValueDisabled
}

type substituter struct {
	doc        Document
	vars       Variables
	boolean    func(string) bool
	seen       map[*yaml.Node]bool // anchored nodes: visited once, wherever they are used
	dataIsText bool
	left       int // bytes that variables may still expand to
}

func (s *substituter) walk(n *yaml.Node, path string, onlyText bool) error {
	if n.Anchor != "" {
		if s.seen[n] {
			return nil
		}
		s.seen[n] = true
	}
	switch n.Kind {
	case yaml.AliasNode:
		return nil
	case yaml.DocumentNode: // its content was handed in
	case yaml.ScalarNode:
		return s.scalar(n, path, onlyText)
	case yaml.SequenceNode:
		for i, c := range n.Content {
			if err := s.walk(c, path+"/"+strconv.Itoa(i), onlyText); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			field := path + "/" + k.Value
			if k.Kind == yaml.ScalarNode {
				if err := s.scalar(k, field, true); err != nil {
					return err
				}
			}
			if err := s.walk(v, field, onlyText || s.textOnly(path, k.Value)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *substituter) textOnly(path, key string) bool {
	switch key {
	case "labels", "annotations", "matchLabels", "nodeSelector":
		return true
	case "data", "stringData", "binaryData":
		return s.dataIsText && path == ""
	}
	return false
}

func (s *substituter) scalar(n *yaml.Node, path string, onlyText bool) error {
	if !strings.Contains(n.Value, "${") {
		return nil
	}
	out, err := s.vars.Expand(n.Value)
	if s.left -= len(out); err == nil && s.left < 0 {
		err = fmt.Errorf("the variables of the document expand to more than %d MB", maxValues*textUnit>>20)
	}
	if err != nil {
		e := s.doc.errorf(n, strings.TrimPrefix(path, "/"), "%w", err)
		e.Reason = "Substitution"
		if ref := s.doc.describe(); ref != "" {
			e.Err = fmt.Errorf("%s: %w", ref, err)
		}
		if name, ok := Unset(err); ok {
			e.Hint = "set it in cluster.yaml or fleet.yaml, or write ${" + name + ":-default}"
		}
		return e
	}
	whole := n.Style == 0 && strings.HasPrefix(n.Value, "${") && strings.IndexByte(n.Value, '}') == len(n.Value)-1
	n.Value, n.Style, n.Tag = out, yaml.DoubleQuotedStyle, "!!str"
	if whole && !onlyText {
		if s.boolean(out) {
			n.Style, n.Tag = 0, "" // whoever reads it tells
		} else if tag := numberTag(out); tag != "" {
			n.Style, n.Tag = 0, tag
		}
	}
	return nil
}

// numberTag is the tag of a text that can only be meant as a number:
// "3", "-1" and "0.5", but not "007" or "1.10", which would lose digits.
func numberTag(s string) string {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil && strconv.FormatInt(i, 10) == s {
		return "!!int"
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && strconv.FormatFloat(f, 'f', -1, 64) == s {
		return "!!float"
	}
	return ""
}
