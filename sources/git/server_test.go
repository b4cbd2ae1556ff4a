package git_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	const secret = "s3cr/t=+1"
	server := gitservertest.NewServer(t, gitserver.Config{Username: "git", Password: secret})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "1"})
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}

	_, err := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}}).Fetch(t.Context())
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "none are configured")

	var log bytes.Buffer
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: file, Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadCredentialsFile", "no such file")
	for _, good := range []string{
		secret, secret + "\n", "# a comment\n\nusername = git\npassword = " + secret + "\n", "token=" + secret,
	} {
		write("password=wrong", 0o600)
		_, err = s.Fetch(t.Context())
		wantError(t, err, api.Forbidden, "AuthenticationFailed", "asks for other credentials")
		write(good, 0o600)
		if _, err := s.Fetch(t.Context()); err != nil {
			t.Errorf("with %q: %v", good, err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log says %s", &log)
	}
	for bad, text := range map[string]string{
		"":                             "neither password, token nor bearer",
		"username=git":                 "neither password, token nor bearer",
		"username=git\n" + secret:      "line 2 is none of",
		"bearer=x\npassword=" + secret: "bearer cannot stand",
		"my token " + secret:           "line 1 is none of",
	} {
		write(bad, 0o600)
		_, err = s.Fetch(t.Context())
		wantError(t, err, api.Stalled, "BadCredentialsFile", text)
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the secret is in %q", err)
		}
	}
	write(secret, 0o644)
	fetch(t, s)
	if !strings.Contains(log.String(), "can be read by every user") {
		t.Errorf("no warning about the mode: %q", &log)
	}

	// In the address: it works, and is neither shown nor kept.
	dir := t.TempDir()
	u, _ := url.Parse(repo.URL)
	u.User = url.UserPassword("git", secret)
	s = open(t, git.Config{URL: u.String(), Ref: git.Ref{Branch: "main"}, Dir: dir})
	fetch(t, s)
	state, err := os.ReadFile(filepath.Join(dir, "flotilla.json"))
	if err != nil || strings.Contains(string(state), "s3cr") || !strings.Contains(string(state), repo.URL) {
		t.Errorf("state is %s, %v", state, err)
	}
	server.Stop()
	_, err = s.Fetch(t.Context())
	if err == nil || strings.Contains(err.Error(), "s3cr") {
		t.Errorf("the secret is in %q", err)
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Authorization")
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("bearer=abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, git.Config{URL: server.URL + "/x", Ref: git.Ref{Branch: "main"}, CredentialsFile: file}).Fetch(t.Context())
	wantError(t, err, api.Forbidden, "AccessDenied", "do not give access")
	if h := <-got; h != "Bearer abc" {
		t.Errorf("Authorization is %q", h)
	}
}

func TestCAFile(t *testing.T) {
	t.Parallel()
	plain, err := gitserver.New(gitserver.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Create(t.Context(), "fleet"); err != nil {
		t.Fatal(err)
	}
	if _, err := (gitserver.Commit{Write: map[string]string{"a": "1"}}).Do(t.Context(), plain.Dir("fleet")); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(plain)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)

	ca := filepath.Join(t.TempDir(), "ca.pem")
	config := git.Config{URL: server.URL + "/fleet.git", Ref: git.Ref{Branch: "main"}}
	_, err = open(t, config).Fetch(t.Context())
	wantError(t, err, api.Stalled, "CertificateInvalid", "unknown authority")
	config.CAFile = ca
	s := open(t, config)
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadCAFile", "no such file")
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadCAFile", "holds no certificate")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, s); read(t, got, "a") != "1" {
		t.Errorf("snapshot is %+v", got)
	}
}

func TestServersThatMisbehave(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/silent") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		w.WriteHeader(status)
		fmt.Fprintln(w, "<html>hello</html>")
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })

	begin := time.Now()
	_, err := open(t, git.Config{URL: server.URL + "/silent", Ref: git.Ref{Branch: "main"}, Timeout: 100 * time.Millisecond}).Fetch(t.Context())
	wantError(t, err, api.Transient, "SourceUnreachable", "said nothing for 100ms")
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("waited %s", d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = open(t, git.Config{URL: server.URL + "/silent", Ref: git.Ref{Branch: "main"}}).Fetch(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	html := open(t, git.Config{URL: server.URL + "/html", Ref: git.Ref{Branch: "main"}})
	_, err = html.Fetch(t.Context())
	wantError(t, err, api.Transient, "SourceUnreachable", server.URL)
	status = http.StatusServiceUnavailable
	_, err = html.Fetch(t.Context())
	wantError(t, err, api.Transient, "SourceUnreachable", "503")
}
