package adopt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// changed is a tree with some files in the place of its own. They lie in directories that exist.
type changed struct {
	api.Tree
	files map[string][]byte
}

// ReadFile implements api.Tree.
func (t changed) ReadFile(name string) ([]byte, error) {
	if b, ok := t.files[name]; ok {
		return bytes.Clone(b), nil
	}
	return t.Tree.ReadFile(name)
}

// Stat implements api.Tree.
func (t changed) Stat(name string) (fs.FileInfo, error) {
	if b, ok := t.files[name]; ok {
		return entry{path.Base(name), int64(len(b))}, nil
	}
	return t.Tree.Stat(name)
}

// ReadDir implements api.Tree.
func (t changed) ReadDir(name string) ([]fs.DirEntry, error) {
	out, err := t.Tree.ReadDir(name)
	if err != nil {
		return nil, err
	}
	for f := range t.files {
		base := path.Base(f)
		if path.Dir(f) == name && !slices.ContainsFunc(out, func(e fs.DirEntry) bool { return e.Name() == base }) {
			out = append(out, fs.FileInfoToDirEntry(entry{base, 0}))
		}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// Digest implements api.Tree.
func (t changed) Digest(name string) (string, error) {
	h := sha256.New()
	concerned := false
	for _, f := range slices.Sorted(maps.Keys(t.files)) {
		if name == "." || f == name || strings.HasPrefix(f, name+"/") {
			concerned = true
			fmt.Fprintf(h, "%s\x00%d\x00%s", f, len(t.files[f]), t.files[f])
		}
	}
	if !concerned {
		return t.Tree.Digest(name)
	}
	below, err := t.Tree.Digest(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	fmt.Fprint(h, below)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Open implements api.Tree. Everything here reads whole files.
func (t changed) Open(name string) (fs.File, error) {
	if _, ok := t.files[name]; ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	return t.Tree.Open(name)
}

// entry is a file of changed.
type entry struct {
	name string
	size int64
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return e.size }
func (e entry) Mode() fs.FileMode  { return 0o644 }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return false }
func (e entry) Sys() any           { return nil }
