package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	gitobject "github.com/go-git/go-git/v5/plumbing/object"

	"github.com/flotilla-fleet/flotilla/api"
)

// Checkout reads commits of a local clone: those that it has, whether or not a branch leads to them.
// It fetches nothing and changes nothing. What it reads is copied to a directory of its own, and is gone with Close.
type Checkout struct {
	repo    *gogit.Repository
	dir     string // where copies are kept
	within  string // of the clone, the directory that is the fleet repository; "." is all of it
	mirror  *mirror
	objects *objects
}

// OpenCheckout opens the clone that a directory is, or is part of. Snapshots are of that directory.
// It reports fs.ErrNotExist where there is no clone.
func OpenCheckout(dir string) (*Checkout, error) {
	repo, err := gogit.PlainOpenWithOptions(dir, &gogit.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, gogit.ErrRepositoryNotExists) {
		return nil, &api.Error{
			Kind: api.Stalled, Reason: "NoCheckout", Err: fmt.Errorf("%q is not in a Git checkout", dir),
			Hint: "clone the fleet repository, and name the clone with --repo",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the Git checkout %q: %w", dir, err)
	}
	c := &Checkout{repo: repo, within: "."}
	if tree, err := repo.Worktree(); err == nil {
		if c.within, err = relative(tree.Filesystem.Root(), dir); err != nil {
			return nil, fmt.Errorf("find %q in its checkout: %w", dir, err)
		}
	}
	if c.dir, err = os.MkdirTemp("", "flotilla-checkout-"); err != nil {
		return nil, err
	}
	m, _, damage, err := openMirror(c.dir, dir, "")
	if err = errors.Join(damage, err); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	c.mirror, c.objects = m, &objects{store: newStore()}
	return c, nil
}

// relative is the name of a directory below a root, with slashes and symbolic links resolved.
func relative(root, dir string) (string, error) {
	var real [2]string
	for i, name := range []string{root, dir} {
		abs, err := filepath.Abs(name)
		if err != nil {
			return "", err
		}
		if real[i], err = filepath.EvalSymlinks(abs); err != nil {
			return "", err
		}
	}
	rel, err := filepath.Rel(real[0], real[1])
	return filepath.ToSlash(rel), err
}

// Close removes the copies. Snapshots cannot be read any more.
func (c *Checkout) Close() error {
	var problems []error
	for _, p := range c.objects.packs {
		problems = append(problems, p.file.Close())
	}
	return errors.Join(append(problems, os.RemoveAll(c.dir))...)
}

// Resolve returns the full hash of the commit that a revision means, as git rev-parse reads it:
// a branch, tag, full or short hash, or HEAD, each with any number of ~N and ^N behind it.
func (c *Checkout) Resolve(revision string) (string, error) {
	commit, err := c.commit(revision)
	if err != nil {
		return "", err
	}
	return commit.Hash.String(), nil
}

func (c *Checkout) commit(revision string) (*gitobject.Commit, error) {
	unknown := func(err error) error {
		e := &api.Error{Kind: api.Stalled, Reason: "RevisionNotFound", Err: fmt.Errorf("revision %q is not in the checkout: %w", revision, err)}
		if shallow, err := c.repo.Storer.Shallow(); err == nil && len(shallow) > 0 {
			e.Hint = "the checkout is shallow: fetch its history (git fetch --unshallow; fetch-depth: 0 in a GitHub workflow)"
		} else {
			e.Hint = "fetch it first (git fetch)"
		}
		return e
	}
	h, err := c.repo.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return nil, unknown(err)
	}
	commit, err := c.repo.CommitObject(*h)
	if err != nil {
		return nil, unknown(err)
	}
	return commit, nil
}

// MergeBase returns the commit from which two revisions have grown apart, as git merge-base tells it.
func (c *Checkout) MergeBase(a, b string) (string, error) {
	first, err := c.commit(a)
	if err != nil {
		return "", err
	}
	second, err := c.commit(b)
	if err != nil {
		return "", err
	}
	bases, err := first.MergeBase(second)
	if err == nil && len(bases) == 0 {
		err = errors.New("they have no commit in common")
	}
	if err != nil {
		return "", &api.Error{
			Kind: api.Stalled, Reason: "RevisionNotFound", Err: fmt.Errorf("cannot find the merge base of %q and %q: %w", a, b, err),
			Hint: "where the checkout is shallow, fetch its history (git fetch --unshallow; fetch-depth: 0 in a GitHub workflow)",
		}
	}
	return bases[0].Hash.String(), nil
}

// At returns the snapshot of a commit, given as Resolve takes it.
func (c *Checkout) At(ctx context.Context, revision string) (api.Snapshot, error) {
	commit, err := c.commit(revision)
	if err != nil {
		return api.Snapshot{}, err
	}
	root := commit.TreeHash
	if c.within != "." {
		whole, err := commit.Tree()
		if err != nil {
			return api.Snapshot{}, fmt.Errorf("read commit %s: %w", commit.Hash, err)
		}
		entry, err := whole.FindEntry(c.within)
		if err != nil || entry.Mode != filemode.Dir {
			return api.Snapshot{}, &api.Error{
				Kind: api.Stalled, Reason: "NoSuchDirectory", Err: fmt.Errorf("there is no directory %q at revision %q", c.within, revision),
			}
		}
		root = entry.Hash
	}
	if err := c.copy(ctx, root); err != nil {
		return api.Snapshot{}, fmt.Errorf("read commit %s: %w", commit.Hash, err)
	}
	if _, err := c.objects.survey(root); err != nil {
		return api.Snapshot{}, err
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(commit.Message), "\n")
	return snapshotOf(c.objects, commit.Hash, root, subject, commit.Author.Name, commit.Committer.When), nil
}

// copy copies what is below a tree and not copied yet, as one pack.
func (c *Checkout) copy(ctx context.Context, root plumbing.Hash) error {
	seen := map[plumbing.Hash]bool{}
	var want []plumbing.Hash
	var walk func(h plumbing.Hash, depth int) error
	walk = func(h plumbing.Hash, depth int) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if seen[h] || c.objects.has(h) {
			return nil
		}
		if depth > maxDepth || len(want) > MaxFiles {
			return errors.New("it has too many files, or directories that are nested too deep")
		}
		seen[h] = true
		want = append(want, h)
		t, err := gitobject.GetTree(c.repo.Storer, h)
		if err != nil {
			return err
		}
		for _, e := range t.Entries {
			switch {
			case e.Mode == filemode.Dir:
				if err := walk(e.Hash, depth+1); err != nil {
					return err
				}
			case e.Mode != filemode.Submodule && !seen[e.Hash] && !c.objects.has(e.Hash):
				seen[e.Hash] = true
				want = append(want, e.Hash)
			}
		}
		return nil
	}
	if err := walk(root, 0); err != nil || len(want) == 0 {
		return err
	}
	f, err := c.mirror.tempPack()
	if err != nil {
		return err
	}
	const noDeltas = 0
	if _, err := packfile.NewEncoder(f, c.repo.Storer, false).Encode(want, noDeltas); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	p, err := c.mirror.install(f)
	if err != nil {
		return err
	}
	c.objects = c.objects.with(p)
	return nil
}
