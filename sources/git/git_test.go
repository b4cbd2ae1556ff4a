package git_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// open makes a source that ends with the test.
func open(t testing.TB, config git.Config) *git.Source {
	t.Helper()
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fetch(t testing.TB, s *git.Source) api.Snapshot {
	t.Helper()
	snap, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func read(t testing.TB, snap api.Snapshot, name string) string {
	t.Helper()
	b, err := snap.Tree.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantError checks kind, reason and a part of the text.
func wantError(t testing.TB, err error, kind api.ErrorKind, reason, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is no *api.Error", err)
	}
	if e.Kind != kind || e.Reason != reason || !strings.Contains(err.Error(), text) {
		t.Fatalf("error is %s %s %q, want %s %s with %q", e.Kind, e.Reason, err, kind, reason, text)
	}
}

func TestFetchFollowsABranch(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{})
	for name, at := range map[string]func(*gitservertest.Repository) string{
		"http": func(r *gitservertest.Repository) string { return r.URL },
		"file": func(r *gitservertest.Repository) string { return "file://" + r.Dir },
		"path": func(r *gitservertest.Repository) string { return r.Dir },
	} {
		t.Run(name, func(t *testing.T) {
			repo := server.Repository(name)
			when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			first := repo.Do(gitserver.Commit{
				Message: "add the fleet\n\nwith a body", Author: "Ann Example <ann@example.com>", Time: when,
				Write: map[string]string{"fleet.yaml": "one", "apps/a/bundle.yaml": "a", "apps/b/bundle.yaml": "b"},
			})
			s := open(t, git.Config{URL: at(repo), Ref: git.Ref{Branch: "main"}})
			if changed, err := s.Changed(t.Context()); err != nil || !changed {
				t.Errorf("before the first fetch Changed = %v, %v", changed, err)
			}
			one := fetch(t, s)
			if one.Revision != first || one.Subject != "add the fleet" || one.Author != "Ann Example" || !one.Time.Equal(when) {
				t.Errorf("snapshot is %+v", one)
			}
			if changed, err := s.Changed(t.Context()); err != nil || changed {
				t.Errorf("after a fetch Changed = %v, %v", changed, err)
			}
			second := repo.Do(gitserver.Commit{Write: map[string]string{"fleet.yaml": "two"}, Delete: []string{"apps/b"}})
			if changed, err := s.Changed(t.Context()); err != nil || !changed {
				t.Errorf("after a push Changed = %v, %v", changed, err)
			}
			two := fetch(t, s)
			if two.Revision != second || read(t, two, "fleet.yaml") != "two" || read(t, two, "apps/a/bundle.yaml") != "a" {
				t.Errorf("after a push the snapshot is %+v", two)
			}
			if _, err := two.Tree.Stat("apps/b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the deleted directory is still there: %v", err)
			}
			if read(t, one, "fleet.yaml") != "one" || read(t, one, "apps/b/bundle.yaml") != "b" {
				t.Error("the older snapshot changed")
			}
		})
	}
}

func TestFetchFollowsHEADWithoutABranch(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	want := repo.Do(gitserver.Commit{Branch: "trunk", Write: map[string]string{"a": "a"}})
	repo.Git("symbolic-ref", "HEAD", "refs/heads/trunk")
	s := open(t, git.Config{URL: repo.Dir})
	if got := fetch(t, s); got.Revision != want || s.Follows() != "trunk" {
		t.Errorf("revision %s of %q, want %s of trunk", got.Revision, s.Follows(), want)
	}
}

