package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// settle lets what follows from a change end before anything is counted.
const settle = 3 * time.Second

// result is one row.
type result struct {
	Bundles int    `json:"bundles"`
	Row     string `json:"row"`
	// Wall is zero where the row is about something else than time.
	Wall  time.Duration `json:"wallNanoseconds,omitempty"`
	Floor time.Duration `json:"floorNanoseconds,omitempty"`
	// FloorHealthy is the floor with the wait for the cluster's controllers.
	FloorHealthy time.Duration `json:"floorHealthyNanoseconds,omitempty"`
	// Ratios are those of all installs to their floors, in the order in which they were measured.
	Ratios []float64 `json:"ratios,omitempty"`
	// The rest is of all repetitions together, divided by their number; of several installs it is of the one that is shown.
	CPU      time.Duration  `json:"cpuNanoseconds"`
	Peak     int            `json:"peakBytes"`
	Resident int            `json:"residentBytes"`
	Requests map[string]int `json:"requests"`
	Times    int            `json:"times,omitempty"`
	Note     string         `json:"note,omitempty"`
}

// ratio is to the floor.
func (r result) ratio() float64 { return float64(r.Wall) / float64(r.Floor) }

// measure measures one size. The install is measured several times, each time on a control plane of its own, and the one
// with the median ratio is shown: on a machine that others use a single install may meet another speed than its floor.
func measure(ctx context.Context, o options, n int, progress io.Writer) ([]result, error) {
	var installs []result
	alone := o
	alone.rows = []string{"install"}
	for len(installs) < o.installs-1 {
		got, err := series(ctx, alone, n, progress)
		if err != nil {
			return got, err
		}
		installs = append(installs, got[0])
	}
	results, err := series(ctx, o, n, progress)
	if err != nil || o.installs == 1 {
		return results, err
	}
	installs = append(installs, results[0])
	var ratios []float64
	for _, r := range installs {
		ratios = append(ratios, r.ratio())
	}
	slices.SortFunc(installs, func(a, b result) int { return cmp.Compare(a.ratio(), b.ratio()) })
	results[0] = installs[len(installs)/2]
	results[0].Times, results[0].Ratios = len(installs), ratios
	return results, nil
}

// bench is one size being measured on one control plane.
type bench struct {
	o        options
	n        int
	dir      string
	plane    *plane
	git      *gitserver.Server
	repo     string // directory
	version  int    // of the Deployments in Git
	revision string
	agent    *agent
	bundles  *observer
	progress io.Writer
	results  []result
}

