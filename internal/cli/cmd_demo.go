package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	fleetexample "github.com/flotilla-fleet/flotilla/fleet-example"
	"github.com/flotilla-fleet/flotilla/internal/demo"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func newDemo(logger func() *slog.Logger) *cobra.Command {
	cfg := demo.Config{}
	cmd := &cobra.Command{
		Use:   "demo --dir DIR",
		Short: "Bring up a whole fleet on this machine",
		Long: `Bring up local Kubernetes control planes, a Git server with the example repository,
a hub and one agent per cluster; all of it real, on the loopback address only.

When all is ready, DIR/demo.json says where everything is. Ctrl-C stops everything.
A Git server, hub or agent that is killed is started again after a second, with its data.
A control plane is not: it is back when the demo is started again.`,
		Example: `  flotilla demo --dir demo
  flotilla demo --dir demo --clusters 5`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "demo", "directory for all that the demo writes")
	cmd.Flags().IntVar(&cfg.Clusters, "clusters", 3, "number of clusters")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.Clusters < 1 {
			return usagef("--clusters %d: a demo needs at least one%s", cfg.Clusters, seeHelp(cmd))
		}
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		cfg.Executable, cfg.Example, cfg.Progress = exe, fleetexample.FS(), errOf(cmd)
		return demo.Run(cmd.Context(), cfg, func(f demo.File) { whatNext(outOf(cmd), cfg.Dir, exe, f) })
	}
	cmd.AddCommand(newGitServer(logger))
	return cmd
}

// whatNext prints what to try.
func whatNext(w *terminal.Printer, dir, exe string, f demo.File) {
	prod := f.Clusters[len(f.Clusters)-1]
	if rel, err := filepath.Rel(mustGetwd(), exe); err == nil && len(rel) < len(exe) {
		exe = rel
	}
	clone, kubeconfig := shellWord(filepath.Join(dir, "fleet")), shellWord(prod.Kubeconfig)
	exe = shellWord(exe)
	w.Printf(`
The fleet is up: %d clusters. Where everything is: %s

  Dashboard   %s/?token=%s

Try it, in another terminal:

  # 1. Push a change for production only, and watch it arrive on the dashboard.
  test -d %s || git clone %s %s
  sed -i 's/newTag: .*/newTag: 6.9.2/' %s/apps/podinfo/overlays/prod/kustomization.yaml
  git -C %s -c user.name=you -c user.email=you@example.com commit -am 'Roll out podinfo 6.9.2 to production'
  git -C %s push

  # 2. Change something by hand: it is seen, recorded and corrected at once.
  kubectl --kubeconfig %s -n podinfo scale deployment podinfo --replicas 5
%s
  # 3. Break glass: no correction for ten minutes; drift is still recorded.
  %s suspend --kubeconfig %s --bundle podinfo --for 10m --reason INC-123
  %s resume --kubeconfig %s --all

  # 4. Look.
  %s status --kubeconfig %s
  FLOTILLA_TOKEN=%s %s drift --hub %s

Ctrl-C stops everything.
`, len(f.Clusters), filepath.Join(dir, demo.FileName), f.Hub.URL, f.Hub.Token, clone, f.Repo.URL, clone, clone, clone, clone, kubeconfig, terminal.Laid(withoutKubectl(prod.Kubeconfig)),
		exe, kubeconfig, exe, kubeconfig, exe, kubeconfig, f.Hub.Token, exe, f.Hub.URL)
}

// withoutKubectl is what scales podinfo where there is no kubectl: the control plane keeps
// the certificates of its kubeconfig beside it. It is empty where the kubeconfig cannot be read.
func withoutKubectl(kubeconfig string) string {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return ""
	}
	pki := shellWord(filepath.Join(filepath.Dir(kubeconfig), "pki"))
	return fmt.Sprintf(`  # The same without kubectl:
  curl -X PATCH --cacert %s/ca.crt --cert %s/admin.crt --key %s/admin.key \
    -H 'Content-Type: application/merge-patch+json' -d '{"spec":{"replicas":5}}' \
    %s/apis/apps/v1/namespaces/podinfo/deployments/podinfo/scale
`, pki, pki, pki, cfg.Host)
}

// plainWord is what every shell takes as it is.
var plainWord = regexp.MustCompile(`^[-+./:=@_0-9A-Za-z]+$`)

// shellWord quotes a word for a shell where that is needed.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func mustGetwd() string {
	wd, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return wd
}

// newGitServer is what the demo runs as its Git server.
func newGitServer(logger func() *slog.Logger) *cobra.Command {
	var root, listen string
	cmd := &cobra.Command{
		Use:    "git-server",
		Short:  "Serve the bare repositories below a directory over HTTP, to everybody who can reach it",
		Args:   noArgs,
		Hidden: true,
	}
	cmd.Flags().StringVar(&root, "root", "", "directory of the repositories")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := gitserver.New(gitserver.Config{Root: root, Addr: listen})
		if err != nil {
			return err
		}
		if err := s.Start(context.WithoutCancel(cmd.Context())); err != nil {
			return err
		}
		logger().Info("git server", "address", s.Addr())
		<-cmd.Context().Done()
		return s.Stop()
	}
	return cmd
}
