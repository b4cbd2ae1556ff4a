package hub_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
)

// What people and strangers can do at the hub's address for people, tried on a real hub over TLS.

// logged is a log that a test can read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// guarded is a hub over TLS with tokens from a file, and its log.
func guarded(t *testing.T, tokens string, cfg hub.Config) (*hubtest.Hub, *logged) {
	t.Helper()
	dir, log := t.TempDir(), &logged{}
	cfg.HTTPCertFile, cfg.HTTPKeyFile = hubtest.Certificate(t, dir)
	cfg.TokensFile = filepath.Join(dir, "tokens")
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	writeFile(t, cfg.TokensFile, tokens)
	h := hubtest.Start(t, cfg)
	if !strings.HasPrefix(h.URL(), "https://") {
		t.Fatalf("the hub is at %s", h.URL())
	}
	return h, log
}

// writeFile replaces a file at once, as an editor or a mounted Secret does.
func writeFile(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// request asks with headers, given as name and value in turn. It follows no redirect.
func request(t *testing.T, h *hubtest.Hub, verb, path string, headers ...string) (status int, res *http.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), verb, h.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	hc := &http.Client{Transport: h.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer hc.CloseIdleConnections()
	if res, err = hc.Do(req); err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res
}

// login returns the cookie of a new session.
func login(t *testing.T, h *hubtest.Hub, token string) *http.Cookie {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: h.Transport(), Jar: jar}
	defer hc.CloseIdleConnections()
	res, err := hc.PostForm(h.URL()+"/login", url.Values{"token": {token}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	at, err := url.Parse(h.URL())
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || len(jar.Cookies(at)) != 1 {
		t.Fatalf("login: %s, cookies %v", res.Status, jar.Cookies(at))
	}
	return jar.Cookies(at)[0]
}

func opens(t *testing.T, h *hubtest.Hub, c *http.Cookie) bool {
	t.Helper()
	status, _ := request(t, h, http.MethodGet, "/api/v1/clusters", "Cookie", c.String())
	return status == http.StatusOK
}

// stream listens for events; the channel is closed when the hub ends the stream.
func stream(t *testing.T, h *hubtest.Hub, headers ...string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	hc := &http.Client{Transport: h.Transport()}
	res, err := hc.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("events: %v, %v", res, err)
	}
	in := bufio.NewReader(res.Body)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // however it ends
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = res.Body.Close()
		hc.CloseIdleConnections()
	})
	return ended
}

func endsSoon(t *testing.T, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Errorf("%s goes on", what)
	}
}

const (
	annsToken = "token-of-ann-the-admin"
	bobsToken = "token-of-bob-the-viewer"
	twoPeople = "ann admin " + annsToken + "\nbob viewer " + bobsToken + "\n"
)

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// A stranger who tries tokens from the address of a proxy locks nobody out behind it, and is seen.
func TestAttack_wrongTokens(t *testing.T) {
	now := time.Now() // one minute, which does not end
	h, log := guarded(t, twoPeople, hub.Config{Now: func() time.Time { return now }})
	const wrong = "a-token-that-somebody-tries"
	var last int
	for range 60 {
		last, _ = request(t, h, http.MethodGet, "/api/v1/clusters", bearer(wrong)...)
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the last wrong token: %d, want 429", last)
	}
	if status, _ := request(t, h, http.MethodGet, "/api/v1/clusters", bearer(bobsToken)...); status != http.StatusOK {
		t.Errorf("a right token from the same address: %d", status)
	}
	if c := login(t, h, bobsToken); !opens(t, h, c) {
		t.Error("the login form refuses a right token from the same address")
	}
	_, body := h.DoAs(bobsToken, http.MethodGet, "/metrics", "")
	if !strings.Contains(string(body), "flotilla_hub_wrong_tokens_total 60\n") {
		t.Error("the metrics do not count 60 wrong tokens")
	}
	if n := strings.Count(log.String(), "a wrong token was refused"); n < 1 || n > 3 || !strings.Contains(log.String(), "remote=127.0.0.1") {
		t.Errorf("%d lines in the log:\n%s", n, log)
	}
	if strings.Contains(log.String(), wrong) {
		t.Error("the log holds a token")
	}
	if _, body := h.DoAs(annsToken, http.MethodGet, "/api/v1/audit", ""); strings.Contains(string(body), "127.0.0.1") {
		t.Errorf("strangers are in the people's log: %s", body)
	}
}

