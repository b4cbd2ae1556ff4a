package kube

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/kubejson"
)

// Config is what a Server needs.
type Config struct {
	// REST is how to reach the API server; required. Its rate limits are not used:
	// the server's priority and fairness decides.
	REST *rest.Config
	// Log may be nil.
	Log *slog.Logger
	// DryRan is told of every dry run: how long it took, and how it ended. Nil means nobody asks.
	DryRan func(took time.Duration, err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server is one API server: what it serves, what time it is there, and the clients that speak to it.
// Its methods may be called from many goroutines.
type Server struct {
	// Own speaks as ourselves.
	Own *Client
	// Kinds knows where the server has the objects of a kind.
	Kinds *Kinds

	log   *slog.Logger
	clock *serverClock
	base  *rest.Config
	facts factsMemory

	mu sync.Mutex
	// clients: service account -> its impersonated client
	clients map[api.ServiceAccount]*Client
}

// Connect returns a Server. It does not talk to it yet.
func Connect(cfg Config) (*Server, error) {
	if cfg.REST == nil {
		return nil, errors.New("kube: REST is required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DryRan == nil {
		cfg.DryRan = func(time.Duration, error) {}
	}
	s := &Server{log: cfg.Log, clock: &serverClock{now: cfg.Now}, clients: map[api.ServiceAccount]*Client{}}
	base := rest.CopyConfig(cfg.REST)
	base.QPS, base.Burst, base.RateLimiter = -1, 0, nil
	base.WarningHandler = rest.NoWarnings{}
	base.ContentType, base.AcceptContentTypes = "application/json", "application/json"
	base.NegotiatedSerializer = kubejson.Codecs
	base.GroupVersion = &schema.GroupVersion{}
	base.Wrap(s.clock.wrap)
	base.Wrap(newFairness().wrap)
	s.base = base
	var err error
	if s.Own, err = newClient(base, cfg.DryRan); err != nil {
		return nil, err
	}
	if s.Kinds, err = newKinds(base, cfg.Now); err != nil {
		return nil, err
	}
	return s, nil
}

// As returns the client that acts as a service account; as ourselves without one.
func (s *Server) As(sa *api.ServiceAccount) (*Client, error) {
	if sa == nil {
		return s.Own, nil
	}
	if err := cmp.Or(api.CheckNamespace(sa.Namespace), api.CheckName(sa.Name)); err != nil {
		return nil, fmt.Errorf("the service account to act as: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[*sa]; ok {
		return c, nil
	}
	cfg := rest.CopyConfig(s.base)
	// The API server adds the groups of a service account itself. Naming them would need the right to impersonate groups.
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + sa.Namespace + ":" + sa.Name}
	c, err := newClient(cfg, s.Own.dryRan)
	if err != nil {
		return nil, err
	}
	s.clients[*sa] = c
	return c, nil
}

// ClockSkew is what to add to this machine's time to get the API server's; zero where they agree.
// Ends of suspensions that were read elsewhere are in the server's time.
func (s *Server) ClockSkew() time.Duration { return s.clock.Skew() }
