package directory_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources/directory"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func link(t *testing.T, dir, name, target string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) api.Tree {
	t.Helper()
	snap, err := directory.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Revision != "worktree" {
		t.Errorf("revision %q", snap.Revision)
	}
	return snap.Tree
}

func TestTreeIsAFileSystem(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"fleet.yaml": "x", "apps/a/b.yaml": "b", ".git/config": "secret", "apps/.git": "gitdir"})
	link(t, dir, "link", "apps/a/b.yaml")
	tree := open(t, dir)
	if err := fstest.TestFS(tree, "fleet.yaml", "apps/a/b.yaml", "link"); err != nil {
		t.Error(err)
	}
	var names []string
	err := fs.WalkDir(tree, ".", func(p string, _ fs.DirEntry, err error) error {
		names = append(names, p)
		return err
	})
	if got, want := strings.Join(names, " "), ". apps apps/a apps/a/b.yaml fleet.yaml link"; err != nil || got != want {
		t.Errorf("names are %q, %v, want %q", got, err, want)
	}
	for _, name := range []string{".git", ".git/config", "apps/.git", "nope"} {
		if _, err := tree.ReadFile(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("ReadFile(%q) = %v", name, err)
		}
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q) = %v", name, err)
		}
	}
}

func TestJail(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "fleet")
	write(t, parent, map[string]string{"secret": "s", "fleet/a": "a"})
	link(t, dir, "up", "../secret")
	link(t, dir, "abs", filepath.Join(parent, "secret"))
	link(t, dir, "updir", "..")
	tree := open(t, dir)
	for _, name := range []string{"up", "abs", "updir/secret"} {
		_, err := tree.ReadFile(name)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.Stalled || e.Reason != "SymlinkOutside" || e.File != name {
			t.Errorf("ReadFile(%q) = %v", name, err)
		}
	}
	if _, err := tree.ReadFile("../secret"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"big": strings.Repeat("x", directory.MaxFileBytes+1)})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := open(t, dir)
	if _, err := tree.ReadFile("big"); err == nil || !strings.Contains(err.Error(), "larger than 10 MiB") {
		t.Errorf("a large file: %v", err)
	}
	if _, err := tree.ReadFile("pipe"); err == nil || !strings.Contains(err.Error(), "neither a file nor a directory") {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := tree.Digest("."); err != nil {
		t.Errorf("a digest: %v", err)
	}
	if _, err := directory.Open(filepath.Join(dir, "nope")); api.KindOf(err) != api.Stalled {
		t.Errorf("no directory: %v", err)
	}
}

func TestDigest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/f": "1", "b/f": "2", "shared/f": "3"})
	link(t, dir, "a/shared", "../shared")
	link(t, dir, "shared/loop", "../a")
	link(t, dir, "a/self", ".")
	digest := func(name string) string {
		d, err := open(t, dir).Digest(name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := map[string]string{"a": digest("a"), "b": digest("b"), ".": digest(".")}
	for name, d := range before {
		if digest(name) != d {
			t.Errorf("the digest of %q is not stable", name)
		}
	}
	write(t, dir, map[string]string{"shared/f": "33"})
	if digest("a") == before["a"] || digest(".") == before["."] {
		t.Error("a change behind a link changes no digest")
	}
	if digest("b") != before["b"] {
		t.Error("a change elsewhere changes the digest of b")
	}
	if err := os.Rename(filepath.Join(dir, "b/f"), filepath.Join(dir, "b/g")); err != nil {
		t.Fatal(err)
	}
	if digest("b") == before["b"] {
		t.Error("a new name changes no digest")
	}
}