// A stranger chooses the address in the log only if the hub trusts the proxy that says so.
func TestAttack_forgedAddress(t *testing.T) {
	for _, c := range []struct {
		trusted []netip.Prefix
		want    string
	}{
		{nil, "remote=127.0.0.1"},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "remote=127.0.0.1"},
		{[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, "remote=198.51.100.7"},
	} {
		h, log := guarded(t, twoPeople, hub.Config{TrustedProxies: c.trusted})
		request(t, h, http.MethodGet, "/api/v1/clusters", append(bearer("a-wrong-token"), "X-Forwarded-For", "6.6.6.6, 198.51.100.7")...)
		if !strings.Contains(log.String(), c.want) || strings.Contains(log.String(), "6.6.6.6") {
			t.Errorf("with %v the log says not %s:\n%s", c.trusted, c.want, log)
		}
	}
}

// Who is taken out of the tokens file is out: bearer, session and event stream; who comes in is in.
func TestAttack_removedToken(t *testing.T) {
	h, log := guarded(t, twoPeople, hub.Config{})
	bob, ann := login(t, h, bobsToken), login(t, h, annsToken)
	bobs, bobsByHeader, anns := stream(t, h, "Cookie", bob.String()), stream(t, h, bearer(bobsToken)...), stream(t, h, "Cookie", ann.String())
	if !opens(t, h, bob) || !opens(t, h, ann) {
		t.Fatal("a session opens nothing")
	}
	works := func(token string) bool {
		status, _ := request(t, h, http.MethodGet, "/api/v1/clusters", bearer(token)...)
		return status == http.StatusOK
	}

	const cyds = "token-of-cyd-the-operator"
	writeFile(t, h.TokensFile, "ann viewer "+annsToken+"\ncyd operator "+cyds+"\n")
	endsSoon(t, "the event stream of a session whose token is gone", bobs)
	endsSoon(t, "the event stream of a token that is gone", bobsByHeader)
	if works(bobsToken) || opens(t, h, bob) {
		t.Error("a removed token works")
	}
	if !works(cyds) || !opens(t, h, ann) {
		t.Error("a new token, or the session of one that stayed, does not work")
	}
	select {
	case <-anns:
		t.Error("the event stream of a token that stayed has ended")
	default:
	}
	if status, _ := request(t, h, http.MethodGet, "/api/v1/audit", bearer(annsToken)...); status != http.StatusForbidden {
		t.Errorf("an admin who became a viewer: %d, want 403", status)
	}
	// It comes back: its old sessions do not.
	writeFile(t, h.TokensFile, twoPeople)
	hubtest.Eventually(t, "bob is back", func() bool { return works(bobsToken) })
	if opens(t, h, bob) {
		t.Error("a session that ended with its token came back with it")
	}

	// A mistake keeps what is good, and is told.
	writeFile(t, h.TokensFile, "ann admin\n")
	hubtest.Eventually(t, "the mistake is told", func() bool {
		_, body := h.DoAs(annsToken, http.MethodGet, "/metrics", "")
		return strings.Contains(log.String(), "level=ERROR") && strings.Contains(string(body), fmt.Sprintf("flotilla_hub_file_broken{file=%q} 1\n", h.TokensFile))
	})
	if !strings.Contains(log.String(), "tokens: line 1") || !works(annsToken) || !works(bobsToken) || works(cyds) {
		t.Errorf("after a mistake in the file:\n%s", log)
	}

	// An empty file is nobody, and no other token comes in its place, also after a restart.
	writeFile(t, h.TokensFile, "# nobody\n")
	endsSoon(t, "the last event stream", anns)
	nobody := func(when string) {
		t.Helper()
		if works(annsToken) || works(bobsToken) || works("") || opens(t, h, ann) {
			t.Errorf("%s an empty tokens file lets somebody in", when)
		}
		if _, err := os.Stat(filepath.Join(h.DataDir(), "admin-token")); !os.IsNotExist(err) {
			t.Errorf("%s there is an admin-token: %v", when, err)
		}
	}
	nobody("while the hub runs,")
	h.Stop()
	h.Restart()
	nobody("from the start,")
}

