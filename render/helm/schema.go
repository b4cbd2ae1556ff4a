package helm

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// localSchemas has the schemas of a chart and its subcharts refer to nothing outside of themselves, for nothing is fetched
// and nothing is read from the disk. It returns a warning for each reference that is left unchecked.
func localSchemas(ch *chart.Chart, where string) ([]string, error) {
	var warnings []string
	if len(ch.Schema) > 0 {
		file := path.Join(where, chartutil.SchemafileName)
		var s any
		dec := json.NewDecoder(strings.NewReader(string(ch.Schema)))
		dec.UseNumber()
		if err := dec.Decode(&s); err != nil {
			return nil, failed(file, err)
		}
		refs := cutForeign(s)
		for _, ref := range refs {
			warnings = append(warnings, fmt.Sprintf("%s: what %q would check is not checked, for nothing is fetched (spec.helm.schema: skip checks nothing at all)", file, ref))
		}
		if len(refs) > 0 {
			var err error
			if ch.Schema, err = json.Marshal(s); err != nil {
				return nil, failed(file, err)
			}
		}
	}
	for _, d := range ch.Dependencies() {
		below, err := localSchemas(d, path.Join(where, "charts", d.Name()))
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, below...)
	}
	return warnings, nil
}

// withoutSchemas has nothing checked.
func withoutSchemas(ch *chart.Chart) {
	ch.Schema = nil
	for _, d := range ch.Dependencies() {
		withoutSchemas(d)
	}
}

// schemaBase is the address that Helm gives a schema which names none.
const schemaBase = "file:///values.schema.json"

// cutForeign takes the references out of a schema that lead to another document, and returns them in order.
func cutForeign(schema any) []string {
	base, err := url.Parse(schemaBase)
	if err != nil {
		return nil
	}
	root, _ := schema.(map[string]any)
	draft, _ := root["$schema"].(string)
	c := &schemaCut{known: map[string]bool{schemaBase: true}, alone: strings.Contains(draft, "/draft-0")}
	eachSchema(schema, base, c.learn)
	eachSchema(schema, base, c.cut)
	slices.Sort(c.foreign)
	return slices.Compact(c.foreign)
}

type schemaCut struct {
	known   map[string]bool // addresses of the documents within
	alone   bool            // a draft in which whatever stands beside a $ref does not count
	foreign []string
}

func (c *schemaCut) learn(_ map[string]any, base *url.URL) {
	at := *base
	at.Fragment = ""
	c.known[at.String()] = true
}

func (c *schemaCut) cut(s map[string]any, base *url.URL) {
	for _, key := range []string{"$ref", "$dynamicRef", "$recursiveRef", "$schema"} {
		ref, ok := s[key].(string)
		if !ok {
			continue
		}
		to, err := base.Parse(ref)
		if err == nil {
			to.Fragment, to.RawFragment = "", ""
			if c.known[to.String()] || to.Host == "json-schema.org" {
				continue
			}
		}
		c.foreign = append(c.foreign, ref)
		delete(s, key)
		if c.alone && key == "$ref" {
			for k := range s {
				if !slices.Contains([]string{"$schema", "$id", "id", "definitions"}, k) {
					delete(s, k)
				}
			}
		}
	}
}

// eachSchema calls f for a schema and those below it, with the address that its references begin from.
// What is data, such as a default, is no schema, and the keys below properties and the like are no keywords.
func eachSchema(v any, base *url.URL, f func(map[string]any, *url.URL)) {
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			eachSchema(e, base, f)
		}
	case map[string]any:
		for _, key := range []string{"$id", "id"} {
			if id, ok := x[key].(string); ok {
				if at, err := base.Parse(id); err == nil {
					base = at
				}
			}
		}
		f(x, base)
		for key, below := range x {
			switch key {
			case "default", "examples", "enum", "const":
			case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies":
				named, _ := below.(map[string]any)
				for _, s := range named {
					eachSchema(s, base, f)
				}
			default:
				eachSchema(below, base, f)
			}
		}
	}
}
