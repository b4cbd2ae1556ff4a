package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// onDisk is the revision that is the directory as it is, committed or not.
const onDisk = "."

// range3 is written between two revisions of which the merge base is compared with the second.
const range3 = "..."

// revisions are what flotilla diff compares without a cluster.
type revisions struct {
	repo     repository
	from, to string
	clusters []string
	bundle   string
	keys     []string
	format   string
}

// run compares, prints, and returns the exit code that belongs to it.
func (r revisions) run(cmd *cobra.Command) error {
	renderer, err := newFleetRenderer(r.keys)
	if err != nil {
		return err
	}
	defer renderer.Close()
	log := slog.New(slog.NewTextHandler(errOf(cmd), &slog.HandlerOptions{Level: slog.LevelWarn}))
	result, names, err := r.compare(cmd, renderer, log)
	if err != nil {
		return err
	}
	if err := printResult(outOf(cmd), r.format, result, names); err != nil {
		return err
	}
	switch {
	case len(result.Failed) > 0:
		return &api.Error{
			Kind: api.Stalled, Reason: "RenderFailed",
			Err: fmt.Errorf("%d clusters cannot be rendered at %s, the first: %s: %s", len(result.Failed), names.to, result.Failed[0].Cluster, result.Failed[0].Error),
		}
	case len(result.Bundles)+len(result.Joined)+len(result.Left) > 0:
		return exitError(1)
	}
	return nil
}

// ends are what the two revisions are called.
type ends struct{ from, to string }

func (r revisions) compare(cmd *cobra.Command, renderer agent.Checked, log *slog.Logger) (compare.Result, ends, error) {
	a, b, names, done, err := r.snapshots(cmd, log)
	if err != nil {
		return compare.Result{}, names, err
	}
	defer done()
	ctx := cmd.Context()
	from, err := renderClusters(ctx, renderer, a, sight{})
	if err != nil {
		return compare.Result{}, names, fmt.Errorf("render %s: %w", names.from, err)
	}
	to, err := renderClusters(ctx, renderer, b, sight{})
	if err != nil {
		return compare.Result{}, names, fmt.Errorf("render %s: %w", names.to, err)
	}
	if from, to, err = r.chosen(from, to); err != nil {
		return compare.Result{}, names, err
	}
	result := compare.Diff(from, to)
	return guarded(result, from, to), names, nil
}

// chosen leaves out clusters and bundles that were not asked for.
func (r revisions) chosen(from, to []compare.On) ([]compare.On, []compare.On, error) {
	for _, name := range r.clusters {
		is := func(on compare.On) bool { return on.Cluster == name }
		if !slices.ContainsFunc(from, is) && !slices.ContainsFunc(to, is) {
			return nil, nil, &api.Error{
				Kind: api.Stalled, Reason: "NoSuchCluster", Err: fmt.Errorf("cluster %q is in neither revision", name),
				Hint: "flotilla render --all --explain shows what there is",
			}
		}
	}
	choose := func(all []compare.On) []compare.On {
		var out []compare.On
		for _, on := range all {
			if len(r.clusters) > 0 && !slices.Contains(r.clusters, on.Cluster) {
				continue
			}
			if r.bundle != "" {
				on.Rendering.Bundles = slices.DeleteFunc(slices.Clone(on.Rendering.Bundles), func(b api.RenderedBundle) bool { return b.Name != r.bundle })
			}
			out = append(out, on)
		}
		return out
	}
	return choose(from), choose(to), nil
}

// guarded adds what the agent's guard would say of what each cluster loses.
func guarded(result compare.Result, from, to []compare.On) compare.Result {
	had := map[string]int{}
	for _, on := range from {
		for _, b := range on.Rendering.Bundles {
			had[on.Cluster] += len(b.Objects)
		}
	}
	type refusal struct{ detail string }
	refused := map[refusal][]string{}
	var order []refusal
	for _, on := range to {
		var deletions []plan.Deletion
		for _, d := range result.Deletions[on.Cluster] {
			deletions = append(deletions, plan.Deletion{Bundle: d.Bundle, Object: d.Object})
		}
		guards := on.Rendering.Guards()
		err := cmpErr(plan.GuardProtected(deletions, guards), plan.GuardShare(had[on.Cluster], deletions, guards))
		if err == nil {
			continue
		}
		at := refusal{err.Error()}
		if refused[at] == nil {
			order = append(order, at)
		}
		refused[at] = append(refused[at], on.Cluster)
	}
	for _, at := range order {
		result.Dangers = append(result.Dangers, compare.Danger{Reason: compare.GuardRefuses, Detail: at.detail, Clusters: refused[at]})
	}
	compare.SortDangers(result.Dangers)
	return result
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// snapshots reads both revisions. What it returns as done frees them.
func (r revisions) snapshots(cmd *cobra.Command, log *slog.Logger) (a, b api.Snapshot, names ends, done func(), err error) {
	from, to, merged := r.from, r.to, false
	if first, second, both := strings.Cut(r.from, range3); both {
		if r.to != "" {
			return a, b, names, nil, usagef("--from %s names both ends, so --to has no place", r.from)
		}
		from, to, merged = first, second, true
	}
	if to == "" {
		to = onDisk
	}
	names = ends{from, to}
	at, base, closed, err := r.reader(cmd, log)
	if err != nil {
		return a, b, names, nil, err
	}
	done = closed
	defer func() {
		if err != nil {
			done()
		}
	}()
	if merged {
		if base == nil {
			return a, b, names, nil, usagef("%s needs a checkout: a merge base is not asked of what is fetched", r.from)
		}
		if from, err = base(from, to); err != nil {
			return a, b, names, nil, err
		}
		names.from = shortRevision(from)
	}
	if a, err = at(cmd.Context(), from); err != nil {
		return a, b, names, done, err
	}
	b, err = at(cmd.Context(), to)
	return a, b, names, done, err
}

type (
	readAt    func(ctx context.Context, revision string) (api.Snapshot, error)
	mergeBase func(a, b string) (string, error)
)

// reader returns how revisions are read: of a checkout, which also knows merge bases; or of a repository that is fetched,
// where it has an address, or signatures are asked for.
func (r revisions) reader(cmd *cobra.Command, log *slog.Logger) (at readAt, base mergeBase, done func(), err error) {
	if r.repo.onDisk() {
		return r.checkout()
	}
	src, done, err := r.repo.open(cmd, log)
	if err != nil {
		return nil, nil, nil, err
	}
	fetched := false
	at = func(ctx context.Context, revision string) (api.Snapshot, error) {
		if revision == onDisk {
			return api.Snapshot{}, usagef("--to is needed: what is fetched has no files on disk to compare with")
		}
		if !fetched {
			if _, err := src.Fetch(ctx); err != nil {
				return api.Snapshot{}, err
			}
			fetched = true
		}
		return src.At(ctx, revision)
	}
	return at, nil, done, nil
}

// checkout reads revisions of a directory that is, or is part of, a clone.
func (r revisions) checkout() (readAt, mergeBase, func(), error) {
	c, err := git.OpenCheckout(filepath.Join(r.repo.config.URL, cleanPath(r.repo.config.Path)))
	if err != nil {
		return nil, nil, nil, err
	}
	files := func() {}
	at := func(ctx context.Context, revision string) (snap api.Snapshot, err error) {
		if revision != onDisk {
			return c.At(ctx, revision)
		}
		snap, files, err = r.repo.files(ctx)
		return snap, err
	}
	return at, c.MergeBase, func() { files(); _ = c.Close() }, nil
}
