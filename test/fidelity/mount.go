package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

// repositories are those on disk, by directory. What is read of one is digested once.
type repositories map[string]api.Tree

// of is the repository that a directory below dir is in, and where in it: the innermost with a .git, or dir.
func (r repositories) of(dir, name string) (repo api.Tree, below string) {
	root, below := dir, name
	for at := name; at != "."; at = path.Dir(at) {
		if _, err := os.Stat(filepath.Join(dir, at, ".git")); err == nil {
			root, below = filepath.Join(dir, at), strings.TrimPrefix(strings.TrimPrefix(name, at), "/")
			break
		}
	}
	if r[root] == nil {
		r[root] = rendertest.FromFS(os.DirFS(root))
	}
	return r[root], below
}

// hidden is where a repository is mounted: flotilla looks for no bundles in a directory whose name begins with a dot.
const hidden = ".all"

// mounted is a fleet repository of a few files of our own, and another repository in it.
type mounted struct{ own, all api.Tree }

func mount(own fstest.MapFS, all api.Tree) mounted {
	own[hidden] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return mounted{rendertest.FromFS(own), all}
}

// at is where a name is to be found.
func (m mounted) at(name string) (api.Tree, string) {
	if below, ok := strings.CutPrefix(name+"/", hidden+"/"); ok {
		return m.all, path.Clean(below)
	}
	return m.own, name
}

// Open implements fs.FS.
func (m mounted) Open(name string) (fs.File, error) {
	t, name := m.at(name)
	return t.Open(name)
}

// ReadDir implements fs.ReadDirFS.
func (m mounted) ReadDir(name string) ([]fs.DirEntry, error) {
	t, name := m.at(name)
	return t.ReadDir(name)
}

// ReadFile implements fs.ReadFileFS.
func (m mounted) ReadFile(name string) ([]byte, error) {
	t, name := m.at(name)
	return t.ReadFile(name)
}

// Stat implements fs.StatFS.
func (m mounted) Stat(name string) (fs.FileInfo, error) {
	t, name := m.at(name)
	return t.Stat(name)
}

// ReadLink implements fs.ReadLinkFS.
func (m mounted) ReadLink(name string) (string, error) {
	t, name := m.at(name)
	return fs.ReadLink(t, name)
}

// Lstat implements fs.ReadLinkFS.
func (m mounted) Lstat(name string) (fs.FileInfo, error) {
	t, name := m.at(name)
	return fs.Lstat(t, name)
}

// Digest implements api.Tree. The repository does not change, so that it counts for nothing in the digest of the root.
func (m mounted) Digest(name string) (string, error) {
	t, name := m.at(name)
	return t.Digest(name)
}
