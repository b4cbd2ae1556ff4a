// Package redact takes credentials out of addresses and error texts
// before they reach a log, a status, a report or a page.
//
// It knows two things only: what a URL can hide, and the secrets that it is told.
// It never guesses whether a word is a secret, and never changes anything else in a text.
package redact

import (
	"net/url"
	"regexp"
	"strings"
)

// Mark stands where a secret was.
const Mark = "***"

var (
	// userinfo is what stands between "://" and the last "@" of an authority.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'<>]*@`)
	// parameter is a query parameter whose name says that it is a secret.
	parameter = regexp.MustCompile(`(?i)([?&][a-z0-9_.-]*(?:token|password|passwd|secret|signature|credential|api[_-]?key)[a-z0-9_.-]*=)[^\s&#"'<>]+`)
	// header is an Authorization header that somebody printed.
	header = regexp.MustCompile(`(?i)(authorization["']?\s*[:=]\s*\[?["']?(?:basic|bearer|token)\s+)[^\s"'\]]+`)
)

// URL returns an address without its user, its password and its secret parameters.
// What is no URL comes back as Text makes it.
func URL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return Text(raw)
	}
	u.User = nil
	return Text(u.String())
}

// Text replaces by Mark the user part and the secret parameters of every URL in s,
// Authorization headers, and every one of the secrets, also where it is percent-encoded.
func Text(s string, secrets ...string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		s = strings.ReplaceAll(s, secret, Mark)
		for _, escaped := range []string{url.QueryEscape(secret), url.PathEscape(secret)} {
			s = strings.ReplaceAll(s, escaped, Mark)
		}
	}
	s = userinfo.ReplaceAllString(s, "${1}"+Mark+"@")
	s = parameter.ReplaceAllString(s, "${1}"+Mark)
	return header.ReplaceAllString(s, "${1}"+Mark)
}

// Error returns an error with the text that Text makes of err's, and nil for nil.
// errors.Is and errors.As still see err itself.
func Error(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := Text(err.Error(), secrets...)
	if text == err.Error() {
		return err
	}
	return &redacted{text: text, err: err}
}

type redacted struct {
	text string
	err  error
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }
