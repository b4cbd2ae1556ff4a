package schemas

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// Definition is a CustomResourceDefinition, ready to check custom resources. It is safe for concurrent use.
type Definition struct {
	Group, Kind string
	versions    map[string]*version
}

// version is one version of a Definition.
type version struct {
	served     bool
	deprecated bool
	structural *schema.Structural
	validator  validation.SchemaValidator
	// rules are compiled when a custom resource is checked: that costs, and many definitions come without one.
	rules func() *cel.Validator
}

// NewDefinition reads a CustomResourceDefinition of apiextensions.k8s.io/v1.
func NewDefinition(o *unstructured.Unstructured) (*Definition, error) {
	var crd v1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &crd); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	v1.SetDefaults_CustomResourceDefinition(&crd)
	v1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	out := &Definition{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind, versions: map[string]*version{}}
	for _, v := range crd.Spec.Versions {
		made, err := newVersion(v)
		if err != nil {
			return nil, fmt.Errorf("version %s: %w", v.Name, err)
		}
		out.versions[v.Name] = made
	}
	return out, nil
}

func newVersion(v v1.CustomResourceDefinitionVersion) (*version, error) {
	out := &version{served: v.Served, deprecated: v.Deprecated}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return out, nil
	}
	var props apiextensions.JSONSchemaProps
	if err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	if out.validator, _, err = validation.NewSchemaValidator(&props); err != nil {
		return nil, err
	}
	out.structural = structural
	out.rules = sync.OnceValue(func() *cel.Validator { return cel.NewValidator(structural, true, celconfig.PerCallLimit) })
	return out, nil
}

// Served reports whether a version is there to be written to.
func (d *Definition) Served(name string) bool {
	return d.versions[name] != nil && d.versions[name].served
}

// Deprecated reports whether the definition says that a version should not be used any more.
func (d *Definition) Deprecated(name string) bool {
	return d.versions[name] != nil && d.versions[name].deprecated
}

// Check returns what the API server would refuse of a custom resource, whose version is served.
// Once ctx has ended, what it returns means nothing.
func (d *Definition) Check(ctx context.Context, o *unstructured.Unstructured) []Problem {
	v := d.versions[o.GroupVersionKind().Version]
	if v == nil || v.structural == nil {
		return nil
	}
	object, err := copied(o.Object)
	if err != nil {
		return []Problem{{Kind: BadValue, Message: "the object is no JSON"}}
	}
	var out []Problem
	unknown := pruning.PruneWithOptions(object, v.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range unknown {
		out = append(out, Problem{Kind: UnknownField, Field: dotted("." + path), Message: "the CustomResourceDefinition has no such field"})
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, v.structural)
	defaulting.Default(object, v.structural)
	errs := validation.ValidateCustomResource(nil, object, v.validator)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.structural, object)...)
	if rules := v.rules(); len(errs) == 0 && rules != nil {
		broken, _ := rules.Validate(ctx, nil, v.structural, object, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, broken...)
	}
	for _, e := range errs {
		out = append(out, Problem{Kind: BadValue, Field: dotted("." + e.Field), Message: told(e)})
	}
	return out
}

// told is what an error says without the value that it is about.
func told(e *field.Error) string {
	switch {
	case e.Type == field.ErrorTypeRequired:
		return "a value is required"
	case e.Type == field.ErrorTypeNotSupported:
		return "the value is not one of those that are allowed"
	case e.Type == field.ErrorTypeDuplicate:
		return "the value is there twice"
	case e.Detail == "":
		return strings.ToLower(e.Type.String())
	}
	detail := strings.TrimPrefix(e.Detail, e.Field+" in body ")
	if m := typeError.FindString(detail); m != "" {
		return strings.TrimSuffix(m, ":") // behind it is the value, where it is of another format
	}
	return detail
}

var typeError = regexp.MustCompile(`^must be of type \S+(, got \S+)?`)

// copied is a deep copy with the number types that the validation wants.
func copied(o map[string]any) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	err = json.Unmarshal(text, &out)
	return out, err
}
