package cli

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/hub"
)

func newHub(logger func() *slog.Logger) *cobra.Command {
	cfg := hub.Config{Version: version}
	var proxies []string
	cmd := &cobra.Command{
		Use:   "hub --dir DIR",
		Short: "Run the hub: collect what agents report, and show the fleet",
		Long: `Run the hub. Agents connect to --agent-listen with TLS and a client certificate;
people and scripts use --listen with a bearer token. The hub never dials a cluster.

Without --tokens-file an admin token is made at the first start and kept in DIR/admin-token.
Tokens and the certificate are read again when their files change: a token that is gone from its file
ends within seconds, and with it its sessions.`,
		Example: `  flotilla hub --dir /var/lib/flotilla-hub --host hub.example.com
  curl -H "Authorization: Bearer $(cat /var/lib/flotilla-hub/admin-token)" http://127.0.0.1:7080/api/v1/clusters`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&cfg.DataDir, "dir", "", "directory of the store and the certificate authority (required)")
	cmd.Flags().StringVar(&cfg.AgentAddr, "agent-listen", hub.DefaultAgentAddr, "where agents connect")
	cmd.Flags().StringVar(&cfg.HTTPAddr, "listen", hub.DefaultHTTPAddr, "where people and scripts connect")
	cmd.Flags().StringVar(&cfg.HTTPCertFile, "tls-cert", "", "certificate for --listen; without it that address speaks plain HTTP")
	cmd.Flags().StringVar(&cfg.HTTPKeyFile, "tls-key", "", "key of --tls-cert")
	cmd.Flags().StringSliceVar(&cfg.Hosts, "host", nil, "names and addresses that agents dial the hub by, the best known first")
	cmd.Flags().StringVar(&cfg.AdvertiseURL, "advertise", "", "address of --agent-listen that join material names (default: the first --host, else what is listened on, else this machine's name)")
	cmd.Flags().StringVar(&cfg.PublicURL, "public-url", "", "address of --listen, or of the proxy before it, that pages and hints show (default: as for --advertise)")
	cmd.Flags().StringVar(&cfg.TokensFile, "tokens-file", "", "file with a line NAME ROLE TOKEN for each holder; roles: viewer, operator, admin; read again when it changes")
	cmd.Flags().StringSliceVar(&proxies, "trusted-proxy", nil, "addresses or CIDRs of proxies before --listen, whose X-Forwarded-For says where a request comes from")
	spanVar(cmd.Flags(), &cfg.UnknownAfter, "unknown-after", hub.DefaultUnknownAfter, "silence after which a cluster is shown as unknown")
	cmd.AddCommand(newHubBackup())
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if cfg.DataDir == "" {
			return usageError{errors.New("--dir is needed: where the hub keeps its store")}
		}
		if cfg.TrustedProxies, err = hub.ParseProxies(proxies); err != nil {
			return usageError{fmt.Errorf("--trusted-proxy: %w", err)}
		}
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		cfg.Log = logger().With("component", "hub")
		h, err := hub.New(cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, h.Close()) }()
		return h.Run(cmd.Context())
	}
	return cmd
}
