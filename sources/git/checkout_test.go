package git_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// clone makes a checkout of a repository, as people and CI have it.
func clone(t *testing.T, repo *gitservertest.Repository, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "checkout")
	if _, err := gitserver.Git(t.Context(), t.TempDir(), append(append([]string{"clone", "-q"}, args...), "file://"+repo.Dir, dir)...); err != nil {
		t.Fatal(err)
	}
	return dir
}

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := gitserver.Git(t.Context(), dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func checkout(t *testing.T, dir string) *git.Checkout {
	t.Helper()
	c, err := git.OpenCheckout(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Revisions mean what git rev-parse says they do, whether or not a branch leads to the commit.
func TestCheckout_revisions(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	first := repo.Commit(map[string]string{"fleet/a": "1", "other/b": "1"})
	repo.Git("-c", "user.name=a", "-c", "user.email=a@example.com", "tag", "-a", "v1", "-m", "one")
	repo.Commit(map[string]string{"fleet/a": "2"})
	repo.Commit(map[string]string{"fleet/a": "3", "fleet/dir/c": "x"})
	dir := clone(t, repo)
	gitIn(t, dir, "checkout", "-q", "--detach", "HEAD~1")
	if err := os.WriteFile(filepath.Join(dir, "fleet", "a"), []byte("side"), 0o600); err != nil {
		t.Fatal(err)
	}
	gitIn(t, dir, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qam", "side")
	c := checkout(t, dir)
	for _, revision := range []string{"HEAD", "HEAD~1", "HEAD~2", "HEAD^", "v1", "main", "origin/main", "origin/main~1", first, first[:8]} {
		want := gitIn(t, dir, "rev-parse", revision+"^{commit}")
		got, err := c.Resolve(revision)
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", revision, got, err, want)
		}
		snap, err := c.At(t.Context(), revision)
		if err != nil {
			t.Errorf("%s: %v", revision, err)
			continue
		}
		data, err := snap.Tree.ReadFile("fleet/a")
		if text := gitIn(t, dir, "show", want+":fleet/a"); err != nil || string(data) != text || snap.Revision != want {
			t.Errorf("%s at %s: got %q, %v, want %q", revision, snap.Revision, data, err, text)
		}
	}
	base, err := c.MergeBase("origin/main", "HEAD")
	if want := gitIn(t, dir, "merge-base", "origin/main", "HEAD"); err != nil || base != want {
		t.Errorf("merge base: got %s, %v, want %s", base, err, want)
	}
	_, err = c.Resolve("nowhere")
	wantError(t, err, api.Stalled, "RevisionNotFound", `"nowhere" is not in the checkout`)
}

// A fleet repository may be a directory of a checkout; what is beside it is not seen.
func TestCheckout_ofADirectory(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"fleet/a": "1", "fleet/b": "1", "other/b": "1"})
	repo.Commit(map[string]string{"fleet/a": "2"})
	dir := clone(t, repo)
	c := checkout(t, filepath.Join(dir, "fleet"))
	old, err := c.At(t.Context(), "HEAD~1")
	if err != nil {
		t.Fatal(err)
	}
	now, err := c.At(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	for snap, want := range map[*api.Snapshot]string{&old: "1", &now: "2"} {
		if data, err := snap.Tree.ReadFile("a"); err != nil || string(data) != want {
			t.Errorf("got %q, %v, want %q", data, err, want)
		}
		if _, err := snap.Tree.Stat("other"); err == nil {
			t.Error("what is outside of the directory is seen")
		}
	}
	for name, same := range map[string]bool{"a": false, "b": true, ".": false} {
		x, err1 := old.Tree.Digest(name)
		y, err2 := now.Tree.Digest(name)
		if err1 != nil || err2 != nil || (x == y) != same {
			t.Errorf("digests of %s: %s, %s, %v, %v", name, x, y, err1, err2)
		}
	}
	repo2 := gitservertest.New(t)
	repo2.Commit(map[string]string{"a": "1"})
	repo2.Commit(map[string]string{"new/b": "1"})
	c = checkout(t, filepath.Join(clone(t, repo2), "new"))
	_, err = c.At(t.Context(), "HEAD~1")
	wantError(t, err, api.Stalled, "NoSuchDirectory", `no directory "new" at revision "HEAD~1"`)
}

// A linked worktree is a checkout, too; a shallow clone says what it lacks; a directory without Git says so.
func TestCheckout_kinds(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"a": "1"})
	repo.Commit(map[string]string{"a": "2"})
	dir := clone(t, repo)
	linked := filepath.Join(t.TempDir(), "linked")
	gitIn(t, dir, "worktree", "add", "-q", "--detach", linked, "HEAD~1")
	if got, err := checkout(t, linked).Resolve("HEAD"); err != nil || got != gitIn(t, linked, "rev-parse", "HEAD") {
		t.Errorf("a linked worktree: got %s, %v", got, err)
	}
	_, err := checkout(t, clone(t, repo, "--depth", "1")).Resolve("HEAD~1")
	wantError(t, err, api.Stalled, "RevisionNotFound", "fetch-depth: 0")
	_, err = git.OpenCheckout(t.TempDir())
	wantError(t, err, api.Stalled, "NoCheckout", "is not in a Git checkout")
}
