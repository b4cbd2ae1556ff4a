package api_test

import (
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
)

type refusedExample struct{ name, kind, text string }

// refusedExamples are files that the decoders refuse.
func refusedExamples() []refusedExample {
	var out []refusedExample
	for _, x := range unknownFields {
		out = append(out, refusedExample{x.text, api.KindBundle, bundleHead + x.text})
	}
	for _, x := range nothingBelow {
		out = append(out, refusedExample{x.text, api.KindBundle, specHead + x.text})
	}
	for _, x := range secondTenants {
		if x.field != "" {
			out = append(out, refusedExample{x.name, api.KindFleet, tenantsHead + "  - " + x.text + "\n"})
		}
	}
	for _, spec := range refusedSpecs {
		out = append(out, refusedExample{spec, api.KindBundle, specHead + "  " + strings.ReplaceAll(spec, "\n", "\n  ") + "\n"})
	}
	for _, text := range refusedFiles {
		kind := api.KindFleet
		for _, k := range []string{api.KindCluster, api.KindBundle} {
			if strings.Contains(text, "kind: "+k) {
				kind = k
			}
		}
		out = append(out, refusedExample{text, kind, text})
	}
	return out
}

// refusedSpecs are specs of bundles.
var refusedSpecs = []string{
	"helm: {chart: ./c}\nkustomize: {}",
	"sources: [{path: a}]\nhelm: {chart: ./c}",
	"sources: []",
	"sources: [{}]",
	"helm: {}",
	"helm: {chart: ./c, schema: off}",
	"helm: {chart: ./c, digest: 'sha256:0'}",
	"patches: [{}]",
	"patches: [{path: a, target: {}}]",
	"createNamespace: {}",
	"empty: true",
	"namespace: [a]",
	"namespace: {}",
	"namespace: {override: ~}",
	"namespace: {overide: a}",
	"serviceAccount: {name: x}",
	"variables: {a-b: c}\nsubstitute: true",
	"variables: {a: b}",
	"health: [{kind: Widget}]",
	"drift: {mode: never}",
	"drift: {extra: some}",
	"drift: {ignore: [{target: {kind: X}}]}",
	"drift: {ignore: [{paths: [spec]}]}",
	"drift: {ignore: [{paths: ['/[a']}]}",
	"timeout: soon",
	"timeout: 5",
	"timeout: -5m",
	"prune: maybe",
	"dependsOn: {a: b}",
	"targets: [{clusterSelector: {matchExpressions: [{key: a, operator: Like}]}}]",
	"targets: [{clusterSelector: {matchExpressions: [{key: a, operator: In}]}}]",
	"targets: [{overlay: /a}]",
}

var refusedFiles = []string{
	"apiVersion: flotilla.dev/v1\nkind: Bundle\nmetadata: {name: a}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: A}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec: {suspend: {reason: x}}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec: {suspend: {until: 2030-01-31T10:00:00Z}}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: a}\nspec: {suspend: {until: soon, reason: x}}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {guards: {maxDeletePercent: 101}}\n",
	"apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec: {persons: all}\n",
	"kind: Fleet\n",
}

// beyondSchemas are examples that a schema takes, with the reason.
var beyondSchemas = map[string]string{
	"the same name":                       "compares two tenants",
	"the same path":                       "compares two tenants",
	"inside of another":                   "compares two tenants",
	"around another":                      "compares two tenants",
	"variables: {a: b}":                   "two fields of which one has a value",
	"drift: {ignore: [{paths: ['/[a']}]}": "the grammar of paths",
	"targets: [{clusterSelector: {matchExpressions: [{key: a, operator: In}]}}]": "the grammar of selectors",
	"targets: [{overlay: /a}]": "a path",
}
