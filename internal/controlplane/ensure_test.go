package controlplane

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEnsure_outsideTheSourceTree(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := Ensure(t.Context(), nil)
	if want := `run "make controlplane" in the source tree`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

func TestEnsure_buildFailureIsShown(t *testing.T) {
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "go.mod"), "module "+modulePath+"\n")
	writeFile(t, filepath.Join(root, "test/controlplane/go.mod"), "module broken\n")
	writeFile(t, filepath.Join(root, "test/controlplane/cmd/controlplane/main.go"), "package main\nfunc main() {}\n")
	t.Chdir(filepath.Join(root, "test"))
	var progress bytes.Buffer
	_, err := Ensure(t.Context(), &progress)
	if err == nil || !strings.Contains(err.Error(), "go build: exit status 1") || !strings.Contains(err.Error(), "no required module provides") {
		t.Errorf("got %v, want what go build said in it", err)
	}
	if want := "building the control plane (first time, about 12 minutes): 0 s\n"; progress.String() != want {
		t.Errorf("progress is %q, want %q", progress.String(), want)
	}
	left, err := filepath.Glob(filepath.Join(root, "bin", ".controlplane-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestSourceStamp(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), "module x\n")
	writeFile(t, filepath.Join(dir, "a/a.go"), "package a\n")
	first := stampOf(t, dir)
	for _, tt := range []struct {
		path, content string
		changes       bool
	}{
		{"a/a_test.go", "package a\n", false},
		{"README.md", "hello", false},
		{"a/a.go", "package a // changed\n", true},
		{"go.mod", "module y\n", true},
		{"b.go", "package b\n", true},
	} {
		before := stampOf(t, dir)
		writeFile(t, filepath.Join(dir, tt.path), tt.content)
		if got := stampOf(t, dir) != before; got != tt.changes {
			t.Errorf("write %s: changes the stamp: %v, want %v", tt.path, got, tt.changes)
		}
	}
	if first == stampOf(t, dir) {
		t.Error("the stamp never changed")
	}
}

func TestWaitLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := waitLock(t.Context(), path, func() { t.Error("the first one had to wait") })
	if err != nil {
		t.Fatal(err)
	}
	waiting := 0
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := waitLock(ctx, path, func() { waiting++ }); !errors.Is(err, context.DeadlineExceeded) || waiting != 1 {
		t.Errorf("second lock: got %v after saying %d times that it waits", err, waiting)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := waitLock(t.Context(), path, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func stampOf(t *testing.T, dir string) string {
	t.Helper()
	stamp, err := sourceStamp(dir)
	if err != nil {
		t.Fatal(err)
	}
	return stamp
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
