package api_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
)

const reference = "../docs/fleet-repository.md"

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

// decoders are what reads the files of each kind.
var decoders = map[string]func(file string, data []byte) (any, error){
	api.KindFleet:   func(file string, data []byte) (any, error) { return api.DecodeFleet(file, data) },
	api.KindCluster: func(file string, data []byte) (any, error) { return api.DecodeCluster(file, data) },
	api.KindBundle:  func(file string, data []byte) (any, error) { return api.DecodeBundle(file, data) },
}

// Every example in the reference is one that flotilla takes, and together they show every field there is.
func TestReference_examples(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range yamlBlock.FindAllSubmatchIndex(text, -1) {
		block := text[m[2]:m[3]]
		where := fmt.Sprintf("%s:%d", reference, 1+strings.Count(string(text[:m[2]]), "\n"))
		var head struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
		}
		if err := yaml.Unmarshal(block, &head); err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		if head.APIVersion != api.APIVersion {
			continue // an object, or a part of a file
		}
		decode := decoders[head.Kind]
		if decode == nil {
			t.Errorf("%s: there is no kind %q", where, head.Kind)
			continue
		}
		if _, err := decode(where, block); err != nil {
			t.Error(err)
		}
		var raw map[string]any
		if err := yaml.Unmarshal(block, &raw); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		written(raw, head.Kind, shown)
	}
	var missing []string
	for _, noun := range []any{api.Fleet{}, api.Cluster{}, api.Bundle{}} {
		typ := reflect.TypeOf(noun)
		for _, field := range fields(typ, typ.Name()) {
			if !shown[field] {
				missing = append(missing, field)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("no example in %s has\n%s", reference, strings.Join(missing, "\n"))
	}
}

// written notes the paths of all keys of an example, list items without their index.
func written(v any, at string, into map[string]bool) {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			into[at+"."+k] = true
			written(e, at+"."+k, into)
		}
	case []any:
		for _, e := range x {
			written(e, at, into)
		}
	}
}

// fields lists the paths of all fields that a file of this type may have.
func fields(typ reflect.Type, at string) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return nil
	}
	var out []string
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		path := at + "." + name
		out = append(out, path)
		out = append(out, fields(f.Type, path)...)
	}
	return out
}
