package cli

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

func newAgent(logger func() *slog.Logger) *cobra.Command {
	var (
		k      kube
		repo   sourceFlags
		limits string
	)
	cfg := agent.Config{Version: version}
	cmd := &cobra.Command{
		Use:   "agent --cluster NAME --repo URL --dir DIR",
		Short: "Run the agent of one cluster",
		Long: `Run the agent that keeps one cluster equal to the fleet repository.

It talks to the cluster of --kubeconfig, or of its own Pod. In --dir it keeps its store,
a mirror of the repository, and its identity at the hub; all of it can be lost.
With --join it joins a hub at its first start; without, it works alone.`,
		Example: `  flotilla agent --cluster prod-eu --repo https://git.example.com/fleet.git --dir /var/lib/flotilla \
    --age-key /etc/flotilla/age.txt --join /etc/flotilla/join.json`,
		Args: noArgs,
	}
	k.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.Cluster, "cluster", "", "the cluster's name in the fleet repository (required)")
	f.StringVar(&repo.config.URL, "repo", "", "address of the fleet repository (required)")
	repo.add(cmd)
	f.StringVar(&cfg.Dir, "dir", "", "directory of the store (required)")
	f.StringArrayVar(&cfg.AgeKeyFiles, "age-key", nil, "file with age identities that decrypt Secrets, or NAME=FILE for those of a tenant; may be given more than once")
	f.StringVar(&cfg.ChartCredentialsFile, "chart-credentials", "", "file with the credentials of chart repositories and registries, like Docker's config.json")
	f.StringVar(&limits, "render-limits", engine.LimitsText(engine.DefaultLimits()), "what the rendering of one chart or kustomization may take")
	f.StringVar(&cfg.JoinFile, "join", "", "file with a hub's join material; see flotilla join --help")
	f.BoolVar(&cfg.Standby, "standby", false, "wait while another agent has the cluster, and take over when it ends, rather than fail")
	f.StringVar(&cfg.Listen, "listen", "", "where to serve /healthz, /readyz and /metrics (default: nowhere)")
	spanVar(f, &cfg.Poll, "poll", 0, "how often to look for a new commit (default 3s)")
	spanVar(f, &cfg.Compare, "compare", 0, "how often to compare everything, as a net below the watch (default 30m)")
	f.IntVar(&cfg.Workers, "workers", 0, "bundles to apply at the same time (default 16)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		var missing []string
		for _, f := range []struct{ name, value string }{{"--cluster", cfg.Cluster}, {"--repo", repo.config.URL}, {"--dir", cfg.Dir}} {
			if f.value == "" {
				missing = append(missing, f.name)
			}
		}
		if len(missing) > 0 {
			return usagef("%s: needed, and not given%s", strings.Join(missing, ", "), seeHelp(cmd))
		}
		if cfg.Source, err = repo.resolved(cmd); err != nil {
			return err
		}
		if cfg.Limits, err = engine.ParseLimits(limits); err != nil {
			return usagef("--render-limits: %w", err)
		}
		if cfg.Worker, err = sandbox.Self(engine.Word); err != nil {
			return err
		}
		if cfg.REST, err = k.rest(); err != nil {
			return err
		}
		spareMemory()
		cfg.Log = logger().With("cluster", cfg.Cluster)
		a, err := agent.Open(cmd.Context(), cfg)
		if err != nil {
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return nil // stopped while it stood by
			}
			return err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
		return a.Run(cmd.Context())
	}
	return cmd
}
