package api_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

const specHead = bundleHead + "spec:\n"

// nothingBelow are specs of bundles in which a field that refuses to be empty is.
var nothingBelow = []struct {
	text, field string
	line        int
}{
	{"  targets:\n  # - clusters: [other]\n", "spec.targets", 5},
	{"  targets: null\n", "spec.targets", 5},
	{"  targets:\n  -\n", "spec.targets.0", 6},
	{"  targets:\n  - {}\n  - clusters:\n    # - other\n", "spec.targets.1.clusters", 7},
	{"  targets:\n  - clusters: []\n", "spec.targets.0.clusters", 6},
	{"  targets:\n  - clusterSelector:\n", "spec.targets.0.clusterSelector", 6},
	{"  targets:\n  - clusterSelector:\n      matchLabels:\n      # env: prod\n", "spec.targets.0.clusterSelector.matchLabels", 7},
	{"  targets:\n  - clusterSelector: {matchExpressions: ~}\n", "spec.targets.0.clusterSelector.matchExpressions", 6},
	{"  helm:\n", "spec.helm", 5},
	{"  kustomize:\n  # path: base\n", "spec.kustomize", 5},
	{"  serviceAccount:\n", "spec.serviceAccount", 5},
	{"  drift:\n    ignore:\n    - target:\n      paths: [/spec]\n", "spec.drift.ignore.0.target", 7},
	{"  drift:\n    ignore:\n    - target: {kind: X}\n      paths:\n      managers: [x]\n", "spec.drift.ignore.0.paths", 8},
}

// A list or mapping whose absence means something, and of which everything is commented out, is an error.
func TestDecode_nothingBelow(t *testing.T) {
	for _, tt := range nothingBelow {
		_, err := api.DecodeBundle("a/bundle.yaml", []byte(specHead+tt.text))
		var e *api.Error
		if !errors.As(err, &e) || e.Field != tt.field || e.Line != tt.line || e.Kind != api.Stalled {
			t.Errorf("%q: got %v", tt.text, err)
		}
	}
	for _, text := range []string{
		"  targets: []\n", "  targets: [{}]\n", "  {}\n", "  dependsOn:\n", "  namespace:\n", "  helm: {chart: ./x, values: {targets: null, a: ~}}\n",
		"  helm:\n    chart: ./x\n    valuesFiles:\n    values:\n", "  targets:\n  - clusterSelector: {}\n",
	} {
		if _, err := api.DecodeBundle("a/bundle.yaml", []byte(specHead+text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	_, err := api.DecodeFleet("fleet.yaml", []byte("apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n  tenants:\n  # - name: x\n"))
	if err == nil || !strings.Contains(err.Error(), "fleet.yaml:4: spec.tenants: nothing is below it") {
		t.Errorf("got %v", err)
	}
}
