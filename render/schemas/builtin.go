package schemas

import (
	"errors"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Version is the minor version of Kubernetes whose own kinds are known, as 1.Version.
const Version = 37

// ProblemKind says what is wrong.
type ProblemKind string

// The kinds of problems.
const (
	// UnknownField is a field that the schema does not have.
	UnknownField ProblemKind = "unknown field"
	// BadValue is a value that the schema does not take, or that a rule refuses.
	BadValue ProblemKind = "bad value"
)

// Problem is one thing that an API server would refuse.
type Problem struct {
	Kind ProblemKind
	// Field is its path; keys, and list items as "[name=web]" or "[0]", are separated by dots. Empty for the object.
	Field   string
	Message string
}

// Builtin knows Kubernetes' own kinds. It is safe for concurrent use.
type Builtin struct {
	scheme *runtime.Scheme
	types  managedfields.TypeConverter
}

// NewBuiltin reads the schemas of Kubernetes' own kinds.
func NewBuiltin() (Builtin, error) {
	own := runtime.NewScheme() // to client-go's, libraries add kinds
	if err := scheme.AddToScheme(own); err != nil {
		return Builtin{}, err
	}
	return Builtin{own, applyconfigurations.NewTypeConverter(own)}, nil
}

// Knows reports whether a kind is one of Kubernetes' own.
func (b Builtin) Knows(gvk schema.GroupVersionKind) bool { return b.scheme.Recognizes(gvk) }

// KnowsGroup reports whether a group, in any version, is one of Kubernetes' own.
func (b Builtin) KnowsGroup(group string) bool {
	return b.scheme.IsGroupRegistered(group)
}

// Check returns what is wrong with the form of an object whose kind is known.
func (b Builtin) Check(o *unstructured.Unstructured) []Problem {
	_, err := b.types.ObjectToTyped(o)
	if err == nil {
		return nil
	}
	all, ok := errors.AsType[typed.ValidationErrors](err)
	if !ok {
		return nil // the kind has no schema: nothing is known of it
	}
	var out []Problem
	for _, e := range all {
		p := Problem{Kind: BadValue, Field: dotted(e.Path), Message: clean(e.ErrorMessage)}
		if strings.Contains(e.ErrorMessage, "field not declared in schema") {
			p.Kind, p.Message = UnknownField, "the kind has no such field"
		}
		out = append(out, p)
	}
	return out
}

// valued is what messages repeat of values.
var valued = regexp.MustCompile(`(expected [a-z]+|duplicate entries for key).*`)

// clean leaves the values out of a message.
func clean(message string) string {
	if m := valued.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return "the value does not fit the schema"
}

// step is one step of a path as structured-merge-diff writes it.
var step = regexp.MustCompile(`\.?([^.\[\]]+)|\[("?[^\]]*)\]`)

// dotted turns .spec.containers[name="web"].image into spec.containers.[name=web].image.
func dotted(path string) string {
	var out []string
	for _, m := range step.FindAllStringSubmatch(path, -1) {
		if m[1] != "" {
			out = append(out, m[1])
			continue
		}
		out = append(out, "["+strings.ReplaceAll(m[2], `"`, "")+"]")
	}
	return strings.Join(out, ".")
}
