package correct

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/objects"
	"github.com/flotilla-fleet/flotilla/reconciler/record"
)

// workers bounds the objects that are compared at the same time.
const workers = 8

// Config is what a Loop is made of. Every field is required.
type Config struct {
	// Cluster is the name of the cluster in the fleet repository.
	Cluster   string
	Home      *objects.Home
	Recorder  *record.Recorder
	Inspector Inspector
	Writer    Writer
	Watch     Watch
	Detective Detective
	Episodes  Episodes
	Health    Health
	Publisher Publisher
	Metrics   Metrics
	Log       *slog.Logger
	// Now is the clock, and ServerTime is the API server's time at ours: ends of suspensions are given in it.
	Now        func() time.Time
	ServerTime func(time.Time) time.Time
	// Wished is called when there are wishes to take. It returns at once.
	Wished func()
}

// Scope is what Git and the cluster say that concerns more than one bundle.
type Scope struct {
	// Suspensions are all that may hold, those from Git and the fleet's limit included. Their ends are in the API server's time.
	Suspensions api.Suspensions
	// Autoscalers are those that Git describes.
	Autoscalers []*unstructured.Unstructured
}

// Wish asks the scheduler to have something happen to a bundle.
type Wish struct {
	Bundle string
	Event  lifecycle.Event
}

// Loop is the drift loop. Make it with New, and run it.
type Loop struct {
	Config

	queue *queue // objects to look at
	turns *turns
	scope atomic.Pointer[Scope]
	// started says that baselines are known.
	started atomic.Bool

	mu     sync.Mutex
	wishes []Wish
	// lost: kind -> since when its watch is down
	lost map[kindOf]time.Time
}

// New makes a loop. Nothing is looked at before Start.
func New(cfg Config) *Loop {
	l := &Loop{Config: cfg, queue: newQueue(), turns: newTurns(), lost: map[kindOf]time.Time{}}
	l.scope.Store(&Scope{})
	return l
}

// Publish makes a scope known. It holds from then on.
func (l *Loop) Publish(s Scope) { l.scope.Store(&s) }

// Start has objects looked at from now on: what was applied before is known.
func (l *Loop) Start() { l.started.Store(true) }

// Run looks at objects until ctx ends, and returns when no worker looks at any.
func (l *Loop) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { l.work(ctx) })
	}
	<-ctx.Done()
	l.queue.close()
	wg.Wait()
}

func (l *Loop) work(ctx context.Context) {
	for {
		id, since, ok := l.queue.get()
		if !ok {
			return
		}
		l.compare(ctx, id, since)
		l.queue.done(id, l.Now())
	}
}

// Begin keeps the objects of a bundle from being compared until End. It returns when none of them is being compared any more.
func (l *Loop) Begin(bundle string) { l.turns.begin(bundle) }

// End lets the objects of a bundle be compared again, and has those looked at of which events came meanwhile.
func (l *Loop) End(bundle string) {
	for _, id := range l.turns.end(bundle) {
		l.Look(id)
	}
}

// Wishes takes what was wished for since the last call.
func (l *Loop) Wishes() []Wish {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.wishes
	l.wishes = nil
	return out
}

func (l *Loop) wish(bundle string, e lifecycle.Event) {
	l.mu.Lock()
	l.wishes = append(l.wishes, Wish{bundle, e})
	l.mu.Unlock()
	l.Wished()
}

// Held returns the suspension that covers an object of a bundle at now.
func (l *Loop) Held(now time.Time, bundle string, ref api.ObjectRef) (api.Suspension, bool) {
	return l.scope.Load().Suspensions.Find(l.ServerTime(now), bundle, ref)
}

// Recount counts what is known of a bundle's objects, and has it stored and published if that has changed.
func (l *Loop) Recount(bundle string) {
	changed := false
	l.Home.Recount(bundle, l.Now(), func() {
		changed = true
		l.Recorder.Note(bundle)
	})
	if changed {
		l.Publisher.Touch(bundle)
	}
}