func TestFetchFollowsARewrittenBranch(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	base := repo.Commit(map[string]string{"a": "1"})
	repo.Commit(map[string]string{"a": "2"})
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})
	old := fetch(t, s)
	for _, parent := range []gitserver.Parent{gitserver.Parent(base), gitserver.ParentNone} {
		want := repo.Do(gitserver.Commit{Parent: parent, Message: "rewritten", Write: map[string]string{"a": "3" + string(parent)}})
		if got := fetch(t, s); got.Revision != want || read(t, got, "a") != "3"+string(parent) {
			t.Errorf("after the rewrite: %+v, want %s", got, want)
		}
	}
	// And back to where it was, by a plain reset on the server.
	repo.Git("update-ref", "refs/heads/main", base)
	if got := fetch(t, s); got.Revision != base || read(t, got, "a") != "1" {
		t.Errorf("after the reset: %+v", got)
	}
	if read(t, old, "a") != "2" {
		t.Error("the snapshot of the lost commit changed")
	}
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	config := git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}

	server.Stop()
	s := open(t, config)
	snap, err := s.Fetch(t.Context())
	wantError(t, err, api.Transient, "SourceUnreachable", server.Addr())
	if snap.Tree != nil {
		t.Error("a snapshot out of nothing")
	}
	if _, ok := s.Last(); ok {
		t.Error("Last out of nothing")
	}
	server.Restart()
	want := repo.Commit(map[string]string{"a": "1"})
	fetch(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	server.Stop()
	s = open(t, config)
	if last, ok := s.Last(); !ok || last.Revision != want || read(t, last, "a") != "1" {
		t.Errorf("after a restart Last = %+v, %v", last, ok)
	}
	snap, err = s.Fetch(t.Context())
	wantError(t, err, api.Transient, "SourceUnreachable", "connection refused")
	if snap.Revision != want || read(t, snap, "a") != "1" {
		t.Errorf("with the server away Fetch = %+v", snap)
	}
	server.Restart()
	want = repo.Commit(map[string]string{"a": "2"})
	if got := fetch(t, s); got.Revision != want {
		t.Errorf("when the server is back: %s, want %s", got.Revision, want)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	_, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "EmptyRepository", "no commit yet")

	repo.Commit(map[string]string{"a": "1"})
	repo.Do(gitserver.Commit{Branch: "staging", Write: map[string]string{"a": "1"}})
	_, err = open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "mian"}}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "BranchNotFound", `no branch "mian"; it has ["main" "staging"]`)
	_, err = open(t, git.Config{URL: server.URL("other"), Ref: git.Ref{Branch: "main"}}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryNotFound", "no such repository")
	_, err = open(t, git.Config{URL: t.TempDir(), Ref: git.Ref{Branch: "main"}}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryNotFound", "no such repository")

	for url, text := range map[string]string{
		"ftp://host/x":            "not one of https, http, ssh, file",
		"ssh://git:pw@host/x":     "there are only keys",
		"ssh://git@host":          "has no path",
		"git@host:-x":             "has a path that is none",
		"https://":                "has no host",
		"file://host/x":           "must be file:///path",
		"https://u:pw@host:99x/x": "invalid port",
	} {
		_, err := git.New(git.Config{URL: url, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()})
		wantError(t, err, api.Stalled, "BadSourceURL", text)
		if strings.Contains(err.Error(), "pw") {
			t.Errorf("the password is in %q", err)
		}
	}
	if _, err := git.New(git.Config{URL: "x"}); err == nil {
		t.Error("a source without a directory")
	}
}

func TestBranchThatGoesAwayKeepsTheLastGoodRevision(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	want := repo.Commit(map[string]string{"a": "1"})
	repo.Do(gitserver.Commit{Branch: "other", Write: map[string]string{"a": "1"}})
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})
	fetch(t, s)
	repo.Git("update-ref", "-d", "refs/heads/main")
	snap, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "BranchNotFound", `["other"]`)
	if snap.Revision != want || read(t, snap, "a") != "1" {
		t.Errorf("snapshot is %+v", snap)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	first := repo.Commit(map[string]string{"a": "1"})
	repo.Git("-c", "user.name=x", "-c", "user.email=x@example.com", "tag", "-a", "-m", "a tag", "v1", first)
	repo.Git("tag", "light", first)
	second := repo.Commit(map[string]string{"a": "2"})
	side := repo.Do(gitserver.Commit{Branch: "side", Parent: gitserver.Parent(first), Write: map[string]string{"a": "3"}})
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	fetch(t, s)
	for revision, want := range map[string]string{
		"": second, first: first, first[:7]: first, "main": second, "HEAD": second,
		"v1": first, "light": first, "side": side, "refs/heads/side": side, side: side,
	} {
		if got, err := s.At(t.Context(), revision); err != nil || got.Revision != want || got.Tree == nil {
			t.Errorf("At(%q) = %s, %v, want %s", revision, got.Revision, err, want)
		}
	}
	if last, _ := s.Last(); last.Revision != second {
		t.Errorf("At changed what is followed to %s", last.Revision)
	}
	_, err := s.At(t.Context(), "nope")
	wantError(t, err, api.Stalled, "RevisionNotFound", `"nope" is no branch, tag or known commit`)
	_, err = s.At(t.Context(), strings.Repeat("0", 40))
	wantError(t, err, api.Stalled, "RevisionNotFound", "is not in the mirror")
	server.Stop()
	if got, err := s.At(t.Context(), first[:10]); err != nil || read(t, got, "a") != "1" {
		t.Errorf("with the server away: %+v, %v", got, err)
	}
	_, err = s.At(t.Context(), "side")
	wantError(t, err, api.Transient, "SourceUnreachable", "")
}

