package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// agent is the agent as a child process.
type agent struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	most atomic.Int64 // see sample
	// log is where its log is, and how long that was when it started.
	log    string
	logged int64
}

// startAgent starts the agent; its store and its log are in dir and stay when it ends.
func startAgent(o options, dir, kubeconfig, repo string) (*agent, error) {
	log, err := os.OpenFile(filepath.Join(dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	program := o.agent
	if o.profile != "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, "agent", "--cluster", clusterName, "--repo", repo, //nolint:noctx // it is stopped by a signal
		"--dir", filepath.Join(dir, "agent"), "--kubeconfig", kubeconfig, "--poll", o.poll.String())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), envProfile+"="+o.profile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a := &agent{cmd: cmd, done: make(chan struct{}), log: log.Name(), logged: info.Size()}
	go func() {
		a.err = cmd.Wait()
		close(a.done)
	}()
	go a.sample()
	return a, nil
}

// stop ends the agent as an operator would, and waits.
func (a *agent) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already: then done is closed
	select {
	case <-a.done:
		return a.err
	case <-time.After(30 * time.Second):
		_ = a.cmd.Process.Kill()
		<-a.done
		return fmt.Errorf("the agent did not stop: %w", a.err)
	}
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every Linux.
const clockTick = 10 * time.Millisecond

// cpu is the processor time that the agent and its workers have used so far.
func (a *agent) cpu() (time.Duration, error) {
	sum, err := ticks(a.proc("stat"))
	for _, pid := range a.workers() {
		if n, err := ticks("/proc/" + pid + "/stat"); err == nil { // or else it has just ended, and counts above next time
			sum += n
		}
	}
	return time.Duration(sum) * clockTick, err
}

// ticks reads the time that a process, and those of its children that have ended, have used.
func ticks(file string) (sum int, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	// The fields after the name, which is in parentheses: state is 3, utime 14, stime 15, and those of children 16 and 17.
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(f) < 15 {
		return 0, fmt.Errorf("%s has %d fields", file, len(f))
	}
	for _, field := range f[11:15] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("%s: %q", file, raw)
		}
		sum += n
	}
	return sum, nil
}

// workers are the processes that render for the agent: its children.
func (a *agent) workers() []string {
	files, _ := filepath.Glob(a.proc("task/*/children"))
	var out []string
	for _, file := range files {
		raw, _ := os.ReadFile(file) // of a thread that has just ended there is none
		out = append(out, strings.Fields(string(raw))...)
	}
	return out
}

// sample keeps the most memory that the agent and its workers hold together, until the agent ends.
func (a *agent) sample() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-a.done:
			return
		case <-tick.C:
			if raw, err := os.ReadFile(a.proc("status")); err == nil {
				a.most.Store(max(a.most.Load(), int64(kib(raw, "VmRSS:")+a.workersHold())))
			}
		}
	}
}

// workersHold is the memory of the workers that is theirs alone: the program's file they share with the agent.
func (a *agent) workersHold() int {
	sum := 0
	for _, pid := range a.workers() {
		raw, _ := os.ReadFile("/proc/" + pid + "/status")
		sum += kib(raw, "RssAnon:")
	}
	return sum
}

// peak is the most memory that was resident since the last resetPeak, in bytes, and now is what is resident now,
// both with what the workers hold.
func (a *agent) memory() (peak, now int, err error) {
	raw, err := os.ReadFile(a.proc("status"))
	if err != nil {
		return 0, 0, err
	}
	return max(kib(raw, "VmHWM:"), int(a.most.Load())), kib(raw, "VmRSS:") + a.workersHold(), nil
}

func (a *agent) resetPeak() error {
	a.most.Store(0)
	return os.WriteFile(a.proc("clear_refs"), []byte("5"), 0)
}

func (a *agent) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(a.cmd.Process.Pid), name)
}

func kib(status []byte, name string) int {
	_, after, _ := bytes.Cut(status, []byte(name))
	line, _, _ := bytes.Cut(after, []byte("kB"))
	n, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return n << 10
}

// started waits until the agent has logged something: before it handles signals, it would end with an error by the first.
func (a *agent) started(ctx context.Context) error {
	for {
		if err := a.alive(ctx); err != nil {
			return err
		}
		info, err := os.Stat(a.log)
		if err != nil || info.Size() > a.logged {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// alive returns an error once the agent has ended.
func (a *agent) alive(ctx context.Context) error {
	select {
	case <-a.done:
		return fmt.Errorf("the agent has ended: %w", a.err)
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}
