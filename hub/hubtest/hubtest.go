// Package hubtest starts real hubs and real agents' sides for tests:
// TLS, stores in temporary directories, and nothing made up between them.
package hubtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/client"
)

// Token is the admin token of every hub here.
const Token = "test-token-of-an-admin"

// Hub is a hub that runs.
type Hub struct {
	*hub.Hub
	// TokensFile is the file that the hub's tokens come from, if they do.
	TokensFile string

	t    testing.TB
	cfg  hub.Config
	stop func()
}

// DataDir is where the hub keeps its store.
func (h *Hub) DataDir() string { return h.cfg.DataDir }

// CertFile is the certificate of the hub's address for people, if that has one.
func (h *Hub) CertFile() string { return h.cfg.HTTPCertFile }

// Start starts a hub; its directory and addresses are chosen if cfg leaves them out.
func Start(t testing.TB, cfg hub.Config) *Hub {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if cfg.Tokens == nil && cfg.TokensFile == "" {
		cfg.Tokens = []hub.Token{{Name: "test", Value: Token, Role: hub.Admin}}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(logTo{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	h := &Hub{t: t, cfg: cfg, TokensFile: cfg.TokensFile}
	h.start()
	t.Cleanup(h.Stop)
	return h
}

func (h *Hub) start() {
	h.t.Helper()
	srv, err := hub.New(h.addressed())
	for try := 1; errors.Is(err, syscall.EADDRINUSE) && try < 20; try++ {
		srv, err = hub.New(h.addressed())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.Hub = srv
	// A restart must find the same addresses.
	h.cfg.AgentAddr, h.cfg.HTTPAddr = srv.AgentAddr(), srv.HTTPAddr()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := errors.Join(<-done, srv.Close()); err != nil {
			h.t.Errorf("hub: %v", err)
		}
		h.stop = nil
	}
}

// addressed is the configuration with addresses. They are outside the range from which the system takes free ones,
// so nobody else gets them while the hub is stopped. Control planes and Git servers of tests take theirs above.
func (h *Hub) addressed() hub.Config {
	cfg := h.cfg
	for _, addr := range []*string{&cfg.AgentAddr, &cfg.HTTPAddr} {
		if *addr == "" {
			*addr = fmt.Sprintf("127.0.0.1:%d", 8_000+rand.IntN(2_000))
		}
	}
	return cfg
}

// Stop stops the hub, as at the end of the test.
func (h *Hub) Stop() {
	if h.stop != nil {
		h.stop()
	}
}

// Restart starts a stopped hub again, with the same store and addresses.
func (h *Hub) Restart() { h.t.Helper(); h.start() }

// Get asks the API and decodes the answer; it fails on any status but 200.
func Get[T any](h *Hub, path string) T {
	h.t.Helper()
	var out T
	status, body := h.Do(http.MethodGet, path, "")
	if status != http.StatusOK {
		h.t.Fatalf("GET %s: %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		h.t.Fatalf("GET %s: %v in %s", path, err, body)
	}
	return out
}

// Do asks the API with the admin token.
func (h *Hub) Do(verb, path, body string) (int, []byte) {
	h.t.Helper()
	return h.DoAs(Token, verb, path, body)
}

// DoAs asks the API with a token; an empty one is left out.
func (h *Hub) DoAs(token, verb, path, body string) (int, []byte) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), verb, h.URL()+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	hc := &http.Client{Transport: h.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer hc.CloseIdleConnections()
	res, err := hc.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, b
}

// PageURL is a page's address with the token in it.
func (h *Hub) PageURL(path string) string {
	u, err := url.Parse(h.URL() + path)
	if err != nil {
		h.t.Fatal(err)
	}
	q := u.Query()
	q.Set("token", Token)
	u.RawQuery = q.Encode()
	return u.String()
}

// Agent is an agent's side: its store and its client.
type Agent struct {
	t       testing.TB
	Cluster string
	Dir     string
	Store   *agentstore.Store
	Client  *client.Client
	cfg     client.Config
	stop    func()
}

// AgentOptions change what NewAgent does.
type AgentOptions struct {
	Commands func(context.Context, client.Command) (any, error)
	Now      func() time.Time
	Limits   agentstore.Limits
	// Reached is when the agent says that its repository was reached.
	Reached func() time.Time
	// Keep is as in client.Config.
	Keep func(ctx context.Context, identity []byte) error
}

// NewAgent makes an agent's store in a new directory. It has not joined and does not run.
func NewAgent(t testing.TB, cluster string, opts AgentOptions) *Agent {
	t.Helper()
	a := &Agent{t: t, Cluster: cluster, Dir: t.TempDir()}
	st, err := agentstore.Open(agentstore.Config{
		Path: filepath.Join(a.Dir, "agent.db"), Cluster: cluster, Limits: opts.Limits, Now: opts.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Store = st
	a.cfg = client.Config{
		Dir: filepath.Join(a.Dir, "identity"), Cluster: cluster, Outbox: st, Commands: opts.Commands, Reached: opts.Reached, Keep: opts.Keep,
		Heartbeat: 200 * time.Millisecond, Version: "v0-test", Now: opts.Now,
		Log: slog.New(slog.NewTextHandler(logTo{t}, nil)),
	}
	t.Cleanup(func() {
		a.Stop()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// Join joins a hub with a token.
func (a *Agent) Join(h *Hub, token string) error {
	_, err := client.Join(a.t.Context(), client.JoinConfig{
		URL: h.AgentURL(), Token: token, CAHash: h.CAHash(), Cluster: a.Cluster,
		AgentID: a.Store.AgentID(), Dir: a.cfg.Dir, Version: "v0-test",
	})
	return err
}

// MustJoin joins with a token made for it.
func (a *Agent) MustJoin(h *Hub) {
	a.t.Helper()
	m, err := h.CreateJoinToken(a.t.Context(), hub.JoinTokenRequest{Cluster: a.Cluster})
	if err != nil {
		a.t.Fatal(err)
	}
	if err := a.Join(h, m.Token); err != nil {
		a.t.Fatal(err)
	}
}

// Run runs the client until Stop.
func (a *Agent) Run() {
	a.t.Helper()
	c, err := client.New(a.cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	a.Client = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Errorf("client: %v", err)
		}
		a.stop = nil
	}
}

// Stop stops the client.
func (a *Agent) Stop() {
	if a.stop != nil {
		a.stop()
	}
}

// Commit stores a batch, as the agent does after a pass.
func (a *Agent) Commit(b agentstore.Batch) {
	a.t.Helper()
	if err := a.Store.Commit(b); err != nil {
		a.t.Fatal(err)
	}
}

// IdentityDir is where the identity is.
func (a *Agent) IdentityDir() string { return a.cfg.Dir }

// Eventually waits until a condition holds, and fails the test if it does not come true.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never came true: %s", what)
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// Status is a batch that says a cluster is at a revision.
func Status(cluster, revision string) agentstore.Batch {
	return agentstore.Batch{Status: &api.ClusterStatus{
		Cluster: cluster, DesiredRevision: revision, AppliedRevision: revision, AgentVersion: "v0-test",
	}}
}

// UseIdentityOf copies another agent's identity, as a thief would.
func (a *Agent) UseIdentityOf(b *Agent) {
	a.t.Helper()
	if err := os.CopyFS(a.cfg.Dir, os.DirFS(b.cfg.Dir)); err != nil {
		a.t.Fatal(err)
	}
}

// HTTPClient shows the agent's certificate to a hub, whichever hub issued it.
func (a *Agent) HTTPClient(h *Hub) *http.Client {
	a.t.Helper()
	file := filepath.Join(a.cfg.Dir, "identity.pem")
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		a.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CAPEM())
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}}}
}
