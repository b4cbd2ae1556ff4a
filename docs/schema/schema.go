// Package schema holds the JSON Schemas of the files of a fleet repository, for editors and other programs.
// They are generated from the types of package api, and a test there compares them with what its decoders take.
// It is data: it reads nothing and checks nothing.
package schema

import (
	"embed"
	"strings"
)

//go:embed *.json
var files embed.FS

// Base is where the schemas are published: a kind's is Base + File(kind).
const Base = "https://raw.githubusercontent.com/flotilla-fleet/flotilla/main/docs/schema/"

// Kinds are the kinds that have a schema, in the order in which people meet them.
func Kinds() []string { return []string{"Fleet", "Cluster", "Bundle", "Suspension"} }

// File is the name of the file with the schema of a kind, such as "bundle.json".
func File(kind string) string { return strings.ToLower(kind) + ".json" }

// Of returns the JSON Schema (draft 7) of a kind; false if there is none.
func Of(kind string) ([]byte, bool) {
	text, err := files.ReadFile(File(kind))
	return text, err == nil
}
