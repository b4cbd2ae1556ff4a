package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that is started again when it dies.
type process struct {
	name   string
	log    string
	cancel context.CancelFunc
	done   chan struct{}
	// begun is called each time the child has started.
	begun func()

	mu     sync.Mutex
	cmd    *exec.Cmd
	failed error // why it ended last
}

// Bounds of a child's life.
const (
	restartAfter = time.Second
	stopWithin   = 10 * time.Second
	readyWithin  = 3 * time.Minute
)

// start runs the flotilla binary with args, and again whenever it ends, until stop.
func (d *demo) start(name string, args ...string) *process {
	ctx, cancel := context.WithCancel(context.Background()) // stop cancels it, after its own grace
	p := &process{name: name, log: d.path("logs", name+".log"), cancel: cancel, done: make(chan struct{}), begun: d.rewrite}
	d.procs = append(d.procs, p)
	go func() {
		defer close(p.done)
		// A child is killed when the thread that started it ends: this one must not.
		runtime.LockOSThread()
		for ctx.Err() == nil {
			err := p.run(ctx, d.Executable, args)
			p.mu.Lock()
			p.failed = err
			p.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(restartAfter):
			}
		}
	}()
	return p
}

func (p *process) run(ctx context.Context, exe string, args []string) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	p.mu.Lock()
	err = cmd.Start()
	p.cmd = cmd
	p.mu.Unlock()
	if err != nil {
		return err
	}
	p.begun()
	return cmd.Wait()
}

func (p *process) pid() int {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// stop ends the child and waits for it.
func (p *process) stop() error {
	p.cancel()
	select {
	case <-p.done:
		return nil
	case <-time.After(stopWithin + 5*time.Second):
		return fmt.Errorf("%s did not stop", p.name)
	}
}

// lastError is why the child ended last, with the end of its log; nil while it never did.
func (p *process) lastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		return nil
	}
	b, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return fmt.Errorf("%s: %w; the end of %s:\n%s", p.name, p.failed, p.log, strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// await asks until the answer is nil. A child that keeps ending ends the wait.
func await(ctx context.Context, p *process, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = ask(); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if p != nil {
				last = errors.Join(last, p.lastError())
			}
			return fmt.Errorf("not ready: %w", last)
		case <-tick.C:
		}
	}
}

// probe reports whether a URL answers without an error.
func probe(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	return nil
}

// port returns a loopback address that is kept for the next run, so that what was written down stays true.
func (d *demo) port(ctx context.Context, name string) (string, error) {
	file := d.path("ports", name)
	if b, err := os.ReadFile(file); err == nil {
		if l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", string(b)); err == nil {
			return string(b), l.Close()
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	return addr, os.WriteFile(file, []byte(addr), 0o644)
}
