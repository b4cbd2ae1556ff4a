package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// output is the -o flag.
type output struct{ format string }

func (o *output) flag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "output format: table, json or yaml")
	complete(cmd, "output", "table", "json", "yaml")
}

// wideFlag is flag for tables that are cut to fit: wide shows all.
func (o *output) wideFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "output format: table, wide, json or yaml")
	complete(cmd, "output", "table", "wide", "json", "yaml")
}

// forPeople reports a table of either width.
func (o output) forPeople() bool { return o.format == "table" || o.format == "wide" }

// room is what there is for a table that is printed to w.
func (o output) room(w *terminal.Printer) room {
	if o.format == "wide" {
		return room{wide: true}
	}
	return room{width: widthOf(w)}
}

// print writes v as JSON or YAML, or calls table.
func (o output) print(w io.Writer, v any, table func(*terminal.Printer)) error {
	switch o.format {
	case "json":
		return data(w, terminal.JSON, v)
	case "yaml":
		return data(w, terminal.YAML, v)
	case "table", "wide":
		t := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
		table(terminal.To(t))
		return t.Flush()
	default:
		return usageError{fmt.Errorf("output format %q is not one of table, json, yaml (wide for lists of drift)", o.format)}
	}
}

// data writes a value for programs.
func data(w io.Writer, encode func(any) ([]byte, error), v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// row writes one line of a table.
func row(w *terminal.Printer, cells ...string) {
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		cells[i] = terminal.Line(c)
	}
	w.Printf("%s\n", terminal.Laid(strings.Join(cells, "\t")))
}

// outOf is where a command puts what it was asked for.
func outOf(cmd *cobra.Command) *terminal.Printer { return terminal.To(cmd.OutOrStdout()) }

// errOf is where a command talks.
func errOf(cmd *cobra.Command) *terminal.Printer { return terminal.To(cmd.ErrOrStderr()) }

// age says how long ago, roughly, as kubectl does.
func age(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	d := now.Sub(at)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func shortRevision(r string) string { return r[:min(len(r), 10)] }

// noArgs refuses arguments with a message that helps.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("%q is one word too many\nsee %q", args[0], cmd.CommandPath()+" --help")}
}

// oneArg demands exactly one argument, and says where to get it.
func oneArg(what, where string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 1:
			return nil
		case 0:
			return usageError{fmt.Errorf("%s is needed: %s", what, where)}
		default:
			return usageError{fmt.Errorf("one %s at a time, and here are %d\nsee %q", what, len(args), cmd.CommandPath()+" --help")}
		}
	}
}
