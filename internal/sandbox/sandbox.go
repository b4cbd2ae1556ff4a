// Package sandbox has work done by processes that can be ended: workers, which are this program once more.
//
// A worker reads a request from its standard input, may call back for what it needs, and writes a result.
//
//	frame = kind (1 byte), length (4 bytes, big endian), payload
//	agent → worker: 'm' the bound on memory, once; 'q' a request; 'a' the answer to a call
//	worker → agent: 'c' a call; 'r' the result
//
// It promises: a request ends when its context does, or at the limits of time, processor time, memory and output, whatever the worker does;
// a worker ends with the process that started it; it gets no file, no environment but the time zone, and nothing but its requests.
// It is kept for a while after a request, so that the next one need not wait for a start, and it does one request at a time.
// It never looks into a request or a result, and never runs any other program than the one it is told.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits bound one request.
type Limits struct {
	// Time is how long it may take, from when a worker has it.
	Time time.Duration
	// Memory is what a worker may hold beyond what it needs to start, in bytes.
	// It is bounded on Linux only, where the worker ends when it asks for more.
	Memory int64
	// Output is how long the result may be, in bytes.
	Output int64
}

// Request is something that a worker is to do.
type Request struct {
	Message []byte
	// Processor is how much processor time it may take, beside the Limits. Zero means that nothing bounds it.
	Processor time.Duration
}

// Result is what a request came to.
type Result struct {
	Message []byte
	// Processor is the processor time that the worker took, also where the request failed.
	// The load of the machine hardly changes it. On other systems than Linux it is the time that passed.
	Processor time.Duration
}

// LimitError says which limit ended a request.
type LimitError struct {
	// Limit is "time", "processor", "memory" or "output".
	Limit string
	// Max is the bound, for people: "30s", "512 MiB".
	Max string
}

func (e *LimitError) Error() string {
	switch e.Limit {
	case "time":
		return "takes longer than " + e.Max
	case "processor":
		return "takes more than " + e.Max + " of processor time"
	case "memory":
		return "needs more than " + e.Max + " of memory"
	default:
		return "makes more than " + e.Max + " of output"
	}
}

// CrashError says that a worker ended in the middle of a request, and how. It says nothing of what the worker held.
type CrashError struct {
	How string
	// Outside says that somebody else killed it: the request need not be the cause.
	Outside bool
}

func (e *CrashError) Error() string { return "the worker process ended: " + e.How }

// Config is what a Pool is made of.
type Config struct {
	// Command starts a worker: a program and its arguments. The program calls Serve. Required.
	Command []string
	// Limits are required.
	Limits Limits
	// Size is how many workers run at once. Zero means 2.
	Size int
	// Idle is how long a worker is kept without a request. Zero means 10 seconds.
	Idle time.Duration
}

// Pool has requests done. Make it with New, and Close it. It is safe for concurrent use.
type Pool struct {
	cfg    Config
	places chan struct{}

	mu     sync.Mutex
	closed bool
	idle   []*worker // the last one was used last
	all    map[*worker]bool
}

// New returns a Pool. No worker is started yet.
func New(cfg Config) (*Pool, error) {
	switch {
	case len(cfg.Command) == 0:
		return nil, errors.New("sandbox: Command is required")
	case cfg.Limits.Time <= 0 || cfg.Limits.Memory <= 0 || cfg.Limits.Output <= 0:
		return nil, errors.New("sandbox: each of the Limits is required")
	}
	if cfg.Size <= 0 {
		cfg.Size = 2
	}
	if cfg.Idle <= 0 {
		cfg.Idle = 10 * time.Second
	}
	return &Pool{cfg: cfg, places: make(chan struct{}, cfg.Size), all: map[*worker]bool{}}, nil
}

// Do has a worker do a request, and returns its result. It waits for a worker that is free.
// answer is called for each call of the worker, by one goroutine, and never after Do has returned.
//
// The error is a *LimitError, a *CrashError, the cause of ctx, or says why no worker could be started.
func (p *Pool) Do(ctx context.Context, request Request, answer func(call []byte) []byte) (Result, error) {
	select {
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	case p.places <- struct{}{}:
	}
	defer func() { <-p.places }()
	w, err := p.take()
	if err != nil {
		return Result{}, err
	}
	out, err := w.ask(ctx, p.cfg.Limits, request, answer)
	p.giveBack(w, err == nil)
	return out, err
}

// Close ends all workers, and waits until they are gone. Requests that are under way fail.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed, p.idle = true, nil
	all := p.all
	p.all = map[*worker]bool{}
	p.mu.Unlock()
	for w := range all {
		w.end()
	}
}

var errClosed = errors.New("sandbox: the pool is closed")

// take returns a worker that is idle, or a new one.
func (p *Pool) take() (*worker, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		w := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if w.letGo.Stop() && w.alive() {
			p.mu.Unlock()
			return w, nil
		}
	}
	p.mu.Unlock()
	w, err := start(p.cfg.Command, p.cfg.Limits.Memory)
	if err != nil {
		return nil, fmt.Errorf("start a worker process: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.end()
		return nil, errClosed
	}
	p.all[w] = true
	return w, nil
}

// giveBack keeps a worker for the next request, or ends it: also where it holds so much memory that a new one is cheaper.
func (p *Pool) giveBack(w *worker, good bool) {
	keep := good && w.alive() && w.resident() < p.cfg.Limits.Memory/2
	p.mu.Lock()
	if keep && !p.closed {
		w.letGo = time.AfterFunc(p.cfg.Idle, func() { p.forget(w) })
		p.idle = append(p.idle, w)
		p.mu.Unlock()
		return
	}
	delete(p.all, w)
	p.mu.Unlock()
	w.end()
}

// forget ends a worker that nobody needed for a while.
func (p *Pool) forget(w *worker) {
	p.mu.Lock()
	for i, other := range p.idle {
		if other == w {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			break
		}
	}
	delete(p.all, w)
	p.mu.Unlock()
	w.end()
}
