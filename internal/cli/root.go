package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// version is set when the binary is linked.
var version = "dev"

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// Execute runs the command line and returns the exit code:
// 0 for success, 1 when flotilla diff found changes, 2 and above as in docs/operating.md.
func Execute(ctx context.Context, args []string, streams IO) int {
	// Whatever a command writes to either goes through a Printer: no data reaches a terminal as it is.
	out := terminal.To(streams.Out)
	streams.Out, streams.Err = out, terminal.To(streams.Err)
	root := newRoot(streams)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = out.Err() // half an answer is none
	}
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	terminal.To(streams.Err).Printf("flotilla: %s\n", terminal.Lines(redact.Text(err.Error())))
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 130
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 64
	}
	return api.KindOf(err).ExitCode()
}

// exitError ends a command that has said all it had to say.
type exitError int

func (c exitError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func newRoot(streams IO) *cobra.Command {
	var verbose bool
	root := &cobra.Command{
		Use:   "flotilla",
		Short: "Keep a fleet of Kubernetes clusters equal to a Git repository",
		Long: `flotilla keeps a fleet of Kubernetes clusters equal to a Git repository.

One agent per cluster pulls the fleet repository, renders what belongs on its cluster,
applies it, watches the result and records every drift. A hub shows the whole fleet.

  Try it on this machine:     flotilla demo --dir demo
  See what Git says:          flotilla render --repo . --cluster prod-eu
  See how a cluster fares:    flotilla status --kubeconfig FILE
  See what drifted:           flotilla drift --kubeconfig FILE
  Stop correction for a while: flotilla suspend --bundle podinfo --for 30m --reason INC-123`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no command %q\nsee \"flotilla --help\"", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "say more on standard error")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nsee %q", err, cmd.CommandPath()+" --help")}
	})
	logger := func() *slog.Logger {
		level := slog.LevelInfo
		if verbose {
			level = slog.LevelDebug
		}
		return slog.New(slog.NewTextHandler(streams.Err, &slog.HandlerOptions{Level: level, ReplaceAttr: redacted}))
	}
	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "act", Title: "Act:"},
		&cobra.Group{ID: "run", Title: "Run:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("look", newStatus(), newDrift(), newHistory(), newRender(), newDiff())
	add("act", newSuspend(), newResume(), newSync())
	add("run", newInstall(), newUninstall(), newAgent(logger), newHub(logger), newJoin(), newDemo(logger))
	root.AddCommand(newVersion(), newRenderWorker())
	return root
}

// redacted keeps credentials out of the log.
func redacted(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(redact.Text(v))
	case error:
		a.Value = slog.StringValue(redact.Text(v.Error()))
	}
	return a
}
