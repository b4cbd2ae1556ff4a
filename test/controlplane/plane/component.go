package plane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flotilla-fleet/flotilla/test/controlplane/child"
)

// A component is one process that is kept alive, killed and started again on request.
type component struct {
	name    string
	command func() *exec.Cmd
	grace   time.Duration // between SIGTERM and SIGKILL at the end; zero kills at once
	logPath string
	pidPath string
	orders  chan order
	steady  atomic.Bool // start-up is over: from now on an unexpected exit is repaired, not reported
}

type order struct {
	up   bool
	done chan error
}

func newComponent(c *Config, name string, command func() *exec.Cmd, grace time.Duration) *component {
	return &component{
		name:    name,
		command: command,
		grace:   grace,
		logPath: c.path("logs", name+".log"),
		pidPath: c.path("run", name+".pid"),
		orders:  make(chan order),
	}
}

// restartDelay is what a component that died by itself waits, like a static pod of a kubelet.
const restartDelay = time.Second

// run keeps the component alive until ctx ends.
// It returns an error only when the process cannot be started, or exits before start-up is over.
func (c *component) run(ctx context.Context, spawner *child.Spawner, note func(string)) error {
	for ctx.Err() == nil {
		p, err := c.start(spawner)
		if err != nil {
			return err
		}
		switch c.watch(ctx, p) {
		case ended:
			return nil
		case down:
			c.waitForStart(ctx)
		case died:
			if !c.steady.Load() {
				return fmt.Errorf("%s ended during start-up: %w", c.name, p.err)
			}
			note(fmt.Sprintf("%s ended (%v), starting it again", c.name, p.err))
			sleep(ctx, restartDelay)
		}
	}
	return nil
}

type outcome int

const (
	ended outcome = iota // the control plane stops
	down                 // ordered down
	died                 // by itself
)

// watch returns when the process is gone, and why.
func (c *component) watch(ctx context.Context, p *process) outcome {
	for {
		select {
		case <-ctx.Done():
			p.stop(c.grace)
			return ended
		case <-p.exited:
			return died
		case o := <-c.orders:
			if !o.up {
				p.stop(0)
				o.done <- nil
				return down
			}
			o.done <- fmt.Errorf("%s runs already", c.name)
		}
	}
}

// waitForStart returns when the component is ordered up, or when ctx ends.
func (c *component) waitForStart(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-c.orders:
			if o.up {
				o.done <- nil
				return
			}
			o.done <- fmt.Errorf("%s is down already", c.name)
		}
	}
}

func (c *component) order(ctx context.Context, up bool) error {
	o := order{up: up, done: make(chan error, 1)}
	select {
	case c.orders <- o:
		return <-o.done
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A process is one life of a component.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // why it exited, once exited is closed
}

func (c *component) start(spawner *child.Spawner) (*process, error) {
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: c.command(), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := spawner.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		defer close(p.exited)
		if p.err = p.cmd.Wait(); p.err == nil {
			p.err = errors.New("exit status 0")
		}
	}()
	if err := os.WriteFile(c.pidPath, []byte(strconv.Itoa(p.cmd.Process.Pid)+"\n"), 0o600); err != nil {
		p.stop(0)
		return nil, err
	}
	return p, nil
}

func (p *process) stop(grace time.Duration) {
	if grace > 0 {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
			return
		case <-time.After(grace):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// rotate keeps the log of the run before, and forgets older ones.
func (c *component) rotate() error {
	err := os.Rename(c.logPath, c.logPath+".previous")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sleep returns after d, or sooner when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
