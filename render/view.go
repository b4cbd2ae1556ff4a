package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

// dep is something of the tree that a rendering has looked at.
type dep struct {
	kind   depKind
	digest string
}

type depKind uint8

const (
	depFile    depKind = iota // the file's digest
	depContent                // the hash of the bytes: for files behind symbolic links
	depListing                // the hash of a directory's names
	depSubtree                // the directory's digest
	depDir                    // it is a directory
	depAbsent                 // it is not there
)

// holds reports whether a tree looks the same at name.
func (d dep) holds(tree api.Tree, name string) bool {
	switch d.kind {
	case depFile, depSubtree:
		got, err := tree.Digest(name)
		return err == nil && got == d.digest
	case depContent:
		data, err := tree.ReadFile(name)
		return err == nil && hashOf(data) == d.digest
	case depListing:
		entries, err := tree.ReadDir(name)
		return err == nil && listingOf(entries) == d.digest
	case depDir:
		st, err := tree.Stat(name)
		return err == nil && st.IsDir()
	default:
		_, err := tree.Stat(name)
		return errors.Is(err, fs.ErrNotExist)
	}
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

func listingOf(entries []fs.DirEntry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s\x00%d\x00", e.Name(), e.Type())
	}
	return hashOf([]byte(b.String()))
}

// links knows which names of a tree are symbolic links. One serves a whole pass.
type links struct {
	tree api.Tree
	mu   sync.Mutex
	dirs map[string]map[string]bool // directory -> the links in it
}

func newLinks(tree api.Tree) *links { return &links{tree: tree, dirs: map[string]map[string]bool{}} }

// through reports whether name is, or is reached through, a symbolic link.
func (l *links) through(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; name != "."; name = path.Dir(name) {
		if l.isLocked(name) {
			return true
		}
	}
	return false
}

// is reports whether name, whose directory is reached through no link, is a symbolic link.
func (l *links) is(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isLocked(name)
}

func (l *links) isLocked(name string) bool {
	dir := path.Dir(name)
	in, ok := l.dirs[dir]
	if !ok {
		in = map[string]bool{}
		if entries, err := l.tree.ReadDir(dir); err == nil {
			for _, e := range entries {
				if e.Type()&fs.ModeSymlink != 0 {
					in[e.Name()] = true
				}
			}
		}
		l.dirs[dir] = in
	}
	return in[path.Base(name)]
}

// view is a tree as one rendering sees it: it writes down what was looked at,
// and files that SOPS encrypted read as plain. It is for one goroutine.
type view struct {
	tree  api.Tree
	links *links
	keys  sops.Keys
	deps  map[string]dep
	// subtree is a directory whose whole digest is a dep already, "" for none.
	subtree string
	// secrets are the plain texts of what was decrypted; errors must not show them.
	secrets []string
}

func newView(p *pass, b resolved) *view {
	return &view{tree: p.treeOf(b.tenant), links: p.links, keys: p.keysOf(b.tenant), deps: map[string]dep{}}
}

func (v *view) note(name string, kind depKind, digest string) {
	if have, ok := v.deps[name]; ok && have.kind < kind {
		return // what is known already says more
	}
	v.deps[name] = dep{kind, digest}
}

// covered reports whether the subtree's digest vouches for name.
func (v *view) covered(name string) bool {
	return v.subtree != "" && (v.subtree == "." || name == v.subtree || strings.HasPrefix(name, v.subtree+"/"))
}

// cover makes a directory's whole digest a dep.
func (v *view) cover(dir string) error {
	digest, err := v.tree.Digest(dir)
	if err != nil {
		return fmt.Errorf("digest of %q: %w", dir, err)
	}
	v.subtree = dir
	for name, d := range v.deps {
		if d.kind != depContent && v.covered(name) {
			delete(v.deps, name)
		}
	}
	v.deps[dir] = dep{depSubtree, digest}
	return nil
}

// Open implements fs.FS.
func (v *view) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// readable refuses a file whose name cannot be shown or written down: only whoever reads it is concerned.
func readable(name string) error {
	if utf8.ValidString(name) {
		return nil
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "BadFileName", File: printable(name),
		Err: errors.New("the name is not UTF-8"), Hint: "rename it, with its directories",
	}
}

// printable is a name with escapes for what is not UTF-8.
func printable(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strings.Trim(strconv.Quote(name), `"`)
}

// ReadFile returns a file's bytes, decrypted where SOPS encrypted them.
func (v *view) ReadFile(name string) ([]byte, error) {
	if err := readable(name); err != nil {
		return nil, err
	}
	data, err := v.tree.ReadFile(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !v.covered(name) {
			v.note(name, depAbsent, "")
		}
		return nil, err
	}
	switch {
	case v.links.through(name):
		v.note(name, depContent, hashOf(data))
	case !v.covered(name):
		digest, err := v.tree.Digest(name)
		if err != nil {
			return nil, fmt.Errorf("digest of %q: %w", name, err)
		}
		v.note(name, depFile, digest)
	}
	if err := fetched(name, data); err != nil {
		return nil, err
	}
	plain, secrets, err := decrypt(v.keys, name, data)
	v.secrets = append(v.secrets, secrets...)
	return plain, err
}

// lfsPointer is how the file begins that Git LFS leaves in place of another.
const lfsPointer = "version https://git-lfs.github.com/spec/"

// fetched refuses a file of which only the pointer is in the repository: what it points to is not fetched.
func fetched(name string, data []byte) error {
	if len(data) > 1024 || !bytes.HasPrefix(data, []byte(lfsPointer)) || !bytes.Contains(data, []byte("\noid ")) {
		return nil
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "LFSPointer", File: name, Line: 1,
		Err:  errors.New("is a pointer of Git LFS, and what it points to is not fetched"),
		Hint: "commit the file itself (git lfs untrack), or leave it out (a chart's files by .helmignore)",
	}
}

// ReadDir lists a directory.
func (v *view) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := v.tree.ReadDir(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !v.covered(name) {
			v.note(name, depAbsent, "")
		}
		return nil, err
	}
	if !v.covered(name) || v.links.through(name) {
		v.note(name, depListing, listingOf(entries))
	}
	return entries, nil
}

// Stat tells what is there. Only the kind of thing counts, not its size or time.
func (v *view) Stat(name string) (fs.FileInfo, error) {
	if err := readable(name); err != nil {
		return nil, err
	}
	st, err := v.tree.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !v.covered(name) {
			v.note(name, depAbsent, "")
		}
	case err == nil && st.IsDir() && !v.covered(name):
		v.note(name, depDir, "")
	case err == nil && !v.covered(name) && !v.links.through(name):
		digest, err := v.tree.Digest(name)
		if err != nil {
			return nil, err
		}
		v.note(name, depFile, digest)
	}
	return st, err
}

// lineOf is where an object is written: kustomize tells the file alone. It is 0 if it cannot be told.
func (v *view) lineOf(o manifest.Object) int {
	if o.Line > 0 || o.File == "" {
		return o.Line
	}
	text, err := v.tree.ReadFile(o.File) // as it is in Git: decrypting would move the lines
	if err != nil {
		return 0
	}
	return kustomize.Line(o.File, text, o.GetKind(), o.GetName())
}

// placed adds the line to an error about an object.
func (v *view) placed(err error, o manifest.Object) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Line > 0 || e.File != o.File {
		return err
	}
	at := *e
	at.Line = v.lineOf(o)
	return &at
}
