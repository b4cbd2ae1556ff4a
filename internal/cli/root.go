package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"

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
	ran := false
	root.PersistentPreRun = func(*cobra.Command, []string) { ran = true }
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
	if !ran { // cobra's own errors have no type
		return exitUsage
	}
	return exitCode(ctx, err)
}

// Exit codes that are no api.Kind's.
const (
	exitUsage       = 64
	exitInterrupted = 130
)

func exitCode(ctx context.Context, err error) int {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return exitInterrupted
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	kind := api.KindOf(err)
	if kind == api.Internal && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist)) {
		kind = api.Stalled // a file that was named is not there, or may not be read: no surprise, and for a human to mend
	}
	return kind.ExitCode()
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
  Stop correction for a while: flotilla suspend --bundle podinfo --for 30m --reason INC-123

Exit codes: 0 done; 1 flotilla diff found changes, or flotilla check findings; 2 a surprise inside; 3 a human must act; 4 wait, it resolves itself;
5 try again; 6 denied by a guard, by RBAC or by the hub; 64 the command line cannot be understood; 130 interrupted.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "say more on standard error")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	logger := func() *slog.Logger {
		level := slog.LevelInfo
		if verbose {
			level = slog.LevelDebug
		}
		return slog.New(slog.NewTextHandler(streams.Err, &slog.HandlerOptions{Level: level, ReplaceAttr: redacted}))
	}
	root.AddGroup(
		&cobra.Group{ID: "daily", Title: "Every day:"},
		&cobra.Group{ID: "commit", Title: "Before a commit:"},
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "other", Title: "Other:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("daily", newStatus(), newDrift(), newHistory(), newSuspend(), newResume(), newSync())
	add("commit", newRender(), newDiff(), newCheck(), newSchema())
	add("run", newBootstrap(), newInstall(), newUninstall(), newAgent(logger), newHub(logger), newJoin(), newDemo(logger))
	add("other", newVersion())
	root.AddCommand(newRenderWorker())
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" { // cobra's own answers a wrong word with its help, as if all were well
			c.Args = noArgs
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}

// newHelp is the command help. A topic that is not there is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about := cmd.Root()
			for _, word := range args {
				i := slices.IndexFunc(about.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
				if i < 0 {
					return unknownCommand(about, word)
				}
				about = about.Commands()[i]
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
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
