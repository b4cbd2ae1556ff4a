package cli

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/flotilla-fleet/flotilla/internal/suggest"
)

// usagef is a command line that cannot be understood, and what to type instead.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// seeHelp names the help of a command, for the end of a usage error.
func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("\nsee %q", cmd.CommandPath()+" --help") }

// noArgs refuses arguments with a message that helps.
func noArgs(cmd *cobra.Command, args []string) error { return noArgsBut(nil)(cmd, args) }

// noArgsBut is noArgs for a command where a word on its own is probably the value of a flag.
func noArgsBut(flagOf func(word string) string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return nil
		case cmd.HasAvailableSubCommands():
			return unknownCommand(cmd, args[0])
		case flagOf != nil:
			return usagef("%q stands alone; do you mean %s %s?%s", args[0], flagOf(args[0]), args[0], seeHelp(cmd))
		}
		return usagef("%q is one word too many%s", args[0], seeHelp(cmd))
	}
}

// oneArg demands exactly one argument, and says where to get it.
func oneArg(what, where string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s is needed: %s%s", what, where, seeHelp(cmd))
		}
		return atMostOneArg(what)(cmd, args)
	}
}

func atMostOneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("one %s at a time, and here are %d%s", what, len(args), seeHelp(cmd))
		}
		return nil
	}
}

// unknownCommand guesses which of a command's commands is meant, by its letters or by what others call it.
func unknownCommand(parent *cobra.Command, word string) error {
	var names []string
	for _, c := range parent.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if slices.ContainsFunc(c.SuggestFor, func(s string) bool { return strings.EqualFold(s, word) }) {
			return usagef("there is no command %q; do you mean %q?%s", parent.CommandPath()+" "+word, c.CommandPath(), seeHelp(parent))
		}
		names = append(names, c.Name())
	}
	guess := ""
	if meant := suggest.Near(word, names); len(meant) > 0 {
		for i, m := range meant {
			meant[i] = strconv.Quote(parent.CommandPath() + " " + m)
		}
		guess = "; do you mean " + strings.Join(meant, " or ") + "?"
	}
	return usagef("there is no command %q%s%s", parent.CommandPath()+" "+word, guess, seeHelp(parent))
}

// flagError says what is wrong with a flag, and which one may be meant.
func flagError(cmd *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return unknownFlag(cmd, unknown)
	}
	if value, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if value.GetFlag().Value.Type() == "int" {
			return usagef("--%s %q is no whole number%s", value.GetFlag().Name, value.GetValue(), seeHelp(cmd))
		}
		return usagef("--%s %q cannot be understood: %w%s", value.GetFlag().Name, value.GetValue(), value.Unwrap(), seeHelp(cmd))
	}
	return usagef("%w%s", err, seeHelp(cmd))
}

func unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	name := err.GetSpecifiedName()
	if short := err.GetSpecifiedShortnames(); short != "" {
		if name == "n" {
			name = "namespace"
		} else {
			return usagef("%q has no flag -%s%s", cmd.CommandPath(), name, seeHelp(cmd))
		}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	guess := ""
	switch meant := suggest.Near(name, names); {
	case name == "namespace":
		guess = "; a namespace is part of an object's name: KIND/NAMESPACE/NAME"
	case len(meant) > 0:
		guess = "; do you mean --" + strings.Join(meant, " or --") + "?"
	}
	return usagef("%q has no flag --%s%s%s", cmd.CommandPath(), name, guess, seeHelp(cmd))
}

// spanFlag is a flag for a span of time. All spans of all commands are read by parseSpan.
type spanFlag struct{ to *time.Duration }

func spanVar(fs *pflag.FlagSet, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	fs.Var(spanFlag{to}, name, usage)
}

func (f spanFlag) Type() string { return "duration" }

func (f spanFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return f.to.String()
}

func (f spanFlag) Set(text string) error {
	d, err := parseSpan(text)
	if err == nil {
		*f.to = d
	}
	return err
}

var errNoSpan = errors.New("a span of time is written as 90s, 30m, 24h, 5d, 2w or 1d12h")

// parseSpan reads a span of time: as Go writes it, with days and weeks before that. It is never negative.
func parseSpan(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	var total time.Duration
	rest := text
	for _, unit := range []struct {
		sign string
		is   time.Duration
	}{{"w", 7 * day}, {"d", day}} {
		number, after, found := strings.Cut(rest, unit.sign)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/unit.is {
			return 0, errNoSpan
		}
		total, rest = total+time.Duration(n)*unit.is, after
	}
	if rest == "" && text != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total || strings.HasPrefix(rest, "+") {
		return 0, errNoSpan
	}
	return total + d, nil
}
