// Command fidelity renders the charts and kustomizations below a directory twice, with the modules of Helm and Kustomize
// and with flotilla, and prints which come out equal, which differ, and which of the two refuses what.
//
// It promises to write nothing and to fetch nothing. A chart is rendered with its defaults, with every file of its ci/ directory,
// and with the values in its examples/.
// Hooks are left out on both sides, and Helm's objects are cleaned as flotilla cleans its own (stringData, status, nulls),
// so that only what charts and kustomizations say is compared.
package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fidelity DIR")
		os.Exit(2)
	}
	// The reference would fetch a remote base with git, or over HTTP.
	for name, value := range map[string]string{"PATH": "", "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, "fidelity:", err)
			os.Exit(1)
		}
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fidelity:", err)
		os.Exit(1)
	}
}

// nowhere is an address at which nobody listens.
const nowhere = "http://127.0.0.1:9"

// objects are told apart by their kind, namespace and name.
type objects map[string]any

// outcome is what became of one case.
type outcome string

const (
	equal     outcome = "equal"
	chance    outcome = "equal but for chance"
	different outcome = "different"
	ours      outcome = "refused by flotilla"
	theirs    outcome = "refused by the reference"
	both      outcome = "refused by both"
)

// tally counts the cases of one kind.
type tally map[outcome]int

// trial is one chart with its values, or one kustomization, and the two ways to render it.
type trial struct {
	kind, name      string
	reference, ours func() (objects, error)
}

func run(ctx context.Context, dir string) error {
	charts, kustomizations, err := find(dir)
	if err != nil {
		return err
	}
	repos := repositories{}
	var trials []trial
	for _, c := range charts {
		for _, values := range valuesOf(filepath.Join(dir, c)) {
			trials = append(trials, chartTrial(ctx, repos, dir, c, values))
		}
	}
	for _, k := range kustomizations {
		trials = append(trials, kustomizationTrial(ctx, repos, dir, k))
	}
	results := map[string]tally{"charts": {}, "kustomizations": {}}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, t := range trials {
		g.Go(func() error {
			want, refErr := t.reference()
			got, ourErr := t.ours()
			mu.Lock()
			defer mu.Unlock()
			results[t.kind][t.judge(want, got, refErr, ourErr)]++
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	columns := []outcome{equal, chance, different, ours, theirs, both}
	fmt.Print("| |")
	for _, c := range columns {
		fmt.Printf(" %s |", c)
	}
	fmt.Println("\n|" + strings.Repeat(" --- |", len(columns)+1))
	for _, kind := range []string{"charts", "kustomizations"} {
		fmt.Printf("| %s |", kind)
		for _, c := range columns {
			fmt.Printf(" %d |", results[kind][c])
		}
		fmt.Println()
	}
	return nil
}

func chartTrial(ctx context.Context, repos repositories, dir, chart, values string) trial {
	repo, below := repos.of(dir, chart)
	helm := fmt.Sprintf("chart: %q", path.Join("../.all", below))
	if values != "" {
		helm += fmt.Sprintf(", valuesFiles: [%q]", path.Join("../.all", below, values))
	}
	return trial{
		kind: "charts", name: chart + " " + values,
		reference: func() (objects, error) { return helmRenders(filepath.Join(dir, chart), values) },
		ours:      func() (objects, error) { return flotillaRenders(ctx, repo, "helm: {"+helm+"}") },
	}
}

func kustomizationTrial(ctx context.Context, repos repositories, dir, kustomization string) trial {
	repo, below := repos.of(dir, kustomization)
	spec := fmt.Sprintf("kustomize: {path: %q}", path.Join("../.all", below))
	return trial{
		kind: "kustomizations", name: kustomization,
		reference: func() (objects, error) { return kustomizeRenders(filepath.Join(dir, kustomization)) },
		ours:      func() (objects, error) { return flotillaRenders(ctx, repo, spec) },
	}
}

// judge compares, and tells of what is not equal.
func (t trial) judge(want, got objects, refErr, ourErr error) outcome {
	name := t.name
	switch {
	case refErr != nil && ourErr != nil:
		fmt.Fprintf(os.Stderr, "%s: %s: %.300v; %.300v\n", name, both, refErr, ourErr)
		return both
	case refErr != nil:
		fmt.Fprintf(os.Stderr, "%s: %s: %.300v\n", name, theirs, refErr)
		return theirs
	case ourErr != nil:
		fmt.Fprintf(os.Stderr, "%s: %s: %.300v\n", name, ours, ourErr)
		return ours
	}
	if cmp.Equal(want, got) {
		return equal
	}
	for range 3 { // values of the reference that are not the same every time are chance, or the time
		again, err := t.reference()
		if err != nil {
			break
		}
		forget(want, got, again)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		fmt.Fprintf(os.Stderr, "%s: %s (-reference +flotilla):\n%.3000s\n", name, different, diff)
		return different
	}
	return chance
}

// forget takes the values that differ between two renderings of the reference out of all that is compared.
func forget(want, got, again map[string]any) {
	for k, a := range again {
		w, ok := want[k]
		if !ok || cmp.Equal(w, a) {
			continue
		}
		wm, ok1 := w.(map[string]any)
		gm, ok2 := got[k].(map[string]any)
		am, ok3 := a.(map[string]any)
		if ok1 && ok2 && ok3 {
			forget(wm, gm, am)
		} else if _, ok := got[k]; ok {
			want[k], got[k] = chance, chance
		}
	}
}

// find returns the directories of charts that are not part of another, and those of kustomizations outside of charts.
func find(dir string) (charts, kustomizations []string, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if d.Name() == ".git" {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(dir, p, "Chart.yaml")); err == nil {
			charts = append(charts, p)
			return fs.SkipDir
		}
		for _, name := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
			if _, err := os.Stat(filepath.Join(dir, p, name)); err == nil {
				kustomizations = append(kustomizations, p)
				break
			}
		}
		return nil
	})
	return charts, kustomizations, err
}

