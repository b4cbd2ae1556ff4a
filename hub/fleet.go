package hub

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// fleet is the present state of all clusters as lists show it:
// the store's content, read again only for a cluster that changed.
// One query feeds all pages, so their counts agree.
type fleet struct {
	mu sync.Mutex
	// name -> what the store said when the cluster last changed
	known map[string]view.Input
	// names of clusters to read again
	dirty map[string]struct{}
	// cluster -> when it was last heard from, by the hub's monotonic clock; the store is told now and then
	heard map[string]time.Duration
	// cluster -> when its agent last reached the repository, as heartbeats say; the status has the time of the last report
	reached map[string]time.Time
	// names of clusters in heard that the store has an older time of
	unsaved map[string]struct{}
	// cluster -> the state that browsers were told of
	told map[string]view.State
}

func newFleet() *fleet {
	return &fleet{
		known: map[string]view.Input{}, dirty: map[string]struct{}{}, heard: map[string]time.Duration{},
		reached: map[string]time.Time{},
		unsaved: map[string]struct{}{}, told: map[string]view.State{},
	}
}

// saw notes that an agent was heard from.
func (h *Hub) saw(cluster string) {
	f := h.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard[cluster] = h.mono()
	f.unsaved[cluster] = struct{}{}
}

// longestReachedAgo is the oldest contact with a repository that a heartbeat may tell of.
const longestReachedAgo = 365 * 24 * time.Hour

// reached notes when an agent last reached its repository.
func (h *Hub) reached(cluster string, at time.Time) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.fleet.reached[cluster] = at
}

// saveSeen writes when agents were last heard from, in one transaction.
func (h *Hub) saveSeen(ctx context.Context) error {
	f := h.fleet
	now := h.now()
	f.mu.Lock()
	batch := make(map[string]time.Time, len(f.unsaved))
	for c := range f.unsaved {
		batch[c] = now.Add(f.heard[c] - h.mono())
	}
	clear(f.unsaved)
	f.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	return h.store.Seen(ctx, batch)
}

// changed notes that a cluster must be read again, and tells the browsers.
// Call it after the change is in the store.
func (h *Hub) changed(cluster string) {
	h.fleet.mu.Lock()
	h.fleet.dirty[cluster] = struct{}{}
	h.fleet.mu.Unlock()
	h.events.publish(cluster)
}

// load has all clusters read at the first question.
func (h *Hub) load(ctx context.Context) error {
	names, err := h.store.Clusters(ctx)
	if err != nil {
		return err
	}
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	for _, n := range names {
		h.fleet.dirty[n] = struct{}{}
	}
	return nil
}

// input is what the store knows of a cluster.
func input(c store.Cluster) view.Input {
	in := view.Input{
		Name: c.Name, Bundles: c.Bundles, Open: c.Open, LastSeen: c.LastSeen, AgentID: c.AgentID,
		LeftOut: c.LeftOut.Sums, Dropped: c.LeftOut.Dropped, DroppedAt: c.LeftOut.DroppedAt,
	}
	if c.Status != nil {
		in.Status = *c.Status
	}
	return in
}

// listed is an input with no more than lists need: it stays in memory for every cluster.
func listed(in view.Input) view.Input {
	bundles := make([]api.BundleStatus, len(in.Bundles))
	for i, b := range in.Bundles {
		bundles[i] = api.BundleStatus{
			Name: b.Name, Phase: b.Phase, Unknown: b.Unknown, Error: b.Error, ExemptOmitted: len(b.Exempt) + b.ExemptOmitted,
		}
	}
	open := make([]api.Episode, len(in.Open))
	for i, e := range in.Open {
		open[i] = api.Episode{Outcome: e.Outcome}
	}
	in.Bundles, in.Open = bundles, open
	return in
}

// liveLocked adds what only memory knows. Silence is told by a clock that nobody sets:
// the hub's clock of the day may be wrong for a while, and then put right.
func (h *Hub) liveLocked(in view.Input, now time.Time) view.Input {
	if t, told := h.fleet.reached[in.Name]; told {
		in.Status.Fetched = t // by our own clock
	}
	in.Connected = h.sessions.get(in.Name) != nil
	silence := h.mono()
	if at, ok := h.fleet.heard[in.Name]; ok {
		silence -= at
	} else if in.LastSeen.IsZero() {
		return in
	} else { // an earlier process has heard it; a time that had not come when this one began is none
		silence += max(0, h.started.Sub(in.LastSeen))
	}
	in.LastSeen = now.Add(-silence).Round(time.Millisecond)
	return in
}

