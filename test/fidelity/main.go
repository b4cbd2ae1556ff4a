// Command fidelity renders the charts and kustomizations below a directory twice, with the modules of Helm and Kustomize
// and with flotilla, and prints which come out equal, which differ, and which of the two refuses what.
//
// It promises to write nothing and to fetch nothing. A chart is rendered with its defaults and with every file of its ci/ directory.
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
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/rendertest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fidelity DIR")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fidelity:", err)
		os.Exit(1)
	}
}

// objects are told apart by their kind, namespace and name.
type objects map[string]any

// outcome is what became of one case.
type outcome string

const (
	equal     outcome = "equal"
	different outcome = "different"
	ours      outcome = "refused by flotilla"
	theirs    outcome = "refused by the reference"
	both      outcome = "refused by both"
)

// tally counts the cases of one kind.
type tally map[outcome]int

func run(ctx context.Context, dir string) error {
	charts, kustomizations, err := find(dir)
	if err != nil {
		return err
	}
	results := map[string]tally{"charts": {}, "kustomizations": {}}
	for _, c := range charts {
		for _, values := range valuesOf(filepath.Join(dir, c)) {
			want, refErr := helmRenders(filepath.Join(dir, c), values)
			got, ourErr := flotillaRenders(ctx, filepath.Join(dir, c), values)
			results["charts"][judge(c+" "+filepath.Base(values), want, got, refErr, ourErr)]++
		}
	}
	for _, k := range kustomizations {
		want, refErr := kustomizeRenders(filepath.Join(dir, k))
		got, ourErr := flotillaBuilds(ctx, dir, k)
		results["kustomizations"][judge(k, want, got, refErr, ourErr)]++
	}
	fmt.Printf("| | %s | %s | %s | %s | %s |\n| --- | --- | --- | --- | --- | --- |\n", equal, different, ours, theirs, both)
	for _, kind := range []string{"charts", "kustomizations"} {
		t := results[kind]
		fmt.Printf("| %s | %d | %d | %d | %d | %d |\n", kind, t[equal], t[different], t[ours], t[theirs], t[both])
	}
	return nil
}

// judge compares, and tells of what is not equal.
func judge(name string, want, got objects, refErr, ourErr error) outcome {
	switch {
	case refErr != nil && ourErr != nil:
		return both
	case refErr != nil:
		fmt.Fprintf(os.Stderr, "%s: %s: %.300v\n", name, theirs, refErr)
		return theirs
	case ourErr != nil:
		fmt.Fprintf(os.Stderr, "%s: %s: %.300v\n", name, ours, ourErr)
		return ours
	}
	if diff := cmp.Diff(want, got); diff != "" {
		fmt.Fprintf(os.Stderr, "%s: %s (-reference +flotilla):\n%.3000s\n", name, different, diff)
		return different
	}
	return equal
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

// valuesOf are the values files to render a chart with: none, and each of its ci/ directory.
func valuesOf(chart string) []string {
	files, _ := filepath.Glob(filepath.Join(chart, "ci", "*.yaml")) // the pattern is good
	return slices.Concat([]string{""}, files)
}

const (
	clusterText = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\n"
	bundleText  = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: fidelity}\nspec: {namespace: fidelity, %s}\n"
)

func flotillaRenders(ctx context.Context, chart, values string) (objects, error) {
	files, err := rendertest.ReadAll(os.DirFS(chart))
	if err != nil {
		return nil, err
	}
	fleet := rendertest.Files{"clusters/c/cluster.yaml": clusterText, "b/bundle.yaml": fmt.Sprintf(bundleText, "helm: {chart: ./chart}")}
	if values != "" {
		text, err := os.ReadFile(values)
		if err != nil {
			return nil, err
		}
		fleet["b/values.yaml"] = string(text)
		fleet["b/bundle.yaml"] = fmt.Sprintf(bundleText, "helm: {chart: ./chart, valuesFiles: [values.yaml]}")
	}
	for name, text := range files {
		fleet[path.Join("b/chart", name)] = text
	}
	return rendered(ctx, fleet)
}

func flotillaBuilds(ctx context.Context, dir, kustomization string) (objects, error) {
	files, err := rendertest.ReadAll(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	fleet := rendertest.Files{
		"clusters/c/cluster.yaml": clusterText,
		"zz/bundle.yaml":          fmt.Sprintf(bundleText, fmt.Sprintf("kustomize: {path: %q}", path.Join("../all", kustomization))),
	}
	for name, text := range files {
		if !strings.HasSuffix(name, "bundle.yaml") {
			fleet[path.Join("all", name)] = text
		}
	}
	return rendered(ctx, fleet)
}

func rendered(ctx context.Context, fleet rendertest.Files) (objects, error) {
	r, err := render.New(render.Config{})
	if err != nil {
		return nil, err
	}
	out, err := r.Render(ctx, fleet.Snapshot(), "c", api.ClusterFacts{KubeVersion: kubeVersion})
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
