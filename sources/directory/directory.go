// Package directory reads a fleet repository from a working directory, without Git.
//
// It is for a look at what is not committed yet.
// Nothing outside the directory can be reached, symbolic links included; ".git" is not shown.
// Unlike a commit a directory can change while it is read: a digest, once computed, is kept,
// so open it again to see later changes.
package directory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/flotilla-fleet/flotilla/api"
)

// Revision is the revision of every snapshot of a directory.
const Revision = "worktree"

// MaxFileBytes is the largest file that is read.
const MaxFileBytes = 10 << 20

// MaxFiles is the largest number of names that one digest looks at.
// Links to directories can make a few directories look like any number.
const MaxFiles = 500_000

// maxDepth bounds how deep directories are walked, those behind links included.
const maxDepth = 100

// Open returns a snapshot of a directory.
func Open(dir string) (api.Snapshot, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return api.Snapshot{}, &api.Error{Kind: api.Stalled, Reason: "BadDirectory", Err: err}
	}
	info, err := root.Stat(".")
	if err != nil {
		return api.Snapshot{}, errors.Join(err, root.Close())
	}
	return api.Snapshot{
		Revision: Revision,
		Subject:  "working directory",
		Time:     info.ModTime(),
		Tree:     &tree{root: root, digests: map[string]string{}},
	}, nil
}

// tree is the api.Tree of a directory. Its root is closed when nobody uses it any more.
type tree struct {
	root *os.Root

	mu      sync.Mutex
	digests map[string]string // name -> digest
	visits  int               // of the digest that is being made
}

var (
	_ api.Tree      = (*tree)(nil)
	_ fs.ReadLinkFS = (*tree)(nil)
)

// hidden reports whether a name is, or is below, a .git.
func hidden(name string) bool {
	return slices.Contains(strings.Split(name, "/"), ".git")
}

// visible refuses names that lead nowhere, and .git.
func visible(op, name string) error {
	switch {
	case !api.ValidPath(name):
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	case hidden(name):
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return nil
}

// admit refuses what no reader may open: bad names, .git, and anything that is no file or directory.
func (t *tree) admit(op, name string) (fs.FileInfo, error) {
	if err := visible(op, name); err != nil {
		return nil, err
	}
	info, err := t.root.Stat(name)
	if err != nil {
		return nil, t.explain(op, name, err)
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, &fs.PathError{Op: op, Path: name, Err: &api.Error{
			Kind: api.Stalled, Reason: "BadFile", File: name, Err: fmt.Errorf("is neither a file nor a directory (%s)", info.Mode().Type()),
		}}
	}
	return info, nil
}

// explain says of a symbolic link that leads out of the directory what it is.
func (t *tree) explain(op, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return err
	}
	var p *fs.PathError
	if errors.As(err, &p) && strings.Contains(p.Err.Error(), "escapes from parent") {
		return &fs.PathError{Op: op, Path: name, Err: &api.Error{
			Kind: api.Stalled, Reason: "SymlinkOutside", File: name, Err: errors.New("a symbolic link leads out of the directory"),
		}}
	}
	return err
}

// Open opens a file or directory.
func (t *tree) Open(name string) (fs.File, error) {
	info, err := t.admit("open", name)
	if err != nil {
		return nil, err
	}
	f, err := t.root.Open(name)
	if err != nil {
		return nil, t.explain("open", name, err)
	}
	if info.IsDir() {
		return openDir{f}, nil
	}
	return f, nil
}

// openDir leaves .git out of a listing.
type openDir struct{ fs.ReadDirFile }

func (d openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	for {
		entries, err := d.ReadDirFile.ReadDir(n)
		some := len(entries) > 0
		entries = withoutGit(entries)
		if len(entries) > 0 || err != nil || n <= 0 || !some {
			return entries, err
		}
	}
}

func withoutGit(entries []fs.DirEntry) []fs.DirEntry {
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".git" })
}

// ReadDir lists a directory, sorted by name.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	if _, err := t.admit("readdir", name); err != nil {
		return nil, err
	}
	f, err := t.root.Open(name)
	if err != nil {
		return nil, t.explain("readdir", name, err)
	}
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return withoutGit(entries), errors.Join(err, f.Close())
}

// ReadFile returns a file's content.
func (t *tree) ReadFile(name string) ([]byte, error) {
	info, err := t.admit("read", name)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Size() > MaxFileBytes {
		return nil, &fs.PathError{Op: "read", Path: name, Err: &api.Error{
			Kind: api.Stalled, Reason: "FileTooLarge", File: name,
			Err: fmt.Errorf("the file is larger than %d MiB, the most that is read from a repository", MaxFileBytes>>20),
		}}
	}
	data, err := t.root.ReadFile(name)
	return data, t.explain("read", name, err)
}

// Stat follows symbolic links.
func (t *tree) Stat(name string) (fs.FileInfo, error) { return t.admit("stat", name) }

// Lstat does not follow a symbolic link that is the last element of name.
func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	if err := visible("lstat", name); err != nil {
		return nil, err
	}
	return t.root.Lstat(name)
}

// ReadLink returns a symbolic link's target as it is written.
func (t *tree) ReadLink(name string) (string, error) {
	if err := visible("readlink", name); err != nil {
		return "", err
	}
	return t.root.Readlink(name)
}

// Digest is a hash of names and content, of what symbolic links lead to included.
func (t *tree) Digest(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.visits = 0
	return t.digestLocked(name, 0)
}

func (t *tree) digestLocked(name string, depth int) (string, error) {
	if d, ok := t.digests[name]; ok {
		return d, nil
	}
	if t.visits++; t.visits > MaxFiles {
		return "", &fs.PathError{Op: "digest", Path: name, Err: &api.Error{
			Kind: api.Stalled, Reason: "RepositoryTooLarge", Err: fmt.Errorf("more than %d files, those behind symbolic links included", MaxFiles),
		}}
	}
	if depth > maxDepth {
		return "", &fs.PathError{Op: "digest", Path: name, Err: &api.Error{
			Kind: api.Stalled, Reason: "SymlinkLoop", File: name, Err: errors.New("directories, or links to them, are nested too deep"),
		}}
	}
	info, err := t.admit("digest", name)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if info.IsDir() {
		err = t.addDir(sum, name, depth)
	} else {
		err = t.addFile(sum, name)
	}
	if err != nil {
		return "", err
	}
	d := hex.EncodeToString(sum.Sum(nil))
	t.digests[name] = d
	return d, nil
}

func (t *tree) addFile(w io.Writer, name string) error {
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

func (t *tree) addDir(w io.Writer, name string, depth int) error {
	entries, err := t.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		below := path.Join(name, e.Name())
		link := ""
		if e.Type()&fs.ModeSymlink != 0 {
			if link, err = t.ReadLink(below); err != nil {
				return err
			}
			// A link to a directory above has all its content here already.
			if target := path.Join(name, link); !path.IsAbs(link) && (target == "." || name == target || strings.HasPrefix(name, target+"/")) {
				fmt.Fprintf(w, "%q above %q\n", e.Name(), link)
				continue
			}
		}
		d, err := t.digestLocked(below, depth+1)
		if t.visits > MaxFiles {
			return err
		}
		if err != nil {
			// What cannot be read is content all the same; who reads it gets the error.
			d = "unreadable"
		}
		fmt.Fprintf(w, "%q %s %q %s\n", e.Name(), e.Type(), link, d)
	}
	return nil
}
