package git

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/flotilla-fleet/flotilla/api"
)

// credentials are what a server is shown.
type credentials struct {
	username, password string
	bearer             string
}

// defaultUsername goes with a token: the large hosts accept any name there,
// and those that want one of their own say so in their documentation.
const defaultUsername = "git"

// parseCredentials reads a credentials file. It holds either one line with a token, or lines of
//
//	username=…
//	password=…   (or token=…, which is the same)
//	bearer=…     (sent as "Authorization: Bearer", without a username)
//
// Empty lines and lines that begin with # are skipped. No error repeats what the file holds.
func parseCredentials(data []byte) (credentials, error) {
	var c credentials
	lines := 0
	in := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		lines++
		key, value, isPair := strings.Cut(line, "=")
		switch strings.TrimSpace(key) {
		case "username":
			c.username = strings.TrimSpace(value)
			continue
		case "password", "token":
			if isPair {
				c.password = strings.TrimSpace(value)
				continue
			}
		case "bearer":
			c.bearer = strings.TrimSpace(value)
			continue
		}
		if lines > 1 || strings.ContainsAny(line, " \t") {
			return credentials{}, fmt.Errorf("line %d is none of username=, password=, token=, bearer=", n)
		}
		// A token may hold any sign, "=" among them.
		c.password = line
	}
	if err := in.Err(); err != nil {
		return credentials{}, errors.New("is not text")
	}
	if c.password == "" && c.bearer == "" {
		return credentials{}, errors.New("holds neither password, token nor bearer")
	}
	if c.bearer != "" && (c.password != "" || c.username != "") {
		return credentials{}, errors.New("bearer cannot stand with username, password or token")
	}
	if c.username == "" {
		c.username = defaultUsername
	}
	return c, nil
}

// method is what go-git sends; nil without credentials.
func (c credentials) method() githttp.AuthMethod {
	switch {
	case c.bearer != "":
		return &githttp.TokenAuth{Token: c.bearer}
	case c.password != "" || c.username != "":
		return &githttp.BasicAuth{Username: c.username, Password: c.password}
	}
	return nil
}

// secrets are what must not be printed.
func (c credentials) secrets() []string { return []string{c.password, c.bearer} }

// readCredentials reads the file anew, so that a rotated secret is used at once.
func readCredentials(file string, log *slog.Logger) (credentials, error) {
	bad := func(err error) error {
		return &api.Error{Kind: api.Stalled, Reason: "BadCredentialsFile", Err: fmt.Errorf("credentials file %q: %w", file, err)}
	}
	info, err := os.Stat(file)
	if err != nil {
		return credentials{}, bad(unwrapPath(err))
	}
	if info.Mode().Perm()&0o007 != 0 {
		log.Warn("credentials file can be read by every user of this machine", "file", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return credentials{}, bad(unwrapPath(err))
	}
	c, err := parseCredentials(data)
	if err != nil {
		return credentials{}, bad(err)
	}
	return c, nil
}

// unwrapPath drops operation and path, which the caller's text has already.
func unwrapPath(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// urlCredentials takes out of an address what it carries.
func urlCredentials(u *url.URL) credentials {
	if u.User == nil {
		return credentials{}
	}
	password, ok := u.User.Password()
	if !ok {
		// https://TOKEN@host
		return credentials{username: defaultUsername, password: u.User.Username()}
	}
	return credentials{username: u.User.Username(), password: password}
}
