package cli

import (
	"fmt"
	"os/user"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/flotilla-fleet/flotilla/api"
)

// kube holds the usual flags that choose a cluster.
type kube struct{ kubeconfig, context string }

func (k *kube) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, then ~/.kube/config, then the Pod's own account)")
	cmd.Flags().StringVar(&k.context, "context", "", "context of the kubeconfig file")
}

// rest returns the configuration of the chosen cluster.
func (k kube) rest() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		rules, &clientcmd.ConfigOverrides{CurrentContext: k.context}).ClientConfig()
	if err != nil {
		return nil, &api.Error{
			Kind: api.Stalled, Reason: "NoCluster", Err: fmt.Errorf("choose a cluster: %w", err),
			Hint: "give --kubeconfig FILE, and --context NAME if it holds several",
		}
	}
	// The server's priority and fairness limits clients better than a client can.
	cfg.QPS = -1
	cfg.UserAgent = "flotilla/" + version
	return cfg, nil
}

// whoami is the name that a suspension is ordered under: the person at this machine.
func whoami() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}
