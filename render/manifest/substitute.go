package manifest

import (
	"errors"
	"fmt"
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

// UnsetError says that a variable is not set. It is told apart so that the error can name the place where the variable is used.
type UnsetError struct {
	Name string
	// Required is set for ${name:?why}, where an empty variable is as good as none, and Why is what that says.
	Required bool
	Why      string
}

func (e UnsetError) Error() string {
	if e.Required {
		return strings.TrimSuffix(fmt.Sprintf("variable %q is required: %s", e.Name, e.Why), ": ")
	}
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
	left       int // bytes that variables may still expand to, and patterns take as long as
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
	x := &expansion{vars: s.vars}
	out, whole, err := x.text(n.Value)
	if s.left -= len(out) + x.cost; err == nil && s.left < 0 {
		err = fmt.Errorf("the variables of the document expand to more than %d MB", maxValues*textUnit>>20)
	}
	if err != nil {
		e := s.doc.errorf(n, strings.TrimPrefix(path, "/"), "%w", err)
		e.Reason = "Substitution"
		if ref := s.doc.describe(); ref != "" {
			e.Err = fmt.Errorf("%s: %w", ref, err)
		}
		if name, ok := Unset(err); ok {
			e.Hint = "set it in cluster.yaml, in fleet.yaml or in the bundle's spec.variables, or write ${" + name + ":-default}"
		}
		return e
	}
	whole = whole && n.Style == 0
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
