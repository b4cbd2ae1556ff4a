// Package agent is the daemon that keeps one cluster equal to the fleet repository.
// It wires the stages together and gives each of them an owner:
// what New opens, Close closes; what Run starts, Run waits for.
// It decides nothing itself.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/drift/persons"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/drift/watch"
	"github.com/flotilla-fleet/flotilla/internal/lifecycle"
	"github.com/flotilla-fleet/flotilla/internal/redact"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/reconciler"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/sources"
)

// Config is what an agent needs to know.
type Config struct {
	// Cluster is its cluster's name in the fleet repository. Required.
	Cluster string
	// REST is how to reach the cluster. Required.
	REST *rest.Config
	// Dir holds the store, the mirror of the repository and the hub's identity. Required.
	// All of it can be lost: the cluster and the repository hold what matters.
	Dir string
	// Source is the fleet repository. Its URL is required; where its mirror is and its log are set by New.
	Source sources.Config
	// ChartCredentialsFile is for chart repositories and registries; see RendererConfig.
	ChartCredentialsFile string
	// AgeKeyFiles hold the identities that decrypt Secrets: FILE, or NAME=FILE for those of a tenant.
	AgeKeyFiles []string
	// Worker and Limits bound what the rendering of a bundle may take; see RendererConfig.
	Worker []string
	Limits sandbox.Limits
	// JoinFile is the hub's join material; needed once, and again to join anew. Empty, and without an identity
	// from an earlier join, means that there is no hub.
	JoinFile string
	// Standby has Open wait while another agent has the cluster or the directory, rather than Run fail.
	Standby bool
	// Listen is where /healthz, /readyz and /metrics are served. Empty means nowhere.
	Listen string
	// Poll, Compare and Workers are as in reconciler.Config.
	Poll, Compare time.Duration
	Workers       int
	Version       string
	Log           *slog.Logger
	// Fights says when a drift that comes back is a fight; zero fields mean the defaults.
	Fights drift.Limits
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (c Config) validate() error {
	switch {
	case !api.ValidName(c.Cluster):
		return fmt.Errorf("%q is not a cluster's name: at most 63 lower-case letters, digits and dashes", c.Cluster)
	case c.REST == nil:
		return errors.New("there is no cluster to talk to")
	case c.Dir == "":
		return errors.New("the agent needs a directory for its store")
	case c.Source.URL == "":
		return errors.New("the agent needs a fleet repository")
	case c.Log == nil:
		return errors.New("the agent needs a log")
	}
	return nil
}

func badConfig(err error) error { return &api.Error{Kind: api.Stalled, Reason: "BadConfig", Err: err} }

// Agent keeps one cluster equal to the repository. Make it with New, Run it once, then Close it.
type Agent struct {
	cfg      Config
	now      func() time.Time
	teardown lifecycle.Stack

	store      *store.Store
	source     sources.Source
	target     *Target
	tracker    *health.Tracker
	watch      *watch.Watcher
	scalers    *watch.Watcher // of the cluster's autoscalers, whoever made them
	reconciler *reconciler.Reconciler
	registry   *prometheus.Registry
	ordered    chan struct{} // somebody may have ordered a sync on the cluster
	persons    *persons.Persons
	challenged chan struct{} // the agent's Lease changed
	// leased is when the API server last said that the Lease is this agent's; nil if it has not.
	leased atomic.Pointer[time.Time]
	probe  diskProbe
}

var (
	reportID = cluster.ReportRef().ID()
	leaseID  = cluster.LeaseRef().ID()
)

// New opens the store and wires the stages. It does not talk to the cluster yet.
func New(cfg Config) (a *Agent, err error) {
	if err := cfg.validate(); err != nil {
		return nil, badConfig(err)
	}
	a = &Agent{cfg: cfg, probe: diskProbe{dir: cfg.Dir}, now: cfg.Now, registry: prometheus.NewRegistry(), ordered: make(chan struct{}, 1), challenged: make(chan struct{}, 1)}
	if a.now == nil {
		a.now = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := a.openStore(); err != nil {
		return a, err
	}
	if a.persons, err = persons.New(cfg.Dir); err != nil {
		return a, err
	}
	if err := a.openStages(); err != nil {
		return a, err
	}
	return a, nil
}

func (a *Agent) openStore() error {
	st, aside, err := store.OpenOrReplace(store.Config{
		Path: filepath.Join(a.cfg.Dir, "agent.db"), Cluster: a.cfg.Cluster, Now: a.now,
	}, a.now())
	if err != nil {
		return err
	}
	if aside != "" {
		a.cfg.Log.Error("the store was damaged and is begun anew; the history is in the old file", "file", aside)
	}
	a.store = st
	a.teardown.Push("store", st.Close)
	return nil
}

func (a *Agent) openStages() error {
	log := func(component string) *slog.Logger { return a.cfg.Log.With("component", component) }
	var err error
	repository := a.cfg.Source
	repository.Dir, repository.Log = filepath.Join(a.cfg.Dir, "mirror"), log("source")
	a.source, err = sources.Open(repository)
	if err != nil {
		return err
	}
	a.teardown.Push("source", a.source.Close)
	renderer, err := NewRenderer(RendererConfig{
		LateKeys:    true,
		AgeKeyFiles: a.cfg.AgeKeyFiles, CacheDir: a.cfg.Dir, ChartCredentialsFile: a.cfg.ChartCredentialsFile,
		Worker: a.cfg.Worker, Limits: a.cfg.Limits, RefusedDir: filepath.Join(a.cfg.Dir, "refused"), Log: log("render"),
	})
	if err != nil {
		return err
	}
	a.teardown.Push("workers", func() error { renderer.Close(); return nil })
	metrics := reconciler.NewMetrics(a.registry)
	if a.target, err = Connect(TargetConfig{
		REST: a.cfg.REST, Log: log("apply"), Version: a.cfg.Version, Now: a.now, DryRan: metrics.DryRan,
	}); err != nil {
		return err
	}
	if a.tracker, err = health.New(health.Config{REST: a.cfg.REST, Log: log("health")}); err != nil {
		return err
	}
	a.watch, err = watch.New(watch.Config{
		REST: a.cfg.REST, Log: log("watch"), Handler: a.saw, Relisted: a.relisted, Lost: a.lost, OnSuspensions: a.suspensions,
	})
	if err != nil {
		return err
	}
	if a.scalers, err = watch.New(watch.Config{
		REST: a.cfg.REST, Log: log("watch"), Handler: a.sawScaler, Selector: watch.Everything,
		Relisted: func(schema.GroupVersionKind) { a.reconciler.Drift().ScalersChanged("") },
	}); err != nil {
		return err
	}
	a.scalers.SetKinds([]schema.GroupVersionKind{{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}})
	a.reconciler, err = reconciler.New(reconciler.Config{
		Cluster: a.cfg.Cluster, Source: a.source, Renderer: renderer, Applier: a.target,
		Health: a.tracker, Watch: watcher{a.watch}, Detective: detective{a.cfg.Cluster, a.cfg.Fights, a.persons.Name}, Store: keeper{a.store},
		Log: log("reconciler"), Now: a.now, Metrics: metrics, Adopted: a.persons.Adopt,
		Identity: api.ClusterStatus{
			Source: redact.URL(a.cfg.Source.URL), Branch: a.cfg.Source.Ref.String(), AgentVersion: a.cfg.Version, Started: a.now(),
		},
		Poll: a.cfg.Poll, Compare: a.cfg.Compare, Workers: a.cfg.Workers,
	})
	if err != nil {
		return err
	}
	return errors.Join(a.registry.Register(a.reconciler), a.registry.Register(kept{a.store}))
}

// saw passes on what the watch saw.
// What is written on the agent's own report is an order, and on its Lease a challenge.
func (a *Agent) saw(e watch.Event) {
	switch e.Ref.ID() {
	case reportID:
		if !e.Deleted && !api.SameLabels(e.Before.MetaDigest, e.MetaDigest) {
			poke(a.ordered)
		}
	case leaseID:
		poke(a.challenged)
	default:
		a.reconciler.Drift().Saw(e.Ref)
	}
}

// sawScaler passes on that an autoscaler came, went or changed, whoever made it. What it notes in its status is nothing to us.
func (a *Agent) sawScaler(e watch.Event) {
	if e.Deleted || e.Before == (watch.Meta{}) || e.Before.Matters(e.Meta) {
		a.reconciler.Drift().ScalersChanged(e.Ref.Namespace)
	}
}

// poke makes a channel of capacity one ready.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *Agent) relisted(k schema.GroupVersionKind) { a.reconciler.Drift().Relisted(k.Group, k.Kind) }

func (a *Agent) lost(k schema.GroupVersionKind, err error) {
	a.reconciler.Drift().Lost(k.Group, k.Kind, err)
}
func (a *Agent) suspensions(set api.Suspensions) { a.reconciler.SetSuspensions(set) }

// Close releases what New opened. Call it when Run has returned.
func (a *Agent) Close() error { return a.teardown.Close() }

// Run works until ctx ends and everything has stopped.
// It fails when another agent holds the cluster, or when its join file makes no sense. The hub cannot stop it.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.cfg.checkJoin(); err != nil {
		a.release(ctx)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	if a.cfg.Listen != "" {
		g.Go(func() error { return serve(ctx, a.cfg, a.registry, a.vitals) })
	}
	g.Go(func() error {
		defer cancel()
		return a.work(ctx)
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// work takes the cluster, and keeps it as Git says until ctx ends.
func (a *Agent) work(ctx context.Context) error {
	if err := a.prepare(ctx); err != nil {
		if ctx.Err() == nil {
			return err
		}
		a.release(ctx)
		return nil // stopped before it began
	}
	hub, err := a.hub(ctx)
	if err != nil {
		a.release(ctx)
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.holdLease(ctx) })
	g.Go(func() error { return a.watch.Run(ctx) })
	g.Go(func() error { return a.scalers.Run(ctx) })
	g.Go(func() error { return a.tracker.Run(ctx) })
	g.Go(func() error { return a.healthNews(ctx) })
	g.Go(func() error { return a.orders(ctx) })
	g.Go(func() error {
		a.persons.Keep(ctx, stamper{a.target}, a.cfg.Log)
		return nil
	})
	g.Go(func() error { return a.reconciler.Run(ctx) })
	if hub != nil {
		g.Go(func() error { return hub.Run(ctx) })
	}
	if hub != nil && a.cfg.JoinFile != "" {
		g.Go(func() error { return a.keepJoined(ctx, hub) })
	}
	err = g.Wait()
	a.release(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// release gives up the cluster's lease if it is ours:
// another agent may take over at once, rather than when nobody has answered its challenge.
func (a *Agent) release(ctx context.Context) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	if err := a.target.ReleaseLease(end, a.store.HolderID()); err != nil {
		a.cfg.Log.Warn("release the lease", "error", err)
	}
}

// releaseWithin bounds the last request of an agent that stops.
const releaseWithin = 3 * time.Second

// prepare waits for the cluster, takes its lease, and installs what the agent needs there.
// Nothing but the namespace and the lease is written before the lease is this agent's.
func (a *Agent) prepare(ctx context.Context) error {
	if a.leased.Load() != nil {
		return nil // Open has done it
	}
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := a.take(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if k := api.KindOf(err); k == api.Stalled || k == api.Forbidden {
			return err
		}
		a.cfg.Log.Warn("the cluster is not ready for the agent", "error", err, "retry", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// take makes the cluster this agent's, and installs what the agent needs there. If that fails, the lease is given back:
// nobody answers for it yet.
func (a *Agent) take(ctx context.Context) error {
	if err := a.target.EnsureNamespace(ctx); err != nil {
		return err
	}
	if err := a.target.AcquireLease(ctx, a.store.HolderID()); err != nil {
		return err
	}
	if err := a.target.EnsureCRDs(ctx); err != nil {
		a.release(ctx)
		return err
	}
	a.leased.Store(new(a.now()))
	return nil
}

// healthNews passes on what the health tracker saw.
func (a *Agent) healthNews(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case bundle := <-a.tracker.Changed():
			a.reconciler.HealthChanged(bundle)
		}
	}
}

// holdLease says by the clock that this agent lives, and answers other agents that ask. It fails when one has taken over.
func (a *Agent) holdLease(ctx context.Context) error {
	renew := time.NewTicker(cluster.RenewEvery)
	defer renew.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-renew.C:
			err = a.target.RenewLease(ctx, a.store.HolderID(), a.reconciler.Reached())
		case <-a.challenged:
			err = a.target.AnswerLease(ctx, a.store.HolderID())
		}
		if err == nil {
			a.leased.Store(new(a.now()))
		}
		if api.KindOf(err) == api.Forbidden && ctx.Err() == nil {
			return err
		}
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("hold the cluster's lease", "error", err)
			time.AfterFunc(time.Second, func() { poke(a.challenged) })
		}
	}
}

// orders follows the orders to sync that are written on the agent's report. Any that is not the last one seen is new:
// the time in it is of the clock of whoever gave it, and says nothing.
// An order from before this agent's start needs no obeying: a start looks at everything.
func (a *Agent) orders(ctx context.Context) error {
	last, _, err := a.target.SyncOrder(ctx)
	if err != nil && api.KindOf(err) != api.Stalled && ctx.Err() == nil { // stalled: no agent was here before
		a.cfg.Log.Warn("the last order to sync cannot be read, and may be obeyed once more", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.ordered:
		}
		order, bundle, err := a.target.SyncOrder(ctx)
		if err != nil {
			if ctx.Err() == nil {
				a.cfg.Log.Warn("read the order to sync", "error", err)
				time.AfterFunc(time.Second, func() { poke(a.ordered) })
			}
			continue
		}
		if order == "" || order == last {
			continue
		}
		last = order
		a.cfg.Log.Info("sync ordered on the cluster", "bundle", bundle)
		if err := a.reconciler.Sync(bundle); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("order to sync", "error", err)
		}
	}
}
