package git

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/httpclient"
	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// app is an installation of a GitHub App, which is shown to GitHub to get a token of an hour.
type app struct {
	id, installation string
	key              string // an RSA key in PEM form
	baseURL          string // of the API; empty means that of github.com
}

func (a app) used() bool  { return a != app{} }
func (a app) whole() bool { return a.id != "" && a.installation != "" && a.key != "" }

// appToken is what an app was last given.
type appToken struct {
	app    app
	token  string
	expiry time.Time
}

const (
	githubAPI = "https://api.github.com"
	// tokenMargin is how long before its end a token is no longer used.
	tokenMargin   = 5 * time.Minute
	maxTokenBytes = 1 << 20
)

// appToken returns a token that is valid for a while.
func (r *remote) appToken(ctx context.Context, a access) (string, error) {
	if r.token.app == a.app && time.Until(r.token.expiry) > tokenMargin {
		return r.token.token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	t, err := a.app.fetch(ctx, r.client, a.http, time.Now())
	if err != nil {
		return "", err
	}
	t.app = a.app
	r.token = t
	return t.token, nil
}

// fetch asks for a token.
func (a app) fetch(ctx context.Context, client *httpclient.Client, config httpclient.Config, now time.Time) (appToken, error) {
	fail := func(kind api.ErrorKind, format string, args ...any) (appToken, error) {
		return appToken{}, &api.Error{Kind: kind, Reason: "GitHubAppFailed", Err: redact.Error(fmt.Errorf("cannot get a token of GitHub App %q: "+format, append([]any{a.id}, args...)...))}
	}
	proof, err := a.proof(now)
	if err != nil {
		return fail(api.Stalled, "%w", err)
	}
	base, err := url.Parse(cmp.Or(strings.TrimSuffix(a.baseURL, "/"), githubAPI))
	if err != nil || base.Scheme != "https" && !isLoopback(base.Hostname()) {
		return fail(api.Stalled, "githubAppBaseURL must be an https address")
	}
	c, err := client.Get(config)
	if err != nil {
		return appToken{}, badFile(err)
	}
	u := base.JoinPath("app/installations", url.PathEscape(a.installation), "access_tokens")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return fail(api.Stalled, "%w", err)
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("Authorization", "Bearer "+proof)
	res, err := c.Do(req)
	if err != nil {
		return fail(api.Transient, "%w", err)
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusNotFound:
		return fail(api.Forbidden, "%s refuses with %s: check githubAppID, githubAppInstallationID and the key", base.Host, res.Status)
	case res.StatusCode != http.StatusCreated:
		return fail(api.Transient, "%s answers with %s", base.Host, res.Status)
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxTokenBytes)).Decode(&answer); err != nil || answer.Token == "" {
		return fail(api.Transient, "%s answers with something else than a token", base.Host)
	}
	return appToken{token: answer.Token, expiry: answer.ExpiresAt}, nil
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// proof is a JSON web token that the app signs with its key.
func (a app) proof(now time.Time) (string, error) {
	block, _ := pem.Decode([]byte(a.key))
	if block == nil {
		return "", errors.New("githubAppPrivateKey is not a key in PEM form")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		any, pkcs8 := x509.ParsePKCS8PrivateKey(block.Bytes)
		rsaKey, ok := any.(*rsa.PrivateKey)
		if pkcs8 != nil || !ok {
			return "", errors.New("githubAppPrivateKey is not an RSA key")
		}
		key = rsaKey
	}
	encode := func(v any) string {
		data, _ := json.Marshal(v) // of strings and numbers
		return base64.RawURLEncoding.EncodeToString(data)
	}
	// A minute for clocks that differ, and less than the ten that GitHub allows.
	text := encode(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." +
		encode(map[string]any{"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix(), "iss": a.id})
	digest := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return "", errors.New("githubAppPrivateKey cannot sign")
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}
