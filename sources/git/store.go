package git

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	gitobject "github.com/go-git/go-git/v5/plumbing/object"

	"github.com/flotilla-fleet/flotilla/api"
)

// Bounds of what a repository may ask of an agent.
const (
	// MaxFileBytes is the largest file that is read from a repository.
	MaxFileBytes = 10 << 20
	// MaxFiles is the largest number of files in one commit.
	MaxFiles = 500_000
	// maxTreeBytes is the largest directory, some 100,000 entries.
	maxTreeBytes = 16 << 20
	// maxDepth is how deep directories may be nested.
	maxDepth = 100

	treeCacheBytes = 12 << 20
	blobCacheBytes = 4 << 20
	baseCacheBytes = 8 << 20
	maxFacts       = 200_000
)

// store is what all snapshots of a source share: bounded caches, keyed by content,
// and the note that something was found damaged.
type store struct {
	trees *lru[plumbing.Hash, []treeEntry]
	blobs *lru[plumbing.Hash, []byte]
	bases bases

	mu    sync.Mutex
	facts map[plumbing.Hash]treeFacts

	damage atomic.Pointer[error]
}

func newStore() *store {
	return &store{
		trees: newLRU[plumbing.Hash, []treeEntry](treeCacheBytes),
		blobs: newLRU[plumbing.Hash, []byte](blobCacheBytes),
		bases: bases{newLRU[baseKey, object](baseCacheBytes)},
		facts: map[plumbing.Hash]treeFacts{},
	}
}

// objects reads from a fixed set of packs. It never changes:
// a fetch makes a new one, and the snapshots of before keep theirs.
// The files of packs that no snapshot needs any more are closed when they are collected as garbage.
type objects struct {
	store *store
	packs []*pack
}

// with is a view that has more packs.
func (o *objects) with(more ...*pack) *objects {
	return &objects{o.store, append(slices.Clone(more), o.packs...)}
}

func (o *objects) has(h plumbing.Hash) bool {
	_, _, ok := o.find(h)
	return ok
}

func (o *objects) find(h plumbing.Hash) (*pack, int64, bool) {
	for _, p := range o.packs {
		if off, ok := p.offset(h); ok {
			return p, off, true
		}
	}
	return nil, 0, false
}

// read returns an object of at most limit bytes.
// An object that is missing or unreadable is noted, for the next fetch to repair the mirror.
func (o *objects) read(h plumbing.Hash, kind plumbing.ObjectType, limit int64) ([]byte, error) {
	p, off, ok := o.find(h)
	if !ok {
		return nil, o.damaged(fmt.Errorf("%s %s: %w", kind, h, errNotFound))
	}
	got, err := p.read(off, limit, o.store.bases)
	if errors.Is(err, errTooLarge) {
		return nil, err
	}
	if err != nil {
		return nil, o.damaged(err)
	}
	if got.kind != kind {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadRepository", Err: fmt.Errorf("object %s is a %s where a %s is expected", h, got.kind, kind)}
	}
	return got.data, nil
}

// damaged notes an error and gives it its kind.
func (o *objects) damaged(err error) error {
	o.store.damage.CompareAndSwap(nil, &err)
	return &api.Error{Kind: api.Transient, Reason: "MirrorDamaged", Hint: "the next fetch clones the repository again", Err: err}
}

func (o *objects) size(h plumbing.Hash) (int64, error) {
	p, off, ok := o.find(h)
	if !ok {
		return 0, o.damaged(fmt.Errorf("object %s: %w", h, errNotFound))
	}
	n, err := p.sizeOf(off)
	if err != nil {
		return 0, o.damaged(err)
	}
	return n, nil
}

// blob returns a file's content, which must not be changed.
func (o *objects) blob(h plumbing.Hash) ([]byte, error) {
	if b, ok := o.store.blobs.get(h); ok {
		return b, nil
	}
	b, err := o.read(h, plumbing.BlobObject, MaxFileBytes)
	if err != nil {
		return nil, err
	}
	o.store.blobs.add(h, b, len(b)+64)
	return b, nil
}

func (o *objects) commit(h plumbing.Hash) (*gitobject.Commit, error) {
	data, err := o.read(h, plumbing.CommitObject, maxTreeBytes)
	if err != nil {
		return nil, err
	}
	raw := &plumbing.MemoryObject{}
	raw.SetType(plumbing.CommitObject)
	if _, err := raw.Write(data); err != nil {
		return nil, err
	}
	c := &gitobject.Commit{}
	if err := c.Decode(raw); err != nil {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadRepository", Err: fmt.Errorf("commit %s: %w", h, err)}
	}
	return c, nil
}

// kindOf tells what an object is.
func (o *objects) kindOf(h plumbing.Hash) (plumbing.ObjectType, error) {
	p, off, ok := o.find(h)
	if !ok {
		return plumbing.InvalidObject, errNotFound
	}
	for range maxDeltaDepth {
		e, err := p.entry(off)
		if err != nil {
			return plumbing.InvalidObject, o.damaged(err)
		}
		if e.kind != plumbing.OFSDeltaObject && e.kind != plumbing.REFDeltaObject {
			return e.kind, nil
		}
		if off, err = p.baseOf(e); err != nil {
			return plumbing.InvalidObject, o.damaged(err)
		}
	}
	return plumbing.InvalidObject, errNotFound
}

