package gitserver_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

// git runs a plain git client in a directory.
func git(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
	cmd.Dir, cmd.Env = dir, gitserver.Environment()
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := git(t, dir, args...)
	if err != nil {
		t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return out
}

func TestCloneAndPush(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "1", "dir/b": "2"})
	work := t.TempDir()
	mustGit(t, work, "clone", "--quiet", repo.URL, ".")
	if b, err := os.ReadFile(filepath.Join(work, "dir/b")); err != nil || string(b) != "2" {
		t.Errorf("cloned file is %q, %v", b, err)
	}
	// More than http.postBuffer, so git sends it in chunks; and of a kind that does not shrink.
	big := make([]byte, 3<<20)
	for i, x := 0, uint32(1); i < len(big); i++ {
		x = x*1664525 + 1013904223
		big[i] = byte(x >> 24)
	}
	if err := os.WriteFile(filepath.Join(work, "big"), big, 0o600); err != nil {
		t.Fatal(err)
	}
	mustGit(t, work, "add", ".")
	mustGit(t, work, "commit", "--quiet", "-m", "change")
	mustGit(t, work, "push", "--quiet")
	if got, want := repo.Git("rev-parse", "main"), mustGit(t, work, "rev-parse", "HEAD"); got != want {
		t.Errorf("the server has %s, pushed was %s", got, want)
	}
	if n := repo.Git("cat-file", "-s", "main:big"); n != "3145728" {
		t.Errorf("the pushed file has %s bytes", n)
	}
}

func TestPassword(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{Username: "ann", Password: "pw"})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "1"})
	if out, err := git(t, t.TempDir(), "clone", "--quiet", repo.URL, "."); err == nil {
		t.Errorf("cloned without a password: %s", out)
	}
	wrong := strings.Replace(repo.URL, "://", "://ann:no@", 1)
	if out, err := git(t, t.TempDir(), "clone", "--quiet", wrong, "."); err == nil || !strings.Contains(out, "Authentication failed") {
		t.Errorf("with a wrong password: %v: %s", err, out)
	}
	work := t.TempDir()
	mustGit(t, work, "clone", "--quiet", strings.Replace(repo.URL, "://", "://ann:pw@", 1), ".")
	mustGit(t, work, "commit", "--quiet", "--allow-empty", "-m", "empty")
	mustGit(t, work, "push", "--quiet")
}

func TestStopAndStartAtTheSameAddress(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "1"})
	get := func() error {
		res, err := http.Get(repo.URL + "/info/refs?service=git-upload-pack")
		if err == nil {
			err = res.Body.Close()
		}
		return err
	}
	if err := server.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	for range 3 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		server.Stop()
		if err := get(); err == nil {
			t.Fatal("still there after Stop")
		}
		server.Restart()
	}
	if server.URL("fleet") != repo.URL {
		t.Errorf("the address changed to %s", server.URL("fleet"))
	}
}

func TestImport(t *testing.T) {
	server := gitservertest.NewServer(t, gitserver.Config{})
	hash, err := server.Import(t.Context(), "fleet", fstest.MapFS{
		"fleet.yaml":   {Data: []byte("kind: Fleet\n")},
		"apps/x/y":     {Data: []byte("y")},
		".git/config":  {Data: []byte("secret")},
		"apps/.git":    {Data: []byte("gitdir")},
		"apps/é è.txt": {Data: []byte("umlaut")},
	}, "import")
	if err != nil {
		t.Fatal(err)
	}
	got, err := gitserver.Git(t.Context(), server.Dir("fleet"), "-c", "core.quotePath=false", "ls-tree", "-r", "--name-only", hash)
	if want := "apps/x/y\napps/é è.txt\nfleet.yaml"; err != nil || got != want {
		t.Errorf("imported %q, %v, want %q", got, err, want)
	}
	if _, err := server.Import(t.Context(), "empty", fstest.MapFS{}, "import"); err == nil || !strings.Contains(err.Error(), "nothing to import") {
		t.Errorf("an empty import: %v", err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := gitserver.New(gitserver.Config{}); err == nil || !strings.Contains(err.Error(), "Root is needed") {
		t.Errorf("New without Root: %v", err)
	}
}