func TestTreeIsAFileSystem(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Do(gitserver.Commit{
		Write: map[string]string{
			"fleet.yaml": "kind: Fleet\n", "apps/a/x.yaml": "x", "apps/a/empty": "", "apps/a-b/y.yaml": "y", "apps/a.yaml": "z",
			"deep/er/and/deeper/file": strings.Repeat("long ", 9000),
		},
		Link: map[string]string{"link.yaml": "apps/a/x.yaml", "apps/up": "../fleet.yaml"},
	})
	tree := fetch(t, open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})).Tree
	if err := fstest.TestFS(tree, "fleet.yaml", "apps/a/x.yaml", "apps/a-b/y.yaml", "link.yaml", "deep/er/and/deeper/file"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"nope", "apps/nope", "fleet.yaml/x", "apps/a/x.yaml/y"} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"", "/", "../x", "apps/../fleet.yaml", "apps/"} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%q) = %v", name, err)
		}
	}
	b, _ := tree.ReadFile("fleet.yaml")
	b[0] = '#'
	if again, _ := tree.ReadFile("fleet.yaml"); string(again) != "kind: Fleet\n" {
		t.Error("a reader can change the tree")
	}
}

func TestLinksAndSubmodules(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	other := gitservertest.New(t).Commit(map[string]string{"a": "a"})
	repo.Do(gitserver.Commit{
		Write: map[string]string{"shared/f": "shared", "apps/a/f": "own"},
		Link: map[string]string{
			"apps/a/shared": "../../shared", "apps/a/s2": "shared/", "to-s2": "apps/a/s2/f",
			"outside": "../etc/passwd", "absolute": "/etc/passwd", "apps/a/far": "../../../x",
			"loop1": "loop2", "loop2": "loop1", "dangling": "nowhere",
			"sneaky": "shared/../../x",
		},
		Submodule: map[string]string{"vendor/mod": other},
	})
	tree := fetch(t, open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})).Tree
	for name, want := range map[string]string{"apps/a/shared/f": "shared", "apps/a/s2/f": "shared", "to-s2": "shared"} {
		if b, err := tree.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("ReadFile(%q) = %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"outside", "absolute", "apps/a/far", "sneaky"} {
		_, err := tree.ReadFile(name)
		wantError(t, err, api.Stalled, "SymlinkOutside", "leads out of the repository")
		_, err = tree.Stat(name)
		wantError(t, err, api.Stalled, "SymlinkOutside", name)
	}
	_, err := tree.Open("loop1")
	wantError(t, err, api.Stalled, "SymlinkLoop", "loop1")
	if _, err := tree.Open("dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dangling link: %v", err)
	}
	for _, name := range []string{"vendor/mod", "vendor/mod/a/b.yaml"} {
		_, err := tree.ReadFile(name)
		wantError(t, err, api.Stalled, "SubmoduleNotSupported", "submodule")
		_, err = tree.ReadDir(name)
		wantError(t, err, api.Stalled, "SubmoduleNotSupported", "submodule")
	}
	// A walk over everything passes by links and submodules.
	var names []string
	if err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		names = append(names, p)
		if p == "vendor/mod" && d.Type() != fs.ModeIrregular {
			t.Errorf("the submodule is listed as %s", d.Type())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if len(names) != 18 {
		t.Errorf("%d names: %q", len(names), names)
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Do(gitserver.Commit{
		Write: map[string]string{"shared/f": "1", "apps/a/f": "a", "apps/b/f": "b", "x/y": "x", "other/f": "o"},
		Link:  map[string]string{"apps/a/shared": "../../shared", "apps/a/broken": "../../later"},
	})
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})
	digests := func() map[string]string {
		tree := fetch(t, s).Tree
		out := map[string]string{}
		for _, name := range []string{".", "apps/a", "apps/b", "apps/b/f", "x", "shared", "apps/a/shared"} {
			d, err := tree.Digest(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = d
		}
		return out
	}
	before := digests()
	if want := repo.Git("rev-parse", "main:apps/b"); before["apps/b"] != want {
		t.Errorf("digest of apps/b is %s, git says %s", before["apps/b"], want)
	}
	if want := repo.Git("rev-parse", "main:apps/b/f"); before["apps/b/f"] != want {
		t.Errorf("digest of apps/b/f is %s, git says %s", before["apps/b/f"], want)
	}
	if before["apps/a/shared"] != before["shared"] {
		t.Error("the digest of a link is not that of its target")
	}
	for _, step := range []struct {
		what    string
		commit  gitserver.Commit
		changes []string
	}{
		{"a message", gitserver.Commit{Message: "nothing else"}, nil},
		{"a file behind a link", gitserver.Commit{Write: map[string]string{"shared/f": "2"}}, []string{".", "apps/a", "apps/a/shared", "shared"}},
		{"a file", gitserver.Commit{Write: map[string]string{"apps/b/f": "bb"}}, []string{".", "apps/b", "apps/b/f"}},
		{"a file elsewhere", gitserver.Commit{Write: map[string]string{"other/f": "oo"}}, []string{"."}},
		{"what a broken link leads to", gitserver.Commit{Write: map[string]string{"later": "now"}}, []string{".", "apps/a"}},
	} {
		repo.Do(step.commit)
		after := digests()
		var changed []string
		for _, name := range []string{".", "apps/a", "apps/a/shared", "apps/b", "apps/b/f", "shared", "x"} {
			if before[name] != after[name] {
				changed = append(changed, name)
			}
		}
		if diff := cmp.Diff(step.changes, changed); diff != "" {
			t.Errorf("%s changes the digests of (-want +got)\n%s", step.what, diff)
		}
		before = after
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"big": strings.Repeat("x", git.MaxFileBytes+1), "fits": strings.Repeat("y", git.MaxFileBytes)})
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})
	good := fetch(t, s)
	if n := len(read(t, good, "fits")); n != git.MaxFileBytes {
		t.Errorf("%d bytes", n)
	}
	_, err := good.Tree.ReadFile("big")
	wantError(t, err, api.Stalled, "FileTooLarge", "larger than 10 MiB")
	if info, err := good.Tree.Stat("big"); err != nil || info.Size() != git.MaxFileBytes+1 {
		t.Errorf("Stat: %v, %v", info, err)
	}

	// Directories that hold the same directory ten times, seven levels up, are ten million files.
	files := map[string]string{"l0/f": "f"}
	repo.Commit(files)
	tree := repo.Git("rev-parse", "main:l0")
	for range 7 {
		var names strings.Builder
		for i := range 10 {
			fmt.Fprintf(&names, "040000 tree %s\td%d\n", tree, i)
		}
		tree = mktree(t, repo, names.String())
	}
	bomb := repo.Git("-c", "user.name=x", "-c", "user.email=x@example.com", "commit-tree", "-m", "bomb", "-p", "main", tree)
	repo.Git("update-ref", "refs/heads/main", bomb)
	last, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryTooLarge", "more than 500000 files")
	if last.Revision != good.Revision {
		t.Errorf("the last good revision is %s", last.Revision)
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryTooLarge", "more than 500000 files")
}

