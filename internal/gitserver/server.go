// Package gitserver is a real Git server over HTTP for the demo and for tests:
// git's own http-backend behind net/http, over bare repositories below one directory.
// It needs the git binary and nothing else.
//
// Without a user name everybody may fetch and push;
// with one, both need it. It serves no web pages and speaks no TLS.
// git runs without the configuration of the machine and of its user,
// so a repository behaves the same everywhere.
package gitserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says what a Server serves, and where.
type Config struct {
	// Root is the directory of the bare repositories; it is created. Required.
	Root string
	// Addr is where to listen. Empty means a free port of 127.0.0.1.
	Addr string
	// Username and Password are asked for where Username is set.
	Username string
	Password string
}

// Server is a Git server. It can be stopped, and started again at the same address.
type Server struct {
	config  Config
	backend string

	mu   sync.Mutex
	addr string // the address of the first start, kept for the next
	http *http.Server
	done chan struct{} // closed when the serving goroutine has ended
}

// maxPush bounds what one push may send.
const maxPush = 1 << 30

// New finds git's http-backend and makes the root directory. It does not listen yet.
func New(config Config) (*Server, error) {
	if config.Root == "" {
		return nil, errors.New("gitserver: Root is needed")
	}
	root, err := filepath.Abs(config.Root)
	if err != nil {
		return nil, err
	}
	config.Root = root
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	backend, err := findBackend()
	if err != nil {
		return nil, err
	}
	return &Server{config: config, backend: backend, addr: config.Addr}, nil
}

func findBackend() (string, error) {
	out, err := exec.Command("git", "--exec-path").Output() //nolint:noctx // it answers at once
	if err != nil {
		return "", fmt.Errorf("git --exec-path: %w", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return "", fmt.Errorf("git's http-backend: %w", err)
	}
	return backend, nil
}

// Start listens and returns; requests are served until Stop.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return errors.New("gitserver: started already")
	}
	addr := s.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	s.http, s.done = server, done
	go func() {
		defer close(done)
		// Serve ends with ErrServerClosed, or because the listener is gone: both are an end.
		_ = server.Serve(l)
	}()
	return nil
}

// Stop cuts every connection, as a crash would, and waits until nothing listens any more.
// Stopping twice, or before a start, does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return nil
	}
	err := s.http.Close()
	<-s.done
	s.http = nil
	awaitRefusal(s.addr)
	return err
}

// awaitRefusal waits until connections to an address are refused.
// A child process that was being started when the listener was closed has it open a moment longer.
func awaitRefusal(addr string) {
	for range 400 {
		c, err := net.DialTimeout("tcp", addr, time.Second) //nolint:noctx // of a listener on this machine
		if err != nil {
			return
		}
		_ = c.Close()
		time.Sleep(5 * time.Millisecond)
	}
}

// Addr is host:port; empty before the first start where Config.Addr is.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URL is the address of a repository, without credentials.
func (s *Server) URL(repo string) string {
	return "http://" + s.Addr() + "/" + bareName(repo)
}

// Dir is the repository's directory on disk.
func (s *Server) Dir(repo string) string {
	return filepath.Join(s.config.Root, filepath.FromSlash(bareName(repo)))
}

// bareName adds the usual ".git".
func bareName(repo string) string {
	return strings.TrimSuffix(repo, ".git") + ".git"
}

// ServeHTTP answers one request by git's http-backend.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(w, "authentication required", http.StatusUnauthorized)
		return
	}
	if len(r.TransferEncoding) > 0 {
		// CGI wants a length, and git sends large pushes without one.
		spooled, err := spool(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer spooled.Close()
	}
	env := append(Environment(),
		"GIT_PROJECT_ROOT="+s.config.Root,
		"GIT_HTTP_EXPORT_ALL=1",
	)
	if p := r.Header.Get("Git-Protocol"); validProtocol(p) {
		env = append(env, "GIT_PROTOCOL="+p)
	}
	handler := cgi.Handler{Path: s.backend, Dir: s.config.Root, Env: env, Stderr: io.Discard}
	handler.ServeHTTP(w, r)
}

func (s *Server) allowed(r *http.Request) bool {
	if s.config.Username == "" {
		return true
	}
	user, password, ok := r.BasicAuth()
	return ok &&
		subtle.ConstantTimeCompare([]byte(user), []byte(s.config.Username)) == 1 &&
		subtle.ConstantTimeCompare([]byte(password), []byte(s.config.Password)) == 1
}

// spool puts a body of unknown length into a file, which goes when it is closed.
func spool(r *http.Request) (io.Closer, error) {
	f, err := os.CreateTemp("", "gitserver-push-*")
	if err != nil {
		return nil, err
	}
	closer := removing{f}
	n, err := io.Copy(f, io.LimitReader(r.Body, maxPush+1))
	if err == nil && n > maxPush {
		err = errors.New("the push is too large")
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(f), n, nil
	return closer, nil
}

type removing struct{ f *os.File }

func (c removing) Close() error { return errors.Join(c.f.Close(), os.Remove(c.f.Name())) }

// validProtocol keeps anything but git's own key=value words out of the environment.
func validProtocol(p string) bool {
	return p != "" && len(p) < 64 && strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789=:") == ""
}
