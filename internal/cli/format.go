package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// output is the -o flag.
type output struct {
	format string
	// formats are those that the command knows; the first is what it prints without the flag.
	formats []string
}

func (o *output) flag(cmd *cobra.Command) { o.among(cmd, "table", "json", "yaml") }

// wideFlag is flag for tables that are cut to fit: wide shows all.
func (o *output) wideFlag(cmd *cobra.Command) { o.among(cmd, "table", "wide", "json", "yaml") }

func (o *output) among(cmd *cobra.Command, formats ...string) {
	o.format, o.formats = formats[0], formats
	last := len(formats) - 1
	cmd.Flags().VarP(o, "output", "o", "output format: "+strings.Join(formats[:last], ", ")+" or "+formats[last])
	complete(cmd, "output", formats...)
}

// Type, String and Set make it a flag's value: an unknown format is refused before anything is asked.
func (o *output) Type() string   { return "string" }
func (o *output) String() string { return o.format }

func (o *output) Set(text string) error {
	if !slices.Contains(o.formats, text) {
		return fmt.Errorf("it is one of %s", strings.Join(o.formats, ", "))
	}
	o.format = text
	return nil
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
	}
	return fmt.Errorf("output format %q", o.format) // no flag sets it
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
