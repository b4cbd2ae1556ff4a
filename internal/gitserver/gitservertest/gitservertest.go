// Package gitservertest gives tests a real Git server and scripted repositories.
// Everything lives in the test's own directory, and git sees nothing of the developer's machine.
package gitservertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

// Server is a running Git server that ends with the test.
type Server struct {
	*gitserver.Server
	t testing.TB
}

// NewServer starts a server. Config.Root may be empty.
func NewServer(t testing.TB, config gitserver.Config) *Server {
	t.Helper()
	if config.Root == "" {
		config.Root = t.TempDir()
	}
	s := start(t, config)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &Server{Server: s, t: t}
}

// start chooses a port outside the range from which the system takes free ones:
// so nobody else gets it while the server is stopped.
// The control planes of tests take theirs from 12000 on.
func start(t testing.TB, config gitserver.Config) *gitserver.Server {
	t.Helper()
	fixed := config.Addr != ""
	for try := 1; ; try++ {
		if !fixed {
			config.Addr = fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(2_000))
		}
		s, err := gitserver.New(config)
		if err != nil {
			t.Fatal(err)
		}
		if err = s.Start(t.Context()); err == nil {
			return s
		}
		if fixed || try == 20 {
			t.Fatal(err)
		}
	}
}

// Stop ends the server until Restart.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.Server.Stop(); err != nil {
		s.t.Fatal(err)
	}
}

// Restart starts the server again at the same address.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.Start(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

// Repository is a bare repository with a script.
type Repository struct {
	// Dir is the repository on disk; it is a URL for git as it is.
	Dir string
	// URL is its address on the server; empty without a server.
	URL string
	t   testing.TB
}

// Repository makes an empty repository on the server.
func (s *Server) Repository(name string) *Repository {
	s.t.Helper()
	if err := s.Create(context.Background(), name); err != nil {
		s.t.Fatal(err)
	}
	return &Repository{Dir: s.Dir(name), URL: s.URL(name), t: s.t}
}

// New makes an empty repository without a server.
func New(t testing.TB) *Repository {
	t.Helper()
	dir := t.TempDir()
	if err := gitserver.Init(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return &Repository{Dir: dir, t: t}
}

// Commit writes files onto the default branch and returns the commit's hash.
func (r *Repository) Commit(files map[string]string) string {
	r.t.Helper()
	return r.Do(gitserver.Commit{Write: files})
}

// Do makes a commit of any shape and returns its hash.
func (r *Repository) Do(c gitserver.Commit) string {
	r.t.Helper()
	hash, err := c.Do(context.Background(), r.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return hash
}

// Git runs git in the repository and returns what it printed.
func (r *Repository) Git(args ...string) string {
	r.t.Helper()
	out, err := gitserver.Git(context.Background(), r.Dir, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}
