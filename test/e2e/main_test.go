package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/flotilla-fleet/flotilla/internal/demo"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// world is the demo that all tests share.
var world struct {
	binary string
	dir    string
	file   demo.File
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run brings the demo up, runs the tests and takes it down.
func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "flotilla-e2e-")
	if err != nil {
		return 0, err
	}
	root, err := repositoryRoot()
	if err != nil {
		return 0, err
	}
	// The binary stands beside the control plane's, where it looks for them.
	world.binary, world.dir = filepath.Join(root, "bin", "flotilla-e2e"), filepath.Join(dir, "demo")
	build := exec.Command("go", "build", "-tags", "disable_grpc_modules", "-o", world.binary, "./cmd/flotilla")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build flotilla: %w", err)
	}
	log := &syncBuffer{}
	cmd := exec.Command(world.binary, "demo", "--dir", world.dir, "--clusters", "3")
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, io.MultiWriter(log, os.Stderr), root
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := awaitDemo(ended); err != nil {
		_ = cmd.Process.Kill()
		return 0, fmt.Errorf("%w\n%s\n%s", err, log, logs())
	}
	code = m.Run()
	if code != 0 {
		fmt.Fprintln(os.Stderr, logs())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return code, err
	}
	select {
	case err := <-ended:
		if err != nil {
			return code, fmt.Errorf("the demo did not end cleanly: %w", err)
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		return code, errors.New("the demo did not end within a minute of Ctrl-C")
	}
	return code, os.RemoveAll(dir)
}

func repositoryRoot() (string, error) {
	wd, err := os.Getwd()
	for err == nil {
		if _, statErr := os.Stat(filepath.Join(wd, "go.mod")); statErr == nil {
			return wd, nil
		}
		if wd == filepath.Dir(wd) {
			return "", errors.New("no go.mod above the test")
		}
		wd = filepath.Dir(wd)
	}
	return "", err
}

// awaitDemo waits for demo.json. The first build of the control plane may come before it.
func awaitDemo(ended <-chan error) error {
	deadline := time.After(30 * time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(filepath.Join(world.dir, demo.FileName))
		if err == nil {
			return json.Unmarshal(b, &world.file)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the demo ended before it was ready: %w", err)
		case <-deadline:
			return errors.New("the demo was not ready within 30 minutes")
		case <-tick.C:
		}
	}
}

// logs returns the ends of the demo's logs.
func logs() string {
	var out bytes.Buffer
	files, _ := filepath.Glob(filepath.Join(world.dir, "logs", "*.log"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		fmt.Fprintf(&out, "== %s\n%s\n", f, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	return out.String()
}

// syncBuffer is a buffer that a child may write while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// cluster returns one cluster of the demo.
func cluster(t *testing.T, name string) demo.Cluster {
	t.Helper()
	for _, c := range world.file.Clusters {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("the demo has no cluster %q", name)
	return demo.Cluster{}
}

// kube returns a client for a cluster.
func kube(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", cluster(t, name).Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.UserAgent = "kubectl-edit/e2e"
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// patience is how long anything may take before a test gives up.
const patience = time.Minute

// eventually asks until the answer is nil, and returns how long that took.
func eventually(t *testing.T, what string, ask func(context.Context) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	begun := time.Now()
	for {
		err := ask(ctx)
		if err == nil {
			took := time.Since(begun)
			t.Logf("%s: %d ms", what, took.Milliseconds())
			return took
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// What the product promises, from the moment that somebody did something.
const (
	liveWithin      = 10 * time.Second // a push is live, and the hub shows it
	shownWithin     = 2 * time.Second  // a change by hand is on the hub
	correctedWithin = 3 * time.Second  // and is set back
	suspendedWithin = time.Second      // an order to suspend holds

	// slack is how many times longer a slow machine may take: here a whole fleet shares a few cores
	// with the tests. A promise broken on a machine of its own shows in test/bench, which takes none.
	slack = 3
)

// promised fails the test if something that is so now took longer since begun than people are told.
func promised(t *testing.T, what string, begun time.Time, limit time.Duration) {
	t.Helper()
	took := time.Since(begun)
	t.Logf("%s after %d ms of %d", what, took.Milliseconds(), limit.Milliseconds())
	if took > slack*limit {
		t.Errorf("%s after %s, promised is %s", what, took.Round(time.Millisecond), limit)
	}
}

// told waits until the cluster holds an Event of the agent with a reason, about an object.
func told(t *testing.T, cluster, reason, kind, name string) {
	t.Helper()
	events := kube(t, cluster).CoreV1().Events("")
	eventually(t, fmt.Sprintf("an Event %s about %s/%s", reason, kind, name), func(ctx context.Context) error {
		list, err := events.List(ctx, metav1.ListOptions{
			FieldSelector: "reportingComponent=flotilla.dev/agent,reason=" + reason,
		})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Message != "" {
				return nil
			}
		}
		return fmt.Errorf("none among %d", len(list.Items))
	})
}

// hubGet asks the hub's JSON API.
func hubGet(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, world.file.Hub.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+world.file.Hub.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", path, res.Status, b)
	}
	return json.Unmarshal(b, into)
}

// flotilla runs a command and returns its standard output.
func flotilla(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, err := flotillaErr(t, args...)
	if err != nil {
		t.Fatalf("flotilla %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	return out
}

func flotillaErr(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(t.Context(), world.binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// push changes files of the fleet repository with plain git and returns the new commit.
// An empty text removes the file.
func push(t *testing.T, message string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(gitserver.Environment(), "GIT_AUTHOR_NAME=Ana", "GIT_AUTHOR_EMAIL=ana@example.com",
			"GIT_COMMITTER_NAME=Ana", "GIT_COMMITTER_EMAIL=ana@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("clone", "-q", world.file.Repo.URL, ".")
	for name, text := range files {
		p := filepath.Join(dir, name)
		if text == "" {
			git("rm", "-q", name)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git("add", "-A")
	git("commit", "-q", "-m", message)
	git("push", "-q", "origin", "HEAD")
	return git("rev-parse", "HEAD")
}

// readRepo returns a file of the fleet repository as it is now.
func readRepo(t *testing.T, name string) string {
	t.Helper()
	text, err := tryReadRepo(t.Context(), t, name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func tryReadRepo(ctx context.Context, t *testing.T, name string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, "git", "clone", "-q", world.file.Repo.URL, ".")
	cmd.Dir, cmd.Env = dir, gitserver.Environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("git clone: %w\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	return string(b), err
}

// kill ends a process as kill -9 does, and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 0 {
		t.Fatal("the demo did not say the process")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// refresh reads demo.json again: processes that were killed have other numbers now.
func refresh(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(world.dir, demo.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &world.file); err != nil {
		t.Fatal(err)
	}
}
