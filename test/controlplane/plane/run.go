package plane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flotilla-fleet/flotilla/test/controlplane/child"
)

// startTimeout bounds each wait of the start-up; a loaded machine with two cores needs a fraction of it.
const startTimeout = 3 * time.Minute

// Run starts the control plane, says "ready KUBECONFIG" on cfg.Out, keeps it alive and returns when ctx ends.
// When a component does not come up, the error carries the end of its log.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.complete(); err != nil {
		return err
	}
	lock, err := cfg.prepare()
	if err != nil {
		return err
	}
	defer lock.Close()
	p, err := loadPorts(ctx, cfg.path("ports.json"), cfg.Port)
	if err != nil {
		return err
	}
	if err := ensurePKI(cfg.path("pki")); err != nil {
		return err
	}
	if err := cfg.writeComponentFiles(p); err != nil {
		return err
	}
	spawner, err := child.NewSpawner(lock)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spawner.Close()) }()
	cluster, err := cfg.newClient(p)
	if err != nil {
		return err
	}
	g := &group{cfg: &cfg, ports: p, spawner: spawner, client: cluster}
	return g.run(ctx)
}

// prepare makes the directory and locks it.
// The lock is inherited by every component: it is free again only when the last one is gone.
func (c *Config) prepare() (*os.File, error) {
	for _, sub := range []string{"components", "logs", "run"} {
		if err := os.MkdirAll(c.path(sub), 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := os.OpenFile(c.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = lock.Close()
			return nil, fmt.Errorf("lock %q: another control plane runs in this directory: %w", c.Dir, err)
		}
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := os.WriteFile(c.path("run", "controlplane.pid"), []byte(pid), 0o600); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// A group is the running control plane.
type group struct {
	cfg        *Config
	ports      ports
	spawner    *child.Spawner
	client     *client
	components map[string]*component
}

func (g *group) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.components = make(map[string]*component)
	tasks, tctx := errgroup.WithContext(ctx)
	err := g.start(tctx, tasks)
	if err == nil {
		fmt.Fprintln(g.cfg.Out, "ready", g.cfg.Kubeconfig)
		if g.cfg.Control != nil {
			// The reader may stay blocked in a read for ever, therefore nobody waits for it.
			go func() { cancel(g.control(tctx)) }()
		}
		<-tctx.Done()
	}
	stopped := ctx.Err() != nil
	cancel(nil)
	werr := tasks.Wait()
	if stopped {
		return nil
	}
	if werr != nil {
		err = werr
	}
	if err != nil {
		g.printLogs()
	}
	return err
}

// start returns when the control plane is ready; its components live as long as ctx.
func (g *group) start(ctx context.Context, tasks *errgroup.Group) error {
	wait, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	begin := time.Now()
	step := func(name string) { g.note(fmt.Sprintf("%s after %.1f s", name, time.Since(begin).Seconds())) }

	if err := g.launch(ctx, tasks, g.cfg.etcd(g.ports)); err != nil {
		return err
	}
	if err := g.client.waitEtcd(wait, g.ports.Etcd); err != nil {
		return err
	}
	step("etcd is up")
	if err := g.launch(ctx, tasks, g.cfg.apiServer(g.ports)); err != nil {
		return err
	}
	if err := g.client.waitReady(wait); err != nil {
		return err
	}
	step("API server is ready")
	if g.cfg.Mode == Full {
		if err := g.launch(ctx, tasks, g.cfg.controllerManager(), g.cfg.scheduler(), g.cfg.kwok()); err != nil {
			return err
		}
		if err := g.populate(wait); err != nil {
			return err
		}
		step("default service account and nodes are ready")
	}
	for _, c := range g.components {
		c.steady.Store(true)
	}
	return nil
}

// populate makes the nodes and waits until a pod could run.
func (g *group) populate(ctx context.Context) error {
	if err := g.client.createNodes(ctx, g.cfg.Nodes); err != nil {
		return err
	}
	if err := g.client.waitServiceAccount(ctx); err != nil {
		return err
	}
	return g.client.waitNodes(ctx, g.cfg.Nodes)
}

func (g *group) launch(ctx context.Context, tasks *errgroup.Group, components ...*component) error {
	for _, c := range components {
		if err := c.rotate(); err != nil {
			return err
		}
		g.components[c.name] = c
		tasks.Go(func() error { return c.run(ctx, g.spawner, g.note) })
	}
	return nil
}

func (g *group) note(text string) { fmt.Fprintln(g.cfg.Err, "controlplane:", text) }

// control carries out orders until there are no more; its end means that whoever gave them is gone.
func (g *group) control(ctx context.Context) error {
	lines := bufio.NewScanner(g.cfg.Control)
	for lines.Scan() {
		answer, err := g.obey(ctx, strings.Fields(lines.Text()))
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Fprintln(g.cfg.Out, answer)
	}
	return errors.Join(errors.New("the control input ended"), lines.Err())
}

func (g *group) obey(ctx context.Context, words []string) (string, error) {
	if len(words) != 2 {
		return "", fmt.Errorf("%q is not an order: kill NAME or start NAME", words)
	}
	verb, c := words[0], g.components[words[1]]
	if c == nil {
		return "", fmt.Errorf("no component %q", words[1])
	}
	switch verb {
	case "kill":
		return "killed " + c.name, c.order(ctx, false)
	case "start":
		if err := c.order(ctx, true); err != nil {
			return "", err
		}
		if c.name == apiServerName {
			ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
			defer cancel()
			if err := g.client.waitReady(ctx); err != nil {
				return "", err
			}
		}
		return "started " + c.name, nil
	default:
		return "", fmt.Errorf("%q is not an order: kill or start", verb)
	}
}

// printLogs shows the end of every log after a failed start.
func (g *group) printLogs() {
	const tail = 4 << 10
	for _, c := range g.components {
		f, err := os.Open(c.logPath)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && info.Size() > tail {
			_, _ = f.Seek(-tail, io.SeekEnd)
		}
		fmt.Fprintf(g.cfg.Err, "--- end of %s\n", c.logPath)
		_, _ = io.Copy(g.cfg.Err, f)
		_ = f.Close()
	}
}
