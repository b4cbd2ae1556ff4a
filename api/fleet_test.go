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

func TestDecodeFleet_tenants(t *testing.T) {
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  tenants:\n  - {name: a, path: teams/a}\n"
	for _, tt := range []struct{ name, text, field string }{
		{"another one", "  - {name: b, path: teams/ab, keys: [b]}\n", ""},
		{"no name", "  - {path: teams/b}\n", "spec.tenants.1.name"},
		{"the same name", "  - {name: a, path: teams/b}\n", "spec.tenants.1.name"},
		{"no path", "  - {name: b}\n", "spec.tenants.1.path"},
		{"the root", "  - {name: b, path: .}\n", "spec.tenants.1.path"},
		{"not from the root", "  - {name: b, path: /teams/b}\n", "spec.tenants.1.path"},
		{"out of the repository", "  - {name: b, path: ../b}\n", "spec.tenants.1.path"},
		{"not clean", "  - {name: b, path: teams/b/}\n", "spec.tenants.1.path"},
		{"over a dot", "  - {name: b, path: teams/./b}\n", "spec.tenants.1.path"},
		{"hidden", "  - {name: b, path: .github}\n", "spec.tenants.1.path"},
		{"the clusters", "  - {name: b, path: clusters}\n", "spec.tenants.1.path"},
		{"a cluster", "  - {name: b, path: clusters/one}\n", "spec.tenants.1.path"},
		{"the same path", "  - {name: b, path: teams/a}\n", "spec.tenants.1.path"},
		{"inside of another", "  - {name: b, path: teams/a/b}\n", "spec.tenants.1.path"},
		{"around another", "  - {name: b, path: teams}\n", "spec.tenants.1.path"},
		{"a key's file", "  - {name: b, path: teams/b, keys: [b.txt]}\n", "spec.tenants.1.keys.0"},
		{"another field", "  - {name: b, path: teams/b, namespace: b}\n", "spec.tenants.1.namespace"},
	} {
		_, err := api.DecodeFleet("fleet.yaml", []byte(head+tt.text))
		switch e, ok := err.(*api.Error); { //nolint:errorlint // it is documented
		case tt.field == "" && err == nil:
		case !ok || e.Field != tt.field || e.Line != 6:
			t.Errorf("%s: %+v", tt.name, err)
		}
	}
}

func TestTenantAt(t *testing.T) {
	s := api.FleetSpec{Tenants: []api.Tenant{{Name: "a", Path: "teams/a"}, {Name: "ab", Path: "teams/ab"}}}
	for name, want := range map[string]string{
		"teams/a": "a", "teams/a/x/y.yaml": "a", "teams/ab": "ab", "teams/ab/x": "ab",
		"teams": "", ".": "", "teams/abc": "", "x/teams/a": "", "fleet.yaml": "",
	} {
		got := ""
		if tenant := s.TenantAt(name); tenant != nil {
			got = tenant.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
