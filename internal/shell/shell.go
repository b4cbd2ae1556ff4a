// Package shell writes commands for people to copy into a POSIX shell.
// It promises that a shell reads from a line the arguments that it was made of, and nothing else;
// that the line is one line; and that it holds no character which a terminal would act upon.
// It never runs anything.
package shell

import (
	"regexp"
	"strings"
	"unicode"
)

// plain is what every shell reads as it is written.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// Quote writes one argument. Characters that cannot be printed, which no name has, become U+FFFD.
func Quote(arg string) string {
	if plain.MatchString(arg) {
		return arg
	}
	shown := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, arg)
	return "'" + strings.ReplaceAll(shown, "'", `'\''`) + "'"
}

// Command writes a command and its arguments.
func Command(args ...string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = Quote(a)
	}
	return strings.Join(quoted, " ")
}
