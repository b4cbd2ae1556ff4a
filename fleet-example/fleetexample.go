// Package fleetexample holds the example fleet repository that "flotilla demo" pushes,
// so that the program needs no files beside it.
// It is data: it renders nothing and writes nothing.
package fleetexample

import (
	"embed"
	"io/fs"
)

//go:embed all:apps all:clusters all:infrastructure .sops.yaml README.md demo-age-key.txt fleet.yaml
var files embed.FS

// FS returns the repository's files. Nothing may be written to it.
func FS() fs.FS { return files }

// AgeKeyFile is the name of the age key that decrypts the example's secrets.
// It is for the demo only.
const AgeKeyFile = "demo-age-key.txt"
