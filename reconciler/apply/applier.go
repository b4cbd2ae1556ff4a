package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/kube"
)

// DefaultConcurrency is how many requests are in flight at most where Config says nothing.
const DefaultConcurrency = 16

// Config is what an Applier needs.
type Config struct {
	// Server is the cluster's API server; required.
	Server *kube.Server
	// Parents keeps the BundleDeployments; required.
	Parents Parents
	// Concurrency bounds the objects in work at once, over all bundles. Zero means DefaultConcurrency.
	Concurrency int
}

// Parents keeps, on a bundle's BundleDeployment, what has to be known of the bundle before it is applied.
type Parents interface {
	// Announce makes sure, before anything of a bundle is written, that a rebuilt inventory would look
	// through all kinds that the bundle is about to have objects of. owned is what it owns so far.
	Announce(ctx context.Context, bundle api.RenderedBundle, revision string, owned []api.InventoryEntry) error
	// HooksRan returns what NoteHooks noted last of a bundle, and whether the bundle was ever applied to the end.
	HooksRan(ctx context.Context, bundle string) (ran, begun string, installed bool, err error)
	// NoteHooks notes for which change of a bundle its hooks ran to their end last, and for which those before its objects did.
	NoteHooks(ctx context.Context, bundle, ran, begun string) error
}

// Applier writes to one cluster what is in Git. Its methods may be called from many goroutines,
// but for one bundle only one of Apply, Prune and Correct at a time.
type Applier struct {
	server  *kube.Server
	parents Parents
	// slots are for requests that are answered soon, and all for all that are on their way.
	slots, all chan struct{}
	refusals   refusals
}

// New returns an Applier. It does not talk to the cluster yet.
func New(cfg Config) (*Applier, error) {
	if cfg.Server == nil || cfg.Parents == nil {
		return nil, errors.New("apply: Server and Parents are required")
	}
	if cfg.Concurrency < 0 {
		return nil, fmt.Errorf("apply: concurrency %d is negative", cfg.Concurrency)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	return &Applier{
		server: cfg.Server, parents: cfg.Parents,
		slots: make(chan struct{}, cfg.Concurrency), all: make(chan struct{}, slowFactor*cfg.Concurrency),
	}, nil
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
