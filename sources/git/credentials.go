package git

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/flotilla-fleet/flotilla/api"
)

// credentials are what a server is shown.
type credentials struct {
	username, password string
	bearer             string
	passphrase         string // of the SSH keys
	proxy              string
	app                app
	// files are what a directory of credentials holds beside: its names -> paths.
	files map[string]string
}

// defaultUsername goes with a token: the large hosts accept any name there,
// and those that want one of their own say so in their documentation.
const defaultUsername = "git"

// maxCredentials bounds a file of credentials.
const maxCredentials = 1 << 20

// names are the words of a credentials file, and the names of files in a directory of credentials,
// each with where its value goes. Those with two words have one of them from the Secrets that other tools use.
func (c *credentials) names() map[string]*string {
	return map[string]*string{
		"username": &c.username, "password": &c.password, "token": &c.password,
		"bearer": &c.bearer, "bearerToken": &c.bearer,
		"passphrase": &c.passphrase, "proxy": &c.proxy,
		"githubAppID": &c.app.id, "githubAppInstallationID": &c.app.installation, "githubAppBaseURL": &c.app.baseURL,
		"githubAppPrivateKey": &c.app.key,
	}
}

// Names of the files in a directory of credentials that are not one word's value.
const (
	fileIdentity   = "identity" // and identity-anything: SSH keys
	filePublic     = "identity.pub"
	fileKnownHosts = "known_hosts"
	fileCA         = "ca.crt"
	fileCert       = "tls.crt"
	fileKey        = "tls.key"
)

// parseCredentials reads a credentials file. It holds either one line with a token, or lines of
//
//	username=…
//	password=…   (or token=…, which is the same)
//	bearer=…     (sent as "Authorization: Bearer", without a username)
//	passphrase=… (of the SSH keys)
//	proxy=…      (the address of a proxy, with user and password where it needs them)
//	githubAppID=…, githubAppInstallationID=…, githubAppPrivateKey=FILE, githubAppBaseURL=…
//
// Empty lines and lines that begin with # are skipped. No error repeats what the file holds.
func parseCredentials(data []byte) (credentials, error) {
	var c credentials
	names := c.names()
	lines := 0
	in := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		lines++
		key, value, isPair := strings.Cut(line, "=")
		if into := names[strings.TrimSpace(key)]; into != nil && isPair {
			*into = strings.TrimSpace(value)
			continue
		}
		if lines > 1 || strings.ContainsAny(line, " \t") {
			return credentials{}, fmt.Errorf("line %d is none of username=, password=, token=, bearer=, passphrase=, proxy=, githubApp…=", n)
		}
		// A token may hold any sign, "=" among them.
		c.password = line
	}
	if err := in.Err(); err != nil {
		return credentials{}, errors.New("is not text")
	}
	if file := c.app.key; file != "" {
		data, err := readSmall(file)
		if err != nil {
			return credentials{}, fmt.Errorf("githubAppPrivateKey: %w", err)
		}
		c.app.key = string(data)
	}
	return c.checked()
}

// checked refuses what makes no sense together, and fills in the user.
func (c credentials) checked() (credentials, error) {
	switch {
	case c.password == "" && c.bearer == "" && c.passphrase == "" && c.proxy == "" && !c.app.used() && len(c.files) == 0:
		return credentials{}, errors.New("holds neither password, token nor bearer")
	case c.bearer != "" && (c.password != "" || c.username != ""):
		return credentials{}, errors.New("bearer cannot stand with username, password or token")
	case c.app.used() && (c.password != "" || c.bearer != ""):
		return credentials{}, errors.New("a GitHub App cannot stand with password, token or bearer")
	case c.app.used() && !c.app.whole():
		return credentials{}, errors.New("a GitHub App needs all of githubAppID, githubAppInstallationID and githubAppPrivateKey")
	}
	if c.password != "" && c.username == "" {
		c.username = defaultUsername
	}
	return c, nil
}

// method is what go-git sends; nil without credentials.
func (c credentials) method() githttp.AuthMethod {
	switch {
	case c.bearer != "":
		return &githttp.TokenAuth{Token: c.bearer}
	case c.password != "":
		return &githttp.BasicAuth{Username: c.username, Password: c.password}
	}
	return nil
}

// secrets are what must not be printed.
func (c credentials) secrets() []string {
	out := []string{c.password, c.bearer, c.passphrase}
	if u, err := url.Parse(c.proxy); err == nil && u.User != nil {
		password, _ := u.User.Password()
		out = append(out, password)
	}
	return out
}

func badCredentials(file string, err error) error {
	return &api.Error{Kind: api.Stalled, Reason: "BadCredentialsFile", Err: fmt.Errorf("credentials file %q: %w", file, unwrapPath(err))}
}

// readCredentials reads a file or a directory anew, so that a rotated secret is used at once.
func readCredentials(file string, log *slog.Logger) (credentials, error) {
	info, err := os.Stat(file)
	if err != nil {
		return credentials{}, badCredentials(file, err)
	}
	if info.IsDir() {
		c, err := readDirectory(file)
		if err != nil {
			return credentials{}, badCredentials(file, err)
		}
		return c, nil
	}
	if info.Mode().Perm()&0o007 != 0 {
		log.Warn("credentials file can be read by every user of this machine", "file", file)
	}
	data, err := readSmall(file)
	if err != nil {
		return credentials{}, badCredentials(file, err)
	}
	c, err := parseCredentials(data)
	if err != nil {
		return credentials{}, badCredentials(file, err)
	}
	return c, nil
}

// readDirectory reads a directory with a file for each word, as a Secret of Kubernetes is mounted.
func readDirectory(dir string) (credentials, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return credentials{}, err
	}
	c := credentials{files: map[string]string{}}
	names := c.names()
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(dir, e.Name())
		switch into := names[name]; {
		case strings.HasPrefix(name, "."): // what Kubernetes keeps for itself
		case into != nil:
			data, err := readSmall(path)
			if err != nil {
				return credentials{}, fmt.Errorf("%s: %w", name, err)
			}
			*into = strings.TrimSpace(string(data))
		case name == filePublic:
		case isIdentity(name), slices.Contains([]string{fileKnownHosts, fileCA, fileCert, fileKey}, name):
			c.files[name] = path
		default:
			return credentials{}, fmt.Errorf("holds %q, which is none of username, password, token, bearer, passphrase, proxy, "+
				"identity, known_hosts, ca.crt, tls.crt, tls.key, githubApp…", name)
		}
	}
	return c.checked()
}

func isIdentity(name string) bool {
	return name == fileIdentity || strings.HasPrefix(name, fileIdentity+"-")
}

// readSmall reads a file that should be small.
func readSmall(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, unwrapPath(err)
	}
	if info.Size() > maxCredentials || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("is no file of at most %d MiB", maxCredentials>>20)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, unwrapPath(err)
	}
	return data, nil
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
