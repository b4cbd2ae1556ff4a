package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/correct"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// Config is what a Reconciler is made of. Every field without "zero means" is required.
type Config struct {
	// Cluster is the name of the cluster in the fleet repository.
	Cluster   string
	Source    Source
	Renderer  Renderer
	Applier   Applier
	Health    Health
	Watch     Watch
	Detective correct.Detective
	Store     Store
	Log       *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Identity is what the status says of this agent and its source.
	Identity api.ClusterStatus
	// Metrics may be nil: then nothing is measured.
	Metrics *Metrics
	// Adopted takes what the fleet file says, whenever a revision takes effect. It returns at once. Nil means nobody wants to know.
	Adopted func(api.FleetSpec)
	// Recorded is called after each commit to the store; nil means nobody wants to know.
	Recorded func()

	// Poll is how often the repository is asked for a new commit. Zero means DefaultPoll.
	Poll time.Duration
	// Compare is how often everything is compared again, as a net below the watch.
	// Zero means DefaultCompare.
	Compare time.Duration
	// Workers bounds the bundles that are applied at the same time. Zero means DefaultWorkers.
	Workers int
}

// Defaults of Config.
const (
	DefaultPoll    = 3 * time.Second
	DefaultCompare = 30 * time.Minute
	DefaultWorkers = 16
)

// Reconciler keeps one cluster equal to a repository. Make it with New, then Run it once.
type Reconciler struct {
	Config

	kick chan struct{}
	sync chan struct{} // a pass is wanted now
	wg   sync.WaitGroup

	// publish holds what is to be written to the cluster about bundles.
	publish *publisher
	// recorder writes to the store.
	recorder *record.Recorder
	// objects is what is known of every object. Its lock is taken after mu.
	objects *objects.Home
	// drift compares and corrects objects. Its locks are taken after mu.
	drift *correct.Loop

	mu      sync.Mutex
	bundles map[string]*bundle
	// names are those of bundles, sorted; nil when one came or went.
	names []string
	// suspensions are those on the cluster.
	suspensions api.Suspensions
	git         *api.Suspension // from Cluster.spec.suspend
	status      api.ClusterStatus
	rendering   *api.Rendering // the last that was adopted
	// inGit holds the names of its bundles. It is replaced and never changed once it is complete.
	inGit map[string]bool
	facts api.ClusterFacts
	// discoveryGen counts our changes to CRDs and APIServices; renderedGen is the generation that charts were last rendered with.
	discoveryGen, renderedGen int
	started                   bool // baselines are known, bundles may run
	// answers says that the repository answered when last asked between two failed fetches. Only passLoop uses it.
	answers bool
	// tried are the keys of what the last pass rendered, adopted or not; nil if it could not. Only passLoop uses it.
	tried *string
	// old counts the renderings in a row that a newer revision ended. Only passLoop uses it.
	old int
	// running counts the bundles that hold a worker's place, and applying all that are being applied and do not wait.
	running, applying int
}