func mktree(t testing.TB, repo *gitservertest.Repository, listing string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "listing")
	if err := os.WriteFile(f, []byte(listing), 0o600); err != nil {
		t.Fatal(err)
	}
	return repo.Git("-c", "alias.from=!git mktree <"+f, "from")
}

func TestSnapshotsAreReadWhileFetchesGoOn(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	files := map[string]string{}
	for i := range 200 {
		files[fmt.Sprintf("dir%d/file%d", i%17, i)] = fmt.Sprintf("content %d", i)
	}
	repo.Commit(files)
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}
	s := open(t, config)
	snap := fetch(t, s)
	// Still readable when the packs that it came from have been joined, and their files deleted.
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				for name, want := range files {
					if b, err := snap.Tree.ReadFile(name); err != nil || string(b) != want {
						t.Errorf("ReadFile(%q) = %q, %v", name, b, err)
						return
					}
				}
				if _, err := snap.Tree.Digest("."); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Enough fetches for the small packs to be joined.
	for i := range 45 {
		content := fmt.Sprintf("changed %d", i)
		repo.Commit(map[string]string{"dir1/file1": content, "dir2/new": content})
		if got := fetch(t, s); read(t, got, "dir1/file1") != content || read(t, got, "dir3/file3") != "content 3" {
			t.Errorf("fetch %d is wrong", i)
		}
	}
	stop()
	readers.Wait()
	if n := len(glob(t, config.Dir, "objects/pack/*.pack")); n > 41 {
		t.Errorf("%d packs", n)
	}
	fsck(t, config.Dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, ok := open(t, config).Last()
	if !ok || again.Revision != repo.Git("rev-parse", "main") || read(t, again, "dir3/file3") != "content 3" {
		t.Errorf("after a restart: %+v", again)
	}
}
