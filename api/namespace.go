package api

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Namespace is where a bundle's namespaced objects go. At most one field is set.
type Namespace struct {
	// Default is for the objects that name none. A file writes it as a plain text.
	Default string `yaml:"-" json:"-"`
	// Override takes the place of what objects name.
	Override string `yaml:"override" json:"override"`
}

// Name is the namespace's name, however it is meant; empty means that the bundle says none.
func (n Namespace) Name() string {
	if n.Override != "" {
		return n.Override
	}
	return n.Default
}

// IsZero reports whether the bundle says none.
func (n Namespace) IsZero() bool { return n == Namespace{} }

// UnmarshalYAML accepts a name, or a mapping with override alone.
func (n *Namespace) UnmarshalYAML(v *yaml.Node) error {
	if v.Kind == yaml.ScalarNode {
		*n = Namespace{Default: v.Value}
		return nil
	}
	for i := 0; v.Kind == yaml.MappingNode && i < len(v.Content); i += 2 {
		if key := v.Content[i]; key.Value != "override" {
			// The decoder tells of unknown fields of structs that it reads itself, in these words.
			return fmt.Errorf("line %d: field %s not found in type api.Namespace", key.Line, key.Value)
		}
	}
	var form struct {
		Override string `yaml:"override"`
	}
	if err := v.Decode(&form); err != nil || form.Override == "" {
		return fmt.Errorf("line %d: a namespace is a name, or {override: name}", v.Line)
	}
	*n = Namespace{Override: form.Override}
	return nil
}

// MarshalYAML writes what UnmarshalYAML accepts.
func (n Namespace) MarshalYAML() (any, error) {
	if n.Override == "" {
		return n.Default, nil
	}
	return map[string]string{"override": n.Override}, nil
}

// UnmarshalJSON accepts what UnmarshalYAML accepts.
func (n *Namespace) UnmarshalJSON(data []byte) error {
	var name string
	if json.Unmarshal(data, &name) == nil {
		*n = Namespace{Default: name}
		return nil
	}
	var form map[string]string
	if err := json.Unmarshal(data, &form); err != nil || len(form) != 1 || form["override"] == "" {
		return errors.New("a namespace is a name, or an object with override alone")
	}
	*n = Namespace{Override: form["override"]}
	return nil
}

// MarshalJSON writes what UnmarshalJSON accepts.
func (n Namespace) MarshalJSON() ([]byte, error) {
	if n.Override == "" {
		return json.Marshal(n.Default)
	}
	return json.Marshal(map[string]string{"override": n.Override})
}
