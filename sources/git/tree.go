package git

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/flotilla-fleet/flotilla/api"
)

// tree is the api.Tree of one commit. It reads from the object store what it is asked for,
// and never changes, so any number of goroutines may read it.
//
// Symbolic links are followed inside the tree only.
// A submodule is a name that is neither file nor directory; to open it, or anything below, is an error.
type tree struct {
	objects *objects
	root    plumbing.Hash
	time    time.Time
}

var (
	_ api.Tree      = (*tree)(nil)
	_ fs.ReadLinkFS = (*tree)(nil)
)

const (
	maxHops       = 40
	maxLinkTarget = 4096
)

// node is what a name leads to.
type node struct {
	mode entryMode
	hash plumbing.Hash
	path string // the real one, without links; "." is the root
}

// Open opens a file or directory.
func (t *tree) Open(name string) (fs.File, error) {
	n, err := t.resolve("open", name, followLast)
	if err != nil {
		return nil, err
	}
	if n.mode == modeDir {
		entries, err := t.ReadDir(name)
		if err != nil {
			return nil, err
		}
		return &openDir{info: t.info(path.Base(name), n), entries: entries}, nil
	}
	data, err := t.content("open", name, n)
	if err != nil {
		return nil, err
	}
	return &openFile{Reader: bytes.NewReader(data), info: t.info(path.Base(name), n)}, nil
}

// ReadFile returns a file's content. The caller may change the bytes.
func (t *tree) ReadFile(name string) ([]byte, error) {
	n, err := t.resolve("read", name, followLast)
	if err != nil {
		return nil, err
	}
	if n.mode == modeDir {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	data, err := t.content("read", name, n)
	return bytes.Clone(data), err
}

// content returns a file's bytes, which must not be changed.
func (t *tree) content(op, name string, n node) ([]byte, error) {
	if n.mode == modeSubmodule {
		return nil, submodule(op, name)
	}
	data, err := t.objects.blob(n.hash)
	if errors.Is(err, errTooLarge) {
		err = &api.Error{
			Kind: api.Stalled, Reason: "FileTooLarge", File: name,
			Err: fmt.Errorf("the file is larger than %d MiB, the most that is read from a repository", MaxFileBytes>>20),
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// ReadDir lists a directory, sorted by name. Symbolic links are listed as such.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.resolve("readdir", name, followLast)
	if err != nil {
		return nil, err
	}
	if n.mode == modeSubmodule {
		return nil, submodule("readdir", name)
	}
	if n.mode != modeDir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	entries, err := t.objects.tree(n.hash)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	out := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		out[i] = dirEntry{t, e}
	}
	return out, nil
}

// Stat follows symbolic links.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	return t.stat("stat", name, followLast)
}

// Lstat does not follow a symbolic link that is the last element of name.
func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	return t.stat("lstat", name, keepLast)
}

