package render

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// found is a bundle.yaml. Without a name in bundle, nothing is known of it but err: it may also be a bundle.yml.
type found struct {
	file   string
	dir    string
	digest string // of the file
	bundle api.Bundle
	data   []byte
	// err is why the file does not decode; then only the name in bundle is known.
	err error
}

// finder finds the bundles of a tree.
// It remembers what it found below each directory by the directory's digest,
// so that a new commit costs only the directories that it touched.
type finder struct {
	mu sync.Mutex
	// dir -> what was found below it
	seen map[string]listing
}

type listing struct {
	digest  string
	bundles []*found
}

func newFinder() *finder { return &finder{seen: map[string]listing{}} }

// bundles returns every bundle of the tree, sorted by name, and those of one name by file.
func (f *finder) bundles(tree api.Tree) ([]*found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := make(map[string]listing, len(f.seen))
	all, err := f.below(tree, ".", fresh)
	if err != nil {
		return nil, err
	}
	f.seen = fresh
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *found) int {
		return cmp.Or(strings.Compare(a.bundle.Metadata.Name, b.bundle.Metadata.Name), strings.Compare(a.file, b.file))
	})
	return all, nil
}

// keep carries over what is known of a directory that did not change, and of those below it.
func (f *finder) keep(dir string, fresh map[string]listing) {
	fresh[dir] = f.seen[dir]
	for _, b := range f.seen[dir].bundles {
		for d := b.dir; d != dir && d != "."; d = path.Dir(d) {
			if l, ok := f.seen[d]; ok {
				fresh[d] = l
			}
		}
	}
}

func (f *finder) below(tree api.Tree, dir string, fresh map[string]listing) ([]*found, error) {
	digest, err := tree.Digest(dir)
	if err != nil {
		return nil, cmp.Or(readable(dir), fmt.Errorf("digest of %q: %w", dir, err))
	}
	if l, ok := f.seen[dir]; ok && l.digest == digest {
		f.keep(dir, fresh)
		return l.bundles, nil
	}
	entries, err := tree.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read directory %q: %w", dir, err)
	}
	chart := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "Chart.yaml" })
	var out []*found
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if chart || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			sub, err := f.below(tree, name, fresh)
			if err != nil {
				return nil, err
			}
			out = append(out, sub...)
		case e.Name() == bundleFile:
			b, err := readBundle(tree, name, e)
			if err != nil {
				return nil, err
			}
			out = append(out, b)
		case misnamed[e.Name()] != "":
			if err := refuseMisnamed(tree, name); err != nil {
				out = append(out, &found{file: name, dir: dir, err: err})
			}
		case e.Name() == "rollout.yaml" || e.Name() == "rollout.yml":
			if err := refuseRollout(tree, name); err != nil {
				out = append(out, &found{file: name, dir: dir, err: err})
			}
		}
	}
	fresh[dir] = listing{digest: digest, bundles: out}
	return out, nil
}

// refuseMisnamed refuses a bundle.yml: nothing would read it, and its author would not know.
func refuseMisnamed(tree api.Tree, name string) error {
	data, err := tree.ReadFile(name)
	if err != nil || !bytes.Contains(data, []byte(api.Group+"/")) {
		return nil //nolint:nilerr // what cannot be read is not ours
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "BadFleetFile", File: name,
		Err: fmt.Errorf("flotilla reads this only as %s: rename it", misnamed[path.Base(name)]),
	}
}

// refuseRollout refuses a Rollout of flotilla's. Nothing releases in waves yet,
// and its author would believe that a change stops at the first wave. Rollouts of others are not ours.
func refuseRollout(tree api.Tree, name string) error {
	data, err := tree.ReadFile(name)
	if err != nil || !bytes.Contains(data, []byte(api.Group+"/")) {
		return nil //nolint:nilerr // what cannot be read is not ours
	}
	docs, err := manifest.Parse(name, data)
	if err != nil {
		return nil //nolint:nilerr // nor is what is no YAML
	}
	for _, d := range docs {
		_, version := child(d.Node, "apiVersion")
		at, kind := child(d.Node, "kind")
		if version != nil && kind != nil && strings.HasPrefix(version.Value, api.Group+"/") && kind.Value == api.KindRollout {
			return &api.Error{
				Kind: api.Stalled, Reason: "BadFleetFile", File: name, Line: at.Line, Field: "kind",
				Err: errors.New("this version of flotilla does not obey a Rollout yet, and would apply a change to every cluster at once: remove the file"),
			}
		}
	}
	return nil
}

// readBundle reads a bundle.yaml. What is wrong with the file is in the result; the error is for a file that cannot be read
// now, and may be later.
func readBundle(tree api.Tree, file string, e fs.DirEntry) (*found, error) {
	if e.Type()&fs.ModeSymlink != 0 {
		return &found{file: file, dir: path.Dir(file), err: &api.Error{
			Kind: api.Stalled, Reason: "BadFleetFile", File: file,
			Err: errors.New("is a symbolic link: a bundle is described where it is"),
		}}, nil
	}
	data, err := tree.ReadFile(file)
	if api.KindOf(err) == api.Stalled {
		return &found{file: file, dir: path.Dir(file), err: fmt.Errorf("read %q: %w", file, err)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", file, err)
	}
	out := &found{file: file, dir: path.Dir(file), digest: digestOf(data), data: data}
	out.bundle, err = api.DecodeBundle(file, data)
	if bad := readable(file); bad != nil {
		err, out.file, out.dir = bad, printable(file), printable(out.dir)
	}
	if err == nil {
		return out, nil
	}
	out.err, out.bundle = err, api.Bundle{}
	if name := nameOf(data); api.ValidName(name) {
		out.bundle.Metadata.Name = name
	}
	return out, nil
}

// LineOf finds the line of a field, or of its nearest parent that is written down; 0 if the text is no YAML.
// The keys of a list are its indexes.
func LineOf(data []byte, keys ...string) int {
	docs, err := manifest.Parse("", data)
	if err != nil || len(docs) == 0 {
		return 0
	}
	n, line := docs[0].Node, docs[0].Line()
	for _, key := range keys {
		at, next := child(n, key)
		if next == nil {
			break
		}
		n, line = next, at.Line
	}
	return line
}

// child returns what is below a key or an index, and the node that says where it begins.
func child(n *yaml.Node, key string) (at, value *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i], n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	default: // nothing is below a scalar
	}
	return nil, nil
}

// nameOf reads metadata.name and nothing else.
func nameOf(data []byte) string {
	var head struct {
		Metadata struct {
			Name string `yaml:"name"`
		} `yaml:"metadata"`
	}
	if yaml.Unmarshal(data, &head) != nil {
		return ""
	}
	return head.Metadata.Name
}
