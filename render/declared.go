package render

import "github.com/flotilla-fleet/flotilla/api"

// Declared is a bundle.yaml that can be read.
type Declared struct {
	File, Dir string
	Bundle    api.Bundle
}

// DeclaredIn lists the bundles of a fleet repository, sorted by name, whatever cluster they are for.
// Those that cannot be read are left out: rendering a cluster says what is wrong with them.
func DeclaredIn(tree api.Tree) ([]Declared, error) {
	all, err := newFinder().bundles(tree)
	if err != nil {
		return nil, err
	}
	var out []Declared
	for _, f := range all {
		if f.err == nil {
			out = append(out, Declared{File: f.file, Dir: f.dir, Bundle: f.bundle})
		}
	}
	return out, nil
}