// valuesOf are the values files to render a chart with, relative to it: none, each of its ci/ directory, and those of its examples/.
func valuesOf(chart string) []string {
	out := []string{""}
	for _, below := range []string{"ci", "examples"} {
		_ = fs.WalkDir(os.DirFS(chart), below, func(p string, d fs.DirEntry, err error) error {
			yaml := path.Ext(p) == ".yaml" || path.Ext(p) == ".yml"
			if err == nil && !d.IsDir() && yaml && (path.Dir(p) == "ci" || strings.Contains(d.Name(), "values")) {
				out = append(out, p)
			}
			return nil // what cannot be read is no values file
		})
	}
	return out
}

const (
	clusterText = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\n"
	bundleText  = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: fidelity}\nspec: {namespace: fidelity, %s}\n"
)

// flotillaRenders renders one bundle of a fleet repository that has a whole repository in it.
func flotillaRenders(ctx context.Context, repo api.Tree, spec string) (objects, error) {
	snap := api.Snapshot{Revision: "fidelity", Tree: mount(fstest.MapFS{
		"clusters/c/cluster.yaml": {Data: []byte(clusterText)},
		"zz/bundle.yaml":          {Data: fmt.Appendf(nil, bundleText, spec)},
	}, repo)}
	r, err := render.New(render.Config{})
	if err != nil {
		return nil, err
	}
	out, err := r.Render(ctx, snap, "c", api.ClusterFacts{KubeVersion: kubeVersion})
	if err != nil {
		return nil, err
	}
	all := objects{}
	for _, b := range out.Bundles {
		if b.Err != nil {
			return nil, b.Err
		}
		for _, o := range b.Objects {
			all[keyOf(o)] = o.Object
		}
	}
	return all, nil
}
