package agent

import (
	"log/slog"
	"time"

	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// TargetConfig is what a Target needs.
type TargetConfig struct {
	// REST is how to reach the API server; required.
	REST *rest.Config
	// Version is written into the BundleDeployments.
	Version string
	// Concurrency, Challenge, DryRan and Now are as in the configurations of the parts.
	Concurrency int
	Challenge   time.Duration
	DryRan      func(took time.Duration, err error)
	Now         func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Target is one cluster, with all that flotilla does there: what it learns from the API server,
// what it keeps there itself, and what it applies from Git.
type Target struct {
	*kube.Server
	*cluster.Client
	*apply.Applier
}

// Connect returns a Target. It does not talk to the cluster yet.
func Connect(cfg TargetConfig) (*Target, error) {
	server, err := kube.Connect(kube.Config{REST: cfg.REST, Log: cfg.Log, DryRan: cfg.DryRan, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	own, err := cluster.New(cluster.Config{
		Server: server, AgentVersion: cfg.Version, Challenge: cfg.Challenge, Log: cfg.Log, Now: cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	applier, err := apply.New(apply.Config{Server: server, Parents: own, Concurrency: cfg.Concurrency})
	if err != nil {
		return nil, err
	}
	return &Target{Server: server, Client: own, Applier: applier}, nil
}
