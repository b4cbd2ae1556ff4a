// Command bench measures the reconcile engine against the API server's own speed.
//
// On one local control plane it applies the same objects by a bare client that does nothing but
// apply (the floor), by the agent, as a process of its own, from a Git repository, and by the bare client again;
// then both change every Deployment, by turns.
// It prints one table. It never judges: docs/performance.md says what the figures should be.
//
//	go run ./test/bench -bundles 100,300,1000
//
// How soon drift is found and corrected, as percentiles, and that status updates cost nothing
// (an edit that was not found is counted as missed, and is an error):
//
//	go run ./test/bench -bundles 500 -installs 1 -rows install,edits,status
//
// The agent's memory with 10,000 objects:
//
//	go run ./test/bench -bundles 2500 -plain -rows install,idle
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/cli"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// options are the flags.
type options struct {
	sizes    []int
	rows     []string
	json     bool
	agent    string
	profile  string
	keep     bool
	plain    bool
	poll     time.Duration
	repeat   int
	installs int
	edits    int
	rate     float64
	updates  int
	idle     time.Duration
}

// The rows, in the order in which they run.
var allRows = []string{"install", "all", "one", "idle", "restart", "edit", "edits", "status"}

// plainRows need no Deployments and no Ingresses.
var plainRows = []string{"install", "idle"}

const usualRows = "install,all,one,idle,restart,edit"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(profiled(ctx, os.Args[1:])) //nolint:gocritic // nothing is left to stop
	}
	if len(os.Args) > 1 && os.Args[1] == engine.Word { // the agent that is profiled starts this program for its workers
		os.Exit(cli.Execute(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	sizes := f.String("bundles", "200", "numbers of bundles, four objects each; every number gets a control plane of its own")
	rows := f.String("rows", usualRows, "rows to measure, of "+strings.Join(allRows, ","))
	f.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	f.StringVar(&o.agent, "agent", "bin/flotilla", "the program to measure")
	f.StringVar(&o.profile, "profile", "", "directory for CPU and heap profiles; the agent then runs inside this program, which make build's tags do not make smaller")
	f.BoolVar(&o.keep, "keep", false, "keep the directory with the agent's log and store")
	f.BoolVar(&o.plain, "plain", false, "objects that no controller does anything about, and no floor; for rows "+strings.Join(plainRows, ","))
	f.DurationVar(&o.poll, "poll", 250*time.Millisecond, "how often the agent looks for a new commit")
	f.IntVar(&o.repeat, "repeat", 5, "how often single changes are measured; the median is shown")
	f.IntVar(&o.installs, "installs", 5, "how often the install is measured; the one with the median ratio is shown (always once with -plain)")
	f.IntVar(&o.edits, "edits", 500, "edits of row edits, each of another object")
	f.Float64Var(&o.rate, "rate", 25, "edits per second of row edits")
	f.IntVar(&o.updates, "updates", 5000, "status updates of row status")
	f.DurationVar(&o.idle, "idle", 20*time.Second, "how long row idle looks")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 {
			return o, fmt.Errorf("-bundles: %q is not a number of bundles", s)
		}
		o.sizes = append(o.sizes, n)
	}
	for s := range strings.SplitSeq(*rows, ",") {
		if !slices.Contains(allRows, s) {
			return o, fmt.Errorf("-rows: %q is none of %s", s, strings.Join(allRows, ","))
		}
		if o.plain && !slices.Contains(plainRows, s) {
			return o, fmt.Errorf("-rows: %q edits Deployments, and -plain installs none; choose from %s", s, strings.Join(plainRows, ","))
		}
		o.rows = append(o.rows, s)
	}
	if o.plain {
		o.installs = 1 // there is no floor
	}
	if o.repeat < 1 || o.rate <= 0 || o.installs < 1 {
		return o, errors.New("-repeat, -rate and -installs must be above zero")
	}
	var err error
	o.agent, err = filepath.Abs(o.agent)
	return o, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var all []result
	for _, n := range o.sizes {
		got, err := measure(ctx, o, n, stderr)
		all = append(all, got...)
		if err != nil {
			return errors.Join(print(stdout, o, all), fmt.Errorf("%d bundles: %w", n, err))
		}
	}
	return print(stdout, o, all)
}

func print(w io.Writer, o options, all []result) error {
	if o.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(all)
	}
	return table(w, all)
}
