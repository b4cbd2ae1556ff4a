package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kube := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, m := range info.Deps {
					if m.Path == "k8s.io/client-go" {
						kube = m.Version
					}
				}
			}
			outOf(cmd).Printf("flotilla %s (%s, client-go %s)\n", version, runtime.Version(), kube)
			return nil
		},
	}
}
