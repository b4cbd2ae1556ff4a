package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/cli"
)

// envProfile names the directory for profiles; empty means none.
const envProfile = "FLOTILLA_BENCH_PROFILE"

// profiled runs the agent in this process and writes profiles of it:
// the CPU of its whole life, and the heap every five seconds.
func profiled(ctx context.Context, args []string) int {
	dir := os.Getenv(envProfile)
	stamp := time.Now().Format("150405")
	stop, err := profile(dir, stamp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	defer stop()
	return cli.Execute(ctx, args, cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

func profile(dir, stamp string) (stop func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "cpu-"+stamp+".pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			case <-tick.C:
				writeHeap(filepath.Join(dir, fmt.Sprintf("heap-%s-%03d.pprof", stamp, n)))
			}
		}
	}()
	return func() {
		close(end)
		<-done
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

func writeHeap(name string) {
	f, err := os.Create(name)
	if err != nil {
		return
	}
	defer f.Close()
	runtime.GC()
	_ = pprof.WriteHeapProfile(f) // a profile that is missing is seen
}
