package reconciler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// publisher writes BundleDeployments and Events, behind the work, so that nothing waits for it.
type publisher struct {
	r     *Reconciler
	board Board
	wake  chan struct{}
	// removal is held for reading while a bundle's status is written, and for writing while one is removed.
	removal sync.RWMutex

	mu sync.Mutex
	// phases: bundle -> the phase that it was last said to be in
	phases  map[string]api.BundlePhase
	dirty   map[string]time.Time // bundle -> when it may be written
	passing time.Time            // when the last phase that may pass is written
	events  []cluster.EventRequest
	// reportAt is when the cluster's report may be written; zero if it need not be.
	reportAt time.Time
	// written is the report as it was last written. Only run uses it.
	written []byte
}

// Bounds of the publisher.
const (
	// publishSettle lets phases that pass quickly go by without a write.
	publishSettle = time.Second
	// publishSpacing bounds the writes of such phases: a commit that changes a thousand bundles
	// must not double its cost by saying of each that it progresses.
	publishSpacing = 100 * time.Millisecond
	// reportSettle joins what changes together into one write of the cluster's report.
	reportSettle = 100 * time.Millisecond
	// maxEvents bounds the Events that wait; more are dropped, since Events are only a courtesy.
	maxEvents = 1000
	// publishRetry is how soon a write that failed is tried again.
	publishRetry = 5 * time.Second
	// publishers bounds the writes at the same time.
	publishers = 4
)

func newPublisher(r *Reconciler) *publisher {
	return &publisher{r: r, board: r.Applier, wake: make(chan struct{}, 1), phases: map[string]api.BundlePhase{}, dirty: map[string]time.Time{}}
}

// add has the bundle's status written: soon, or at once where a human may be waiting for it.
func (p *publisher) add(bundle string, phase api.BundlePhase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phases[bundle] = phase
	p.addLocked(bundle)
}

// Touch implements correct.Publisher: the bundle is still in the phase that it was last said to be in.
func (p *publisher) Touch(bundle string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addLocked(bundle)
}

// phase notes which phase a bundle is in, which alone is not worth a write.
func (p *publisher) phase(bundle string, phase api.BundlePhase) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phases[bundle] = phase
}

// forget drops what is known of a bundle that is no more.
func (p *publisher) forget(bundle string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.phases, bundle)
	delete(p.dirty, bundle)
}

func (p *publisher) addLocked(bundle string) {
	phase := p.phases[bundle]
	at := p.r.Now()
	if phase != api.PhaseReady && phase != api.PhaseFailed && phase != api.PhaseSuspended {
		at = at.Add(publishSettle)
		if _, ok := p.dirty[bundle]; ok {
			return // and what it says then is read then
		}
		if next := p.passing.Add(publishSpacing); at.Before(next) {
			at = next
		}
		p.passing = at
	}
	if old, ok := p.dirty[bundle]; !ok || at.Before(old) {
		p.dirty[bundle] = at
	}
	wake(p.wake)
}

// report has the cluster's report written soon.
func (p *publisher) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A clock that was put back makes what was due soon due late.
	if at := p.r.Now().Add(reportSettle); p.reportAt.IsZero() || at.Before(p.reportAt) {
		p.reportAt = at
	}
	wake(p.wake)
}

// Event implements correct.Publisher.
func (p *publisher) Event(e cluster.EventRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) < maxEvents {
		p.events = append(p.events, e)
	}
	wake(p.wake)
}

func (p *publisher) failed(bundle string, err error) {
	p.Event(cluster.EventRequest{Bundle: bundle, Type: "Warning", Reason: "Failed", Message: err.Error()})
}

// run writes until ctx ends.
func (p *publisher) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, events, report, next := p.take()
		p.write(ctx, due, events)
		if report {
			p.writeReport(ctx)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// take returns what may be written now, and when the rest may.
func (p *publisher) take() (due []string, events []cluster.EventRequest, report bool, next time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.r.Now()
	next = time.Hour
	for name, at := range p.dirty {
		if wait := at.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		due = append(due, name)
		delete(p.dirty, name)
	}
	events, p.events = p.events, nil
	if !p.reportAt.IsZero() {
		if wait := p.reportAt.Sub(now); wait > 0 {
			next = min(next, wait)
		} else {
			report, p.reportAt = true, time.Time{}
		}
	}
	return due, events, report, next
}

// writeReport writes the cluster's report if it says anything new.
func (p *publisher) writeReport(ctx context.Context) {
	report := p.r.report()
	// Strings, numbers and times always marshal.
	now, _ := json.Marshal(cluster.Report{Status: report.Status.Content(), Drift: report.Drift})
	if bytes.Equal(now, p.written) {
		return
	}
	if err := p.board.PublishReport(ctx, report); err != nil {
		if ctx.Err() == nil {
			p.r.Log.Warn("publish the cluster's report", "error", err)
			p.mu.Lock()
			p.reportAt = p.r.Now().Add(publishRetry)
			p.mu.Unlock()
		}
		return
	}
	p.written = now
}

// report is what the agent tells on the cluster itself.
func (r *Reconciler) report() cluster.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := cluster.Report{Status: r.status}
	for _, e := range r.objects.AllOpen() {
		e.LastSeen = time.Time{} // bookkeeping is not worth a write
		out.Drift = append(out.Drift, e)
	}
	slices.SortFunc(out.Drift, func(a, b api.Episode) int { return cmp.Or(b.Onset.Compare(a.Onset), cmp.Compare(a.ID, b.ID)) })
	return out
}

func (p *publisher) write(ctx context.Context, due []string, events []cluster.EventRequest) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, publishers)
	for _, name := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p.status(ctx, name)
		})
	}
	for _, e := range events {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p.board.Event(ctx, e)
		})
	}
	wg.Wait()
}

func (p *publisher) status(ctx context.Context, name string) {
	p.removal.RLock()
	defer p.removal.RUnlock()
	p.r.mu.Lock()
	b := p.r.bundles[name]
	if b == nil {
		p.r.mu.Unlock()
		return
	}
	known := p.r.objects.Contents(func() []string { return []string{name} })[name]
	status, entries := known.In(b.status), known.Inventory
	p.r.mu.Unlock()
	if err := p.board.PublishStatus(ctx, status, entries); err != nil && ctx.Err() == nil {
		p.r.Log.Warn("publish status", "bundle", name, "error", err)
		p.mu.Lock()
		p.dirty[name] = p.r.Now().Add(publishRetry)
		p.mu.Unlock()
	}
}
