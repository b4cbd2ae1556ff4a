package schemas_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/render/schemas"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func builtin(t *testing.T) schemas.Builtin {
	t.Helper()
	b, err := schemas.NewBuiltin()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: a}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'nginx:1.27', ports: [{containerPort: 80}], resources: {limits: {cpu: 1, memory: 1Gi}}, env: [{name: A, value: b}]}
`

func TestBuiltin(t *testing.T) {
	b := builtin(t)
	for _, tt := range []struct{ name, from, to, field, message string }{
		{"good", "", "", "", ""},
		{"an unknown field", "replicas: 2", "replica: 2", "spec.replica", "no such field"},
		{"an unknown field of a list item", "image: 'nginx:1.27'", "imagee: x", "spec.template.spec.containers.[name=web].imagee", "no such field"},
		{"a number as text", "replicas: 2", "replicas: two", "spec.replicas", "expected numeric"},
		{"a text as number", "value: b", "value: 1", "spec.template.spec.containers.[name=web].env.[name=A].value", "expected string"},
		{"a text as mapping", "value: b", "value: {hush: hush}", "spec.template.spec.containers.[name=web].env.[name=A].value", "expected string"},
		{"an item twice", "[{name: A, value: b}]", "[{name: A, value: b}, {name: A, value: c}]", "spec.template.spec.containers.[name=web].env", "duplicate entries"},
	} {
		got := b.Check(object(t, strings.Replace(deployment, tt.from, tt.to, 1)))
		if tt.field == "" {
			if len(got) > 0 {
				t.Errorf("%s: %v", tt.name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Field != tt.field || !strings.Contains(got[0].Message, tt.message) || strings.Contains(got[0].Message, "hush") {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - {name: v1alpha1, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, maximum: 9}
              low: {type: integer, default: 1}
              color: {type: string, enum: [red, blue]}
              mail: {type: string, format: email}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
            x-kubernetes-validations:
            - {rule: 'self.low <= self.size', message: low is above size}
`

func TestDefinition(t *testing.T) {
	d, err := schemas.NewDefinition(object(t, definition))
	if err != nil {
		t.Fatal(err)
	}
	if d.Group != "example.com" || d.Kind != "Widget" || !d.Served("v1") || d.Served("v1alpha1") || d.Served("v2") {
		t.Errorf("%+v", d)
	}
	for spec, want := range map[string]string{
		"{size: 2, color: red, mail: a@example.com, tags: [a, b], free: {any: 1}}": "",
		"{size: 2, colour: red}":          "unknown field spec.colour: the CustomResourceDefinition has no such field",
		"{}":                              "bad value spec.size: a value is required",
		"{size: 0}":                       "bad value spec.size: should be greater than or equal to 1",
		"{size: two}":                     "bad value spec.size: must be of type integer",
		"{size: 2, color: green}":         "bad value spec.color: the value is not one of those that are allowed",
		"{size: 2, tags: [a, a]}":         "bad value spec.tags.[1]: the value is there twice",
		"{size: 2, low: 3}":               "bad value spec: low is above size",
		"{size: 2, mail: not-an-address}": "bad value spec.mail: must be of type email",
	} {
		var got []string
		for _, p := range d.Check(t.Context(), object(t, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a, namespace: b}\nspec: "+spec)) {
			got = append(got, fmt.Sprintf("%s %s: %s", p.Kind, p.Field, p.Message))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s: %q, want %q", spec, got, want)
		}
	}
}

// The schemas are those of the client-go that is linked.
func TestVersion(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("k8s.io/client-go v0.%d.", schemas.Version); !strings.Contains(string(mod), want) {
		t.Errorf("the schemas are those of 1.%d, and go.mod has no %q", schemas.Version, want)
	}
}

func TestLifecycle(t *testing.T) {
	of := func(group, version, kind string) schemas.Lifecycle {
		return builtin(t).Lifecycle(schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
	}
	if l := of("batch", "v1beta1", "CronJob"); l.Removed != 25 || l.Use.Version != "v1" {
		t.Errorf("%+v", l)
	}
	if l := of("policy", "v1beta1", "PodSecurityPolicy"); l.Removed != 25 {
		t.Errorf("a row that k8s.io/api has no more: %+v", l)
	}
	if l := of("apps", "v1", "Deployment"); l != (schemas.Lifecycle{}) {
		t.Errorf("%+v", l)
	}
}
