// Package child starts processes that end when this process ends, however it ends.
// On Linux the kernel kills them; everywhere, children that call ExitWithParent notice a closed pipe.
// It never restarts anything: that is the caller's business.
package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// pipeEnv tells a child that its file descriptor 3 is closed by the kernel when the parent dies.
const (
	pipeEnv = "FLOTILLA_CONTROLPLANE_CHILD"
	pipeFD  = 3
)

// A Spawner starts children.
// All of them are started from one thread that lives as long as the Spawner,
// because Linux ties the parent-death signal to the thread that forked, not to the process.
type Spawner struct {
	requests chan request
	done     chan struct{}
	read     *os.File   // inherited by the children
	write    *os.File   // held by this process only
	extra    []*os.File // inherited as well, after read
}

type request struct {
	cmd  *exec.Cmd
	errs chan error
}

// NewSpawner returns a Spawner whose children also inherit the extra files, which stay open as long as one child lives.
func NewSpawner(extra ...*os.File) (*Spawner, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the pipe to the children: %w", err)
	}
	s := &Spawner{requests: make(chan request), done: make(chan struct{}), read: r, write: w, extra: extra}
	go s.serve()
	return s, nil
}

func (s *Spawner) serve() {
	defer close(s.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for r := range s.requests {
		r.errs <- r.cmd.Start()
	}
}

// Start is cmd.Start for a child that must not outlive this process.
func (s *Spawner) Start(cmd *exec.Cmd) error {
	if len(cmd.ExtraFiles) > 0 {
		return errors.New("start child: extra files belong to the spawner")
	}
	cmd.ExtraFiles = append([]*os.File{s.read}, s.extra...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, pipeEnv+"=1")
	killWithParent(cmd)
	r := request{cmd: cmd, errs: make(chan error, 1)}
	s.requests <- r
	return <-r.errs
}

// Close ends the Spawner, and with it every child that is still there.
// Start must not be called any more.
func (s *Spawner) Close() error {
	close(s.requests)
	<-s.done
	return errors.Join(s.write.Close(), s.read.Close())
}

// ExitWithParent makes this process end as soon as the Spawner that started it is gone.
// In a process that no Spawner started it does nothing.
func ExitWithParent() {
	if os.Getenv(pipeEnv) == "" {
		return
	}
	pipe := os.NewFile(pipeFD, "parent")
	go func() {
		_, _ = pipe.Read(make([]byte, 1))
		fmt.Fprintln(os.Stderr, "the parent process is gone")
		os.Exit(1)
	}()
}

// WithParent returns a context that ends when the process that started this one is gone.
func WithParent(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	parent := os.Getppid()
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if os.Getppid() != parent {
					cancel(errors.New("the parent process is gone"))
					return
				}
			}
		}
	}()
	return ctx
}
