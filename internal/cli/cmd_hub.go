package cli

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/hub"
)

func newHub(logger func() *slog.Logger) *cobra.Command {
	cfg := hub.Config{Version: version}
	var tokens string
	cmd := &cobra.Command{
		Use:   "hub --dir DIR",
		Short: "Run the hub: collect what agents report, and show the fleet",
		Long: `Run the hub. Agents connect to --agent-listen with TLS and a client certificate;
people and scripts use --listen with a bearer token. The hub never dials a cluster.

Without --tokens-file an admin token is made at the first start and kept in DIR/admin-token.`,
		Example: `  flotilla hub --dir /var/lib/flotilla-hub --host hub.example.com
  curl -H "Authorization: Bearer $(cat /var/lib/flotilla-hub/admin-token)" http://127.0.0.1:7080/api/v1/clusters`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&cfg.DataDir, "dir", "", "directory of the store and the certificate authority (required)")
	cmd.Flags().StringVar(&cfg.AgentAddr, "agent-listen", hub.DefaultAgentAddr, "where agents connect")
	cmd.Flags().StringVar(&cfg.HTTPAddr, "listen", hub.DefaultHTTPAddr, "where people and scripts connect")
	cmd.Flags().StringVar(&cfg.HTTPCertFile, "tls-cert", "", "certificate for --listen; without it that address speaks plain HTTP")
	cmd.Flags().StringVar(&cfg.HTTPKeyFile, "tls-key", "", "key of --tls-cert")
	cmd.Flags().StringSliceVar(&cfg.Hosts, "host", nil, "names and addresses that agents dial the hub by")
	cmd.Flags().StringVar(&cfg.AdvertiseURL, "advertise", "", "address that join material names (default: --agent-listen)")
	cmd.Flags().StringVar(&tokens, "tokens-file", "", "file with a line NAME ROLE TOKEN for each holder; roles: viewer, operator, admin")
	cmd.Flags().DurationVar(&cfg.UnknownAfter, "unknown-after", hub.DefaultUnknownAfter, "silence after which a cluster is shown as unknown")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if cfg.DataDir == "" {
			return usageError{errors.New("--dir is needed: where the hub keeps its store")}
		}
		if tokens != "" {
			if cfg.Tokens, err = readTokens(tokens); err != nil {
				return err
			}
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

// readTokens reads a tokens file. The tokens themselves never stand in an error.
func readTokens(file string) ([]hub.Token, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	roles := map[string]hub.Role{"viewer": hub.Viewer, "operator": hub.Operator, "admin": hub.Admin}
	var out []hub.Token
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		parts := strings.Fields(text)
		if len(parts) != 3 {
			return nil, fmt.Errorf("%s:%d: a line is NAME ROLE TOKEN, and this has %d words", file, n, len(parts))
		}
		role, ok := roles[parts[1]]
		if !ok {
			return nil, fmt.Errorf("%s:%d: role %q is not one of viewer, operator, admin", file, n, parts[1])
		}
		out = append(out, hub.Token{Name: parts[0], Role: role, Value: parts[2]})
	}
	return out, lines.Err()
}
