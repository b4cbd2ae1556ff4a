package controlplane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	modulePath = "github.com/flotilla-fleet/flotilla"
	kwokModule = "sigs.k8s.io/kwok/cmd/kwok"
	// ldflags give the components the version that they were built from; kubectl and clients look at it.
	ldflags = "-s -w" +
		" -X k8s.io/component-base/version.gitVersion=v1.37.1" +
		" -X k8s.io/component-base/version.gitMajor=1" +
		" -X k8s.io/component-base/version.gitMinor=37" +
		" -X k8s.io/component-base/version.gitTreeState=clean"
	howToBuild = `run "make controlplane" in the source tree of flotilla`
)

// Binaries are the paths of the two programs of a control plane.
type Binaries struct {
	ControlPlane string
	Kwok         string
}

func binariesIn(dir string) Binaries {
	return Binaries{ControlPlane: filepath.Join(dir, "controlplane"), Kwok: filepath.Join(dir, "kwok")}
}

func (b Binaries) exist() bool {
	for _, path := range []string{b.ControlPlane, b.Kwok} {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// Ensure returns the programs of the control plane.
// Where the working directory is inside the source tree, they are built if they are missing or older than their sources,
// by one process at a time, with a line on progress now and then: the first build takes about 12 minutes.
// A nil progress is silent.
func Ensure(ctx context.Context, progress io.Writer) (Binaries, error) {
	if progress == nil {
		progress = io.Discard
	}
	exe, err := os.Executable()
	if err != nil {
		return Binaries{}, fmt.Errorf("find the running program: %w", err)
	}
	root, err := sourceTree()
	if err != nil {
		return Binaries{}, err
	}
	beside := filepath.Dir(exe)
	if b := binariesIn(beside); beside != filepath.Join(root, "bin") && b.exist() {
		return b, nil
	}
	if root == "" {
		return Binaries{}, fmt.Errorf("find the programs controlplane and kwok: they are not in %q; %s", beside, howToBuild)
	}
	b, err := ensureIn(ctx, root, progress)
	if err != nil {
		return Binaries{}, fmt.Errorf("build the control plane: %w; to see why, %s", err, howToBuild)
	}
	return b, nil
}

// sourceTree returns the directory of flotilla's go.mod at or above the working directory, or "".
func sourceTree() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", nil
		}
		dir = parent
	}
}

func ensureIn(ctx context.Context, root string, progress io.Writer) (Binaries, error) {
	bin := filepath.Join(root, "bin")
	b := binariesIn(bin)
	want, err := sourceStamp(filepath.Join(root, "test", "controlplane"))
	if err != nil {
		return b, err
	}
	stamp := filepath.Join(bin, "controlplane.stamp")
	current := func() bool {
		have, err := os.ReadFile(stamp)
		return err == nil && string(have) == want && b.exist()
	}
	if current() {
		return b, nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return b, err
	}
	report := reporter(progress)
	lock, err := waitLock(ctx, filepath.Join(bin, "controlplane.lock"), func() {
		report("waiting for another process that builds the control plane")
	})
	if err != nil {
		return b, err
	}
	defer lock.Close()
	if current() {
		return b, nil
	}
	if err := build(ctx, root, report); err != nil {
		return b, err
	}
	return b, os.WriteFile(stamp, []byte(want), 0o644)
}

// sourceStamp names the state of everything that the binaries are made of.
func sourceStamp(dir string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, runtime.GOARCH, ldflags)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if name != "go.mod" && name != "go.sum" && (!strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n%s", rel, len(data), data)
		return nil
	})
	return hex.EncodeToString(hash.Sum(nil)) + "\n", err
}

// build compiles beside the old programs and then replaces them: a control plane may be running from those.
func build(ctx context.Context, root string, report func(string)) error {
	bin := filepath.Join(root, "bin")
	fresh, err := os.MkdirTemp(bin, ".controlplane-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	report("building the control plane (first time, about 12 minutes)")
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", ldflags, "-o", fresh+string(filepath.Separator), "./cmd/controlplane", kwokModule)
	cmd.Dir = filepath.Join(root, "test", "controlplane")
	// Flags meant for flotilla's own build would only make this one miss its cache.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	done := make(chan struct{})
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		every(done, 15*time.Second, func() { report("building the control plane (first time, about 12 minutes)") })
	}()
	err = cmd.Run()
	close(done)
	<-reported
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output.Bytes())
	}
	for _, name := range []string{"kwok", "controlplane"} {
		if err := os.Rename(filepath.Join(fresh, name), filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	report("the control plane is built")
	return nil
}

// reporter returns a function that writes a line with the seconds since the first one.
func reporter(w io.Writer) func(string) {
	begin := time.Now()
	return func(text string) {
		fmt.Fprintf(w, "%s: %.0f s\n", text, time.Since(begin).Seconds())
	}
}

func every(done <-chan struct{}, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			do()
		}
	}
}

// waitLock locks a file against other processes; the lock ends when the file is closed.
func waitLock(ctx context.Context, path string, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for next := time.Now(); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		}
		if !time.Now().Before(next) {
			waiting()
			next = next.Add(15 * time.Second)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, context.Cause(ctx)), f.Close())
		case <-tick.C:
		}
	}
}
