// Package kustomize builds kustomizations from a tree in memory.
//
// It promises: nothing outside the tree is read, nothing is written, nothing is fetched, nothing is run.
// Remote resources, exec and container functions and Helm inflation are refused with the file and line that ask for them.
// A custom OpenAPI schema serves the build that names it and no other.
// Builds are serialised, for kustomize keeps its OpenAPI schema in process-wide state.
package kustomize

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"sync"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// Files is what a build reads from. Names are relative to the root, slash-separated.
type Files interface {
	fs.ReadFileFS
	fs.ReadDirFS
	fs.StatFS
}

// buildMu serialises builds: kustomize's OpenAPI schema is global to the process.
var buildMu sync.Mutex

// Names are the file names that make a directory a kustomization.
func Names() []string {
	return []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}
}

// Find returns the kustomization file of a directory, "" if there is none.
func Find(files Files, dir string) string {
	for _, name := range Names() {
		file := path.Join(dir, name)
		if st, err := files.Stat(file); err == nil && !st.IsDir() {
			return file
		}
	}
	return ""
}

// Build renders the kustomization in a directory.
// The documents' File is the file that the resource came from; read are all files that went into the build.
func Build(ctx context.Context, files Files, dir string) (docs []manifest.Document, read []string, err error) {
	file := Find(files, dir)
	if file == "" {
		return nil, nil, &api.Error{
			Kind: api.Stalled, Reason: "KustomizeFailed", File: dir,
			Err: fmt.Errorf("there is no kustomization.yaml in %q", dir),
		}
	}
	buildMu.Lock()
	defer buildMu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	jail := &jail{files: files, root: file}
	defer func() {
		if jail.schema { // it would stay for every later build
			openapi.ResetOpenAPI()
		}
	}()
	opts := krusty.MakeDefaultOptions()
	opts.LoadRestrictions = types.LoadRestrictionsNone // the jail is the tree
	opts.PluginConfig = types.DisabledPluginConfig()
	resources, err := build(opts, jail, dir)
	if jail.refused != nil {
		return nil, nil, jail.refused
	}
	if err != nil {
		return nil, nil, jail.located(err)
	}
	docs = make([]manifest.Document, 0, len(resources))
	for _, r := range resources {
		from := origin(r, file)
		if jail.origins {
			_ = r.SetOrigin(nil)
		}
		docs = append(docs, manifest.Document{File: from, Node: detached(r.YNode())})
	}
	return docs, jail.read, nil
}

// build runs kustomize, which panics on some malformed input.
func build(opts *krusty.Options, jail *jail, dir string) (out []*resource.Resource, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the build crashed on this input: %v", p)
		}
	}()
	m, err := krusty.MakeKustomizer(opts).Run(jail, "/"+dir)
	if err != nil {
		return nil, err
	}
	return m.Resources(), nil
}

// origin is the file that a resource came from, as far as kustomize tells.
func origin(r *resource.Resource, root string) string {
	o, err := r.GetOrigin()
	if err != nil || o == nil {
		return root
	}
	p := o.Path
	if p == "" {
		p = o.ConfiguredIn
	}
	if p == "" {
		return root
	}
	return path.Join(path.Dir(root), p)
}

// detached removes line numbers: after transformations they name lines of several files.
func detached(n *yaml.Node) *yaml.Node {
	if n == nil {
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	n.Line, n.Column = 0, 0
	for _, c := range n.Content {
		detached(c)
	}
	return n
}
