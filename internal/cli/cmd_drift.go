package cli

import (
	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func newDrift() *cobra.Command {
	var (
		from   driftSource
		out    output
		filter driftFilter
	)
	cmd := &cobra.Command{
		Use:   "drift",
		Short: "List what drifted: what, who, when, and what was done",
		Long: `List drift, newest first: live objects that differ from Git in a field that we own,
that are missing, or that carry something extra that we were told to own.

With --hub the whole fleet and its history is searched.
Without a hub, or with --kubeconfig, the cluster itself is asked, which knows the drift that is open now.

  CLASS  changed: another value       removed: the field is gone    added: a field that is not in Git
         missing: the object is gone  extra: an object that is not in Git
  BY     the field manager that owns the live value, or the person where the cluster stamps names
  DONE   pending, corrected, reported, suspended, contested, resolved, ignored or failed; ×3: it has begun three times

From here: flotilla drift show ID, flotilla drift explain OBJECT;
to end it: flotilla drift ignore ID, flotilla drift adopt ID, or change it back.`,
		Example: `  flotilla drift --kubeconfig prod-eu.kubeconfig
  flotilla drift --hub https://hub.example.com --state open
  flotilla drift --cluster prod-eu --manager kubectl-edit --since 24h
  flotilla drift --object Deployment/podinfo/podinfo -o json | jq -r '.[].fields[].path'`,
		Args: noArgs,
	}
	from.flags(cmd)
	out.wideFlag(cmd)
	filter.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		episodes, more, err := from.list(cmd, filter)
		if err != nil {
			return err
		}
		defer func() {
			for _, m := range more {
				errOf(cmd).Println(m)
			}
		}()
		if len(episodes) == 0 && out.forPeople() {
			errOf(cmd).Println("No drift is known that matches; what could not be compared or is exempt, flotilla status tells.")
			return nil
		}
		fits := out.room(outOf(cmd))
		return out.print(outOf(cmd), episodes, func(w *terminal.Printer) { driftTable(w, episodes, fits) })
	}
	cmd.AddCommand(newDriftShow(), newDriftExplain(), newDriftIgnore(), newDriftAdopt())
	return cmd
}
