package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func newJoin() *cobra.Command {
	var (
		hub     hubFlags
		cluster string
		out     string
	)
	cmd := &cobra.Command{
		Use:   "join --hub URL --cluster NAME --out FILE",
		Short: "Make the join material that lets one agent join the hub",
		Long: `Ask the hub for join material: its address, a token that works once, and a pin of its authority.
Give the file to the agent of that cluster with --join. Whoever has it can report in the cluster's name,
until it is used or has expired: keep it as you keep a password.`,
		Example: `  flotilla join --hub https://hub.example.com --cluster prod-eu --out join.json
  flotilla agent --join join.json …`,
		Args: noArgsBut(func(string) string { return "--cluster" }),
	}
	hub.flags(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster (required)")
	cmd.Flags().StringVar(&out, "out", "", "file to write (required)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := hub.client()
		switch {
		case err != nil:
			return err
		case c == nil:
			return usageError{fmt.Errorf("--hub is needed")}
		case !api.ValidName(cluster):
			return usageError{fmt.Errorf("--cluster %q is not a name of lower-case letters, digits and dashes", cluster)}
		case out == "":
			return usageError{fmt.Errorf("--out is needed: where to write the join material")}
		}
		// The file first: a token that could not be kept would be good for nobody.
		f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		var m agent.JoinMaterial
		body := map[string]any{"cluster": cluster}
		if err = c.do(cmd.Context(), http.MethodPost, "/api/v1/join-tokens", nil, body, &m); err == nil {
			err = data(f, terminal.JSON, m)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(out))
		}
		errOf(cmd).Printf("wrote %s; start the agent with: flotilla agent --cluster %s --join %s …\n", out, cluster, out)
		return nil
	}
	return cmd
}
