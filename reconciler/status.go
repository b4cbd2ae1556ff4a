package reconciler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/reconciler/lifecycle"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
)

// Status returns what is known of the cluster and its bundles, for those who ask this agent itself.
func (r *Reconciler) Status() (api.ClusterStatus, []api.BundleStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]api.BundleStatus, 0, len(r.bundles))
	for _, b := range r.bundles {
		out = append(out, b.status)
	}
	return r.status, out
}

// HealthChanged takes the news that the health of a bundle's objects changed.
func (r *Reconciler) HealthChanged(bundle string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[bundle]
	if b == nil || b.running() {
		return
	}
	before := b.status
	r.healthLocked(b, r.Now())
	after := b.status
	b.status = before
	r.setStatusLocked(b, after)
	if after.Phase != before.Phase {
		wake(r.kick)
	}
}

// awaited are the objects that are to be healthy: what Git declares, and not what has left it and is kept.
func (b *bundle) awaited() []api.InventoryEntry {
	return slices.DeleteFunc(b.inventory(), func(e api.InventoryEntry) bool {
		return b.gone() || b.appliedObjects[e.Object.ID()] == nil
	})
}

// healthLocked derives the phase of a bundle that is applied from the health of its objects.
func (r *Reconciler) healthLocked(b *bundle, now time.Time) {
	sum := r.Health.Get(b.name)
	if sum.Unseen > 0 && b.synced() && b.status.Phase == api.PhaseReady {
		return // it was ready when the agent was stopped, and nothing else is known yet
	}
	b.status.Objects = len(b.entries)
	b.status.ReadyObjects = max(0, b.status.Objects-sum.Total+sum.Ready) // of what is kept nothing is expected
	r.countLocked(b)
	if b.status.Error != nil && !b.life.TimedOut || !b.synced() {
		if s := r.suspendedLocked(b.name); s != "" && b.status.Error == nil {
			b.status.Phase, b.status.Message = api.PhaseSuspended, "suspended by "+s
		}
		return
	}
	switch {
	case sum.Ready >= sum.Total && len(sum.Failed) == 0:
		b.status.Phase, b.status.Message, b.status.Error = api.PhaseReady, r.staysLocked(b), nil
		r.onLocked(b, lifecycle.Healthy{})
	case b.life.TimedOut:
		b.status.Message = healthMessage(sum.Failed, sum.InProgress)
	case r.heldBackLocked(b, now, sum) != "":
		// Nobody may do anything about it: no time runs out.
		b.status.Phase = api.PhaseSuspended
		b.status.Message = "suspended by " + r.heldBackLocked(b, now, sum) + "; " + healthMessage(sum.Failed, sum.InProgress)
		r.onLocked(b, lifecycle.Excused{})
	default:
		b.status.Phase, b.status.Message = api.PhaseProgressing, healthMessage(sum.Failed, sum.InProgress)
		if b.desired != nil {
			// If it was ready and is no longer, it gets the same time to recover.
			r.onLocked(b, lifecycle.Unhealthy{Timeout: b.desired.Spec.WaitTimeout()})
		}
	}
}

// heldBackLocked names a suspension that covers something of what a bundle is not ready for,
// if everything of that is covered by one; empty if not.
func (r *Reconciler) heldBackLocked(b *bundle, now time.Time, sum health.Summary) string {
	by := ""
	for _, o := range slices.Concat(sum.Failed, sum.InProgress) {
		s, held := r.heldLocked(now, b.name, o.Ref)
		if !held {
			return ""
		}
		by = s.Name
	}
	return by
}

// staysLocked says how many objects of a bundle that is ready are still there although they left Git; empty for none.
func (r *Reconciler) staysLocked(b *bundle) string {
	left := b.gone()
	if b.life.Kept > 0 && r.brokenLocked(b.status.Tenant) != "" {
		what := "objects that left Git and stay"
		if left {
			what = "has left Git; objects that stay"
		}
		return fmt.Sprintf("%s until bundle %s can be rendered: %d", what, r.brokenLocked(b.status.Tenant), b.life.Kept)
	}
	if n := len(b.entries); left && n > 0 {
		return fmt.Sprintf("has left Git; objects that stay: %d", n)
	}
	return ""
}

// timeoutLocked fails a bundle that did not become healthy in time,
// and returns how long until that happens.
func (r *Reconciler) timeoutLocked(ctx context.Context, b *bundle, now time.Time) time.Duration {
	if b.status.Phase != api.PhaseProgressing {
		return lifecycle.Never
	}
	if left := b.life.Patience(now); left > 0 {
		return left
	}
	r.onLocked(b, lifecycle.Overdue{})
	sum := r.Health.Get(b.name)
	stuck := slices.Concat(sum.Failed, sum.InProgress)
	timeout := api.DefaultTimeout
	if b.desired != nil {
		timeout = b.desired.Spec.WaitTimeout()
	}
	r.wg.Go(func() { r.explain(ctx, b, stuck, timeout) })
	return lifecycle.Never
}

