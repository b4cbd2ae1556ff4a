package browser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the script is content with, the tests must find, and the other way round.
func TestNames_areThoseOfTheScript(t *testing.T) {
	script, err := os.ReadFile("../install-chromium")
	if err != nil {
		t.Fatal(err)
	}
	if want := "for browser in " + strings.Join(names, " ") + "; do"; !strings.Contains(string(script), want) {
		t.Errorf("test/install-chromium does not say %q", want)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if path, err := find(names); err == nil || !strings.Contains(err.Error(), "install-chromium") {
		t.Errorf("without a browser: %q, %v", path, err)
	}
	for _, name := range []string{"google-chrome", "chromium-browser", "chromium"} { // the later is the better
		want := filepath.Join(dir, name)
		if err := os.WriteFile(want, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if path, err := find(names); err != nil || path != want {
			t.Errorf("with %s: %q, %v", name, path, err)
		}
	}
}
