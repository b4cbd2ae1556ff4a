package terminal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// Each of these does something to a terminal.
var hostile = map[string]string{
	"clear the line":         "\x1b[2K\rprod-eu  ready",
	"title":                  "\x1b]0;owned\x07",
	"clipboard":              "\x1b]52;c;Y3VybA==\x1b\\",
	"C1 in UTF-8":            "\u009b31mred",
	"C1 as a byte":           "\x9b31mred",
	"backspaces":             "no\b\byes",
	"delete":                 "a\x7fb",
	"next line":              "a\u0085b",
	"line separator":         "a\u2028b\u2029c",
	"right to left":          "\u202etxt.exe",
	"isolate":                "\u2066\u2067\u2068\u2069",
	"marks":                  "\u200e\u200f\u061c",
	"byte order mark":        "\ufeffa",
	"soft hyphen":            "a\u00adb",
	"tags":                   "a\U000e0041b",
	"form feed":              "a\fb\vc",
	"nothing":                "a\x00b",
	"a form that is no rune": "\xed\xa0\x80\xf4\x90\x80\x80\xff",
}

// harmless reports what a terminal would obey.
func harmless(s, allowed string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%q is no UTF-8", s)
	}
	for _, r := range s {
		control := r < 0x20 || r >= 0x7f && r < 0xa0
		bidi := strings.ContainsRune("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff\u00ad", r)
		if (control || bidi || r >= 0xe0000 && r < 0xe0080) && !strings.ContainsRune(allowed, r) {
			return fmt.Errorf("%q holds %U", s, r)
		}
	}
	return nil
}

func TestLine(t *testing.T) {
	for name, s := range hostile {
		got := terminal.Line(s)
		if err := harmless(got, ""); err != nil || got == s {
			t.Errorf("%s: %v", name, err)
		}
	}
	for s, want := range map[string]string{
		"":                              "",
		"plain, \\x1b and ünïcode ☸ 日本": "plain, \\x1b and ünïcode ☸ 日本",
		"a\nb\tc":                       "a b c",
		"\x1b[31m":                      `\x1b[31m`,
		"a\rb":                          `a\rb`,
		"\u202e":                        `\u202e`,
		"\xff":                          `\xff`,
		"\U000e0041":                    `\U000e0041`,
		"👩\u200d🚀 می\u200cخواهم":        "👩\u200d🚀 می\u200cخواهم",
		"\u00a0\ufffd":                  "\u00a0\ufffd",
	} {
		if got := terminal.Line(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
}

func TestBlock(t *testing.T) {
	got := terminal.Block("first\r\nsecond\n\tthird\x1b[1A\n", "  ")
	if want := "first\n  second\n      third\\x1b[1A"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type named string

type stringer struct{ s string }

func (s stringer) String() string { return s.s }

// Whatever type an argument has, it cannot begin a line, unless it is said to be of several lines; and then not at the margin.
func TestPrinter(t *testing.T) {
	evil := "x\nflotilla: FAKE\x1b[2K"
	for name, arg := range map[string]any{
		"a string": evil, "a named one": named(evil), "an error": errors.New(evil), "a Stringer": stringer{evil},
		"a list": []string{evil}, "bytes": []byte(evil), "a struct": struct{ A string }{evil}, "a map": map[string]string{evil: evil},
		"a pointer": &stringer{evil}, "lines": terminal.Lines(evil),
	} {
		for _, verb := range []string{"%s", "%v", "%q", "%+v"} {
			var b bytes.Buffer
			terminal.To(&b).Printf("what "+verb+"\n", arg)
			if err := harmless(b.String(), "\n"); err != nil {
				t.Errorf("%s with %s: %v", name, verb, err)
			}
			if strings.Contains(b.String(), "\nflotilla") {
				t.Errorf("%s with %s makes a line of its own: %q", name, verb, b.String())
			}
		}
	}
	var b bytes.Buffer
	p := terminal.To(&b)
	p.Printf("%d of %5.1f\n%s", 3, 2.5, terminal.Laid("a\n\tb\x1b\n"))
	if got, want := b.String(), "3 of   2.5\na\n\tb\\x1b\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if terminal.To(p) != p {
		t.Error("a Printer is put behind another")
	}
}

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after--; b.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// What could not be written is told in the end, whoever wrote it.
func TestPrinter_err(t *testing.T) {
	p := terminal.To(&broken{after: 1})
	p.Println("one")
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	p.Println("two")
	if err := p.Err(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("the error is %v", err)
	}
}

func TestPrinter_linesStayWhole(t *testing.T) {
	var b bytes.Buffer
	p := terminal.To(&b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				p.Printf("%s %s\n", "one", "line")
			}
		})
	}
	wg.Wait()
	if got, want := b.String(), strings.Repeat("one line\n", 800); got != want {
		t.Error("lines are mixed")
	}
}