// explain asks why a bundle did not become healthy, and says so.
func (r *Reconciler) explain(ctx context.Context, b *bundle, stuck []health.Object, timeout time.Duration) {
	var why []string
	for i, o := range stuck {
		if i == 3 {
			why = append(why, fmt.Sprintf("and %d more", len(stuck)-i))
			break
		}
		reason := r.Health.Explain(ctx, o.Ref)
		if reason == "" {
			reason = o.Message
		}
		why = append(why, fmt.Sprintf("%s: %s", o.Ref, reason))
	}
	err := &api.Error{
		Kind: api.Waiting, Reason: "HealthTimeout",
		Err: fmt.Errorf("not healthy after %s: %s", timeout, strings.Join(why, "; ")),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !b.life.TimedOut {
		return
	}
	next := b.status
	next.Phase, next.Error = api.PhaseFailed, api.StatusErrorOf(err)
	r.setStatusLocked(b, next)
	r.publish.failed(b.name, err)
}

// healthMessage names the first object that is not healthy, failed ones first.
func healthMessage(failed, inProgress []health.Object) string {
	n := len(failed) + len(inProgress)
	if n == 0 {
		return ""
	}
	first := slices.Concat(failed, inProgress)[0]
	s := fmt.Sprintf("%s: %s", first.Ref, first.Message)
	if n > 1 {
		s += fmt.Sprintf(" (and %d more)", n-1)
	}
	return s
}

// setStatusLocked records a status if it differs from what is known.
func (r *Reconciler) setStatusLocked(b *bundle, next api.BundleStatus) {
	if reflect.DeepEqual(b.status, next) {
		return
	}
	b.status = next
	b.status.Updated = r.Now()
	r.recordLocked(b)
	r.publish.add(b.name, b.status.Phase)
}

// countLocked counts what drifted, what could not be compared and what is exempt.
func (r *Reconciler) countLocked(b *bundle) {
	b.status = b.tallied(b.status)
	b.status.Suspended = r.suspendedLocked(b.name)
}

// tallied is a status with what is known of the bundle's objects now.
func (b *bundle) tallied(s api.BundleStatus) api.BundleStatus {
	s.Drifted, s.Unknown = b.objects.count()
	s.Contested, s.ContestedOmitted = b.contested()
	s.Uncorrected, s.UncorrectedOmitted = b.uncorrected()
	s.Exempt, s.ExemptOmitted = b.exempt()
	s.Uncompared = b.uncompared()
	return s
}

// notePassed notes the objects that an apply passed over for an annotation that they bore before they were ours.
// Before an object is ours every such annotation counts, whatever the policy says of what is added.
func (b *bundle) notePassed(orders map[string]api.Orders) {
	b.passed = nil
	for id, live := range orders {
		git := b.appliedObjects[id]
		if git == nil {
			continue
		}
		if what := plan.Exempt(api.OrdersIn(git.GetAnnotations()), live, api.Drift{}); what != "" {
			b.passed = append(b.passed, api.RefOf(git).String()+": "+what)
		}
	}
}

// restorePassed reads passed from a status that was stored: what is exempt and not ours.
func (b *bundle) restorePassed() {
	for _, line := range b.status.Exempt {
		if !slices.ContainsFunc(slices.Collect(maps.Values(b.entries)), func(e api.InventoryEntry) bool {
			return strings.HasPrefix(line, e.Object.String()+": ")
		}) {
			b.passed = append(b.passed, line)
		}
	}
}

// exempt lists the objects in Git that an annotation on the cluster takes out, and those that left Git and an annotation keeps.
func (b *bundle) exempt() (first []string, omitted int) {
	if !b.gone() {
		first = slices.Clone(b.passed)
	}
	for id, known := range b.objects {
		live := known.orders
		if live == (api.Orders{}) || !hasEntry(b, id) {
			continue
		}
		switch git := b.appliedObjects[id]; {
		case git == nil && live.Keep != "":
			first = append(first, fmt.Sprintf("%s: left Git, and stays: %s", b.entries[id].Object, live.Keep))
		case git != nil && !b.gone():
			if what := plan.Exempt(api.OrdersIn(git.GetAnnotations()), live, b.applied.Spec.Drift); what != "" {
				first = append(first, api.RefOf(git).String()+": "+what)
			}
		}
	}
	slices.Sort(first)
	n := min(len(first), api.MaxExempt)
	return first[:n], len(first) - n
}

// contested tells of the fights over the bundle's objects.
func (b *bundle) contested() ([]string, int) {
	return b.told(api.OutcomeContested, func(e api.Episode) string { return e.Hint })
}

// uncompared tells of the objects that could not be compared, and why.
func (b *bundle) uncompared() []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(b.objects)) {
		why := b.objects[id].unknown
		if why == "" {
			continue
		}
		if len(out) == api.MaxContested {
			break
		}
		name := id
		if ref, ok := api.ParseID(id); ok {
			name = ref.String()
		}
		if len(why) > api.MaxUncompared {
			why = strings.ToValidUTF8(why[:api.MaxUncompared], "") + "…"
		}
		out = append(out, name+": "+why)
	}
	return out
}