// The token that a hub makes for itself can be replaced, and ends.
func TestAttack_adminTokenIsReplaced(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "admin-token")
	writeFile(t, file, annsToken+"\n")
	h := hubtest.Start(t, hub.Config{DataDir: dir, Tokens: []hub.Token{}})
	if status, _ := h.DoAs(annsToken, http.MethodGet, "/api/v1/audit", ""); status != http.StatusOK {
		t.Fatalf("the token of the file: %d", status)
	}
	writeFile(t, file, bobsToken+"\n")
	hubtest.Eventually(t, "the other token", func() bool {
		status, _ := h.DoAs(bobsToken, http.MethodGet, "/api/v1/audit", "")
		return status == http.StatusOK
	})
	if status, _ := h.DoAs(annsToken, http.MethodGet, "/api/v1/audit", ""); status == http.StatusOK {
		t.Error("the old token goes on working")
	}
}

// A renewed certificate is used without a restart; a broken one is not.
func TestAttack_certificateIsRenewed(t *testing.T) {
	h, log := guarded(t, twoPeople, hub.Config{})
	serial := func() string {
		c, err := tls.Dial("tcp", h.HTTPAddr(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is looked at, not trusted
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before, certFile := serial(), h.CertFile()
	good, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, certFile, "-----BEGIN NONSENSE-----")
	hubtest.Eventually(t, "the broken one is told", func() bool { return strings.Contains(log.String(), "cannot be used") })
	if got := serial(); got != before {
		t.Errorf("with a broken file the hub shows %s", got)
	}
	writeFile(t, certFile, string(good))
	hubtest.Certificate(t, filepath.Dir(certFile)) // the certificate, then the key: between them they do not fit
	hubtest.Eventually(t, "the renewed one", func() bool { return serial() != before })
	if status, _ := request(t, h, http.MethodGet, "/api/v1/clusters", bearer(annsToken)...); status != http.StatusOK {
		t.Errorf("with the renewed certificate: %d", status)
	}
}

// A cookie that was copied before the logout opens nothing after it.
func TestAttack_cookieAfterLogout(t *testing.T) {
	h, _ := guarded(t, twoPeople, hub.Config{})
	c, other := login(t, h, bobsToken), login(t, h, bobsToken)
	events := stream(t, h, "Cookie", c.String())
	if status, _ := request(t, h, http.MethodPost, "/logout", "Cookie", c.String()); status != http.StatusSeeOther {
		t.Errorf("logout: %d", status)
	}
	endsSoon(t, "the event stream after the logout", events)
	if opens(t, h, c) {
		t.Error("the cookie still opens the hub")
	}
	if !opens(t, h, other) {
		t.Error("another session of the token has ended, too")
	}
	h.Stop()
	h.Restart()
	if opens(t, h, c) || !opens(t, h, other) {
		t.Error("a restart ends or begins sessions")
	}
}

// An admin sees all sessions, and ends those of a token.
func TestAttack_adminEndsSessions(t *testing.T) {
	h, _ := guarded(t, twoPeople, hub.Config{})
	first, second, ann := login(t, h, bobsToken), login(t, h, bobsToken), login(t, h, annsToken)
	events := stream(t, h, "Cookie", first.String())
	_, body := h.DoAs(annsToken, http.MethodGet, "/api/v1/sessions", "")
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal(body, &list); err != nil || len(list.Items) != 3 {
		t.Fatalf("sessions: %s", body)
	}
	for _, secret := range []string{first.Value, second.Value, ann.Value, bobsToken, "fingerprint"} {
		if strings.Contains(string(body), secret) {
			t.Errorf("the list holds %q", secret)
		}
	}
	end := func(token, query string) int {
		status, _ := h.DoAs(token, http.MethodDelete, "/api/v1/sessions"+query, "")
		return status
	}
	if got := end(bobsToken, "?token=ann"); got != http.StatusForbidden {
		t.Errorf("a viewer ends sessions: %d", got)
	}
	if got := end(annsToken, ""); got != http.StatusBadRequest {
		t.Errorf("nobody's sessions: %d", got)
	}
	if got := end(annsToken, "?token=bobby"); got != http.StatusNotFound {
		t.Errorf("sessions of nobody: %d", got)
	}
	if got := end(annsToken, "?token=bob"); got != http.StatusOK {
		t.Errorf("bob's sessions: %d", got)
	}
	endsSoon(t, "the event stream of a session that an admin ended", events)
	if opens(t, h, first) || opens(t, h, second) || !opens(t, h, ann) {
		t.Error("not exactly bob's sessions have ended")
	}
	if got := end(annsToken, fmt.Sprintf("?id=%s", list.Items[2]["id"])); got != http.StatusOK || opens(t, h, ann) {
		t.Errorf("one session by its ID: %d", got)
	}
}

// Another site's page does nothing with a session, although a browser sends the cookie along with links.
func TestAttack_otherSites(t *testing.T) {
	h, _ := guarded(t, twoPeople, hub.Config{})
	c := login(t, h, annsToken)
	if c.Value == "" {
		t.Fatal("no session")
	}
	own := h.URL()
	for _, r := range []struct {
		verb, path string
		headers    []string
		want       int
	}{
		{"POST", "/api/v1/join-tokens", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/api/v1/join-tokens", []string{"Sec-Fetch-Site", "same-site"}, 403}, // a neighbour below the same domain
		{"POST", "/api/v1/join-tokens", []string{"Origin", "https://evil.example"}, 403},
		{"POST", "/api/v1/join-tokens", []string{"Origin", "null"}, 403},
		{"POST", "/api/v1/join-tokens", nil, 403}, // says nothing
		{"DELETE", "/api/v1/sessions?token=ann", nil, 403},
		{"POST", "/api/v1/join-tokens", []string{"Origin", own}, 200},
		{"POST", "/api/v1/join-tokens", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"GET", "/drift", []string{"Sec-Fetch-Site", "cross-site"}, 200}, // a link in a chat
		{"POST", "/logout", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/login", []string{"Sec-Fetch-Site", "cross-site"}, 403},
	} {
		if got, _ := request(t, h, r.verb, r.path, append([]string{"Cookie", c.String()}, r.headers...)...); got != r.want {
			t.Errorf("%s %s with %q: %d, want %d", r.verb, r.path, r.headers, got, r.want)
		}
	}
	// Nor does a link log somebody in under another name.
	_, res := request(t, h, http.MethodGet, "/?token="+bobsToken, "Cookie", c.String(), "Sec-Fetch-Site", "cross-site")
	if len(res.Cookies()) != 0 || res.Header.Get("Location") != "/" {
		t.Errorf("a link of another site gives the cookies %v and leads to %q", res.Cookies(), res.Header.Get("Location"))
	}
	_, res = request(t, h, http.MethodGet, "/?token="+bobsToken, "Sec-Fetch-Site", "none")
	if len(res.Cookies()) != 1 {
		t.Fatalf("a pasted link gives the cookies %v", res.Cookies())
	}
	if got := res.Cookies()[0]; !got.Secure || !got.HttpOnly || got.SameSite != http.SameSiteLaxMode {
		t.Errorf("cookie %v", got)
	}
}

// Taking back, ending or forgetting what does not exist is an error, and says what exists.
func TestWhatDoesNotExist(t *testing.T) {
	h, a := known(t)
	ids := hubtest.Get[struct{ Items []struct{ ID string } }](h, "/api/v1/join-tokens").Items
	if len(ids) != 1 {
		t.Fatalf("join tokens %v", ids)
	}
	for _, r := range []struct{ verb, path, body, says string }{
		{"POST", "/api/v1/clusters/prod-ue/revoke", `{"reason": "gone"}`, a.Cluster},
		{"DELETE", "/api/v1/clusters/prod-ue", "", a.Cluster},
		{"POST", "/api/v1/clusters/prod-ue/sync", "", a.Cluster},
		{"POST", "/api/v1/clusters/prod-ue/resume", "", a.Cluster},
		{"GET", "/api/v1/clusters/prod-ue", "", a.Cluster},
		{"DELETE", "/api/v1/join-tokens/0123456789ab", "", ids[0].ID},
		{"DELETE", "/api/v1/sessions?token=nobody", "", "there are none"},
	} {
		status, body := h.Do(r.verb, r.path, r.body)
		var e struct {
			Error struct{ Reason string }
			Hint  string
		}
		if err := json.Unmarshal(body, &e); err != nil || status != http.StatusNotFound || e.Error.Reason != "NotFound" || !strings.Contains(e.Hint, r.says) {
			t.Errorf("%s %s: %d %s", r.verb, r.path, status, body)
		}
	}
	if status, body := h.Do("DELETE", "/api/v1/join-tokens/"+ids[0].ID, ""); status != http.StatusOK {
		t.Errorf("a join token that is there: %d %s", status, body)
	}
	revoke := func() (int, string) {
		status, body := h.Do("POST", "/api/v1/clusters/prod-eu/revoke", `{"reason": "the laptop was lost"}`)
		return status, string(body)
	}
	if status, body := revoke(); status != http.StatusOK {
		t.Errorf("a certificate that is there: %d %s", status, body)
	}
	if status, body := revoke(); status != http.StatusNotFound || !strings.Contains(body, "the laptop was lost") {
		t.Errorf("one that is revoked already: %d %s", status, body)
	}
}

// The audit log is a page for admins, with the same content as its JSON; its filters and texts are nobody's markup.
func TestAuditPage(t *testing.T) {
	h, _ := guarded(t, twoPeople, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	st := hubtest.Status("prod-eu", rev1)
	st.Status.Suspensions = []api.Suspension{{
		Name: "inc-1", Scope: api.Scope{Bundles: []string{"podinfo"}}, Reason: "<script>alert(1)</script>", Actor: "dana@laptop",
		Created: time.Now(), Until: time.Now().Add(time.Hour),
	}}
	a.Commit(st)
	delivered(t, a)
	// An agent that takes no orders says so: that is told as well.
	if status, _ := h.DoAs(annsToken, http.MethodPost, "/api/v1/clusters/prod-eu/sync", `{"bundle": "podinfo"}`); status != http.StatusUnprocessableEntity {
		t.Errorf("sync: %d", status)
	}
	page := func(path string) string {
		t.Helper()
		status, body := h.DoAs(annsToken, http.MethodGet, path, "")
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
		return string(body)
	}
	all := page("/audit")
	for _, want := range []string{
		"dana@laptop", "inc-1", "bundles [podinfo]", "reported by the agent", "a Suspension object", "&lt;script&gt;", ">ann<", ">sync<", "join token ", "This page as JSON",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(all, "<script>alert") {
		t.Error("a reason is markup")
	}
	if some := page("/audit?actor=ann"); strings.Contains(some, "inc-1") || !strings.Contains(some, "actor: ann") {
		t.Error("the filter does not filter")
	}
	if none := page("/audit?cluster=%3Cb%3E&before=1"); !strings.Contains(none, "Nothing here") || strings.Contains(none, "cluster: <b>") {
		t.Error("a filter that nothing fits")
	}
	if status, _ := h.DoAs(annsToken, http.MethodGet, "/audit?before=x", ""); status != http.StatusBadRequest {
		t.Errorf("a filter that makes no sense: %d", status)
	}
	bob := login(t, h, bobsToken)
	if status, res := request(t, h, http.MethodGet, "/audit", "Cookie", bob.String()); status != http.StatusForbidden || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Errorf("a viewer's page: %d, %s", status, res.Header.Get("Content-Type"))
	}
	if _, body := h.DoAs(bobsToken, http.MethodGet, "/", ""); strings.Contains(string(body), `href="/audit"`) {
		t.Error("a viewer is led to the audit log")
	}
}

// Join files, pages and JSON name the hub as others reach it.
func TestPublicAddress(t *testing.T) {
	for _, c := range []struct {
		cfg            hub.Config
		agents, people string
	}{
		{hub.Config{}, "https://127.0.0.1:AGENTS", "http://127.0.0.1:PEOPLE"},
		{hub.Config{Hosts: []string{"hub.example.com", "10.0.0.1"}}, "https://hub.example.com:AGENTS", "http://hub.example.com:PEOPLE"},
		{
			hub.Config{Hosts: []string{"hub.example.com"}, PublicURL: "https://fleet.example.com/", AdvertiseURL: "https://agents.example.com:443"},
			"https://agents.example.com:443", "https://fleet.example.com",
		},
	} {
		h := hubtest.Start(t, c.cfg)
		_, agentPort, err := net.SplitHostPort(h.AgentAddr())
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(h.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		agents, people := strings.Replace(c.agents, "AGENTS", agentPort, 1), strings.Replace(c.people, "PEOPLE", port, 1)
		_, body := h.Do(http.MethodPost, "/api/v1/join-tokens", `{"cluster": "prod-eu"}`)
		var m hub.JoinMaterial
		if err := json.Unmarshal(body, &m); err != nil || m.URL != agents || m.Hub != people {
			t.Errorf("%v: join material names %q and %q, want %q and %q", c.cfg.Hosts, m.URL, m.Hub, agents, people)
		}
		if _, page := h.Do(http.MethodGet, "/", ""); !strings.Contains(string(page), "flotilla join --hub "+people+" ") {
			t.Errorf("%v: the page does not name %s", c.cfg.Hosts, people)
		}
		// What join material names, the certificate is for.
		u, err := url.Parse(agents)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(h.CAPEM())
		conn, err := tls.Dial("tcp", h.AgentAddr(), &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: u.Hostname(), NextProtos: []string{"h2"}})
		if err != nil {
			t.Errorf("as %s: %v", u.Hostname(), err)
			continue
		}
		conn.Close()
	}
	for _, bad := range []hub.Config{
		{AdvertiseURL: "hub.example.com:7443"},
		{AdvertiseURL: "http://hub.example.com"},
		{PublicURL: "https://"},
		{PublicURL: "https://hub.example.com/below"},
		{PublicURL: "ftp://hub.example.com"},
		{PublicURL: "https://u:p@hub.example.com"},
		{PublicURL: "://"},
	} {
		bad.DataDir = t.TempDir()
		if h, err := hub.New(bad); err == nil {
			t.Errorf("%q %q is taken for an address", bad.AdvertiseURL, bad.PublicURL)
			_ = h.Close()
		}
	}
}

// Over TLS the session's cookie is one that no neighbouring host, and nobody who answers without TLS, can set:
// a browser takes it from the hub alone, and the hub takes no other.
func TestAttack_cookieOfANeighbour(t *testing.T) {
	h, _ := guarded(t, "bob operator "+bobsToken+"\n", hub.Config{})
	_, res := request(t, h, http.MethodGet, "/?token="+bobsToken)
	if len(res.Cookies()) != 1 {
		t.Fatalf("cookies %v", res.Cookies())
	}
	c := res.Cookies()[0]
	if c.Name != "__Host-flotilla_session" || !c.Secure || c.Path != "/" || c.Domain != "" {
		t.Errorf("the cookie is %s", c.Raw)
	}
	if !opens(t, h, c) {
		t.Error("its own cookie is not taken")
	}
	if c.Name = "flotilla_session"; opens(t, h, c) {
		t.Error("a cookie that a neighbour can set is taken")
	}
}
