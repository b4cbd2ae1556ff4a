package git_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

var bot = git.Author{Name: "Bot", Email: "bot@example.com"}

func write(files map[string]string) git.PushRequest {
	return push(func(api.Snapshot) (git.Change, error) {
		c := git.Change{Message: "add files\n", Files: map[string][]byte{}}
		for name, text := range files {
			c.Files[name] = []byte(text)
		}
		return c, nil
	})
}

func push(decide func(api.Snapshot) (git.Change, error)) git.PushRequest {
	return git.PushRequest{By: bot, Decide: decide}
}

func TestPush(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{})
	for name, at := range map[string]func(*gitservertest.Repository) string{
		"http": func(r *gitservertest.Repository) string { return r.URL },
		"path": func(r *gitservertest.Repository) string { return r.Dir },
	} {
		t.Run(name, func(t *testing.T) {
			repo := server.Repository(name)
			s := open(t, git.Config{URL: at(repo)})
			one, err := s.Push(t.Context(), write(map[string]string{"a/b/c.yaml": "c", "fleet.yaml": "fleet"}))
			if err != nil {
				t.Fatalf("into an empty repository: %v", err)
			}
			if read(t, one, "a/b/c.yaml") != "c" || one.Subject != "add files" || one.Author != "Bot" {
				t.Errorf("the snapshot is %+v", one)
			}
			// Next to what is there, in the order of Git, which puts "a.yaml" before the directory "a".
			repo.Do(gitserver.Commit{
				Write: map[string]string{"a.yaml": "x", "a/other": "o"}, Link: map[string]string{"link": "a"},
				Submodule: map[string]string{"module": one.Revision},
			})
			two, err := s.Push(t.Context(), write(map[string]string{"a/b/d.yaml": "d", "a/b/c.yaml": "new"}))
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{"a/b/c.yaml": "new", "a/b/d.yaml": "d", "a/other": "o", "a.yaml": "x", "fleet.yaml": "fleet"} {
				if got := read(t, two, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if got := repo.Git("rev-parse", "main"); got != two.Revision {
				t.Errorf("the branch is at %s, want %s", got, two.Revision)
			}
			repo.Git("fsck", "--strict")
			if got := repo.Git("diff", "--name-only", "main~1", "main"); got != "a/b/c.yaml\na/b/d.yaml" {
				t.Errorf("the commit changes %q", got)
			}
			// Nothing to write pushes nothing.
			three, err := s.Push(t.Context(), write(nil))
			if err != nil || three.Revision != two.Revision {
				t.Errorf("without files the head is %s (%v)", three.Revision, err)
			}
		})
	}
}

// What a check refuses never reaches the server, and a dry push neither.
func TestPush_check(t *testing.T) {
	t.Parallel()
	repo := gitservertest.NewServer(t, gitserver.Config{}).Repository("fleet")
	head := repo.Commit(map[string]string{"fleet.yaml": "one", "old/a": "a", "old/b": "b"})
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	req := push(func(api.Snapshot) (git.Change, error) {
		return git.Change{Message: "replace", Files: map[string][]byte{"old/a": nil, "old/b": nil, "new/c": []byte("c"), "none/x": nil}}, nil
	})
	refused := errors.New("refused")
	req.Check = func(made api.Snapshot) error {
		if read(t, made, "new/c") != "c" || read(t, made, "fleet.yaml") != "one" {
			t.Error("the commit that is checked is not the one that was made")
		}
		for _, gone := range []string{"old", "none"} {
			if _, err := made.Tree.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", gone, err)
			}
		}
		return refused
	}
	if _, err := s.Push(t.Context(), req); !errors.Is(err, refused) {
		t.Errorf("the error is %v", err)
	}
	req.Check, req.Dry = nil, true
	made, err := s.Push(t.Context(), req)
	if err != nil || read(t, made, "new/c") != "c" {
		t.Errorf("a dry push: %v", err)
	}
	if got := repo.Git("rev-parse", "main"); got != head {
		t.Errorf("the branch is at %s, want %s", got, head)
	}
	req.Dry = false
	if made, err = s.Push(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := repo.Git("ls-tree", "-r", "--name-only", made.Revision); got != "fleet.yaml\nnew/c" {
		t.Errorf("the commit holds %q", got)
	}
}

// Whoever loses the race decides again about the new head, and takes nothing back of what others pushed.
func TestPush_race(t *testing.T) {
	t.Parallel()
	repo := gitservertest.NewServer(t, gitserver.Config{}).Repository("fleet")
	repo.Commit(map[string]string{"fleet.yaml": "one"})
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	asked := 0
	after, err := s.Push(t.Context(), push(func(head api.Snapshot) (git.Change, error) {
		asked++
		if asked == 1 {
			repo.Commit(map[string]string{"fleet.yaml": "two"})
		}
		return git.Change{Message: "add", Files: map[string][]byte{"copy": []byte(read(t, head, "fleet.yaml"))}}, nil
	}))
	if err != nil || asked != 2 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	if read(t, after, "copy") != "two" || read(t, after, "fleet.yaml") != "two" {
		t.Error("the change is not one of the new head")
	}
	// It ends.
	asked = 0
	_, err = s.Push(t.Context(), push(func(api.Snapshot) (git.Change, error) {
		asked++
		repo.Commit(map[string]string{"n": strings.Repeat("x", asked)})
		return git.Change{Message: "add", Files: map[string][]byte{"mine": {}}}, nil
	}))
	wantError(t, err, api.Transient, "PushRace", "somebody else was faster")
}

// The race is also lost between the server's advertisement and its answer: a hook of the server pushes first.
func TestPush_refused(t *testing.T) {
	t.Parallel()
	repo := gitservertest.NewServer(t, gitserver.Config{}).Repository("fleet")
	repo.Commit(map[string]string{"fleet.yaml": "one"})
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}})
	hook := filepath.Join(repo.Dir, "hooks", "pre-receive")
	script := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+text), 0o755); err != nil { //nolint:gosec // a hook is a program
			t.Fatal(err)
		}
	}
	script("exit 1\n")
	_, err := s.Push(t.Context(), write(map[string]string{"a": "b"}))
	wantError(t, err, api.Forbidden, "PushRefused", "the server refuses")
	other := repo.Do(gitserver.Commit{Branch: "other", Parent: "main", Write: map[string]string{"other": "o"}})
	script("rm -f hooks/pre-receive\nenv -u GIT_QUARANTINE_PATH git update-ref refs/heads/main " + other + "\nexit 0\n")
	after, err := s.Push(t.Context(), write(map[string]string{"a": "b"}))
	if err != nil {
		t.Fatal(err)
	}
	if parent := repo.Git("rev-parse", after.Revision+"^"); parent != other {
		t.Errorf("the commit's parent is %s, want %s", parent, other)
	}
}

func TestPush_badInput(t *testing.T) {
	t.Parallel()
	server := gitservertest.NewServer(t, gitserver.Config{Username: "git", Password: "right"})
	repo := server.Repository("fleet")
	repo.Do(gitserver.Commit{Write: map[string]string{"file": "x", "dir/a": "x"}, Link: map[string]string{"link": "file"}})
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}})
	for name, says := range map[string]string{"file/a": `"file": it is there, and is no directory`, "dir": "is no file", "link": "is no file", "link/x": "is no directory"} {
		_, err := s.Push(t.Context(), write(map[string]string{name: "x"}))
		wantError(t, err, api.Stalled, "PathTaken", says)
	}
	for _, name := range []string{"../x", "/x", "a/../b", "."} {
		_, err := s.Push(t.Context(), write(map[string]string{name: "x"}))
		wantError(t, err, api.Internal, "BadPath", "is no path")
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("wrong-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: file}).Push(t.Context(), write(map[string]string{"a": "b"}))
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "asks for other credentials")
	if strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("the token is in %q", err)
	}
}
