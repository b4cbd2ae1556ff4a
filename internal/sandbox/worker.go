package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// worker is a process that does requests.
type worker struct {
	cmd    *exec.Cmd
	in     *os.File // its standard input
	out    *os.File // its standard output
	stderr ear
	gone   chan struct{} // closed when the process is gone
	letGo  *time.Timer   // ends it when it is idle
	most   atomic.Int64  // the most memory that it was seen to hold during a request
	begun  time.Time     // when it was started

	mu sync.Mutex
	// asked counts the requests, so that what ends one never ends the next.
	asked int
	cause error // why we ended it
}

// start starts a worker.
func start(command []string, memory int64) (*worker, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), in.Close())
	}
	w := &worker{in: in, out: out, gone: make(chan struct{}), begun: time.Now()}
	w.cmd = exec.Command(command[0], command[1:]...) //nolint:noctx // it outlives the request that it is started for
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = theirIn, theirOut, &w.stderr
	w.cmd.Dir = string(os.PathSeparator)
	w.cmd.Env = []string{"GOMAXPROCS=2"} // and nothing of the parent's: one processor for the work, one for its garbage
	if zone, set := os.LookupEnv("TZ"); set {
		w.cmd.Env = append(w.cmd.Env, "TZ="+zone)
	}
	w.cmd.SysProcAttr = attributes()
	w.cmd.WaitDelay = time.Second // of its standard error, which nobody else should have
	err = w.cmd.Start()
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	go func() {
		defer close(w.gone)
		_ = w.cmd.Wait() // what it says is in ProcessState
	}()
	// The pipe takes it at once. If the process is gone already, the request tells.
	_ = writeFrame(w.in, frameMemory, binary.BigEndian.AppendUint64(nil, uint64(memory)))
	return w, nil
}

func (w *worker) alive() bool {
	select {
	case <-w.gone:
		return false
	default:
		return true
	}
}

// end ends the process and waits until it is gone.
func (w *worker) end() {
	_ = w.cmd.Process.Kill() // it may have ended already
	<-w.gone
	_, _ = w.in.Close(), w.out.Close()
}

// kill ends the process because of a request, unless that is done.
func (w *worker) kill(request int, cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked == request && w.cause == nil {
		w.cause = cause
		_ = w.cmd.Process.Kill()
	}
}

// ask has the worker do a request.
func (w *worker) ask(ctx context.Context, limits Limits, request Request, answer func([]byte) []byte) (Result, error) {
	w.mu.Lock()
	n := w.asked
	w.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { w.kill(n, context.Cause(ctx)) })
	defer stop()
	timer := time.AfterFunc(limits.Time, func() { w.kill(n, &LimitError{"time", limits.Time.String()}) })
	defer timer.Stop()
	before := w.processor()
	done, watched := make(chan struct{}), make(chan time.Duration)
	go func() { watched <- w.watch(done, n, limits, request.Processor, before) }()
	out, err := w.exchange(limits, request.Message, answer)
	close(done)
	used := max(<-watched, w.processor()-before)
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	result := Result{Processor: used}
	if long, ok := errors.AsType[tooLongError](err); ok && long.kind == frameResult {
		return result, &LimitError{"output", Bytes(limits.Output)}
	}
	if err != nil {
		return result, w.why(err, limits)
	}
	if request.Processor > 0 && used > request.Processor { // between two looks
		return result, &LimitError{"processor", request.Processor.String()}
	}
	result.Message = out
	return result, nil
}

// watchEvery is how often a worker at work is looked at.
const watchEvery = 20 * time.Millisecond

// overhead is what a worker's program takes itself, of its file and of memory.
const overhead = 128 << 20

// watch ends a worker that takes more processor time than it may, or holds more memory: a second bound, where the first is
// not kept by the system. It returns when done is closed, with the processor time that it saw last.
func (w *worker) watch(done <-chan struct{}, request int, limits Limits, most, before time.Duration) (used time.Duration) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return used
		case <-tick.C:
		}
		memory := w.resident()
		w.most.Store(max(w.most.Load(), memory))
		used = max(used, w.processor()-before)
		switch {
		case memory > limits.Memory+overhead:
			w.kill(request, &LimitError{"memory", Bytes(limits.Memory)})
		case most > 0 && used > most:
			w.kill(request, &LimitError{"processor", most.String()})
		}
	}
}

// why tells why there is no result; err is what reading and writing came to.
func (w *worker) why(err error, limits Limits) error {
	byItself := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE)
	if byItself { // then its status is about to be known
		select {
		case <-w.gone:
		case <-time.After(time.Second):
			byItself = false
		}
	}
	w.end()
	memory, stack := w.stderr.heard()
	switch {
	case w.cause != nil: // nobody sets it any more
		return w.cause
	case !byItself:
		return &CrashError{How: "it said what makes no sense"}
	case memory, killed(w.cmd.ProcessState) && w.most.Load() > limits.Memory/4:
		// Where the system ended it, there was too little memory for even less than it may have.
		return &LimitError{"memory", Bytes(limits.Memory)}
	case killed(w.cmd.ProcessState):
		return &CrashError{How: w.cmd.ProcessState.String(), Outside: true}
	case stack:
		return &CrashError{How: "stack overflow"}
	}
	return &CrashError{How: w.cmd.ProcessState.String()}
}

// exchange sends a request and answers calls until the result comes.
func (w *worker) exchange(limits Limits, request []byte, answer func([]byte) []byte) ([]byte, error) {
	if err := writeFrame(w.in, frameRequest, request); err != nil {
		return nil, err
	}
	for {
		kind, payload, err := readFrame(w.out, func(kind byte) int64 {
			switch kind {
			case frameCall:
				return maxCall
			case frameResult:
				return limits.Output
			}
			return -1
		})
		if err != nil || kind == frameResult {
			return payload, err
		}
		if err := writeFrame(w.in, frameAnswer, answer(payload)); err != nil {
			return nil, err
		}
	}
}

// ear listens to a worker's standard error for the words by which Go's runtime says why it ends the process.
// It keeps nothing of what it hears: a traceback may show what the worker held.
type ear struct {
	mu     sync.Mutex
	end    []byte // of what was heard last, for words that come in two pieces
	memory bool   // the worker got no more memory, or none for a thread
	stack  bool   // its stack was full
}

// faultOfRuntime is in what Go's runtime says of a fault outside of goroutines. Its garbage collector does not check
// each allocation of its own, so where the system gives no more memory it may run into a nil pointer instead of saying so
// (spanQueue in runtime/mgcmark_greenteagc.go, Go 1.26). A nil pointer of a goroutine is told in another form.
const faultOfRuntime = "violation\nPC="

func (e *ear) Write(p []byte) (int, error) {
	const longest = 32
	e.mu.Lock()
	defer e.mu.Unlock()
	heard := append(e.end, p...)
	e.memory = e.memory || has(heard, "out of memory", "cannot allocate memory", "cannot map pages", "newosproc", "pthread_create failed", faultOfRuntime)
	e.stack = e.stack || has(heard, "stack overflow")
	e.end = bytes.Clone(heard[max(0, len(heard)-longest):])
	return len(p), nil
}

func has(text []byte, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return bytes.Contains(text, []byte(w)) })
}

func (e *ear) heard() (memory, stack bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.memory, e.stack
}

// Bytes writes a number of bytes for people.
func Bytes(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
