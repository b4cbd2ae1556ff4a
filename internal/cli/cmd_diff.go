package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/preview"
)

func newDiff() *cobra.Command {
	var (
		k       kube
		repo    repository
		out     output
		cluster string
		bundle  string
		keys    []string
		from    string
		to      string
	)
	cmd := &cobra.Command{
		Use:        "diff --repo DIR-or-URL {--cluster NAME | --from REV}",
		SuggestFor: []string{"plan", "preview", "compare"},
		Short:      "Show what a pass would do on a cluster, or what a revision changes on all of them",
		Long: `Show what a pass would do on a cluster. Nothing is written: the API server answers dry runs.
The agent makes the same decisions. Values of Secrets are masked.

Beside the changes it shows what a suspension holds back, drift that is only reported, objects that are
skipped, and what a guard would refuse. Drift is told from a change in Git by the commit that was applied
last: it is read from --repo, which must be a URL or a Git checkout for that.
An object whose CRD changes in the same revision is compared with Git as it stands: the API server,
which does not have the new CRD yet, cannot be asked for it, and the reason says so.

The exit code is 0 when there is nothing to do, and 1 when there is, or when a guard would refuse the pass.
What is held, skipped or only reported does not count. Where a bundle or an object would fail,
the others are shown all the same, and the exit code is that of the error.

With --from no cluster is asked: two revisions are rendered for every cluster (or those of --cluster, with commas
between them) and compared. Clusters that get the same change are shown as one, and those that get another than
nearly all others are named. First comes what is dangerous, each with its reason; last what is routine: images and
charts that get another version of the same major number. A revision is written as for git rev-parse, and --to is the
directory as it is on disk unless it is given; --from A...B compares the merge base of both with B.
A bundle with encrypted files needs its --age-key. What is live may differ from either revision.`,
		Example: `  flotilla diff --repo . --cluster prod-eu --kubeconfig prod-eu.kubeconfig
  flotilla diff --repo . --cluster prod-eu --bundle podinfo -o json
  flotilla diff --from HEAD~1
  flotilla diff --from origin/main...HEAD -o markdown`,
		Args: noArgsBut(func(string) string { return "--cluster" }),
	}
	k.flags(cmd)
	repo.flags(cmd)
	out.among(cmd, "table", "json", "yaml", "markdown", "html")
	cmd.Flags().StringVar(&from, "from", "", "compare this revision with --to for all clusters, and ask none of them")
	cmd.Flags().StringVar(&to, "to", "", "with --from: the later revision (default: the directory as it is on disk)")
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster")
	cmd.Flags().StringVar(&bundle, "bundle", "", "only this bundle")
	cmd.Flags().StringArrayVar(&keys, "age-key", nil, "file with age identities, or NAME=FILE for those of a tenant; may be given more than once")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from != "" {
			if cmd.Flags().Changed("kubeconfig") || cmd.Flags().Changed("context") || repo.revision != "" {
				return usagef("--from asks no cluster, and names the revisions: leave out --kubeconfig, --context and --revision%s", seeHelp(cmd))
			}
			r := revisions{repo: repo, from: from, to: to, bundle: bundle, keys: keys, format: out.format}
			if cluster != "" {
				r.clusters = strings.Split(cluster, ",")
			}
			return r.run(cmd)
		}
		if to != "" || out.format == "markdown" || out.format == "html" {
			return usagef("--to, and the formats markdown and html, belong to --from%s", seeHelp(cmd))
		}
		if cluster == "" {
			return usagef("--cluster is needed: the name of a directory below clusters/%s", seeHelp(cmd))
		}
		renderer, err := newRenderer(keys)
		if err != nil {
			return err
		}
		defer renderer.Close()
		d, err := lookAhead(cmd, k, repo, cluster, renderer)
		if err != nil {
			return err
		}
		defer d.past.end()
		printWarnings(errOf(cmd), d.r, bundle)
		changes, err := d.All(cmd.Context(), bundle)
		if err != nil {
			return err
		}
		if out.format == "table" {
			printPlanned(outOf(cmd), changes)
		} else if err := out.print(outOf(cmd), changes, nil); err != nil {
			return err
		}
		if err := errors.Join(d.Failures...); err != nil {
			if n := len(d.Failures); n > 1 {
				err = fmt.Errorf("%d bundles and objects would fail, the first: %w", n, d.Failures[0])
			}
			return err
		}
		if slices.ContainsFunc(changes, func(p preview.Change) bool { return p.Outcome.Counts() }) {
			return exitError(1)
		}
		errOf(cmd).Println("Nothing to do: a pass would change nothing.")
		return nil
	}
	return cmd
}

func printPlanned(w *terminal.Printer, changes []preview.Change) {
	signs := map[api.Action]string{
		api.Created: "+", api.Updated: "~", api.Recreated: "!", api.Pruned: "-", api.Skipped: "=", api.Denied: "x", api.Failed: "x",
	}
	for _, c := range changes {
		sign := signs[c.Action]
		switch c.Outcome {
		case preview.OutcomeHeld, preview.OutcomeSkipped:
			sign = "="
		case preview.OutcomeReported:
			sign = "*"
		case preview.OutcomeUnclear:
			sign = "?"
		case preview.OutcomeChange, preview.OutcomeRefused, preview.OutcomeFailed:
		}
		w.Printf("%s %s%s\n", sign, subjectOf(c), whatOf(c))
		if c.Error != "" && c.Outcome != preview.OutcomeRefused {
			w.Printf("    error: %s\n", terminal.Lines(redact.Text(c.Error)))
		}
		for _, f := range c.Fields {
			w.Printf("    %s: %s -> %s\n", f.Path, absent(f.Live), absent(f.Desired))
		}
	}
}

// subjectOf is what a line is about.
func subjectOf(p preview.Change) string {
	switch {
	case p.Bundle == "":
		return ""
	case p.Object == (api.ObjectRef{}):
		return fmt.Sprintf("bundle %s: ", p.Bundle)
	case p.Hook != "":
		return fmt.Sprintf("%s  (bundle %s, hook) ", p.Object, p.Bundle)
	}
	return fmt.Sprintf("%s  (bundle %s) ", p.Object, p.Bundle)
}

// whatOf says what becomes of it, and why.
func whatOf(p preview.Change) string {
	switch p.Outcome {
	case preview.OutcomeRefused:
		if p.Error != "" {
			return "a pass would refuse this: " + redact.Text(p.Error)
		}
		return fmt.Sprintf("%s: %s; refused, see below", p.Action, p.Reason)
	case preview.OutcomeHeld:
		return fmt.Sprintf("held by %q; else %s: %s", p.HeldBy, p.Action, p.Reason)
	case preview.OutcomeReported:
		return "drift, reported: " + p.Reason
	case preview.OutcomeUnclear:
		return fmt.Sprintf("%s or drift: %s", p.Action, p.Reason)
	case preview.OutcomeSkipped:
		return "skipped: " + p.Reason
	case preview.OutcomeChange, preview.OutcomeFailed:
	}
	if p.Reason == "" {
		return string(p.Action)
	}
	return fmt.Sprintf("%s: %s", p.Action, p.Reason)
}

func absent(value string) string {
	if value == "" {
		return "(absent)"
	}
	return value
}