// series measures the rows on a new control plane.
func series(ctx context.Context, o options, n int, progress io.Writer) (_ []result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp("", "flotilla-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{o: o, n: n, dir: dir, progress: progress, version: 1}
	defer func() { err = b.close(err) }()
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	rows := map[string]func(context.Context) error{
		"install": b.install, "all": b.changeAll, "one": b.changeOne, "idle": b.idle,
		"restart": b.restart, "edit": b.edit, "edits": b.edits, "status": b.statusUpdates,
	}
	for _, name := range allRows {
		if name != "install" && !slices.Contains(o.rows, name) {
			continue
		}
		b.say("%d bundles: %s", n, name)
		if err := rows[name](ctx); err != nil {
			return b.results, fmt.Errorf("%s: %w", name, err)
		}
	}
	return b.results, b.agent.stop()
}

// objects are the four of one bundle.
func (b *bench) objects(namespace string, i, version int) []object {
	if b.o.plain {
		return plainObjects(namespace, i)
	}
	return objects(namespace, i, version)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func (b *bench) prepare(ctx context.Context) (err error) {
	b.say("%d bundles: control plane", b.n)
	if b.plane, err = startPlane(ctx, b.dir, nil); err != nil {
		return err
	}
	if b.git, err = gitserver.New(gitserver.Config{Root: filepath.Join(b.dir, "git")}); err != nil {
		return err
	}
	if err = b.git.Start(ctx); err != nil {
		return err
	}
	if err = b.git.Create(ctx, "fleet"); err != nil {
		return err
	}
	b.repo = b.git.Dir("fleet")
	write := map[string]string{"clusters/" + clusterName + "/cluster.yaml": clusterYAML}
	for i := range b.n {
		maps.Copy(write, files(b.objects(agentNamespace, i, b.version), i))
	}
	if err = b.commit(ctx, write); err != nil {
		return err
	}
	if b.o.plain {
		return nil
	}
	return b.warmUp(ctx)
}

// warmed is how many bundles the control plane sees before anything is measured.
const warmed = 50

// warmUp shows the API server what it is going to see: a fresh one is slow at first.
func (b *bench) warmUp(ctx context.Context) error {
	bare, err := b.plane.newBare(ctx, warmed, "warm-up")
	if err != nil {
		return err
	}
	if _, err := bare.install(ctx); err != nil {
		return err
	}
	for range changes {
		if _, err := bare.change(ctx); err != nil {
			return err
		}
	}
	return bare.remove(ctx)
}

// floor measures the floor of the install. An agent that runs meanwhile has nothing to do: the objects do not carry its labels.
func (b *bench) floor(ctx context.Context, name string) (timing, error) {
	b.say("%d bundles: floor", b.n)
	bare, err := b.plane.newBare(ctx, b.n, name)
	if err != nil {
		return timing{}, err
	}
	t, err := bare.install(ctx)
	if err != nil {
		return timing{}, err
	}
	b.say("floor: install %v (healthy after %v)", t.applied, t.healthy)
	return t, bare.remove(ctx)
}

func (b *bench) close(err error) error {
	if b.agent != nil {
		_ = b.agent.stop()
	}
	if b.git != nil {
		_ = b.git.Stop()
	}
	if b.plane != nil {
		_ = b.plane.Stop()
	}
	if b.o.keep {
		b.say("kept: %s", b.dir)
		return err
	}
	if err != nil {
		err = fmt.Errorf("%w; the agent's log ends with:\n%s", err, tail(filepath.Join(b.dir, "agent.log")))
	}
	_ = os.RemoveAll(b.dir)
	return err
}

func tail(name string) []byte {
	raw, _ := os.ReadFile(name)
	return raw[max(0, len(raw)-2000):]
}

func (b *bench) commit(ctx context.Context, write map[string]string) (err error) {
	b.revision, err = gitserver.Commit{Write: write}.Do(ctx, b.repo)
	return err
}

func (b *bench) start(ctx context.Context) (err error) {
	if b.agent, err = startAgent(b.o, b.dir, b.plane.agentConfig, b.git.URL("fleet")); err != nil {
		return err
	}
	return b.agent.started(ctx)
}

// usage is what the agent has used so far. Without an agent it has used no CPU.
type usage struct {
	cpu      time.Duration
	requests map[string]int
}

func (b *bench) usage(ctx context.Context) (u usage, err error) {
	if u.requests, err = b.plane.requests(ctx); err == nil && b.agent != nil {
		u.cpu, err = b.agent.cpu()
	}
	return u, err
}

// row measures what f does, times times, and adds a row. f returns how long each took.
func (b *bench) row(ctx context.Context, name, note string, times int, f func(context.Context) (time.Duration, error)) error {
	return b.alternate(ctx, name, note, times, func(context.Context) error { return nil }, f)
}

// alternate is like row; before each f it does something that is not measured, except that the peak of memory is of all the time.
func (b *bench) alternate(ctx context.Context, name, note string, times int, first func(context.Context) error, f func(context.Context) (time.Duration, error)) error {
	if b.agent != nil {
		if err := b.agent.resetPeak(); err != nil {
			return err
		}
	}
	walls := make([]time.Duration, times)
	r := result{Bundles: b.n, Row: name, Note: note, Times: times, Requests: map[string]int{}}
	for i := range walls {
		if err := first(ctx); err != nil {
			return err
		}
		before, err := b.usage(ctx)
		if err != nil {
			return err
		}
		if walls[i], err = f(ctx); err != nil {
			return err
		}
		if err := pause(ctx, settle); err != nil {
			return err
		}
		after, err := b.usage(ctx)
		if err != nil {
			return err
		}
		r.CPU += after.cpu - before.cpu
		for verb, n := range after.requests {
			if d := n - before.requests[verb]; d != 0 {
				r.Requests[verb] += d
			}
		}
	}
	slices.Sort(walls)
	r.Wall = walls[times/2]
	r.CPU /= time.Duration(times)
	for verb, n := range r.Requests {
		r.Requests[verb] = (n + times/2) / times
	}
	var err error
	if r.Peak, r.Resident, err = b.agent.memory(); err != nil {
		return err
	}
	b.results = append(b.results, r)
	b.say("%s: %v, CPU %v, memory %d MB (peak %d MB), requests %v", name, r.Wall, r.CPU, r.Resident>>20, r.Peak>>20, r.Requests)
	return nil
}

// install puts beside the agent's the mean of the floors right before and right after it.
func (b *bench) install(ctx context.Context) (err error) {
	var floors [2]timing
	if !b.o.plain {
		if floors[0], err = b.floor(ctx, "floor-before"); err != nil {
			return err
		}
	}
	err = b.row(ctx, "install", "install to healthy", 1, func(ctx context.Context) (time.Duration, error) {
		begun := time.Now()
		if err := b.start(ctx); err != nil {
			return 0, err
		}
		b.bundles = b.plane.observe(ctx, bundleDeployments, "flotilla-system", nil)
		at, err := b.bundles.until(ctx, b.agent, "install", allReady(b.n, b.revision))
		return at.Sub(begun), err
	})
	if err != nil || b.o.plain {
		return err
	}
	if floors[1], err = b.floor(ctx, "floor-after"); err != nil {
		return err
	}
	r := &b.results[len(b.results)-1]
	r.Floor, r.FloorHealthy = (floors[0].applied+floors[1].applied)/2, (floors[0].healthy+floors[1].healthy)/2
	return nil
}

// changeAll has the bare client and the agent take turns: what the machine is busy with otherwise then meets both.
func (b *bench) changeAll(ctx context.Context) error {
	bare, err := b.plane.newBare(ctx, b.n, "changes")
	if err != nil {
		return err
	}
	if _, err := bare.install(ctx); err != nil {
		return err
	}
	var floors []timing
	floor := func(ctx context.Context) error {
		t, err := bare.change(ctx)
		if err != nil {
			return err
		}
		floors = append(floors, t)
		b.say("floor: change of every Deployment %v (healthy after %v)", t.applied, t.healthy)
		return nil
	}
	err = b.alternate(ctx, "all", "a commit that changes every Deployment", changes, floor, func(ctx context.Context) (time.Duration, error) {
		b.version++
		write := map[string]string{}
		for i := range b.n {
			name, text := deploymentFile(i, b.version)
			write[name] = text
		}
		if err := b.commit(ctx, write); err != nil {
			return 0, err
		}
		begun := time.Now()
		at, err := b.bundles.until(ctx, b.agent, "change", allReady(b.n, b.revision))
		if err != nil {
			return 0, err
		}
		b.say("agent: change of every Deployment %v", at.Sub(begun))
		return at.Sub(begun), nil
	})
	if err != nil {
		return err
	}
	r := &b.results[len(b.results)-1]
	t := median(floors)
	r.Floor, r.FloorHealthy = t.applied, t.healthy
	return bare.remove(ctx)
}

func (b *bench) changeOne(ctx context.Context) error {
	version := b.version
	return b.row(ctx, "one", "a commit that changes one bundle", b.o.repeat, func(ctx context.Context) (time.Duration, error) {
		version++
		one := b.n / 2
		name, text := deploymentFile(one, version)
		if err := b.commit(ctx, map[string]string{name: text}); err != nil {
			return 0, err
		}
		begun := time.Now()
		at, err := b.bundles.until(ctx, b.agent, "change", func(all map[string]*unstructured.Unstructured) bool {
			return ready(all[bundleName(one)], b.revision)
		})
		return at.Sub(begun), err
	})
}

// linger is how long the agent may keep watches open that it no longer needs.
const linger = 12 * time.Second

func (b *bench) idle(ctx context.Context) error {
	if err := pause(ctx, linger); err != nil {
		return err
	}
	note := fmt.Sprintf("no change, for %v", b.o.idle)
	return b.row(ctx, "idle", note, 1, func(ctx context.Context) (time.Duration, error) {
		return 0, pause(ctx, b.o.idle-settle)
	})
}

// restart stops the agent, edits one object, starts the agent with its store,
// and waits until the edit is corrected: then the agent is back at work.
func (b *bench) restart(ctx context.Context) error {
	dead := b.agent
	if err := dead.stop(); err != nil {
		return err
	}
	w := b.plane.observe(ctx, deployments, agentNamespace, nil)
	e, err := b.spoil(ctx, b.n/3)
	if err != nil {
		return err
	}
	b.agent = nil
	note := "restart with a warm store, to an edit made meanwhile corrected"
	return b.row(ctx, "restart", note, 1, func(ctx context.Context) (time.Duration, error) {
		begun := time.Now()
		if err := b.start(ctx); err != nil {
			return 0, err
		}
		at, err := w.until(ctx, b.agent, "correction", e.restored)
		return at.Sub(begun), err
	})
}

func (b *bench) edit(ctx context.Context) error {
	w := b.plane.observe(ctx, deployments, agentNamespace, nil)
	i := 0
	return b.row(ctx, "edit", "one edit, to the desired value restored", b.o.repeat, func(ctx context.Context) (time.Duration, error) {
		i++
		e, err := b.spoil(ctx, (b.n/2+i)%b.n)
		if err != nil {
			return 0, err
		}
		at, err := w.until(ctx, b.agent, "correction", e.restored)
		return at.Sub(e.at), err
	})
}

var deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

// edited is an edit of a Deployment.
type edited struct {
	name       string
	at         time.Time // when the API server had answered
	generation int64
}

// spoil edits one Deployment as kubectl would.
func (b *bench) spoil(ctx context.Context, i int) (edited, error) {
	body := fmt.Appendf(nil, `{"spec":{"revisionHistoryLimit":%d}}`, historyLimit+4)
	d, err := b.plane.kube.AppsV1().Deployments(agentNamespace).Patch(ctx, bundleName(i), types.MergePatchType, body,
		metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		return edited{}, err
	}
	return edited{bundleName(i), time.Now(), d.Generation}, nil
}

// restored reports whether the Deployment is again as Git says.
func (e edited) restored(all map[string]*unstructured.Unstructured) bool {
	d := all[e.name]
	return d != nil && e.undoneBy(d)
}

func (e edited) undoneBy(d *unstructured.Unstructured) bool {
	n, _, _ := unstructured.NestedInt64(d.Object, "spec", "revisionHistoryLimit")
	return d.GetGeneration() > e.generation && n == historyLimit
}
