// Package demo brings up a whole fleet on one machine:
// local control planes, a Git server with the example repository, a hub and one agent per cluster.
//
// Everything is real and runs as a process of its own, so that any of it can be killed.
// The Git server, the hub and the agents are started again after a second, with their data, as a cluster would do.
// A control plane is not: its cluster stays away, as one that is lost does, until the next demo in the same directory.
// Nothing outlives the demo, and nothing listens on anything but the loopback address.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// Config says what to bring up.
type Config struct {
	// Dir holds everything that the demo writes. It is created.
	// What an earlier demo left there is used again.
	Dir string
	// Clusters is how many clusters there are.
	Clusters int
	// Example is the fleet repository to begin with.
	Example fs.FS
	// Executable is the flotilla binary that hub, agents and Git server are run from.
	Executable string
	// Progress gets a line for each step.
	Progress io.Writer
}

// File is demo.json: where everything is.
type File struct {
	Hub      Hub       `json:"hub"`
	Repo     Repo      `json:"repo"`
	Clusters []Cluster `json:"clusters"`
}

// Hub is where the hub is, and the token that opens it.
type Hub struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	// PID is the hub's process.
	PID int `json:"pid,omitempty"`
}

// Repo is the fleet repository, for git clone and git push.
type Repo struct {
	URL string `json:"url"`
	PID int    `json:"pid,omitempty"`
}

// Cluster is one cluster of the fleet.
type Cluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	// AgentPID is the agent's process.
	AgentPID int `json:"agentPid,omitempty"`
}

// FileName is the file in Config.Dir that is written when all is ready.
const FileName = "demo.json"

// known are the clusters of the example repository; further ones are made up.
var known = []string{"staging-eu", "prod-eu", "prod-us"}

// Run brings everything up, calls ready, and keeps it up until ctx ends.
func Run(ctx context.Context, cfg Config, ready func(File)) (err error) {
	if cfg.Clusters < 1 {
		return fmt.Errorf("a demo needs at least one cluster, not %d", cfg.Clusters)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := alone(ctx, dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, FileName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d := &demo{Config: cfg, names: names(cfg.Clusters), say: terminal.To(cfg.Progress)}
	defer func() { err = errors.Join(err, d.stop()) }()

	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"control plane binaries", d.ensure},
		{fmt.Sprintf("%d control planes", cfg.Clusters), d.startClusters},
		{"Git server with the example repository", d.startGit},
		{"hub", d.startHub},
		{"agents", d.startAgents},
		{"first rollout", d.awaitReady},
	}
	for i, s := range steps {
		begun := time.Now()
		d.say.Printf("[%d/%d] %s …\n", i+1, len(steps), s.what)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		d.say.Printf("[%d/%d] %s: %.1f s\n", i+1, len(steps), s.what, time.Since(begun).Seconds())
	}
	d.mu.Lock()
	err = d.write()
	d.ready = err == nil
	d.mu.Unlock()
	if err != nil {
		return err
	}
	ready(d.file())
	<-ctx.Done()
	return nil
}

// alone makes sure that no other demo is up in the directory: the two would take each other's files and ports.
func alone(ctx context.Context, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var f File
	if err != nil || json.Unmarshal(b, &f) != nil || f.Hub.URL == "" {
		return err // what is no demo.json is written anew
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if probe(ctx, f.Hub.URL+"/healthz") == nil {
		return fmt.Errorf("a demo is up in %s, with its dashboard at %s: end it with Ctrl-C, or give another --dir", dir, f.Hub.URL)
	}
	return nil
}

func names(n int) []string {
	out := slices.Clone(known[:min(n, len(known))])
	for i := len(known); i < n; i++ {
		out = append(out, fmt.Sprintf("prod-%d", i+1))
	}
	return out
}

type demo struct {
	Config
	names []string
	say   *terminal.Printer // to Progress

	planes []*controlplane.ControlPlane
	procs  []*process
	hub    Hub
	repo   Repo
	git    *process
	hubRun *process
	runs   []*process // one agent per cluster

	mu    sync.Mutex
	ready bool // demo.json is written; guarded by mu
}

// path returns a path below the demo's directory, whose parent exists.
func (d *demo) path(elem ...string) string {
	p := filepath.Join(append([]string{d.Dir}, elem...)...)
	// A parent that cannot be made shows as an error where the path is used.
	_ = os.MkdirAll(filepath.Dir(p), 0o755)
	return p
}

func (d *demo) ensure(ctx context.Context) error {
	_, err := controlplane.Ensure(ctx, d.say)
	return err
}

func (d *demo) startClusters(ctx context.Context) error {
	d.planes = make([]*controlplane.ControlPlane, len(d.names))
	errs := make([]error, len(d.names))
	var wg sync.WaitGroup
	for i, name := range d.names {
		wg.Go(func() {
			d.planes[i], errs[i] = controlplane.Start(ctx, controlplane.Config{
				Dir: d.path("clusters", name), Name: name, Nodes: 3, Progress: io.Discard,
			})
			if errs[i] != nil {
				errs[i] = fmt.Errorf("cluster %q: %w", name, errs[i])
				return
			}
			d.say.Printf("      %s is up\n", name)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d *demo) startGit(ctx context.Context) error {
	root := d.path("git")
	server, err := gitserver.New(gitserver.Config{Root: root})
	if err != nil {
		return err
	}
	if _, err := os.Stat(server.Dir("fleet")); errors.Is(err, fs.ErrNotExist) {
		example := d.path("example")
		if err := writeExample(example, d.Example, d.names); err != nil {
			return err
		}
		if _, err := server.Import(ctx, "fleet", os.DirFS(example), "Begin the fleet"); err != nil {
			return err
		}
	}
	addr, err := d.port(ctx, "git")
	if err != nil {
		return err
	}
	d.git = d.start("git", "demo", "git-server", "--root", root, "--listen", addr)
	d.repo.URL = "http://" + addr + "/fleet.git"
	return await(ctx, d.git, func() error { return probe(ctx, d.repo.URL+"/info/refs?service=git-upload-pack") })
}

// rewrite keeps demo.json true when a child was started again.
func (d *demo) rewrite() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready {
		if err := d.write(); err != nil {
			d.say.Printf("%s: %v\n", FileName, err)
		}
	}
}

func (d *demo) write() error {
	b, err := json.MarshalIndent(d.file(), "", "  ")
	if err != nil {
		return err
	}
	final := filepath.Join(d.Dir, FileName)
	// The file holds a token: it is for its owner only. It appears whole or not at all.
	if err := os.WriteFile(final+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(final+".tmp", final)
}

func (d *demo) file() File {
	f := File{Hub: d.hub, Repo: d.repo}
	f.Hub.PID, f.Repo.PID = d.hubRun.pid(), d.git.pid()
	for i, name := range d.names {
		f.Clusters = append(f.Clusters, Cluster{
			Name: name, Kubeconfig: d.planes[i].Kubeconfig(), AgentPID: d.runs[i].pid(),
		})
	}
	return f
}

// stop ends everything, last started first.
func (d *demo) stop() error {
	d.say.Println("stopping …")
	d.mu.Lock()
	d.ready = false
	d.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(d.procs) {
		errs = append(errs, p.stop())
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, c := range d.planes {
		if c == nil {
			continue
		}
		wg.Go(func() {
			err := c.Stop()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	_ = os.Remove(filepath.Join(d.Dir, FileName))
	return errors.Join(errs...)
}
