package git_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// overTLS is a Git server over https, with one repository that has one commit.
func overTLS(t *testing.T, change func(*tls.Config)) (url, caFile string) {
	t.Helper()
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
	if change != nil {
		change(server.TLS)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return server.URL + "/fleet.git", writeFile(t, filepath.Join(t.TempDir(), "ca.crt"), string(block))
}

// clientCertificate makes a certificate that signs itself, and the files of it and its key.
func clientCertificate(t *testing.T) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile = writeFile(t, filepath.Join(dir, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	keyFile = writeFile(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return cert, certFile, keyFile
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	cert, certFile, keyFile := clientCertificate(t)
	_, otherCert, otherKey := clientCertificate(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	url, ca := overTLS(t, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool })
	config := git.Config{URL: url, Ref: git.Ref{Branch: "main"}, CAFile: ca}

	_, err := open(t, config).Fetch(t.Context())
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "--git-cert-file")
	config.CertFile, config.KeyFile = otherCert, otherKey
	_, err = open(t, config).Fetch(t.Context())
	wantError(t, err, api.Forbidden, "AuthenticationFailed", "--git-cert-file")
	config.CertFile, config.KeyFile = certFile, otherKey
	_, err = open(t, config).Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadClientCertificate", "with the key in")
	config.KeyFile = ""
	_, err = open(t, config).Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadClientCertificate", "has no key")
	config.KeyFile = keyFile
	if got := fetch(t, open(t, config)); read(t, got, "a") != "1" {
		t.Errorf("snapshot is %+v", got)
	}
	// A mounted Secret of the type kubernetes.io/tls, with ca.crt.
	secret := t.TempDir()
	for name, from := range map[string]string{"ca.crt": ca, "tls.crt": certFile, "tls.key": keyFile} {
		copyFile(t, from, filepath.Join(secret, name))
	}
	fetch(t, open(t, git.Config{URL: url, CredentialsFile: secret}))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	writeFile(t, to, string(mustRead(t, from)))
}

// proxyServer is a proxy that counts what goes through it: it speaks SOCKS5 and HTTP, and asks for a user and a password.
type proxyServer struct {
	net.Listener
	through atomic.Int32
	serving sync.WaitGroup
}

const proxyUser, proxyPassword = "ann", "pr0xy-s3cret"

func newProxy(t *testing.T, serve func(*proxyServer, net.Conn) error) *proxyServer {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxyServer{Listener: l}
	p.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { defer c.Close(); _ = serve(p, c) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return p
}

// pipe connects a client with what it asked for.
func (p *proxyServer) pipe(c net.Conn, in io.Reader, to string) error {
	out, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return err
	}
	defer out.Close()
	p.through.Add(1)
	go func() { _, _ = io.Copy(out, in); _ = out.(*net.TCPConn).CloseWrite() }()
	_, err = io.Copy(c, out)
	return err
}

func serveHTTP(p *proxyServer, c net.Conn) error {
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+proxyPassword))
	if req.Header.Get("Proxy-Authorization") != want {
		_, err := io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return err
	}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return err
	}
	return p.pipe(c, in, req.Host)
}

func serveSOCKS(p *proxyServer, c net.Conn) error {
	in := bufio.NewReader(c)
	take := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(in, b)
		return b
	}
	take(int(take(2)[1])) // the methods that the client offers
	_, _ = c.Write([]byte{5, 2})
	user := string(take(int(take(2)[1])))
	password := string(take(int(take(1)[0])))
	if user != proxyUser || password != proxyPassword {
		_, err := c.Write([]byte{1, 1})
		return err
	}
	_, _ = c.Write([]byte{1, 0})
	host := ""
	switch head := take(4); head[3] {
	case 1:
		host = net.IP(take(4)).String()
	case 3:
		host = string(take(int(take(1)[0])))
	}
	port := take(2)
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return p.pipe(c, in, net.JoinHostPort(host, fmt.Sprint(int(port[0])<<8|int(port[1]))))
}