// New checks the configuration. Nothing is started before Run.
func New(cfg Config) (*Reconciler, error) {
	switch {
	case !api.ValidName(cfg.Cluster):
		return nil, fmt.Errorf("reconciler: %q is not a cluster's name", cfg.Cluster)
	case cfg.Source == nil, cfg.Renderer == nil, cfg.Applier == nil, cfg.Health == nil, cfg.Watch == nil,
		cfg.Detective == nil, cfg.Store == nil, cfg.Log == nil, cfg.Now == nil:
		return nil, errors.New("reconciler: a stage, the log or the clock is missing")
	}
	if cfg.Poll <= 0 {
		cfg.Poll = DefaultPoll
	}
	if cfg.Compare <= 0 {
		cfg.Compare = DefaultCompare
	}
	if cfg.Workers <= 0 {
		cfg.Workers = DefaultWorkers
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.Recorded == nil {
		cfg.Recorded = func() {}
	}
	if cfg.Adopted == nil {
		cfg.Adopted = func(api.FleetSpec) {}
	}
	return assemble(cfg), nil
}

// assemble makes a reconciler of a configuration that is complete.
func assemble(cfg Config) *Reconciler {
	r := &Reconciler{
		Config:  cfg,
		kick:    make(chan struct{}, 1),
		sync:    make(chan struct{}, 1),
		bundles: map[string]*bundle{},
		objects: objects.New(),
		status:  cfg.Identity,
	}
	r.status.Cluster = cfg.Cluster
	r.publish = newPublisher(r)
	r.recorder = record.New(record.Config{Store: cfg.Store, Read: r.read, Log: cfg.Log, Stored: func() {
		cfg.Recorded()
		r.publish.report()
	}})
	r.drift = correct.New(correct.Config{
		Cluster: cfg.Cluster, Home: r.objects, Recorder: r.recorder, Inspector: cfg.Applier, Writer: cfg.Applier, Watch: cfg.Watch,
		Detective: cfg.Detective, Episodes: cfg.Store, Health: cfg.Health, Publisher: r.publish, Metrics: cfg.Metrics,
		Log: cfg.Log, Now: cfg.Now, ServerTime: r.serverTime, Wished: func() { wake(r.kick) },
	})
	return r
}

// Run works until ctx ends, and returns when everything that it started has ended.
// It returns an error only if it could not begin.
func (r *Reconciler) Run(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	r.wg.Go(func() { r.drift.Run(ctx) })
	r.wg.Go(func() { r.publish.run(ctx) })
	r.wg.Go(func() { r.recorder.Run(ctx) })
	r.wg.Go(func() { r.scheduleLoop(ctx) })
	r.passLoop(ctx)
	r.wg.Wait()
	_ = r.recorder.Flush() // it is logged, and the next start finds out by itself
	return nil
}

// Drift is the drift loop of this cluster: whoever watches the cluster tells it what it saw.
func (r *Reconciler) Drift() *correct.Loop { return r.drift }

// Stored returns the error of the last transaction on the store; nil if that was stored, or if there was none yet.
func (r *Reconciler) Stored() error { return r.recorder.Failure() }

// Sync asks for a pass now, in which every bundle (or the one named) is compared and applied anew.
// It reports a bundle that is not there.
func (r *Reconciler) Sync(bundle string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bundle != "" && r.bundles[bundle] == nil {
		return &api.Error{
			Kind: api.Stalled, Reason: api.ReasonNoSuchBundle,
			Err: fmt.Errorf("there is no bundle %q on cluster %q", bundle, r.Cluster),
		}
	}
	for name, b := range r.bundles {
		if bundle == "" || bundle == name {
			r.onLocked(b, lifecycle.Ordered{})
		}
	}
	wake(r.sync)
	wake(r.kick)
	return nil
}

// wake makes a channel of capacity one ready.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// passLoop runs passes: at start, when the repository changed, when asked, and after errors.
func (r *Reconciler) passLoop(ctx context.Context) {
	poll := time.NewTimer(0)
	defer poll.Stop()
	attempt, again := 0, time.Time{}
	for {
		forced := false
		select {
		case <-ctx.Done():
			return
		case <-r.sync:
			forced = true
		case <-poll.C:
		}
		if forced || r.passDue(ctx, attempt, again) {
			err := r.pass(ctx)
			if err == nil {
				attempt = 0
			} else if ctx.Err() == nil {
				attempt++
				var wait time.Duration
				wait, again = r.passDelay(err, attempt)
				r.Log.Error("pass", "error", err, "kind", api.KindOf(err), "retry", wait)
			}
		}
		if !poll.Stop() {
			select {
			case <-poll.C:
			default:
			}
		}
		poll.Reset(r.Poll)
	}
}

// passDelay is how long to wait after a failed pass, and when that is over.
// A pass that is stalled is not repeated: only a new commit, or an order, begins another.
func (r *Reconciler) passDelay(err error, attempt int) (time.Duration, time.Time) {
	d, again := retryDelay(err, attempt)
	if !again {
		return 0, time.Time{}
	}
	d = min(d, time.Minute)
	return d, r.Now().Add(d)
}

// passDue reports whether a pass would find anything new.
// attempt counts the passes that failed in a row, and again is when to repeat the last (zero: not by itself).
func (r *Reconciler) passDue(ctx context.Context, attempt int, again time.Time) bool {
	r.mu.Lock()
	first := r.rendering == nil
	broken := r.status.Error != nil && r.status.Error.Reason == reasonFetch
	r.mu.Unlock()
	backoff := attempt > 0 && !again.IsZero()
	switch {
	case first && attempt == 0, backoff && !r.Now().Before(again):
		return true
	case backoff && broken:
		// A fetch that failed is repeated at once when the repository answers again, and else as late as the pass.
		_, err := r.Source.Changed(ctx)
		before := r.answers
		r.answers = err == nil
		return r.answers && !before
	}
	changed, err := r.Source.Changed(ctx)
	if err != nil {
		r.fetchFailed(err)
		return false
	}
	if !changed {
		r.fetchWorks()
	}
	return changed || r.tried != nil && r.Renderer.Changed(*r.tried)
}