// forget drops what is remembered of a cluster that was removed.
func (f *fleet) forget(cluster string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.heard, cluster)
	delete(f.reached, cluster)
	delete(f.unsaved, cluster)
	delete(f.told, cluster)
}

// refresh reads the clusters that changed.
func (h *Hub) refresh(ctx context.Context) error {
	f := h.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.dirty {
		c, found, err := h.store.Summary(ctx, name)
		if err != nil {
			return err
		}
		delete(f.dirty, name)
		if found {
			f.known[name] = listed(input(c))
		} else {
			delete(f.known, name)
		}
	}
	return nil
}

// Clusters is every cluster as it is now, by name.
func (h *Hub) Clusters(ctx context.Context) ([]view.Cluster, error) {
	if err := h.refresh(ctx); err != nil {
		return nil, err
	}
	now := h.now()
	h.fleet.mu.Lock()
	ins := slices.Collect(maps.Values(h.fleet.known))
	for i := range ins {
		ins[i] = h.liveLocked(ins[i], now)
	}
	h.fleet.mu.Unlock()
	out := make([]view.Cluster, len(ins))
	for i, in := range ins {
		out[i] = view.Of(in, now, h.cfg.UnknownAfter)
	}
	slices.SortFunc(out, func(a, b view.Cluster) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Cluster is one cluster with a page of its bundles, and its newest open drift.
func (h *Hub) Cluster(ctx context.Context, name string, q view.BundleQuery) (view.ClusterDetail, bool, error) {
	c, found, err := h.store.Summary(ctx, name)
	if err != nil || !found {
		return view.ClusterDetail{}, false, err
	}
	open, total, err := h.store.Drift(ctx, store.DriftFilter{State: store.OpenEpisode, Cluster: name, Limit: view.MaxDrift})
	if err != nil {
		return view.ClusterDetail{}, false, err
	}
	now := h.now()
	h.fleet.mu.Lock()
	in := h.liveLocked(input(c), now)
	h.fleet.mu.Unlock()
	d := view.ClusterDetail{
		Cluster: view.Of(in, now, h.cfg.UnknownAfter), Drift: make([]api.Episode, 0, len(open)), DriftOmitted: total - len(open),
	}
	var bundles []api.BundleStatus
	bundles, d.Page, d.Pages = view.Paged(q.Order(c.Bundles), q.Page, q.Size)
	d.BundleStatus = append([]api.BundleStatus{}, bundles...)
	for _, e := range open {
		d.Drift = append(d.Drift, view.Brief(e))
	}
	return d, true, nil
}

// Drift is a page of episodes, newest first.
func (h *Hub) Drift(ctx context.Context, q view.DriftQuery) (view.List[api.Episode], error) {
	if q.Size <= 0 {
		q.Size = view.DefaultPageSize
	}
	page, total, err := h.store.Drift(ctx, store.DriftFilter{
		State: store.EpisodeState(q.State), Cluster: q.Cluster, Bundle: q.Bundle, Object: q.Object,
		Manager: q.Manager, Class: q.Class, Since: q.Since, Offset: (max(1, q.Page) - 1) * q.Size, Limit: q.Size,
	})
	if err != nil {
		return view.List[api.Episode]{}, err
	}
	l := view.List[api.Episode]{
		Items: make([]api.Episode, 0, len(page)), Total: total,
		Page: max(1, q.Page), Pages: max(1, (total+q.Size-1)/q.Size),
	}
	for _, e := range page {
		l.Items = append(l.Items, view.Brief(e))
	}
	return l, nil
}

// Episode is one drift with all that is known of it.
func (h *Hub) Episode(ctx context.Context, id string) (api.Episode, bool, error) {
	e, found, err := h.store.Episode(ctx, id)
	e.Track = nil // the agent's bookkeeping
	return e, found, err
}

// watchStates tells browsers of states that time alone has changed:
// a cluster fell silent, or a suspension ran out.
func (h *Hub) watchStates(ctx context.Context) error {
	cs, err := h.Clusters(ctx)
	if err != nil {
		return err
	}
	h.metrics.fleet(cs)
	var changed []string
	h.fleet.mu.Lock()
	for _, c := range cs {
		if h.fleet.told[c.Name] != c.State {
			h.fleet.told[c.Name] = c.State
			changed = append(changed, c.Name)
		}
	}
	h.fleet.mu.Unlock()
	if len(changed) > 0 {
		h.events.publish(changed...)
	}
	return nil
}
