package apply

import (
	"cmp"
	"context"
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

// DefaultConcurrency is how many requests are in flight at most where Config says nothing.
const DefaultConcurrency = 16

// Config is what an Applier needs.
type Config struct {
	// REST is how to reach the API server; required. Its rate limits are not used:
	// the server's priority and fairness decides.
	REST *rest.Config
	// Concurrency bounds the objects in work at once, over all bundles. Zero means DefaultConcurrency.
	Concurrency int
	// Log may be nil.
	Log *slog.Logger
	// AgentVersion is written into the BundleDeployments.
	AgentVersion string
	// Challenge is how long the holder of the Lease has to answer; zero means DefaultChallenge.
	Challenge time.Duration
	// DryRan is told of every dry run: how long it took, and how it ended. Nil means nobody asks.
	DryRan func(took time.Duration, err error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Applier writes to one cluster. Its methods may be called from many goroutines,
// but for one bundle only one of Apply, Prune and Correct at a time.
type Applier struct {
	log     *slog.Logger
	version string
	now     func() time.Time
	clock   *serverClock
	own     *client
	// slots are for requests that are answered soon, and all for all that are on their way.
	slots, all chan struct{}
	kinds      *kinds
	events     *eventLimiter
	status     *statusCache

	base *rest.Config
	// challengeFor is Config.Challenge
	challengeFor time.Duration

	refusals refusals
	facts    factsMemory

	mu sync.Mutex
	// clients: service account -> its impersonated client
	clients map[api.ServiceAccount]*client
}

// New returns an Applier. It does not talk to the cluster yet.
func New(cfg Config) (*Applier, error) {
	if cfg.REST == nil {
		return nil, errors.New("apply: REST is required")
	}
	if cfg.Concurrency < 0 {
		return nil, fmt.Errorf("apply: concurrency %d is negative", cfg.Concurrency)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
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
	a := &Applier{
		log: cfg.Log, version: cfg.AgentVersion, now: cfg.Now,
		clock:   &serverClock{now: cfg.Now},
		slots:   make(chan struct{}, cfg.Concurrency),
		all:     make(chan struct{}, slowFactor*cfg.Concurrency),
		clients: map[api.ServiceAccount]*client{},
		events:  newEventLimiter(cfg.Now),
		status:  newStatusCache(),
	}
	if a.challengeFor = cfg.Challenge; a.challengeFor <= 0 {
		a.challengeFor = DefaultChallenge
	}
	base := rest.CopyConfig(cfg.REST)
	base.QPS, base.Burst, base.RateLimiter = -1, 0, nil
	base.WarningHandler = rest.NoWarnings{}
	base.ContentType, base.AcceptContentTypes = "application/json", "application/json"
	base.NegotiatedSerializer = kubejson.Codecs
	base.GroupVersion = &schema.GroupVersion{}
	base.Wrap(a.clock.wrap)
	base.Wrap(newFairness().wrap)
	a.base = base
	var err error
	if a.own, err = newClient(base, cfg.DryRan); err != nil {
		return nil, err
	}
	if a.kinds, err = newKinds(base, cfg.Now); err != nil {
		return nil, err
	}
	return a, nil
}

// clientFor returns the client that acts as the bundle's service account.
func (a *Applier) clientFor(sa *api.ServiceAccount) (*client, error) {
	if sa == nil {
		return a.own, nil
	}
	if err := cmp.Or(api.CheckNamespace(sa.Namespace), api.CheckName(sa.Name)); err != nil {
		return nil, fmt.Errorf("the service account to act as: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.clients[*sa]; ok {
		return c, nil
	}
	cfg := rest.CopyConfig(a.base)
	// The API server adds the groups of a service account itself. Naming them would need the right to impersonate groups.
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + sa.Namespace + ":" + sa.Name}
	c, err := newClient(cfg, a.own.dryRan)
	if err != nil {
		return nil, err
	}
	a.clients[*sa] = c
	return c, nil
}

// An object that takes long, because a webhook does not answer or it waits to be gone, must not hold up the others:
// after slowAfter its slot is free for another one. There are never more than slowFactor times as many as there are slots.
const (
	slowAfter  = time.Second
	slowFactor = 8
)

// acquire takes one of the global slots; it fails when ctx ends first. release must be called once.
func (a *Applier) acquire(ctx context.Context) (release func(), err error) {
	for i, c := range []chan struct{}{a.all, a.slots} {
		select {
		case c <- struct{}{}:
		case <-ctx.Done():
			if i > 0 {
				<-a.all
			}
			return nil, ctx.Err()
		}
	}
	free := sync.OnceFunc(func() { <-a.slots })
	slow := time.AfterFunc(slowAfter, free)
	return func() {
		slow.Stop()
		free()
		<-a.all
	}, nil
}
