package cluster

import (
	"errors"
	"log/slog"
	"time"

	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// Config is what a Client needs.
type Config struct {
	// Server is the cluster's API server; required.
	Server *kube.Server
	// AgentVersion is written into the BundleDeployments.
	AgentVersion string
	// Challenge is how long the holder of the Lease has to answer; zero means DefaultChallenge.
	Challenge time.Duration
	// Log may be nil.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client reads and writes what flotilla itself has on one cluster.
// Its methods may be called from many goroutines.
type Client struct {
	server       *kube.Server
	log          *slog.Logger
	version      string
	now          func() time.Time
	challengeFor time.Duration
	events       *eventLimiter
	status       *statusCache
}

// New returns a Client. It does not talk to the cluster yet.
func New(cfg Config) (*Client, error) {
	if cfg.Server == nil {
		return nil, errors.New("cluster: Server is required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Challenge <= 0 {
		cfg.Challenge = DefaultChallenge
	}
	return &Client{
		server: cfg.Server, log: cfg.Log, version: cfg.AgentVersion, now: cfg.Now, challengeFor: cfg.Challenge,
		events: newEventLimiter(cfg.Now), status: newStatusCache(),
	}, nil
}
