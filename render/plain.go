package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// plainDocs reads every manifest below a directory, in the order of their names.
//
// Left out are flotilla's own files, names that begin with a dot, directories that are bundles of their own,
// and what the bundle's file names as something else: overlays, other sources, values, components and patches.
func plainDocs(v *view, b resolved, dir string) ([]manifest.Document, []string, error) {
	if err := v.cover(dir); err != nil {
		return nil, nil, err
	}
	w := &plainWalk{view: v, bundle: b, root: dir, others: b.named()}
	if err := w.dir(dir); err != nil {
		return nil, nil, err
	}
	return w.docs, w.warnings, nil
}

// named are the files and directories that the bundle's file names, but for the plain directories themselves.
func (b resolved) named() map[string]bool {
	out := map[string]bool{}
	for _, o := range b.overlays {
		out[o] = true
	}
	for _, c := range b.spec.Components {
		out[path.Join(b.dir, c)] = true
	}
	for _, p := range b.spec.Patches {
		if p.Path != "" {
			out[path.Join(b.dir, p.Path)] = true
		}
	}
	for _, s := range b.spec.Sources {
		if s.Helm == nil {
			out[path.Join(b.dir, s.Path)] = true
			continue
		}
		if _, _, remote := remoteChart(s.Helm); !remote {
			out[path.Join(b.dir, s.Helm.Chart)] = true
		}
		for _, f := range s.Helm.ValuesFiles {
			out[path.Join(b.dir, f)] = true
		}
	}
	return out
}

type plainWalk struct {
	view     *view
	bundle   resolved
	root     string
	others   map[string]bool
	docs     []manifest.Document
	weight   int // of them together
	warnings []string
}

func (w *plainWalk) dir(dir string) error {
	entries, err := w.view.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", dir, err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name && !e.IsDir() })
	}
	if dir != w.root {
		if has(bundleFile) || w.others[dir] {
			return nil
		}
		if err := w.refuseEngines(dir, has); err != nil {
			return err
		}
	} else if has("Chart.yaml") {
		return w.refuse(path.Join(dir, "Chart.yaml"), "a chart is not rendered unless the bundle says so",
			"set spec.helm.chart to ./ in "+w.bundle.file)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := w.entry(dir, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *plainWalk) refuseEngines(dir string, has func(string) bool) error {
	for _, name := range kustomize.Names() {
		if has(name) {
			return w.refuse(path.Join(dir, name), "a kustomization below a bundle of plain YAML is not built",
				"give its directory a bundle.yaml, or name it in spec.kustomize.path or a target's overlay")
		}
	}
	if has("Chart.yaml") {
		return w.refuse(path.Join(dir, "Chart.yaml"), "a chart below a bundle of plain YAML is not rendered",
			"give its directory a bundle.yaml, or name it in spec.helm.chart")
	}
	return nil
}

func (w *plainWalk) refuse(file, what, hint string) error {
	return &api.Error{Kind: api.Stalled, Reason: "BadBundle", File: file, Err: errors.New(what), Hint: hint}
}

func (w *plainWalk) entry(dir string, e fs.DirEntry) error {
	name := path.Join(dir, e.Name())
	if strings.HasPrefix(e.Name(), ".") || w.others[name] {
		return nil
	}
	if e.IsDir() {
		return w.dir(name)
	}
	if e.Type()&fs.ModeSymlink != 0 {
		st, err := w.view.tree.Stat(name)
		if _, ok := denied(err); ok {
			return err
		}
		if err != nil {
			return &api.Error{
				Kind: api.Stalled, Reason: "BadManifest", File: name,
				Err: errors.New("is a symbolic link to something outside the fleet repository, or to nothing"),
			}
		}
		if st.IsDir() {
			w.warnings = append(w.warnings, fmt.Sprintf("%s is a symbolic link to a directory, which is not followed", name))
			return nil
		}
	}
	switch path.Ext(e.Name()) {
	case ".yaml", ".yml", ".json":
	default:
		return nil
	}
	// Only where they mean something: a manifest elsewhere may have such a name, and must not be dropped.
	if e.Name() == bundleFile || name == fleetFile || e.Name() == clusterFile && path.Dir(path.Dir(name)) == clustersDir {
		return nil
	}
	data, err := w.view.ReadFile(name)
	if err != nil {
		return err
	}
	if w.weight += manifest.Weight(data); w.weight > manifest.MaxWeight {
		return &api.Error{
			Kind: api.Stalled, Reason: "BadManifest", File: name,
			Err:  fmt.Errorf("the bundle's manifests may hold more than %d values up to this one", manifest.MaxWeight),
			Hint: "make several bundles of it",
		}
	}
	docs, err := manifest.Parse(name, data)
	if err != nil {
		return err
	}
	w.docs = append(w.docs, docs...)
	return nil
}
