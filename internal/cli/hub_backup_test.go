package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// A copy is taken of a hub that runs, over its API, and of one that is stopped, from its directory.
// Nothing but a sound copy takes a file's place.
func TestHubBackup(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	if err := hubtest.Seed(dir, 5, now); err != nil {
		t.Fatal(err)
	}
	h := hubtest.Start(t, hub.Config{DataDir: dir})
	file := filepath.Join(t.TempDir(), "copy.db")
	sound := func() {
		t.Helper()
		st, err := store.Open(store.Config{Path: file})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if names, err := st.Clusters(t.Context()); err != nil || len(names) != 5 {
			t.Errorf("the copy has clusters %v, %v", names, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the copy is %v, %v", info.Mode(), err)
		}
	}
	if code, _, stderr := run(t, "hub", "backup", file, "--hub", h.URL(), "--hub-token-file", tokenFile(t)); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	sound()
	if code, _, stderr := run(t, "hub", "backup", file, "--dir", dir); code != 4 || !strings.Contains(stderr, "ask it with --hub") {
		t.Errorf("of a hub that runs, from its directory: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := run(t, "hub", "backup", file, "--dir", t.TempDir()); code != 64 || !strings.Contains(stderr, "is no hub's directory") {
		t.Errorf("of no hub: exit code %d: %s", code, stderr)
	}
	wrong := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(wrong, []byte("a-token-that-is-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "hub", "backup", file, "--hub", h.URL(), "--hub-token-file", wrong); code != 6 {
		t.Errorf("with a wrong token: exit code %d: %s", code, stderr)
	}
	sound()
	h.Stop()
	if code, _, stderr := run(t, "hub", "backup", file, "--dir", dir); code != 0 {
		t.Errorf("of a hub that is stopped: exit code %d: %s", code, stderr)
	}
	sound()
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
