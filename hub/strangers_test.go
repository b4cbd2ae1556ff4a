package hub_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// stranger speaks to the agents' address of a hub without a certificate.
func stranger(t *testing.T, h *hubtest.Hub) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CAPEM())
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	hc := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		Protocols: &protocols, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
	}}
	t.Cleanup(hc.CloseIdleConnections)
	return hc
}

// certificateRequest is what an agent joins with.
func certificateRequest(t *testing.T) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.Request(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

type auditLog struct {
	Items []struct{ Actor, Action, Cluster, Result string }
}

// joins counts the entries of the audit log that are about joining.
func joins(h *hubtest.Hub) int {
	return len(hubtest.Get[auditLog](h, "/api/v1/audit?action=join").Items)
}

// lines is a log that counts its lines and bytes.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(word string) (n, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), word), l.buf.Len()
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// Whoever has no token writes nothing: neither to the store, nor to the people's log, nor without end to the process's.
func TestStrangers_leaveNoTrace(t *testing.T) {
	var log lines
	dir := t.TempDir()
	h := hubtest.Start(t, hub.Config{DataDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := h.CreateJoinToken(t.Context(), hub.JoinTokenRequest{Cluster: "prod-eu"}); err != nil {
		t.Fatal(err)
	}
	before := fileSize(t, filepath.Join(dir, "hub.db"))
	c := hubv1.NewEnrollmentServiceClient(stranger(t, h), h.AgentURL())
	csr := certificateRequest(t)
	join := func(m *hubv1.JoinRequest) error {
		_, err := c.Join(t.Context(), connect.NewRequest(m))
		return err
	}
	long := strings.Repeat("x", 10<<20)
	for _, m := range []*hubv1.JoinRequest{
		{Token: "flj-wrong-wrong-wrong", Cluster: long, AgentId: "a", Csr: csr},
		{Token: "flj-wrong-wrong-wrong", Cluster: "prod-eu", AgentId: long, Csr: csr},
		{Token: long, Cluster: "prod-eu", AgentId: "a", Csr: csr},
		{Token: "flj-wrong-wrong-wrong", Cluster: "prod-eu", AgentId: "a", Csr: []byte(long)},
		{Token: "flj-wrong-wrong-wrong", Cluster: "prod-eu", AgentId: "a", Csr: csr, AgentVersion: long},
	} {
		for range 2 {
			if err := join(m); err == nil {
				t.Fatal("let in")
			}
		}
	}
	for range 1000 {
		if err := join(&hubv1.JoinRequest{Token: "flj-wrong-wrong-wrong", Cluster: "prod-eu", AgentId: "a", Csr: csr}); err == nil {
			t.Fatal("let in")
		}
	}
	if n := joins(h); n != 0 {
		t.Errorf("strangers made %d entries in the audit log", n)
	}
	if grown := fileSize(t, filepath.Join(dir, "hub.db")) - before; grown > 128<<10 {
		t.Errorf("strangers made the store grow by %d bytes", grown)
	}
	if n, size := log.count("\n"); n > 100 || size > 100<<10 {
		t.Errorf("strangers made the log grow by %d lines, %d bytes", n, size)
	}
	status, body := h.Do(http.MethodGet, "/metrics", "")
	if status != http.StatusOK || !strings.Contains(string(body), `flotilla_hub_refusals_total{reason="TokenUnknown"}`) {
		t.Errorf("the metrics do not count strangers: %d", status)
	}
	// Whoever has a token is let in meanwhile, from the same address.
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	if n := joins(h); n != 1 {
		t.Errorf("the audit log has %d entries of joining, want the one that was let in", n)
	}
}

// A token that the hub gave out is worth an entry when it is refused, but not as many as its holder likes.
func TestStrangers_withASpentToken(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	m, err := h.CreateJoinToken(t.Context(), hub.JoinTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(h, m.Token); err != nil {
		t.Fatal(err)
	}
	c := hubv1.NewEnrollmentServiceClient(stranger(t, h), h.AgentURL())
	csr := certificateRequest(t)
	for n := range 200 {
		_, err := c.Join(t.Context(), connect.NewRequest(&hubv1.JoinRequest{Token: m.Token, Cluster: "prod-us", AgentId: fmt.Sprint("a", n), Csr: csr}))
		if err == nil {
			t.Fatal("let in")
		}
	}
	if n := joins(h); n < 2 || n > 20 {
		t.Errorf("the audit log has %d entries, want the join and a few of the refusals", n)
	}
	// Each actor has a share of the log, so whoever is refused names none.
	actors := map[string]bool{}
	for _, e := range hubtest.Get[auditLog](h, "/api/v1/audit?action=join").Items {
		if e.Result != "ok" {
			actors[e.Actor] = true
		}
	}
	if len(actors) != 1 {
		t.Errorf("the refusals have the actors %v, want the token alone", slices.Collect(maps.Keys(actors)))
	}
}

// What asks without a certificate is not read beyond a bound, nor unpacked.
func TestStrangers_areNotRead(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	hc := stranger(t, h)
	for _, path := range []string{
		hubv1.AgentServiceRenewProcedure, hubv1.EnrollmentServiceJoinProcedure, hubv1.AgentServiceConnectProcedure, "/nowhere",
	} {
		body := &counting{left: 64 << 20}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.AgentURL()+path, io.NopCloser(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/proto")
		if path == hubv1.AgentServiceConnectProcedure {
			req.Header.Set("Content-Type", "application/connect+proto")
		}
		if res, err := hc.Do(req); err == nil {
			if res.StatusCode == http.StatusOK && path != hubv1.AgentServiceConnectProcedure {
				t.Errorf("%s: %s", path, res.Status)
			}
			_ = res.Body.Close()
		}
		// What is on its way is not read.
		if sent := body.read(); sent > 4<<20 {
			t.Errorf("%s: %d bytes were taken", path, sent)
		}
	}
	// Headers are bounded, too, on both addresses.
	for _, url := range []string{h.AgentURL() + "/nowhere", h.URL() + "/login"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", 256<<10))
		if res, err := hc.Do(req); err == nil {
			if res.StatusCode < 400 {
				t.Errorf("%s takes 256 KiB of headers: %s", url, res.Status)
			}
			_ = res.Body.Close()
		}
	}
}

// counting is a body that counts how much of it was read.
type counting struct {
	mu         sync.Mutex
	left, done int
}

func (c *counting) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.left)
	if n == 0 {
		return 0, io.EOF
	}
	c.left, c.done = c.left-n, c.done+n
	return n, nil
}

func (c *counting) read() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// A connection on which nothing is asked does not stay.
func TestStrangers_idleConnectionsEnd(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", h.AgentAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the hub keeps a connection without a handshake: %v", err)
	}
}

// Connections on which nobody shows who they are have a bound for each address. Whoever fills it locks out nobody:
// agents and people from the same address come in, and stay.
func TestStrangers_connectionsAreBounded(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	connected := func() bool {
		return connectedTo(h, "prod-eu")
	}
	hubtest.Eventually(t, "the agent is connected", connected)
	const flood = 700
	for _, addr := range []string{h.AgentAddr(), h.HTTPAddr()} {
		var conns []net.Conn
		for range flood {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			conns = append(conns, c)
		}
		// The oldest have to go.
		if err := conns[0].SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conns[0].Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s keeps %d connections of strangers: %v", addr, flood, err)
		}
	}
	if !connected() {
		t.Error("the agent was disconnected by strangers")
	}
	second := hubtest.NewAgent(t, "prod-us", hubtest.AgentOptions{})
	second.MustJoin(h)
	second.Run()
	hubtest.Eventually(t, "an agent connects all the same", func() bool {
		return connectedTo(h, "prod-us")
	})
	if _, text := h.Do(http.MethodGet, "/metrics", ""); !bytes.Contains(text, []byte(`flotilla_hub_refusals_total{reason="TooManyConnections"}`)) {
		t.Error("they are not counted")
	}
}

func connectedTo(h *hubtest.Hub, cluster string) bool {
	return hubtest.Get[view.ClusterDetail](h, "/api/v1/clusters/"+cluster).Connected
}

// An agent's certificate is renewed as often as it needs, and not as often as it likes.
func TestRenewals_areLimited(t *testing.T) {
	h := hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	hc := a.HTTPClient(h)
	defer hc.CloseIdleConnections()
	c := hubv1.NewAgentServiceClient(hc, h.AgentURL())
	csr := certificateRequest(t)
	renewed := 0
	for range 100 {
		switch _, err := c.Renew(t.Context(), connect.NewRequest(&hubv1.RenewRequest{Csr: csr})); {
		case err == nil:
			renewed++
		case connect.CodeOf(err) != connect.CodeUnavailable:
			t.Fatal(err)
		}
	}
	if n := len(hubtest.Get[auditLog](h, "/api/v1/audit?action=renew").Items); renewed < 2 || renewed > 12 || n != renewed {
		t.Errorf("renewed %d times, with %d entries in the audit log", renewed, n)
	}
}
