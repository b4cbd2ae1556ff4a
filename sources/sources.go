// Package sources is the one door to desired state: a fleet repository, wherever it is, behind one Config.
//
// It promises that what opens it needs to know nothing of Git servers, keys and directories but this Config, and that
// whatever is behind the address gives the same kind of snapshots. It reads no manifest and decides nothing.
package sources

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources/directory"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// Config says where the fleet repository is, which part and which revision of it is meant, and how its server is talked to.
// It is a plain value, all of it text: secrets are in files that it names, such as those of a mounted Secret.
type Config struct {
	git.Config
	// Files reads a URL that is a directory of this machine as its files are on disk, rather than its commits.
	Files bool
}

// Branch is the configuration of a branch of a repository that needs nothing else.
func Branch(url, branch string) Config {
	return Config{Config: git.Config{URL: url, Ref: git.Ref{Branch: branch}}}
}

// Source is a fleet repository.
type Source interface {
	// Fetch returns the newest snapshot. When the repository cannot be reached, or its newest revision is refused, it returns
	// the last good snapshot (its Tree is nil if there is none) and an error.
	Fetch(ctx context.Context) (api.Snapshot, error)
	// Changed reports whether Fetch would return another revision than last time.
	Changed(ctx context.Context) (bool, error)
	// At returns the snapshot of another revision.
	At(ctx context.Context, revision string) (api.Snapshot, error)
	// Close ends the source.
	Close() error
}

var (
	_ Source = (*git.Source)(nil)
	_ Source = worktree{}
)

// Open opens a fleet repository. It does not talk to a server yet.
func Open(config Config) (Source, error) {
	if !config.Files {
		return git.New(config.Config)
	}
	root, err := below(config.URL, config.Path)
	if err != nil {
		return nil, err
	}
	return worktree{root}, nil
}

// below finds the directory of the fleet in a directory of this machine.
func below(dir, path string) (string, error) {
	if path == "" {
		return dir, nil
	}
	bad := func(err error) error { return &api.Error{Kind: api.Stalled, Reason: "BadSourcePath", Err: err} }
	if !fs.ValidPath(path) {
		return "", bad(fmt.Errorf("path %q must be a directory of the repository, such as fleets/shop", path))
	}
	at := dir
	for element := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, element)
		if info, err := os.Lstat(at); err != nil || !info.IsDir() {
			return "", bad(fmt.Errorf("%q has no directory %q", dir, path))
		}
	}
	return at, nil
}

// worktree is a directory as it is on disk. It has one revision, which is read anew each time.
type worktree struct{ dir string }

func (w worktree) Fetch(context.Context) (api.Snapshot, error) { return directory.Open(w.dir) }

// Changed is always true: nobody knows before looking.
func (w worktree) Changed(context.Context) (bool, error) { return true, nil }

func (w worktree) At(_ context.Context, revision string) (api.Snapshot, error) {
	if revision == "" || revision == directory.Revision {
		return directory.Open(w.dir)
	}
	return api.Snapshot{}, &api.Error{
		Kind: api.Stalled, Reason: "RevisionNotFound",
		Err: fmt.Errorf("a directory that is read as it is on disk has no revision %q", revision),
	}
}

func (w worktree) Close() error { return nil }
