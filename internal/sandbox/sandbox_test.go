package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/sandbox"
)

// word makes the test binary a worker.
const word = "sandbox-test-worker"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], word) {
		os.Exit(work(os.Args[1]))
	}
	os.Exit(m.Run())
}

func work(as string) int {
	switch as {
	case word + "-mute":
		time.Sleep(time.Hour)
	case word + "-gone":
		return 3
	case word + "-garbage":
		fmt.Println("hello, I am another program")
		time.Sleep(time.Hour)
	case word + "-long":
		_, _ = os.Stdout.Write([]byte{'r', 0xff, 0xff, 0xff, 0xff})
		time.Sleep(time.Hour)
	case word + "-parent":
		return parent()
	}
	if err := sandbox.Serve(os.Stdin, os.Stdout, handle); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var sink []byte

func handle(request []byte, call func([]byte) ([]byte, error)) []byte {
	verb, rest, _ := strings.Cut(string(request), " ")
	n, _ := strconv.Atoi(rest)
	switch verb {
	case "call":
		var out []byte
		for i := range n {
			answer, err := call(fmt.Append(nil, i))
			if err != nil {
				return []byte(err.Error())
			}
			out = append(out, answer...)
		}
		return out
	case "pid":
		return fmt.Append(nil, os.Getpid())
	case "environment":
		return fmt.Append(nil, os.Environ())
	case "write":
		return fmt.Append(nil, os.WriteFile(rest, []byte("x"), 0o600))
	case "spin":
		for i := 0; ; i++ {
			sink = sink[:0]
		}
	case "burn": // milliseconds, of which a loaded machine gives it some only
		for end := processor() + time.Duration(n)*time.Millisecond; processor() < end; {
			sink = sink[:0]
		}
	case "take": // at once
		sink = bytes.Repeat([]byte("a"), n)
		return fmt.Append(nil, len(sink))
	case "grow": // bit by bit, touching all of it
		var held [][]byte
		for range n {
			held = append(held, bytes.Repeat([]byte("a"), 1<<20))
		}
		return fmt.Append(nil, len(held))
	case "print":
		return bytes.Repeat([]byte("a"), n)
	case "recurse":
		return fmt.Append(nil, recurse(0))
	case "panic":
		panic("password")
	case "exit":
		os.Exit(n)
	case "noise":
		fmt.Fprintln(os.Stderr, "a library is talking")
	}
	return []byte("ok")
}

// processor is the processor time that this process took.
func processor() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return time.Hour
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func recurse(n int) int {
	if n < 0 {
		return 0
	}
	return recurse(n+1) + 1
}

var limits = sandbox.Limits{Time: 30 * time.Second, Memory: 256 << 20, Output: 1 << 20}

func pool(t testing.TB, change func(*sandbox.Config)) *sandbox.Pool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := sandbox.Config{Command: []string{exe, word}, Limits: limits, Idle: time.Minute}
	if change != nil {
		change(&cfg)
	}
	p, err := sandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func as(kind string) func(*sandbox.Config) {
	return func(c *sandbox.Config) { c.Command[1] += "-" + kind }
}

func noCalls([]byte) []byte { return nil }

func do(t testing.TB, p *sandbox.Pool, request string) string {
	t.Helper()
	out, err := p.Do(t.Context(), sandbox.Request{Message: []byte(request)}, noCalls)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return string(out.Message)
}

func TestPool_calls(t *testing.T) {
	p := pool(t, nil)
	out, err := p.Do(t.Context(), sandbox.Request{Message: []byte("call 100")}, func(call []byte) []byte { return append(call, ' ') })
	if words := strings.Fields(string(out.Message)); err != nil || len(words) != 100 || words[99] != "99" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestPool_keepsAWorker(t *testing.T) {
	p := pool(t, nil)
	first := do(t, p, "pid")
	if do(t, p, "noise") != "ok" || do(t, p, "pid") != first {
		t.Error("another worker was started")
	}
	p = pool(t, func(c *sandbox.Config) { c.Idle = time.Millisecond })
	pid, err := strconv.Atoi(do(t, p, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}

// gone waits until a process is not there.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// What a request does to its worker ends that request, and no other.
func TestPool_limits(t *testing.T) {
	if runtime.GOOS != "linux" {
		limits.Memory = 1 << 40
	}
	p := pool(t, func(c *sandbox.Config) { c.Limits.Time = 3 * time.Second })
	for _, tt := range []struct{ request, limit string }{
		{"spin", "time"},
		{"take 2000000000", "memory"},
		{"grow 4096", "memory"},
		{"print 2000000", "output"},
	} {
		_, err := p.Do(t.Context(), sandbox.Request{Message: []byte(tt.request)}, noCalls)
		e, ok := errors.AsType[*sandbox.LimitError](err)
		if !ok || e.Limit != tt.limit {
			t.Errorf("%s: got %v, want the limit of %s", tt.request, err, tt.limit)
		}
		do(t, p, "pid")
	}
	if got := do(t, p, "grow 150"); got != "150" { // within the limit
		t.Error(got)
	}
}

// Processor time is told of each request alone, and bounds the one that it is said for.
func TestPool_processor(t *testing.T) {
	p := pool(t, nil)
	first, err := p.Do(t.Context(), sandbox.Request{Message: []byte("burn 300")}, noCalls)
	if err != nil || first.Processor < 250*time.Millisecond {
		t.Errorf("got %v, %v", first.Processor, err)
	}
	if next, err := p.Do(t.Context(), sandbox.Request{Message: []byte("pid"), Processor: 250 * time.Millisecond}, noCalls); err != nil || next.Processor > 250*time.Millisecond {
		t.Errorf("the next request is charged %v, %v", next.Processor, err)
	}
	out, err := p.Do(t.Context(), sandbox.Request{Message: []byte("spin"), Processor: 300 * time.Millisecond}, noCalls)
	e, ok := errors.AsType[*sandbox.LimitError](err)
	if !ok || e.Limit != "processor" || err.Error() != "takes more than 300ms of processor time" || out.Processor < 300*time.Millisecond {
		t.Errorf("got %v after %v", err, out.Processor)
	}
	do(t, p, "pid")
}

func TestPool_crashes(t *testing.T) {
	for _, tt := range []struct{ kind, request, want string }{
		{"", "recurse", "stack overflow"},
		{"", "panic", "exit status 2"},
		{"", "exit 7", "exit status 7"},
		{"gone", "pid", "exit status 3"},
		{"garbage", "pid", "makes no sense"},
	} {
		change := func(*sandbox.Config) {}
		if tt.kind != "" {
			change = as(tt.kind)
		}
		p := pool(t, change)
		for range 2 { // the next one finds no worker of the last
			_, err := p.Do(t.Context(), sandbox.Request{Message: []byte(tt.request)}, noCalls)
			e, ok := errors.AsType[*sandbox.CrashError](err)
			if !ok || !strings.Contains(err.Error(), tt.want) || e.Outside || strings.Contains(err.Error(), "password") {
				t.Errorf("%s %s: got %v", tt.kind, tt.request, err)
			}
		}
	}
	_, err := pool(t, as("long")).Do(t.Context(), sandbox.Request{}, noCalls)
	if e, ok := errors.AsType[*sandbox.LimitError](err); !ok || e.Limit != "output" {
		t.Errorf("a length that cannot be: %v", err)
	}
	_, err = pool(t, func(c *sandbox.Config) { c.Command = []string{"/nowhere/flotilla"} }).Do(t.Context(), sandbox.Request{}, noCalls)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// A worker that dies between two requests is not missed.
func TestPool_killedWhileIdle(t *testing.T) {
	p := pool(t, nil)
	pid, err := strconv.Atoi(do(t, p, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, pid) // once its parent has noticed
	if do(t, p, "pid") == strconv.Itoa(pid) {
		t.Error("a dead worker answered")
	}
}

func TestPool_context(t *testing.T) {
	cause := errors.New("a newer commit")
	p := pool(t, func(c *sandbox.Config) { c.Size = 1 })
	for _, kind := range []string{"", "mute"} {
		if kind != "" {
			p = pool(t, as(kind))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		if _, err := p.Do(ctx, sandbox.Request{Message: []byte("spin")}, noCalls); !errors.Is(err, cause) {
			t.Errorf("%s: got %v", kind, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	called := make(chan struct{})
	go func() {
		_, _ = p.Do(context.WithoutCancel(ctx), sandbox.Request{Message: []byte("spin")}, noCalls)
		close(called)
	}()
	cancel(cause)
	if _, err := p.Do(ctx, sandbox.Request{Message: []byte("pid")}, noCalls); !errors.Is(err, cause) {
		t.Errorf("waiting for a place: got %v", err)
	}
	p.Close() // ends what is under way
	<-called
	if _, err := p.Do(t.Context(), sandbox.Request{Message: []byte("pid")}, noCalls); err == nil {
		t.Error("a closed pool starts workers")
	}
}

func TestWorker_isConfined(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "password")
	t.Setenv("TZ", "Asia/Tokyo")
	p := pool(t, nil)
	if got := do(t, p, "environment"); got != "[GOMAXPROCS=2 TZ=Asia/Tokyo]" {
		t.Error(got)
	}
	if runtime.GOOS != "linux" {
		return
	}
	if got := do(t, p, "write "+t.TempDir()+"/file"); !strings.Contains(got, "file too large") {
		t.Errorf("it may write files: %s", got)
	}
}

// parent starts a worker that spins, says its PID, and waits to be killed.
func parent() int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	p, err := sandbox.New(sandbox.Config{Command: []string{exe, word}, Limits: limits})
	if err != nil {
		return 1
	}
	out, err := p.Do(context.Background(), sandbox.Request{Message: []byte("pid")}, noCalls)
	if err != nil {
		return 1
	}
	fmt.Printf("%s\n", out.Message)
	_, _ = p.Do(context.Background(), sandbox.Request{Message: []byte("spin")}, noCalls)
	return 1
}

func TestWorker_endsWithItsParent(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, word+"-parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone(t, pid)
}

// Whatever comes over the pipes is not trusted.
func TestServe_startedByHand(t *testing.T) {
	err := sandbox.Serve(strings.NewReader("hello world"), &bytes.Buffer{}, handle)
	if err == nil || !strings.Contains(err.Error(), "started by flotilla itself") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkPool_warm(b *testing.B) {
	p := pool(b, nil)
	for b.Loop() {
		do(b, p, "pid")
	}
}

func BenchmarkPool_cold(b *testing.B) {
	for b.Loop() {
		p := pool(b, nil)
		do(b, p, "pid")
		p.Close()
	}
}
