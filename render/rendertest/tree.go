// Package rendertest makes trees for tests of everything that reads a fleet repository.
// It is used by tests only and keeps all files in memory.
package rendertest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"sync"
	"testing/fstest"

	"github.com/flotilla-fleet/flotilla/api"
)

// Files is a repository: names and contents.
type Files map[string]string

// With returns a copy in which pairs of name and content are set; "" as content removes the file.
func (f Files) With(pairs ...string) Files {
	out := maps.Clone(f)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			delete(out, pairs[i])
		} else {
			out[pairs[i]] = pairs[i+1]
		}
	}
	return out
}

// Snapshot returns the files as a snapshot, with links as symbolic links from name to target.
func (f Files) Snapshot(links ...string) api.Snapshot {
	m := fstest.MapFS{}
	for name, content := range f {
		m[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	for i := 0; i+1 < len(links); i += 2 {
		m[links[i]] = &fstest.MapFile{Data: []byte(links[i+1]), Mode: fs.ModeSymlink | 0o777}
	}
	return api.Snapshot{Revision: "test", Tree: FromFS(m)}
}

// FromFS makes a tree of any file system that does not change.
// As in Git, the digest of a symbolic link is that of the link and not of what it points to.
func FromFS(fsys fs.FS) api.Tree { return &tree{FS: fsys, digests: map[string]string{}} }

type tree struct {
	fs.FS
	mu      sync.Mutex
	digests map[string]string
}

func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(t.FS, name) }
func (t *tree) ReadFile(name string) ([]byte, error)       { return fs.ReadFile(t.FS, name) }
func (t *tree) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(t.FS, name) }

// ReadLink implements fs.ReadLinkFS, and so does Lstat.
func (t *tree) ReadLink(name string) (string, error)   { return fs.ReadLink(t.FS, name) }
func (t *tree) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(t.FS, name) }

// Digest implements api.Tree.
func (t *tree) Digest(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.digest(name)
}

func (t *tree) digest(name string) (string, error) {
	if d, ok := t.digests[name]; ok {
		return d, nil
	}
	h := sha256.New()
	st, err := fs.Lstat(t.FS, name)
	if err != nil {
		return "", err
	}
	switch {
	case st.IsDir():
		entries, err := fs.ReadDir(t.FS, name)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			d, err := t.digest(path.Join(name, e.Name()))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %d %s\n", e.Name(), e.Type(), d)
		}
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := fs.ReadLink(t.FS, name)
		if err != nil {
			return "", err
		}
		fmt.Fprint(h, "link ", to)
	default:
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			return "", err
		}
		h.Write(data)
	}
	d := hex.EncodeToString(h.Sum(nil))
	t.digests[name] = d
	return d, nil
}

// ReadAll reads every file of a file system.
func ReadAll(fsys fs.FS) (Files, error) {
	out := Files{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(fsys, name)
		out[name] = string(data)
		return err
	})
	return out, err
}
