// Package terminal stands between data and the terminal of a person.
//
// What it lets through moves no cursor, changes no colour, title or clipboard, reorders no text,
// and begins no line that the program did not begin: data cannot look like something that flotilla says.
// It hides nothing. What a terminal would obey is shown as an escape such as \x1b or \u202e.
//
// It never touches what programs read: JSON and YAML stay the same data, written so that a terminal obeys none of it.
package terminal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Line is data as part of one line. Line breaks and tabs become spaces.
func Line(s string) string {
	return clean(s, func(rune) (string, bool) { return " ", true })
}

// Block is data of several lines. Every line after the first begins with indent,
// so that none of them can pass for a line of the program's own.
func Block(s, indent string) string {
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	return clean(s, func(r rune) (string, bool) {
		if r == '\n' {
			return "\n" + indent, true
		}
		return "    ", true // a tab would begin a cell of a table
	})
}

// text is what the program itself has laid out: its line breaks and tabs stay.
func text(s string) string {
	return clean(s, func(rune) (string, bool) { return "", false })
}

// clean escapes what a terminal may obey, and lays out line breaks and tabs as it is told, or leaves them.
func clean(s string, layout func(rune) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch raw := s[i : i+size]; {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n' || r == '\t':
			if laid, ok := layout(r); ok {
				raw = laid
			}
			b.WriteString(raw)
		case obeyed(r):
			b.WriteString(escape(r))
		default:
			b.WriteString(raw)
		}
		i += size
	}
	return b.String()
}

// obeyed reports whether a terminal may do something other than show a character where it stands.
// These are the control characters of C0 and C1, those that turn the direction of text,
// other formatting characters, separators of lines, and whatever Unicode has not assigned.
// The joiners are left: scripts and emoji need them, and they only shape their neighbours.
func obeyed(r rune) bool {
	return !unicode.IsGraphic(r) && r != '\u200c' && r != '\u200d'
}

func escape(r rune) string {
	switch {
	case r == '\r':
		return `\r`
	case r < utf8.RuneSelf:
		return fmt.Sprintf(`\x%02x`, r)
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r)
	default:
		return fmt.Sprintf(`\U%08x`, r)
	}
}

// Printer writes what people read. Every way to write to it cleans: what is formatted is cleaned argument by argument,
// and everything else as a whole.
type Printer struct {
	w io.Writer

	mu  sync.Mutex // held while a line is written, so that lines stay whole
	err error      // the first error of w
}

// To returns a Printer for a terminal, or for what stands in its place.
func To(w io.Writer) *Printer {
	if p, ok := w.(*Printer); ok {
		return p
	}
	return &Printer{w: w}
}

// Write writes text that is laid out. Its line breaks and tabs stay.
// A character that is split between two writes is taken for two halves, and escaped.
func (p *Printer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := io.WriteString(p.w, text(string(b))); err != nil {
		if p.err == nil {
			p.err = err
		}
		return 0, err
	}
	return len(b), nil
}

// Err is the first error that writing met, if any did.
func (p *Printer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Under returns what is below: for what is no text for people, such as the width of a terminal.
func (p *Printer) Under() io.Writer { return p.w }

// Lines is an argument of Printf that may have several lines; those after the first are indented by two spaces.
type Lines string

// Laid is an argument of Printf that the program has laid out itself: data begins none of its lines.
type Laid string

// Printf writes a line. Arguments are data: each is made part of the line, whatever it holds, unless it is Lines or Laid.
func (p *Printer) Printf(format string, args ...any) {
	cleaned := make([]any, len(args))
	for i, a := range args {
		cleaned[i] = argument(a)
	}
	_, _ = io.WriteString(p, fmt.Sprintf(format, cleaned...)) // Err tells
}

// Println writes a line that is data or the program's own.
func (p *Printer) Println(line string) { p.Printf("%s\n", line) }

func argument(a any) any {
	switch a := a.(type) {
	case nil, bool, int, int32, int64, uint, uint32, uint64, float64:
		return a
	case string:
		return Line(a)
	case Lines:
		return Block(string(a), "  ")
	case Laid:
		return text(string(a))
	case error:
		return Line(a.Error())
	case fmt.Stringer:
		return Line(a.String())
	default: // a string by another name, or something that has no business on a terminal
		return Line(fmt.Sprint(a))
	}
}
