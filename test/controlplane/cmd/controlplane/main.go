// Command controlplane is a whole Kubernetes control plane in one program, for tests, benchmarks and the demo.
//
// "controlplane run" starts etcd, kube-apiserver, kube-controller-manager and kube-scheduler as child processes of itself,
// and kwok from the file next to it.
// The other subcommands are those children; they take the flags of the component they are named after.
// It never serves anything outside the loopback interface.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics of the components
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric of the components
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/flotilla-fleet/flotilla/test/controlplane/child"
	"github.com/flotilla-fleet/flotilla/test/controlplane/etcd"
	"github.com/flotilla-fleet/flotilla/test/controlplane/plane"
)

const usage = `usage: controlplane run --dir DIR [flags]
       controlplane etcd|kube-apiserver|kube-controller-manager|kube-scheduler [flags of the component]`

func main() { os.Exit(dispatch(os.Args[1:])) }

func dispatch(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	child.ExitWithParent()
	switch name, rest := args[0], args[1:]; name {
	case "run":
		return run(rest)
	case "etcd":
		return exitCode(serveEtcd(rest))
	case "kube-apiserver":
		return component(apiserver.NewAPIServerCommand(), rest)
	case "kube-controller-manager":
		return component(controllermanager.NewControllerManagerCommand(), rest)
	case "kube-scheduler":
		return component(scheduler.NewSchedulerCommand(), rest)
	default:
		fmt.Fprintf(os.Stderr, "unknown subcommand %q\n%s\n", name, usage)
		return 2
	}
}

func component(cmd *cobra.Command, args []string) int {
	cmd.SetArgs(args)
	return cli.Run(cmd)
}

func serveEtcd(args []string) error {
	fs := flag.NewFlagSet("etcd", flag.ContinueOnError)
	var cfg etcd.Config
	fs.StringVar(&cfg.Dir, "data-dir", "", "directory of the data")
	fs.IntVar(&cfg.Port, "port", 0, "client port on the loopback interface")
	fs.BoolVar(&cfg.Fsync, "fsync", false, "wait for the disk: slower, and safe against a power failure")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return etcd.Run(ctx, cfg)
}

func run(args []string) int {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	var (
		cfg             plane.Config
		minimal         bool
		dieWithParent   bool
		controlledStdin bool
	)
	fs.StringVar(&cfg.Dir, "dir", "", "directory of certificates, data, logs and ports; an existing one is continued (required)")
	fs.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "where to write the administrator's kubeconfig (default DIR/kubeconfig)")
	fs.StringVar(&cfg.Name, "name", "controlplane", "name of cluster and context in the kubeconfig")
	fs.BoolVar(&minimal, "minimal", false, "etcd and API server only: no controllers, no scheduler, no nodes")
	fs.IntVar(&cfg.Nodes, "nodes", 1, "how many simulated nodes")
	fs.IntVar(&cfg.Port, "port", 0, "port of the API server (default: a free one, the same again for the same --dir)")
	fs.BoolVar(&cfg.Fsync, "fsync", false, "let etcd wait for the disk")
	fs.BoolVar(&dieWithParent, "die-with-parent", false, "end when the process that started this one ends")
	fs.BoolVar(&controlledStdin, "control", false,
		`read "kill COMPONENT" and "start COMPONENT" from the standard input, answer on the standard output, stop at its end`)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if minimal {
		cfg.Mode = plane.Minimal
	}
	if controlledStdin {
		cfg.Control = os.Stdin
	}
	cfg.Out, cfg.Err = os.Stdout, os.Stderr
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if dieWithParent {
		ctx = child.WithParent(ctx)
	}
	exe, err := os.Executable()
	if err != nil {
		return exitCode(err)
	}
	cfg.Executable, cfg.Kwok = exe, filepath.Join(filepath.Dir(exe), "kwok")
	return exitCode(plane.Run(ctx, cfg))
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "controlplane:", err)
	return 1
}
