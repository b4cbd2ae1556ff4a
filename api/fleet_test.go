package api_test

import (
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

func TestDecodeFleet_persons(t *testing.T) {
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n"
	for _, mode := range []api.Persons{"", api.PersonsOff, api.PersonsName, api.PersonsHash} {
		text := head + "  persons: " + string(mode) + "\n"
		if f, err := api.DecodeFleet("fleet.yaml", []byte(text)); err != nil || f.Spec.Persons != mode {
			t.Errorf("%q: %q, %v", mode, f.Spec.Persons, err)
		}
	}
	_, err := api.DecodeFleet("fleet.yaml", []byte(head+"  persons: all\n"))
	if e, ok := err.(*api.Error); !ok || e.Field != "spec.persons" || e.Line != 4 { //nolint:errorlint // it is documented
		t.Errorf("a wrong word: %+v", err)
	}
}

func TestDecodeBundle_unknownField(t *testing.T) {
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\n"
	for _, tt := range []struct {
		text, field string
		line        int
	}{
		{"spce: {}\n", "spce", 4},
		{"spec:\n  namespace: x\n  substitut: true\n", "spec.substitut", 6},
		{"spec:\n  targets:\n  - clusters: [one]\n  - cluster: [two]\n", "spec.targets.1.cluster", 7},
		{"spec: {helm: {chart: ./c, values: {no: 1}, no: 2}}\n", "no", 4}, // two of the name in a line
	} {
		_, err := api.DecodeBundle("bundle.yaml", []byte(head+tt.text))
		if e, ok := err.(*api.Error); !ok || e.Field != tt.field || e.Line != tt.line || e.Err.Error() != "unknown field" { //nolint:errorlint // it is documented
			t.Errorf("%q: %+v", tt.text, err)
		}
	}
}