func (t *tree) stat(op, name string, last lastElement) (fs.FileInfo, error) {
	n, err := t.resolve(op, name, last)
	if err != nil {
		return nil, err
	}
	info := t.info(path.Base(name), n)
	if n.mode != modeDir && n.mode != modeSubmodule {
		if info.size, err = t.objects.size(n.hash); err != nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	return info, nil
}

// ReadLink returns a symbolic link's target as it is written in the repository.
func (t *tree) ReadLink(name string) (string, error) {
	n, err := t.resolve("readlink", name, keepLast)
	if err != nil {
		return "", err
	}
	if n.mode != modeLink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	target, err := t.target(n.hash)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

func (t *tree) target(h plumbing.Hash) (string, error) {
	data, err := t.objects.blob(h)
	if errors.Is(err, errTooLarge) || len(data) > maxLinkTarget {
		return "", errors.New("the symbolic link's target is too long")
	}
	return string(data), err
}

// lastElement says what to do about a symbolic link at a name's end.
type lastElement int

const (
	followLast lastElement = iota
	keepLast
)

// resolve walks from the root to a name.
func (t *tree) resolve(op, name string, last lastElement) (node, error) {
	fail := func(err error) (node, error) { return node{}, &fs.PathError{Op: op, Path: name, Err: err} }
	if !api.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	at := []node{{modeDir, t.root, "."}}
	todo := strings.Split(name, "/")
	for hops := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		here := at[len(at)-1]
		switch {
		case here.mode == modeSubmodule:
			return node{}, submodule(op, here.path)
		case here.mode != modeDir:
			return fail(fs.ErrNotExist)
		case element == "" || element == ".":
			continue
		case element == "..":
			if len(at) == 1 {
				return fail(outside(name))
			}
			at = at[:len(at)-1]
			continue
		}
		entries, err := t.objects.tree(here.hash)
		if err != nil {
			return fail(err)
		}
		i, ok := slices.BinarySearchFunc(entries, element, func(e treeEntry, s string) int { return strings.Compare(e.name, s) })
		if !ok {
			return fail(fs.ErrNotExist)
		}
		e := entries[i]
		if e.mode == modeLink && (last == followLast || len(todo) > 0) {
			if hops++; hops > maxHops {
				return fail(&api.Error{Kind: api.Stalled, Reason: "SymlinkLoop", File: name, Err: errors.New("too many symbolic links")})
			}
			target, err := t.target(e.hash)
			if err != nil {
				return fail(err)
			}
			if path.IsAbs(target) {
				return fail(outside(name))
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		at = append(at, node{e.mode, e.hash, path.Join(here.path, e.name)})
	}
	return at[len(at)-1], nil
}

func outside(name string) error {
	return &api.Error{
		Kind: api.Stalled, Reason: "SymlinkOutside", File: name,
		Err: errors.New("a symbolic link leads out of the repository"),
	}
}

func submodule(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: &api.Error{
		Kind: api.Stalled, Reason: "SubmoduleNotSupported", File: name,
		Err:  errors.New("is a Git submodule, and submodules are not fetched"),
		Hint: "copy the files into the fleet repository, or use a chart",
	}}
}

// info describes a node, but for the size of a file.
func (t *tree) info(name string, n node) *fileInfo {
	return &fileInfo{name: name, mode: n.mode.fileMode(), time: t.time}
}

func (m entryMode) fileMode() fs.FileMode {
	switch m {
	case modeDir:
		return fs.ModeDir | 0o555
	case modeLink:
		return fs.ModeSymlink | 0o777
	case modeSubmodule:
		return fs.ModeIrregular
	case modeExecutable:
		return 0o555
	case modeFile:
	}
	return 0o444
}

type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.size }
func (i *fileInfo) Mode() fs.FileMode  { return i.mode }
func (i *fileInfo) ModTime() time.Time { return i.time }
func (i *fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i *fileInfo) Sys() any           { return nil }

type dirEntry struct {
	t *tree
	e treeEntry
}

func (d dirEntry) Name() string      { return d.e.name }
func (d dirEntry) IsDir() bool       { return d.e.mode == modeDir }
func (d dirEntry) Type() fs.FileMode { return d.e.mode.fileMode().Type() }

// String is what the fs package recommends for printing.
func (d dirEntry) String() string { return fs.FormatDirEntry(d) }

// Info is as of Lstat.
func (d dirEntry) Info() (fs.FileInfo, error) {
	info := d.t.info(d.e.name, node{mode: d.e.mode})
	if d.e.mode == modeDir || d.e.mode == modeSubmodule {
		return info, nil
	}
	var err error
	info.size, err = d.t.objects.size(d.e.hash)
	return info, err
}

// openFile is a file that was opened: all of it is in memory.
type openFile struct {
	*bytes.Reader
	info *fileInfo
}

func (f *openFile) Stat() (fs.FileInfo, error) {
	info := *f.info
	info.size = f.Size()
	return &info, nil
}

func (f *openFile) Close() error { return nil }

type openDir struct {
	info    *fileInfo
	entries []fs.DirEntry // not yet read
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir follows fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		out := d.entries
		d.entries = nil
		return out, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	out := d.entries[:min(n, len(d.entries))]
	d.entries = d.entries[len(out):]
	return out, nil
}
