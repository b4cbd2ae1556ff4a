package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Mode says how much of a control plane runs.
type Mode int

const (
	// Full runs everything: controllers work, pods are scheduled and become ready.
	Full Mode = iota
	// Minimal runs etcd and the API server only: objects are stored and admitted, and nothing acts on them.
	// It starts faster and takes half the memory, but a namespace is never finally deleted
	// and there is no default service account.
	Minimal
)

// A Config says which control plane to start.
type Config struct {
	Dir      string    // everything it writes; one that exists is continued; required
	Name     string    // cluster name in the kubeconfig; empty means "controlplane"
	Mode     Mode      // zero is Full
	Nodes    int       // simulated nodes; zero means one
	Port     int       // of the API server; zero means a free one, and the same again for the same Dir
	Progress io.Writer // lines for a human; nil means none
}

// A ControlPlane is a running control plane.
// Its methods may be called from several goroutines.
type ControlPlane struct {
	dir     string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers lines         // its standard output
	done    chan struct{} // closed when the process is gone
	exit    error         // how it ended, once done is closed

	orders sync.Mutex // one order at a time: answers carry no name
	stop   sync.Once
}

const (
	apiServer   = "kube-apiserver"
	stopTimeout = 15 * time.Second
)

// Start starts a control plane, builds its programs first where that is needed, and returns when it is ready:
// the API server answers, the default service account exists and all nodes are ready.
// It runs until Stop or Kill, or until this process ends, however it ends; ctx bounds only the start.
// The error of a start that failed carries the end of every log.
func Start(ctx context.Context, cfg Config) (*ControlPlane, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start control plane: Dir is required")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	binaries, err := Ensure(ctx, cfg.Progress)
	if err != nil {
		return nil, err
	}
	stderr := &tail{next: cfg.Progress}
	c := &ControlPlane{dir: dir, done: make(chan struct{}), answers: lines{out: make(chan string, 16)}}
	c.cmd = exec.Command(binaries.ControlPlane, cfg.args(dir)...) //nolint:noctx // it outlives ctx
	c.cmd.Stdout, c.cmd.Stderr = &c.answers, stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	go func() {
		defer close(c.done)
		if c.exit = c.cmd.Wait(); c.exit == nil {
			c.exit = errors.New("exit status 0")
		}
	}()
	if err := c.answer(ctx, "ready"); err != nil {
		c.Kill()
		return nil, fmt.Errorf("start control plane in %q: %w\n%s", dir, err, stderr.String())
	}
	return c, nil
}

func (cfg Config) args(dir string) []string {
	args := []string{"run", "--dir", dir, "--control", "--die-with-parent"}
	if cfg.Name != "" {
		args = append(args, "--name", cfg.Name)
	}
	if cfg.Mode == Minimal {
		args = append(args, "--minimal")
	}
	if cfg.Nodes > 0 {
		args = append(args, "--nodes", strconv.Itoa(cfg.Nodes))
	}
	if cfg.Port > 0 {
		args = append(args, "--port", strconv.Itoa(cfg.Port))
	}
	return args
}

// Kubeconfig is the path of a kubeconfig for the administrator; it carries its certificates.
func (c *ControlPlane) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// Dir is the absolute path of the directory that the control plane lives in; its logs are in "logs" below it.
func (c *ControlPlane) Dir() string { return c.dir }

// Done is closed when the control plane has ended, by Stop, Kill or itself.
func (c *ControlPlane) Done() <-chan struct{} { return c.done }

// Stop ends the control plane and waits until all of its processes are gone.
// Its directory stays, and can be started again. Stopping twice is no error.
func (c *ControlPlane) Stop() error {
	c.stop.Do(func() { _ = c.stdin.Close() })
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-c.done:
		return nil
	case <-timeout.C:
		c.Kill()
		return fmt.Errorf("stop control plane in %q: still there after %v, killed", c.dir, stopTimeout)
	}
}

// Kill ends all processes as kill -9 would, and waits until they are gone.
func (c *ControlPlane) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	// The components inherited the lock of the directory: it is free when the last one is gone.
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if lock, err := waitLock(ctx, filepath.Join(c.dir, "lock"), func() {}); err == nil {
		_ = lock.Close()
	}
}

// KillAPIServer kills the API server as kill -9 would, and keeps it down until StartAPIServer.
func (c *ControlPlane) KillAPIServer(ctx context.Context) error {
	return c.order(ctx, "kill", "killed")
}

// StartAPIServer starts the API server after KillAPIServer and waits until it is ready.
// Its address is the one it had before.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	return c.order(ctx, "start", "started")
}

func (c *ControlPlane) order(ctx context.Context, verb, answer string) error {
	c.orders.Lock()
	defer c.orders.Unlock()
	if _, err := fmt.Fprintln(c.stdin, verb, apiServer); err != nil {
		return fmt.Errorf("%s %s: %w", verb, apiServer, err)
	}
	if err := c.answer(ctx, answer); err != nil {
		return fmt.Errorf("%s %s: %w", verb, apiServer, err)
	}
	return nil
}

// answer waits for a line of the control plane that starts with the word.
// It passes over answers to orders that nobody waited for.
func (c *ControlPlane) answer(ctx context.Context, word string) error {
	for {
		select {
		case line := <-c.answers.out:
			switch first, rest, _ := strings.Cut(line, " "); first {
			case word:
				return nil
			case "error":
				return errors.New(rest)
			}
		case <-c.done:
			return fmt.Errorf("the control plane ended: %w", c.exit)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lines sends what is written to it line by line.
type lines struct {
	out     chan string
	partial []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.out <- string(line)
		l.partial = rest
	}
}

// tail passes on what is written to it and remembers the end.
type tail struct {
	next io.Writer // nil means nowhere

	mu  sync.Mutex
	end []byte
}

const tailSize = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, p...)
	if extra := len(t.end) - tailSize; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	t.mu.Unlock()
	if t.next != nil {
		return t.next.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}
