package shell_test

import (
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"github.com/flotilla-fleet/flotilla/internal/shell"
)

var hostile = []string{
	"podinfo", "https://hub.example.com:7080", "", "a b", "it's", "'", "''", "$(reboot)", "`reboot`", "a; curl x | sh #", "a&b", "a>b", `a\b`,
	`"`, "!!", "*", "~", "-rf", "a=b", "größer", "#", "x'; touch /tmp/x; '",
}

// A real shell reads back what was written.
func TestCommand(t *testing.T) {
	for _, arg := range hostile {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", shell.Command("printf", "%s|", arg, "next")).Output()
		if err != nil {
			t.Errorf("%q: %v", arg, err)
		}
		if want := arg + "|next|"; string(out) != want {
			t.Errorf("the shell read %q, want %q", out, want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, arg := range hostile {
		f.Add(arg)
	}
	f.Add("a\nb\x1b[2J\u202e")
	f.Fuzz(func(t *testing.T, arg string) {
		q := shell.Quote(arg)
		if strings.ContainsFunc(q, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q has characters that a terminal acts upon", q)
		}
		// What is outside of single quotes is plain, or an escaped quote.
		for i, part := range strings.Split(strings.ReplaceAll(q, `'\''`, ""), "'") {
			if i%2 == 0 && strings.ContainsAny(part, " ;|&$`\"<>\\()*?[]#~!{}\n") {
				t.Errorf("%q has %q outside of quotes", q, part)
			}
		}
	})
}