// A log that goes to a terminal is as harmless as all else.
func TestLog(t *testing.T) {
	for name, s := range hostile {
		var b bytes.Buffer
		log := slog.New(slog.NewTextHandler(terminal.To(&b), nil))
		log.Info("told", "message", s, "error", errors.New(s))
		if err := harmless(b.String(), "\n"); err != nil || strings.Count(b.String(), "\n") != 1 {
			t.Errorf("%s: %v in %q", name, err, b.String())
		}
	}
}

// JSON and YAML are the same data for programs, and harmless for a terminal.
func TestData(t *testing.T) {
	for name, s := range hostile {
		sameData(t, name, s)
	}
	for _, s := range []string{"", "plain", "true", "12", "a: b", "multi\nline\n", "tab\there", "- x", "日本\u200d", "# no comment"} {
		sameData(t, s, s)
	}
	if b, err := terminal.YAML(map[string]any{"b": []string{"x"}, "a": 1}); err != nil || string(b) != "a: 1\nb:\n- x\n" {
		t.Errorf("ordinary YAML became %q (%v)", b, err)
	}
}

func sameData(t *testing.T, name, s string) {
	t.Helper()
	v := map[string]any{"key " + s: []any{s, map[string]any{"x": s + "\n" + s}}, "n": 1.5, "t": true}
	plain, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(plain, &want); err != nil {
		t.Fatal(err)
	}
	for format, encode := range map[string]func(any) ([]byte, error){"JSON": terminal.JSON, "YAML": terminal.YAML} {
		b, err := encode(v)
		if err != nil {
			t.Fatalf("%s as %s: %v", name, format, err)
		}
		if err := harmless(string(b), "\n"); err != nil {
			t.Errorf("%s as %s: %v", name, format, err)
		}
		var back any
		if json.Unmarshal(b, &back) != nil { // a key may be longer than YAML's own form allows
			if err := yaml.Unmarshal(b, &back); format == "JSON" || err != nil {
				t.Fatalf("%s as %s: %v in %q", name, format, err, b)
			}
		}
		if diff := cmp.Diff(want, back); diff != "" {
			t.Errorf("%s as %s (-want +got):\n%s", name, format, diff)
		}
	}
}

func FuzzTerminal(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Add("plain\n\ttext\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		line := terminal.Line(s)
		if err := harmless(line, ""); err != nil {
			t.Error(err)
		}
		if again := terminal.Line(line); again != line {
			t.Errorf("%q becomes %q the second time", line, again)
		}
		block := terminal.Block(s, "  ")
		if err := harmless(block, "\n"); err != nil {
			t.Error(err)
		}
		if _, rest, more := strings.Cut(block, "\n"); more {
			for l := range strings.SplitSeq(rest, "\n") {
				if !strings.HasPrefix(l, "  ") {
					t.Errorf("%q begins at the margin in %q", l, block)
				}
			}
		}
		if utf8.ValidString(s) {
			sameData(t, s, s)
		}
	})
}