// treeEntry is one name in a directory.
type treeEntry struct {
	name string
	mode entryMode
	hash plumbing.Hash
}

// entryMode is what a name stands for.
type entryMode uint8

const (
	modeFile entryMode = iota
	modeExecutable
	modeDir
	modeLink
	modeSubmodule
)

// tree returns a directory's entries sorted by name. They must not be changed.
func (o *objects) tree(h plumbing.Hash) ([]treeEntry, error) {
	if t, ok := o.store.trees.get(h); ok {
		return t, nil
	}
	data, err := o.read(h, plumbing.TreeObject, maxTreeBytes)
	if err != nil {
		return nil, err
	}
	t, err := parseTree(data)
	if err != nil {
		return nil, &api.Error{Kind: api.Stalled, Reason: "BadRepository", Err: fmt.Errorf("tree %s: %w", h, err)}
	}
	cost := 64
	for _, e := range t {
		cost += len(e.name) + 48
	}
	o.store.trees.add(h, t, cost)
	return t, nil
}

// parseTree reads "<mode> <name>\0<hash>" as often as it stands there.
func parseTree(data []byte) ([]treeEntry, error) {
	var out []treeEntry
	for len(data) > 0 {
		mode, rest, ok := bytes.Cut(data, []byte{' '})
		name, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 || len(rest) < hashSize {
			return nil, errors.New("is cut short")
		}
		m, err := strconv.ParseUint(string(mode), 8, 32)
		if err != nil {
			return nil, fmt.Errorf("bad mode %q", mode)
		}
		e := treeEntry{name: string(name), hash: plumbing.Hash(rest[:hashSize])}
		switch m & 0o170000 {
		case 0o40000:
			e.mode = modeDir
		case 0o120000:
			e.mode = modeLink
		case 0o160000:
			e.mode = modeSubmodule
		case 0o100000:
			if m&0o100 != 0 {
				e.mode = modeExecutable
			}
		default:
			return nil, fmt.Errorf("bad mode %q", mode)
		}
		if e.name == "" || e.name == "." || e.name == ".." || bytes.IndexByte(name, '/') >= 0 {
			return nil, fmt.Errorf("bad file name %q", name)
		}
		out = append(out, e)
		data = rest[hashSize:]
	}
	// Git sorts a directory as if its name ended with a slash.
	slices.SortFunc(out, func(a, b treeEntry) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(out); i++ {
		if out[i].name == out[i-1].name {
			return nil, fmt.Errorf("file name %q appears twice", out[i].name)
		}
	}
	return out, nil
}

// treeFacts is what is known of everything below a tree.
type treeFacts struct {
	files int64
	depth int
	links []string // paths of the symbolic links; mostly none
}

// survey counts what is below a tree, finds its symbolic links,
// and proves that every object of it is there.
// What was surveyed once is remembered by hash, so a new commit costs only what it changed.
func (o *objects) survey(h plumbing.Hash) (treeFacts, error) { return o.surveyAt(h, 0) }

func (o *objects) surveyAt(h plumbing.Hash, depth int) (treeFacts, error) {
	o.store.mu.Lock()
	f, ok := o.store.facts[h]
	o.store.mu.Unlock()
	if ok {
		return f, nil
	}
	if depth > maxDepth {
		return f, tooMany("directories are nested more than %d deep", maxDepth)
	}
	entries, err := o.tree(h)
	if err != nil {
		return f, err
	}
	for _, e := range entries {
		switch e.mode {
		case modeDir:
			below, err := o.surveyAt(e.hash, depth+1)
			if err != nil {
				return f, err
			}
			f.files += below.files
			f.depth = max(f.depth, below.depth+1)
			for _, l := range below.links {
				f.links = append(f.links, e.name+"/"+l)
			}
			// A few directories that hold each other many times make up any number of files.
			if f.files > MaxFiles {
				return f, tooMany("more than %d files", MaxFiles)
			}
			continue
		case modeSubmodule:
			continue
		case modeLink:
			f.links = append(f.links, e.name)
		case modeFile, modeExecutable:
		}
		f.files++
		if !o.has(e.hash) {
			return f, o.damaged(fmt.Errorf("blob %s: %w", e.hash, errNotFound))
		}
	}
	if f.files > MaxFiles {
		return f, tooMany("more than %d files", MaxFiles)
	}
	if depth+f.depth > maxDepth {
		return f, tooMany("directories are nested more than %d deep", maxDepth)
	}
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	if len(o.store.facts) >= maxFacts {
		clear(o.store.facts)
	}
	o.store.facts[h] = f
	return f, nil
}

func tooMany(format string, limit int) error {
	return &api.Error{Kind: api.Stalled, Reason: "RepositoryTooLarge", Err: fmt.Errorf(format, limit)}
}
