package kustomize

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/flotilla-fleet/flotilla/api"
)

// maxBuildBytes bounds what one build reads.
const maxBuildBytes = 64 << 20

// jail shows a tree to kustomize as a read-only file system whose root is the tree's.
// Kustomization files are checked when they are read.
type jail struct {
	files   Files
	root    string   // the kustomization file that is built
	read    []string // the files that were read, in order
	size    int      // of them together, in bytes
	origins bool     // origin annotations were asked for by us
	schema  bool     // the build brings an OpenAPI schema of its own
	refused error    // the first refusal; kustomize loses error types on its way
}

var errDirectory = errors.New("this is a directory")

var errReadOnly = errors.New("the fleet repository is read-only")

// rel turns kustomize's absolute names into the tree's.
func rel(name string) string {
	name = path.Clean("/" + filepath.ToSlash(name))
	if name == "/" {
		return "."
	}
	return name[1:]
}

func (j *jail) refuse(err error) error {
	if j.refused == nil {
		j.refused = err
	}
	return err
}

// ReadFile implements filesys.FileSystem.
func (j *jail) ReadFile(name string) ([]byte, error) {
	file := rel(name)
	if j.IsDir(name) {
		return nil, errDirectory
	}
	data, err := j.files.ReadFile(file)
	if err != nil {
		if _, ok := errors.AsType[*api.Error](err); ok { // not decryptable
			return nil, j.refuse(err)
		}
		return nil, err
	}
	if !slices.Contains(j.read, file) {
		j.read = append(j.read, file)
	}
	if j.size += len(data); j.size > maxBuildBytes {
		return nil, j.refuse(&api.Error{
			Kind: api.Stalled, Reason: "KustomizeFailed", File: j.root,
			Err: fmt.Errorf("the build reads more than %d bytes", maxBuildBytes),
		})
	}
	if slices.Contains(Names(), path.Base(file)) {
		if data, err = j.kustomization(file, data); err != nil {
			return nil, j.refuse(err)
		}
		return data, nil
	}
	if err := j.check(file, data); err != nil {
		return nil, j.refuse(err)
	}
	return data, nil
}

// Open implements filesys.FileSystem.
func (j *jail) Open(name string) (filesys.File, error) {
	data, err := j.ReadFile(name)
	if err != nil {
		return nil, err
	}
	st, err := j.files.Stat(rel(name))
	if err != nil {
		return nil, err
	}
	return &file{Reader: strings.NewReader(string(data)), info: st}, nil
}

type file struct {
	io.Reader
	info fs.FileInfo
}

func (f *file) Close() error               { return nil }
func (f *file) Write([]byte) (int, error)  { return 0, errReadOnly }
func (f *file) Stat() (os.FileInfo, error) { return f.info, nil }

// IsDir implements filesys.FileSystem.
func (j *jail) IsDir(name string) bool {
	st, err := j.stat(name)
	return err == nil && st.IsDir()
}

// stat keeps why something may not be read: kustomize would take it for something that is not there.
func (j *jail) stat(name string) (fs.FileInfo, error) {
	st, err := j.files.Stat(rel(name))
	if _, ok := errors.AsType[*api.Error](err); ok {
		return nil, j.refuse(err)
	}
	return st, err
}

// Exists implements filesys.FileSystem.
func (j *jail) Exists(name string) bool {
	_, err := j.stat(name)
	return err == nil
}

// ReadDir implements filesys.FileSystem.
func (j *jail) ReadDir(name string) ([]string, error) {
	entries, err := j.files.ReadDir(rel(name))
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// CleanedAbs implements filesys.FileSystem.
func (j *jail) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	st, err := j.stat(name)
	if err != nil {
		return "", "", fmt.Errorf("%q is not in the fleet repository", rel(name))
	}
	abs := path.Clean("/" + filepath.ToSlash(name))
	if st.IsDir() {
		return filesys.ConfirmedDir(abs), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(abs)), path.Base(abs), nil
}

// Glob implements filesys.FileSystem, for patterns in the last part of the name.
func (j *jail) Glob(pattern string) ([]string, error) {
	dir, last := path.Split(path.Clean("/" + filepath.ToSlash(pattern)))
	entries, err := j.files.ReadDir(rel(dir))
	if err != nil {
		return nil, nil //nolint:nilerr // a glob over nothing finds nothing
	}
	var out []string
	for _, e := range entries {
		if ok, err := path.Match(last, e.Name()); err != nil {
			return nil, err
		} else if ok {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// Walk implements filesys.FileSystem.
func (j *jail) Walk(name string, walk filepath.WalkFunc) error {
	return fs.WalkDir(j.files, rel(name), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return walk("/"+p, nil, err)
		}
		info, err := d.Info()
		return walk("/"+p, info, err)
	})
}

// Create implements filesys.FileSystem: nothing is ever written.
func (j *jail) Create(string) (filesys.File, error) { return nil, errReadOnly }

// Mkdir implements filesys.FileSystem: nothing is ever written.
func (j *jail) Mkdir(string) error { return errReadOnly }

// MkdirAll implements filesys.FileSystem: nothing is ever written.
func (j *jail) MkdirAll(string) error { return errReadOnly }

// RemoveAll implements filesys.FileSystem: nothing is ever written.
func (j *jail) RemoveAll(string) error { return errReadOnly }

// WriteFile implements filesys.FileSystem: nothing is ever written.
func (j *jail) WriteFile(string, []byte) error { return errReadOnly }
