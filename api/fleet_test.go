package api_test

import (
	"strings"
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

const bundleHead = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\n"

var unknownFields = []struct {
	text, field string
	line        int
}{
	{"spce: {}\n", "spce", 4},
	{"spec:\n  namespace: x\n  substitut: true\n", "spec.substitut", 6},
	{"spec:\n  targets:\n  - clusters: [one]\n  - cluster: [two]\n", "spec.targets.1.cluster", 7},
	{"spec: {helm: {chart: ./c, values: {no: 1}, no: 2}}\n", "no", 4}, // two of the name in a line
}

func TestDecodeBundle_unknownField(t *testing.T) {
	for _, tt := range unknownFields {
		_, err := api.DecodeBundle("bundle.yaml", []byte(bundleHead+tt.text))
		if e, ok := err.(*api.Error); !ok || e.Field != tt.field || e.Line != tt.line || e.Err.Error() != "unknown field" { //nolint:errorlint // it is documented
			t.Errorf("%q: %+v", tt.text, err)
		}
	}
}

const tenantsHead = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  tenants:\n  - {name: a, path: teams/a, " + bound + "}\n"

func secondTenant(path, more string) string {
	return "{name: b, path: " + path + ", " + bound + more + "}"
}

// secondTenants are written behind the one of tenantsHead; those with a field are refused for it.
var secondTenants = []struct{ name, text, field string }{
	{"another one", secondTenant("teams/ab", ", keys: [b], kinds: {allow: [ConfigMap, '*.apps', Widget.example.com, '*']}, charts: ['oci://x/*'], images: ['x.io/*']"), ""},
	{"no name", "{path: teams/b, " + bound + "}", "name"},
	{"the same name", "{name: a, path: teams/b, " + bound + "}", "name"},
	{"no path", "{name: b, " + bound + "}", "path"},
	{"the root", secondTenant(".", ""), "path"},
	{"not from the root", secondTenant("/teams/b", ""), "path"},
	{"out of the repository", secondTenant("../b", ""), "path"},
	{"not clean", secondTenant("teams/b/", ""), "path"},
	{"over a dot", secondTenant("teams/./b", ""), "path"},
	{"hidden", secondTenant(".github", ""), "path"},
	{"the clusters", secondTenant("clusters", ""), "path"},
	{"a cluster", secondTenant("clusters/one", ""), "path"},
	{"the same path", secondTenant("teams/a", ""), "path"},
	{"inside of another", secondTenant("teams/a/b", ""), "path"},
	{"around another", secondTenant("teams", ""), "path"},
	{"a key's file", secondTenant("teams/b", ", keys: [b.txt]"), "keys.0"},
	{"no service account", "{name: b, path: teams/b, namespaces: [b]}", "serviceAccount"},
	{"the agent's service account", "{name: b, path: teams/b, serviceAccount: {namespace: flotilla-system, name: agent}, namespaces: [b]}", "serviceAccount.namespace"},
	{"no namespace", "{name: b, path: teams/b, serviceAccount: {namespace: b, name: b}}", "namespaces"},
	{"the agent's namespace", "{name: b, path: teams/b, serviceAccount: {namespace: b, name: b}, namespaces: [flotilla-system]}", "namespaces.0"},
	{"no namespace's name", "{name: b, path: teams/b, serviceAccount: {namespace: b, name: b}, namespaces: [a/b]}", "namespaces.0"},
	{"a kind in small letters", secondTenant("teams/b", ", kinds: {allow: [configmaps]}"), "kinds.allow.0"},
	{"a kind with a version", secondTenant("teams/b", ", kinds: {deny: [apps/v1/Deployment]}"), "kinds.deny.0"},
	{"flotilla's kinds", secondTenant("teams/b", ", kinds: {allow: [Suspension.flotilla.dev]}"), "kinds.allow.0"},
	{"charts over http", secondTenant("teams/b", ", charts: ['http://x/*']"), "charts.0"},
	{"charts of any machine", secondTenant("teams/b", ", charts: ['https://*/x']"), "charts.0"},
	{"images of any machine", secondTenant("teams/b", ", images: ['*/x']"), "images.0"},
	{"images without a machine", secondTenant("teams/b", ", images: ['library/nginx']"), "images.0"},
	{"a selector", secondTenant("teams/b", ", clusterSelector: {matchExpressions: [{key: x, operator: Like}]}"), "clusterSelector"},
	{"a drift mode", secondTenant("teams/b", ", rights: {drift: [never]}"), "rights.drift.0"},
	{"a negative quota", secondTenant("teams/b", ", quotas: {objects: -1}"), "quotas"},
	{"another field", secondTenant("teams/b", ", namespace: b"), "namespace"},
}

func TestDecodeFleet_tenants(t *testing.T) {
	for _, tt := range secondTenants {
		_, err := api.DecodeFleet("fleet.yaml", []byte(tenantsHead+"  - "+tt.text+"\n"))
		switch e, ok := err.(*api.Error); { //nolint:errorlint // it is documented
		case tt.field == "" && err == nil:
		case !ok || strings.TrimPrefix(e.Field, "spec.tenants.1.") != tt.field || e.Line != 6:
			t.Errorf("%s: %+v", tt.name, err)
		}
	}
}

// bound is what every tenant needs beside its name and path.
const bound = "serviceAccount: {namespace: x, name: deployer}, namespaces: [x]"

func TestTenant_admits(t *testing.T) {
	tenant := api.Tenant{Charts: []string{"oci://registry.example.com/a/*", "https://charts.example.com/a/web"}, Images: []string{"registry.example.com:5000/a/*", "docker.io/library/*"}}
	for image, want := range map[string]bool{
		"registry.example.com:5000/a/x": true, "registry.example.com:5000/a/x:1.2@sha256:0": true, "registry.example.com:5000/a/x/y": true,
		"nginx": true, "nginx:1.2": true, "docker.io/library/nginx": true, "index.docker.io/library/nginx": true,
		"": false, "a/nginx": false, "registry.example.com/a/x": false, "registry.example.com:5000/b/x": false,
		"registry.example.com:5000/a/../b/x": false, "localhost/a": false, "evil.com/registry.example.com:5000/a/x": false,
	} {
		if got := tenant.AdmitsImage(image); got != want {
			t.Errorf("image %q: %v", image, got)
		}
	}
	for _, tt := range []struct {
		repo, name string
		want       bool
	}{
		{"oci://registry.example.com/a", "web", true},
		{"oci://registry.example.com/a/b", "web", true},
		{"https://charts.example.com/a/", "web", true},
		{"https://charts.example.com/a", "other", false},
		{"oci://registry.example.com/b", "web", false},
		{"oci://registry.example.com/a/..", "web", false},
		{"oci://registry.example.com/a/%2e%2e", "web", false},
		{"oci://registry.example.com/a?x=/", "web", false},
		{"oci://u@registry.example.com/a", "web", false},
	} {
		if got := tenant.AdmitsChart(tt.repo, tt.name); got != tt.want {
			t.Errorf("chart %s/%s: %v", tt.repo, tt.name, got)
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
