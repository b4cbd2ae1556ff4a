package api_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/docs/schema"
)

// object is a JSON object.
type object = map[string]any

// source is what the package's Go text says of its types, beyond what reflection tells.
type source struct {
	docs      map[string]string   // "Bundle" or "Bundle.Spec" -> its comment
	constants map[string][]string // name of a string type -> its values
}

// readSource reads the comments and the typed constants of package api.
func readSource(t *testing.T) source {
	t.Helper()
	s := source{map[string]string{}, map[string][]string{}}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				s.declared(g)
			}
		}
	}
	return s
}

func (s source) declared(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch x := spec.(type) {
		case *ast.ValueSpec:
			typ, isNamed := x.Type.(*ast.Ident)
			for _, v := range x.Values {
				if lit, ok := v.(*ast.BasicLit); ok && isNamed && lit.Kind == token.STRING {
					value, _ := strconv.Unquote(lit.Value)
					s.constants[typ.Name] = append(s.constants[typ.Name], value)
				}
			}
		case *ast.TypeSpec:
			s.docs[x.Name.Name] = g.Doc.Text()
			st, ok := x.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					s.docs[x.Name.Name+"."+n.Name] = f.Doc.Text()
				}
			}
		}
	}
}

// meant are constants that comments name, by what a file says instead.
var meant = map[string]string{
	"DefaultSuspendMax": "72h", "DefaultTimeout": "5m", "DefaultMaxDeletePercent": strconv.Itoa(api.DefaultMaxDeletePercent),
	"MinGuardedDeletes": strconv.Itoa(api.MinGuardedDeletes), "PersonsOff": string(api.PersonsOff),
	"SchemaSkip": api.SchemaSkip, "DriftIgnore": string(api.DriftIgnore),
}