// uncorrected tells of the corrections that failed.
func (b *bundle) uncorrected() ([]string, int) {
	return b.told(api.OutcomeFailed, func(e api.Episode) string { return e.Error })
}

// told is one line for each object whose drift has come to an outcome, and how many more there are.
func (b *bundle) told(outcome api.Outcome, what func(api.Episode) string) ([]string, int) {
	var out []string
	for _, e := range b.objects.open() {
		if e.Outcome == outcome {
			out = append(out, e.Object.String()+": "+what(e))
		}
	}
	slices.Sort(out)
	n := min(len(out), api.MaxContested)
	return out[:n], len(out) - n
}

// driftCountLocked records the counts if they changed.
func (r *Reconciler) driftCountLocked(b *bundle) {
	r.setStatusLocked(b, b.tallied(b.status))
}

// advanceLocked moves the applied revision on once every bundle was applied from it.
func (r *Reconciler) advanceLocked() {
	if r.rendering == nil || r.status.AppliedRevision == r.rendering.Revision {
		return
	}
	for _, b := range r.bundles {
		if !b.synced() {
			return
		}
	}
	r.status.AppliedRevision = r.rendering.Revision
	r.Log.Info("revision applied", "revision", r.rendering.Revision)
	r.recordLocked(nil)
}

// announce emits Events about what an apply did.
func (r *Reconciler) announce(ctx context.Context, name string, res apply.Result) {
	if ctx.Err() != nil {
		return
	}
	if res.Err != nil {
		r.publish.failed(name, res.Err)
		return
	}
	cs := res.Changes
	if n := cs.Count(api.Created, api.Updated, api.Recreated, api.Pruned); n > 0 {
		r.publish.event(cluster.EventRequest{Bundle: name, Type: "Normal", Reason: "Applied", Message: fmt.Sprintf(
			"%d created, %d updated, %d pruned", cs.Count(api.Created), cs.Count(api.Updated, api.Recreated), cs.Count(api.Pruned))})
	}
}

// publisher writes BundleDeployments and Events, behind the work, so that nothing waits for it.
type publisher struct {
	r    *Reconciler
	wake chan struct{}
	// removal is held for reading while a bundle's status is written, and for writing while one is removed.
	removal sync.RWMutex

	mu      sync.Mutex
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
	// publishers bounds the writes at the same time.
	publishers = 4
)

func newPublisher(r *Reconciler) *publisher {
	return &publisher{r: r, wake: make(chan struct{}, 1), dirty: map[string]time.Time{}}
}

// add has the bundle's status written: soon, or at once where a human may be waiting for it.
func (p *publisher) add(bundle string, phase api.BundlePhase) {
	p.mu.Lock()
	defer p.mu.Unlock()
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

func (p *publisher) event(e cluster.EventRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) < maxEvents {
		p.events = append(p.events, e)
	}
	wake(p.wake)
}

func (p *publisher) failed(bundle string, err error) {
	p.event(cluster.EventRequest{Bundle: bundle, Type: "Warning", Reason: "Failed", Message: err.Error()})
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
	if err := p.r.Applier.PublishReport(ctx, report); err != nil {
		if ctx.Err() == nil {
			p.r.Log.Warn("publish the cluster's report", "error", err)
			p.mu.Lock()
			p.reportAt = p.r.Now().Add(unknownRetry)
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
	for _, b := range r.bundles {
		for _, e := range b.objects.open() {
			e.LastSeen = time.Time{} // bookkeeping is not worth a write
			out.Drift = append(out.Drift, e)
		}
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
			p.r.Applier.Event(ctx, e)
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
	status, entries := b.status, b.inventory()
	p.r.mu.Unlock()
	if err := p.r.Applier.PublishStatus(ctx, status, entries); err != nil && ctx.Err() == nil {
		p.r.Log.Warn("publish status", "bundle", name, "error", err)
		p.mu.Lock()
		p.dirty[name] = p.r.Now().Add(unknownRetry)
		p.mu.Unlock()
	}
}
