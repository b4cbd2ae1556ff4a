package cli

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const referenceFile = "../../docs/cli.md"

// TestReference compares docs/cli.md with what the commands say of themselves.
func TestReference(t *testing.T) {
	t.Setenv("FLOTILLA_HUB", "")
	var b bytes.Buffer
	b.WriteString("# Commands\n\nGenerated from the commands' own help by `go test ./internal/cli -run TestReference -update`.\n" +
		"Exit codes are in [operating.md](operating.md#exit-codes).\n")
	reference(&b, newRoot(IO{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}))
	if *update {
		if err := os.WriteFile(referenceFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("docs/cli.md is not what the commands say; write it anew with -update (-file +commands):\n%s", diff)
	}
}

// reference writes one command and those below it.
func reference(w io.Writer, cmd *cobra.Command) {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	cmd.InitDefaultHelpFlag()
	fmt.Fprintf(w, "\n## %s\n\n%s.\n", cmd.CommandPath(), strings.TrimSuffix(cmd.Short, "."))
	if cmd.Long != "" {
		fmt.Fprintf(w, "\n```\n%s\n```\n", strings.TrimSpace(cmd.Long))
	}
	if cmd.Runnable() {
		fmt.Fprintf(w, "\nUsage: `%s`\n", cmd.UseLine())
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\n```console\n%s\n```\n", strings.TrimRight(cmd.Example, "\n"))
	}
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() && cmd.HasParent() {
		fmt.Fprintf(w, "\n```\n%s```\n", flags.FlagUsages())
	}
	for _, c := range cmd.Commands() {
		reference(w, c)
	}
}

// TestHelp: every command says what it is for, and gives an example of everything that is not plain.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
				continue
			}
			t.Run(c.CommandPath(), func(t *testing.T) {
				if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 90 {
					t.Errorf("the short help is %q", c.Short)
				}
				if c.Name() != "version" && (c.Example == "" || c.Long == "") {
					t.Error("there is no example, or no long help")
				}
				for line := range strings.Lines(c.Long + "\n" + c.Example) {
					if n := len([]rune(strings.TrimRight(line, "\n"))); n > 118 {
						t.Errorf("a line of the help is %d wide: %s", n, line)
					}
				}
				var out bytes.Buffer
				code := Execute(t.Context(), append(strings.Fields(c.CommandPath())[1:], "--help"), IO{In: strings.NewReader(""), Out: &out, Err: io.Discard})
				if code != 0 || !strings.Contains(out.String(), "Usage:") {
					t.Errorf("--help ended with %d: %s", code, out.String())
				}
			})
			walk(c)
		}
	}
	walk(newRoot(IO{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}))
}

func TestExecute_unknownCommand(t *testing.T) {
	var talk bytes.Buffer
	code := Execute(t.Context(), []string{"bogus"}, IO{In: strings.NewReader(""), Out: io.Discard, Err: &talk})
	if code != 64 || !strings.Contains(talk.String(), `there is no command "flotilla bogus"`) {
		t.Errorf("code %d: %s", code, talk.String())
	}
}