func TestProxies(t *testing.T) {
	t.Parallel()
	key := newSSHKey(t, "")
	f := newSSHFleet(t, key)
	f.Commit(map[string]string{"a": "1"})
	hosts := writeFile(t, filepath.Join(t.TempDir(), "known_hosts"), line(f.server.Addr(), f.host))
	secure, ca := overTLS(t, nil)
	for scheme, serve := range map[string]func(*proxyServer, net.Conn) error{"http": serveHTTP, "socks5": serveSOCKS} {
		for name, config := range map[string]git.Config{
			"https": {URL: secure, CAFile: ca},
			"ssh":   {URL: f.url, SSHKeys: []string{key.file}, KnownHosts: []string{hosts}},
		} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				p := newProxy(t, serve)
				config.Ref.Branch = "main"
				config.Proxy = scheme + "://" + proxyUser + ":wr0ng@" + p.Addr().String()
				_, err := open(t, config).Fetch(t.Context())
				if err == nil || strings.Contains(err.Error(), "wr0ng") {
					t.Errorf("with a wrong password: %v", err)
				}
				// Secrets have no place on a command line.
				config.Proxy = ""
				config.CredentialsFile = writeFile(t, filepath.Join(t.TempDir(), "credentials"),
					"proxy="+scheme+"://"+proxyUser+":"+proxyPassword+"@"+p.Addr().String()+"\n")
				s := open(t, config)
				fetch(t, s)
				if p.through.Load() == 0 {
					t.Error("the proxy was not used")
				}
				_ = p.Close()
			})
		}
	}
	for bad, text := range map[string]string{
		"ftp://u:pw@proxy": "not one of http, https, socks5", "http://u:pw@": "has no host", "http://u:pw@x y": "is not an address",
	} {
		_, err := open(t, git.Config{URL: secure, Ref: git.Ref{Branch: "main"}, Proxy: bad}).Fetch(t.Context())
		wantError(t, err, api.Stalled, "BadProxy", text)
		if strings.Contains(err.Error(), "pw") {
			t.Errorf("the password is in %q", err)
		}
	}
}

// gitHub is what a GitHub App talks to.
type gitHub struct {
	key    *rsa.PrivateKey
	given  atomic.Int32
	expiry time.Duration
	token  func(n int32) string
}

func (g *gitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if r.Method != http.MethodPost || r.URL.Path != "/app/installations/42/access_tokens" || len(parts) != 3 {
		http.Error(w, "what?", http.StatusNotFound)
		return
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Issuer string `json:"iss"`
		Issued int64  `json:"iat"`
		Expiry int64  `json:"exp"`
	}
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	if json.Unmarshal(claims, &c) != nil || c.Issuer != "7" || c.Expiry-c.Issued > 600 || !g.signed(parts[0]+"."+parts[1], sig) {
		http.Error(w, "bad", http.StatusUnauthorized)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"token": g.token(g.given.Add(1)), "expires_at": time.Now().Add(g.expiry)})
}

func TestGitHubApp(t *testing.T) {
	t.Parallel()
	const token = "ghs_s3cret"
	server := gitservertest.NewServer(t, gitserver.Config{Username: "x-access-token", Password: token})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "1"})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &gitHub{key: key, expiry: time.Hour, token: func(int32) string { return token }}
	hub := httptest.NewServer(g)
	t.Cleanup(hub.Close)
	secret := t.TempDir()
	for name, value := range map[string]string{
		"githubAppID": "7", "githubAppInstallationID": "42", "githubAppBaseURL": hub.URL,
		"githubAppPrivateKey": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	} {
		writeFile(t, filepath.Join(secret, name), value+"\n")
	}
	s := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: secret})
	for range 3 {
		fetch(t, s)
	}
	if n := g.given.Load(); n != 1 {
		t.Errorf("asked for %d tokens, and one is valid for an hour", n)
	}
	// The same in lines of a file; the token ends at once, so each conversation asks for another.
	g.expiry = time.Minute
	file := writeFile(t, filepath.Join(t.TempDir(), "credentials"),
		"githubAppID=7\ngithubAppInstallationID=42\ngithubAppBaseURL="+hub.URL+"\ngithubAppPrivateKey="+filepath.Join(secret, "githubAppPrivateKey")+"\n")
	s = open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: file})
	fetch(t, s)
	fetch(t, s)
	if n := g.given.Load(); n != 3 {
		t.Errorf("asked for %d tokens in all, want 3", n)
	}
	for name, test := range map[string]struct {
		value string
		kind  api.ErrorKind
		text  string
	}{
		"githubAppInstallationID": {"43", api.Forbidden, "404"},
		"githubAppID":             {"8", api.Forbidden, "401"},
		"githubAppPrivateKey":     {"nothing", api.Stalled, "not a key in PEM form"},
		"githubAppBaseURL":        {"http://github.example.com", api.Stalled, "must be an https address"},
	} {
		old := mustRead(t, filepath.Join(secret, name))
		writeFile(t, filepath.Join(secret, name), test.value)
		_, err := open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: secret}).Fetch(t.Context())
		wantError(t, err, test.kind, "GitHubAppFailed", test.text)
		writeFile(t, filepath.Join(secret, name), string(old))
	}
	writeFile(t, filepath.Join(secret, "githubAppID"), "")
	_, err = open(t, git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, CredentialsFile: secret}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "BadCredentialsFile", "needs all of githubAppID")
}

func (g *gitHub) signed(text string, sig []byte) bool {
	digest := sha256.Sum256([]byte(text))
	return rsa.VerifyPKCS1v15(&g.key.PublicKey, crypto.SHA256, digest[:], sig) == nil
}

func mustRead(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
