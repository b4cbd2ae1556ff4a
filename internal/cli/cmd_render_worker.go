package cli

import (
	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/render/engine"
)

// newRenderWorker is what flotilla starts to run a chart or a kustomization. People have no use for it.
func newRenderWorker() *cobra.Command {
	return &cobra.Command{
		Use:    engine.Word,
		Short:  "Run charts and kustomizations for another flotilla process",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return engine.Serve(cmd.InOrStdin(), outOf(cmd).Under()) // a process reads it, byte by byte
		},
	}
}