// description is the comment of a field, in the words of YAML; else that of its type.
func (s source) description(typ reflect.Type, field reflect.StructField) string {
	text := s.docs[typ.Name()+"."+field.Name]
	if text == "" {
		elem := field.Type
		for elem.Kind() == reflect.Pointer || elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		if elem.PkgPath() == typ.PkgPath() {
			text = regexp.MustCompile(`^`+elem.Name()+`\b`).ReplaceAllString(s.docs[elem.Name()], yamlName(field))
		}
	}
	for name, value := range meant {
		text = regexp.MustCompile(`\b`+name+`\b`).ReplaceAllString(text, value)
	}
	for f := range typ.Fields() {
		text = regexp.MustCompile(`\b`+f.Name+`\b`).ReplaceAllString(text, yamlName(f))
	}
	text = strings.NewReplacer("Nil means", "Absent means", "Nil:", "Absent:").Replace(text)
	return strings.Join(strings.Fields(text), " ")
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// rules are what validation asks for and types do not tell: TYPE.FIELD, or TYPE, to what is added to its schema.
var rules = map[string]object{
	"Fleet.APIVersion":   {"const": api.APIVersion},
	"Fleet.Kind":         {"const": api.KindFleet},
	"Cluster.APIVersion": {"const": api.APIVersion},
	"Cluster.Kind":       {"const": api.KindCluster},
	"Bundle.APIVersion":  {"const": api.APIVersion},
	"Bundle.Kind":        {"const": api.KindBundle},
	"Cluster.Metadata":   {"required": []string{"name"}, "properties": object{"name": object{"pattern": label}}},
	"Bundle.Metadata":    {"required": []string{"name"}, "properties": object{"name": object{"pattern": label}}},

	"FleetSpec.Variables":   {"propertyNames": object{"pattern": variable}},
	"ClusterSpec.Variables": {"propertyNames": object{"pattern": variable}},
	"BundleSpec.Variables":  {"propertyNames": object{"pattern": variable}},

	"Guards.MaxDeletePercent": {"minimum": 0, "maximum": 100},
	"SuspendOrder.Reason":     {"minLength": 1},
	"BundleSpec": {
		"not": object{"type": "object", "anyOf": []any{
			object{"required": []string{"kustomize", "helm"}},
			object{"required": []string{"sources", "kustomize"}},
			object{"required": []string{"sources", "helm"}},
		}},
		"dependencies": object{"createNamespace": []string{"namespace"}},
	},
	"BundleSpec.Sources":           {"minItems": 1},
	"Source":                       {"anyOf": []any{object{"required": []string{"helm"}}, object{"required": []string{"path"}}}},
	"Patch":                        {"anyOf": []any{object{"required": []string{"path"}}, object{"required": []string{"patch"}}}},
	"Patch.Target":                 {"minProperties": 1},
	"Target.Clusters":              {"minItems": 1},
	"SelectorRequirement.Operator": {"enum": []string{"In", "NotIn", "Exists", "DoesNotExist"}},
	"HelmSource.Schema":            {"enum": []any{"", nil, api.SchemaSkip}},
	"HelmSource.Chart":             {"minLength": 1},
	"HelmSource.Digest":            {"pattern": `^(sha256:[0-9a-f]{64})?$`},
	"IgnoreRule":                   {"anyOf": []any{object{"required": []string{"paths"}}, object{"required": []string{"managers"}}}},
	"IgnoreRule.Paths":             {"items": object{"pattern": "^/"}},
	"ServiceAccount.Namespace":     {"minLength": 1},
	"ServiceAccount.Name":          {"minLength": 1},
	"HealthCheck.APIVersion":       {"minLength": 1},
	"HealthCheck.Kind":             {"minLength": 1},
	"Tenant.Name":                  {"pattern": label},
	"Tenant.Path":                  {"minLength": 1, "not": object{"type": "string", "pattern": `^(\.|/|clusters(/|$))|/$|/\.`}},
	"Tenant.Keys":                  {"items": object{"pattern": label}},
	"Tenant.Namespaces":            {"minItems": 1, "items": object{"pattern": `^[a-z0-9*]([-a-z0-9*]{0,61}[a-z0-9*])?$`, "not": object{"const": api.SystemNamespace}}},
	"Tenant.ServiceAccount":        {"properties": object{"namespace": object{"not": object{"const": api.SystemNamespace}}}},
	"Tenant.Charts":                {"items": object{"pattern": `^(https|oci)://[^/*]+/.`}},
	"Tenant.Images":                {"items": object{"pattern": `^([^/*]*[.:][^/*]*|localhost)/.`}},
	"TenantKinds.Allow":            {"items": object{"pattern": kindPattern, "not": object{"type": "string", "pattern": `\.flotilla\.dev$`}}},
	"TenantKinds.Deny":             {"items": object{"pattern": kindPattern}},
	"TenantQuotas.Bundles":         {"minimum": 0},
	"TenantQuotas.Objects":         {"minimum": 0},
}

const (
	label       = `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
	variable    = `^[A-Za-z_][A-Za-z0-9_]*$`
	kindPattern = `^[A-Z*][A-Za-z0-9*]*(\.[-a-z0-9.*]+)?$`
	// yesNo are the other words for booleans that YAML 1.1 had, and that are taken where a boolean is expected.
	yesNo = `^([yY]|yes|Yes|YES|on|On|ON|[nN]|no|No|NO|off|Off|OFF)$`
)

// generator makes the schema of a type.
type generator struct {
	source
	used map[string]bool // of rules
}

// of returns the schema of a type, and of all below it. At is the path of the field, for what refuses to be null.
func (g generator) of(typ reflect.Type, at string) object {
	var out object
	switch {
	case typ == reflect.TypeFor[api.Duration]():
		out = object{"type": []string{"string", "number"}, "pattern": `^(0|(\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`, "maximum": 0, "minimum": 0}
	case typ == reflect.TypeFor[time.Time]():
		out = object{"type": "string", "pattern": `^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}`}
	case typ == reflect.TypeFor[api.Namespace]():
		return object{"anyOf": []any{object{"type": []string{"string", "number", "boolean", "null"}}, g.structure(typ, at)}}
	case typ.Kind() == reflect.Pointer:
		return g.of(typ.Elem(), at)
	case typ.Kind() == reflect.Struct:
		out = g.structure(typ, at)
	case typ.Kind() == reflect.Slice:
		out = object{"type": "array", "items": g.of(typ.Elem(), at+".*")}
	case typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.String:
		out = object{"type": "object", "additionalProperties": object{"type": []string{"string", "number", "boolean", "null"}}}
	case typ.Kind() == reflect.Map:
		out = object{"type": "object"}
	case typ.Kind() == reflect.Bool:
		return object{"anyOf": []any{object{"type": []string{"boolean", "null"}}, object{"type": "string", "pattern": yesNo}}}
	case typ.Kind() == reflect.Int:
		out = object{"type": "number"}
	case len(g.constants[typ.Name()]) > 0:
		return object{"enum": append(anyOf(g.constants[typ.Name()]), "", nil)}
	case typ.Kind() == reflect.String:
		return object{"type": []string{"string", "number", "boolean", "null"}}
	default:
		panic(fmt.Sprintf("%s: no schema for %s", at, typ))
	}
	if !slices.Contains(api.Telling, at) {
		kinds, isList := out["type"].([]string)
		if !isList {
			kinds = []string{out["type"].(string)}
		}
		out["type"] = append(slices.Clone(kinds), "null")
	}
	return out
}

func anyOf(words []string) []any {
	var out []any
	for _, w := range words {
		out = append(out, w)
	}
	return out
}

// optional are fields that may be left out although they are written where they are empty.
var optional = []string{"Meta.Name"}

func (g generator) structure(typ reflect.Type, at string) object {
	properties := object{}
	var required []string
	for f := range typ.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		id := typ.Name() + "." + f.Name
		s := g.of(f.Type, strings.TrimPrefix(at+"."+name, "."))
		if d := g.description(typ, f); d != "" {
			s["description"] = d
		}
		properties[name] = g.ruled(id, s)
		if !strings.Contains(options, "omitempty") && !slices.Contains(optional, id) {
			required = append(required, name)
			refuseNull(s)
		}
	}
	out := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return g.ruled(typ.Name(), out)
}

// refuseNull has a field that is needed say something.
func refuseNull(s object) {
	if kinds, ok := s["type"].([]string); ok {
		s["type"] = slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k == "null" })
	}
}

// ruled adds what the rules have for a name, also below it.
func (g generator) ruled(name string, s object) object {
	rule, ok := rules[name]
	if !ok {
		return s
	}
	g.used[name] = true
	merge(s, rule)
	if s["const"] != nil || s["enum"] != nil {
		delete(s, "type")
	}
	return s
}

func merge(into, from object) {
	for k, v := range from {
		below, isObject := v.(object)
		have, isThere := into[k].(object)
		if isObject && isThere {
			merge(have, below)
			continue
		}
		into[k] = v
	}
}

// generated are all schemas, by kind.
func generated(t *testing.T) map[string]object {
	t.Helper()
	g := generator{readSource(t), map[string]bool{}}
	out := map[string]object{}
	for kind, typ := range map[string]reflect.Type{
		api.KindFleet: reflect.TypeFor[api.Fleet](), api.KindCluster: reflect.TypeFor[api.Cluster](), api.KindBundle: reflect.TypeFor[api.Bundle](),
	} {
		s := g.of(typ, "")
		s["type"] = "object"
		s["description"] = strings.Join(strings.Fields(g.docs[kind]), " ")
		out[kind] = s
	}
	for name := range rules {
		if !g.used[name] {
			t.Errorf("the rule for %s is for no field", name)
		}
	}
	out[api.KindSuspension] = suspension(t)
	for kind, s := range out {
		s["$schema"], s["$id"], s["title"] = "http://json-schema.org/draft-07/schema#", schema.Base+schema.File(kind), kind+" of "+api.APIVersion
	}
	return out
}

// suspension is the schema of an object in a bundle: what its CustomResourceDefinition says, and no other field.
func suspension(t *testing.T) object {
	t.Helper()
	text, err := os.ReadFile("../reconciler/cluster/crds/suspensions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPI object `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	s := crd.Spec.Versions[0].Schema.OpenAPI
	closed(s)
	properties := s["properties"].(object)
	properties["apiVersion"], properties["kind"] = object{"const": api.APIVersion}, object{"const": api.KindSuspension}
	properties["metadata"] = object{"type": "object", "required": []string{"name"}}
	s["required"] = []string{"apiVersion", "kind", "metadata", "spec"}
	return s
}

// closed turns a structural schema into a JSON Schema that knows unknown fields.
func closed(s object) {
	maps.DeleteFunc(s, func(k string, _ any) bool { return strings.HasPrefix(k, "x-kubernetes-") })
	if properties, ok := s["properties"].(object); ok {
		s["additionalProperties"] = false
		for _, p := range properties {
			closed(p.(object))
		}
	}
	if items, ok := s["items"].(object); ok {
		closed(items)
	}
}

// write is a schema as it is published.
func write(t *testing.T, s object) []byte {
	t.Helper()
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}
