package git

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/httpclient"
)

// access is all that a conversation with the server may need, read anew for each.
type access struct {
	credentials
	http       httpclient.Config
	keys       []string // files with SSH keys, in the order in which they are tried
	knownHosts []string
	proxy      string
}

// access reads the files. What the configuration names goes before what a directory of credentials holds.
func (r *remote) access(ctx context.Context) (access, error) {
	a := access{credentials: r.own}
	if r.config.CredentialsFile != "" {
		c, err := readCredentials(r.config.CredentialsFile, r.log)
		if err != nil {
			return a, err
		}
		a.credentials = c
		if c.username == "" {
			a.username = r.own.username
		}
	}
	pick := func(given, name string) string {
		if given != "" {
			return given
		}
		return a.files[name]
	}
	a.proxy = r.config.Proxy
	if a.proxy == "" {
		a.proxy = a.credentials.proxy
	}
	a.http = httpclient.Config{
		CAFile: pick(r.config.CAFile, fileCA), CertFile: pick(r.config.CertFile, fileCert), KeyFile: pick(r.config.KeyFile, fileKey),
		Proxy: a.proxy,
	}
	a.keys, a.knownHosts = r.config.SSHKeys, r.config.KnownHosts
	for _, name := range slices.Sorted(maps.Keys(a.files)) {
		if isIdentity(name) && len(r.config.SSHKeys) == 0 {
			a.keys = append(a.keys, a.files[name])
		}
	}
	if file := a.files[fileKnownHosts]; file != "" && len(a.knownHosts) == 0 {
		a.knownHosts = []string{file}
	}
	if _, err := httpclient.ParseProxy(a.proxy); a.proxy != "" && err != nil {
		return a, &api.Error{Kind: api.Stalled, Reason: "BadProxy", Err: err}
	}
	if !a.app.used() || r.endpoint.Protocol == "file" || r.endpoint.Protocol == "ssh" {
		return a, nil
	}
	token, err := r.appToken(ctx, a)
	if err != nil {
		return a, err
	}
	a.username, a.password = "x-access-token", token
	return a, nil
}

// badFile gives an error about one of the files for TLS its kind.
func badFile(err error) error {
	var f *httpclient.FileError
	if !errors.As(err, &f) {
		return &api.Error{Kind: api.Stalled, Reason: "BadProxy", Err: err}
	}
	reason := "BadClientCertificate"
	if strings.HasPrefix(f.What, "CA") {
		reason = "BadCAFile"
	}
	return &api.Error{Kind: api.Stalled, Reason: reason, Err: fmt.Errorf("cannot use the %w", f)}
}
