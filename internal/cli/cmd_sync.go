package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newSync() *cobra.Command {
	var (
		k       kube
		hub     hubFlags
		cluster string
		bundle  string
	)
	cmd := &cobra.Command{
		Use:        "sync [--bundle NAME]",
		SuggestFor: []string{"reconcile", "refresh", "apply", "pull"},
		Short:      "Have an agent run a pass now and look at every object",
		Long: `Have the agent of one cluster fetch, render and compare everything now,
and try again what had failed. Nothing has to be pushed for it.

With --hub the order goes through the hub to --cluster;
else it is written on the cluster itself, and its agent sees it at once.`,
		Example: `  flotilla sync --kubeconfig prod-eu.kubeconfig
  flotilla sync --hub https://hub.example.com --cluster prod-eu --bundle podinfo`,
		Args: noArgsBut(func(string) string { return "--bundle" }),
	}
	k.flags(cmd)
	hub.flags(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster, with --hub")
	cmd.Flags().StringVar(&bundle, "bundle", "", "only this bundle")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := hub.client()
		if err != nil {
			return err
		}
		if c != nil && k.kubeconfig == "" {
			if cluster == "" {
				return usageError{fmt.Errorf("--cluster is needed with --hub")}
			}
			body := map[string]string{"bundle": bundle}
			if err := c.do(cmd.Context(), http.MethodPost, "/api/v1/clusters/"+url.PathEscape(cluster)+"/sync", nil, body, nil); err != nil {
				return err
			}
		} else {
			applier, err := k.applier(quiet(cmd))
			if err != nil {
				return err
			}
			if err := applier.OrderSync(cmd.Context(), bundle); err != nil {
				return err
			}
		}
		errOf(cmd).Println("sync ordered; see how it goes with: flotilla status")
		return nil
	}
	return cmd
}
