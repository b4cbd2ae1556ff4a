package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// planned is what a pass would do to one object.
type planned struct {
	Bundle string          `json:"bundle"`
	Object api.ObjectRef   `json:"object"`
	Action api.Action      `json:"action"`
	Reason string          `json:"reason,omitempty"`
	Error  string          `json:"error,omitempty"`
	Fields []api.FieldDiff `json:"fields,omitempty"`
}

func newDiff() *cobra.Command {
	var (
		k       kube
		repo    repository
		out     output
		cluster string
		bundle  string
		keys    []string
	)
	cmd := &cobra.Command{
		Use:   "diff --repo DIR-or-URL --cluster NAME",
		Short: "Show what a pass would do on a cluster, object by object and field by field",
		Long: `Show what a pass would do on a cluster. Nothing is written: the API server answers dry runs.
The agent makes the same decisions. Values of Secrets are masked.

The exit code is 0 when there is nothing to do, and 1 when there is.`,
		Example: `  flotilla diff --repo . --cluster prod-eu --kubeconfig prod-eu.kubeconfig
  flotilla diff --repo . --cluster prod-eu --bundle podinfo -o json`,
		Args: cobra.NoArgs,
	}
	k.flags(cmd)
	repo.flags(cmd)
	out.flag(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster (required)")
	cmd.Flags().StringVar(&bundle, "bundle", "", "only this bundle")
	cmd.Flags().StringArrayVar(&keys, "age-key", nil, "file with age identities; may be given more than once")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cluster == "" {
			return usageError{fmt.Errorf("--cluster is needed: the name of a directory below clusters/")}
		}
		ctx := cmd.Context()
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		snap, done, err := repo.snapshot(ctx, quiet(cmd))
		if err != nil {
			return err
		}
		defer done()
		renderer, err := newRenderer(keys)
		if err != nil {
			return err
		}
		facts, err := applier.Facts(ctx)
		if err != nil {
			return err
		}
		rendering, err := renderer.Render(ctx, snap, cluster, facts)
		if err != nil {
			return err
		}
		changes, err := plannedChanges(ctx, applier, applier.Resolve(ctx, rendering), bundle)
		if err != nil {
			return err
		}
		if out.format == "table" {
			printPlanned(cmd.OutOrStdout(), changes)
		} else if err := out.print(cmd.OutOrStdout(), changes, nil); err != nil {
			return err
		}
		if len(changes) > 0 {
			return exitError(1)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "Nothing to do: the cluster is as Git says.")
		return nil
	}
	return cmd
}

// plannedChanges asks for every bundle what a pass would do. What is unchanged is left out.
func plannedChanges(ctx context.Context, applier *apply.Applier, r api.Rendering, only string) ([]planned, error) {
	owned, err := applier.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	claims := map[string][]string{} // object ID -> bundles that declare it
	there := map[string]bool{}
	for _, rb := range r.Bundles {
		there[rb.Name] = true
		for _, o := range rb.Objects {
			id := api.RefOf(o).ID()
			claims[id] = append(claims[id], rb.Name)
		}
	}
	bundles := slices.Clone(r.Bundles)
	for _, name := range slices.Sorted(maps.Keys(owned)) {
		if !there[name] {
			bundles = append(bundles, api.RenderedBundle{Name: name})
		}
	}
	out := []planned{}
	for _, rb := range bundles {
		if only != "" && rb.Name != only {
			continue
		}
		if rb.Err != nil {
			return nil, fmt.Errorf("bundle %q: %w", rb.Name, rb.Err)
		}
		diffs, err := applier.Diff(ctx, apply.Request{
			Bundle: rb, Revision: r.Revision, Inventory: owned[rb.Name],
			Declared: func(ref api.ObjectRef) []string { return claims[ref.ID()] },
		})
		if err != nil {
			return nil, fmt.Errorf("bundle %q: %w", rb.Name, err)
		}
		for _, d := range diffs {
			if d.Step.Action != api.Unchanged {
				out = append(out, plannedChange(rb, d))
			}
		}
	}
	return out, nil
}

func plannedChange(rb api.RenderedBundle, d apply.Difference) planned {
	p := planned{Bundle: rb.Name, Object: d.Step.Object, Action: d.Step.Action, Reason: d.Step.Reason}
	if d.Step.Err != nil {
		p.Error = d.Step.Err.Error()
	}
	if d.Live != nil && d.DryRun != nil {
		p.Fields = drift.Compare(drift.Input{Desired: d.Desired, Live: d.Live, DryRun: d.DryRun, Spec: api.Drift{Mode: api.DriftCorrect}}).Fields
	}
	return p
}

func printPlanned(w io.Writer, changes []planned) {
	signs := map[api.Action]string{
		api.Created: "+", api.Updated: "~", api.Recreated: "!", api.Pruned: "-", api.Skipped: "=", api.Denied: "x", api.Failed: "x",
	}
	for _, c := range changes {
		fmt.Fprintf(w, "%s %s  (bundle %s) %s: %s\n", signs[c.Action], c.Object, c.Bundle, c.Action, c.Reason)
		if c.Error != "" {
			fmt.Fprintf(w, "    error: %s\n", c.Error)
		}
		for _, f := range c.Fields {
			fmt.Fprintf(w, "    %s: %s -> %s\n", f.Path, absent(f.Live), absent(f.Desired))
		}
	}
}

func absent(value string) string {
	if value == "" {
		return "(absent)"
	}
	return value
}
