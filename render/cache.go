package render

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// cache keeps renderings by what was read for them, so that clusters for which the same is read share one.
//
// An entry is found by its key (what is said about the bundle), and is good as long as what was read while it was made is
// the same: its deps (in the tree), its variables, its chart and the keys that decrypted something.
// Of what failed only that is kept which ended its own rendering by what it took (see refusals):
// everything else is tried again, because an error may have cut the list of deps short.
type cache struct {
	limit   int
	keepAll bool
	refused refusals

	mu sync.Mutex
	// entries: a bundle on a cluster -> what it was rendered to last.
	entries map[cacheKey]*entry
	// shared: an entry's key -> the entries of that key, the newest last. Those of entries are all in it.
	shared map[string][]*entry
	kept   int // entries in shared
	// remembered: a bundle on a cluster -> its renderings that were refused or measured, the newest last. See refusals.
	remembered map[cacheKey][]*entry
	// running: what is being rendered -> closed when it is done.
	running map[string]chan struct{}
}

type cacheKey struct{ cluster, bundle string }

// entry is a bundle as it was rendered. Nothing in it changes once it is in the cache, except what its mutexes guard.
type entry struct {
	key         string
	deps        map[string]dep
	variables   map[string]string // those that may have been read, with their values; what is not set is not in it
	mentioned   []string          // their names, set or not
	fingerprint string            // of the keys that decrypted something; "" if nothing was encrypted
	built       built
	// scopes are the kinds that CRDs in this bundle define.
	scopes scopes
	// pending are objects of whose kind only another bundle's CRD may tell whether it is namespaced.
	pending []int
	// inputs are handed out with what was rendered.
	inputs *api.Inputs
	// uses counts where the entry is among cache.entries; cache.mu guards it.
	uses int

	// cost is how much rendering time it takes, if it is a bundle of a tenant with a quota of that.
	cost cost

	// err is why there is nothing else, and refusedAt when that came out.
	err       error
	refusedAt time.Time

	mu     sync.Mutex
	root   string                         // digest of the last tree of which all deps are known to hold
	finals map[string]*api.RenderedBundle // by what other bundles' CRDs say about the pending objects
}

func newCache(limit int, keepAll bool, refused refusals) *cache {
	c := &cache{
		limit: limit, keepAll: keepAll, refused: refused,
		entries: map[cacheKey]*entry{}, shared: map[string][]*entry{}, running: map[string]chan struct{}{}, remembered: refused.load(),
	}
	return c
}

// costOf returns what is known of how long a bundle takes: what was measured for the same inputs, so that time, which is
// never the same twice, decides once.
func (c *cache) costOf(ctx context.Context, p *pass, b resolved) cost {
	at, key := cacheKey{p.cluster, b.name}, keyOf(p, b)
	c.mu.Lock()
	known := slices.Clone(c.shared[key])
	measured := slices.Clone(c.remembered[at])
	c.mu.Unlock()
	if e := c.find(ctx, p, b, costKeyOf(p, b), nil, measured); e != nil {
		return e.cost
	}
	if e := c.find(ctx, p, b, key, nil, known); e != nil && e.err == nil {
		return e.cost
	}
	return cost{}
}

// get returns the bundle's entry, rendering it if need be. What is rendered for another cluster at this moment is waited for.
// m counts what it takes; nil where nothing bounds that.
func (c *cache) get(ctx context.Context, p *pass, b resolved, m *metered) (*entry, error) {
	at, key := cacheKey{p.cluster, b.name}, keyOf(p, b)
	for {
		c.mu.Lock()
		known := slices.Clone(c.shared[key])
		last := c.entries[at]
		remembered := slices.Clone(c.remembered[at])
		c.mu.Unlock()
		if e := c.find(ctx, p, b, key, nil, remembered); e != nil {
			return e, e.err
		}
		if e := c.find(ctx, p, b, key, last, known); e != nil {
			c.mu.Lock()
			c.useLocked(at, e)
			c.mu.Unlock()
			return e, e.err
		}
		mine, done := c.claim(flightOf(p, b, key, known), key, len(known))
		if mine {
			return c.render(ctx, p, b, m, at, key, done)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-done:
		}
	}
}

// find returns an entry that is good: the last one of this cluster, or another's.
func (c *cache) find(ctx context.Context, p *pass, b resolved, key string, last *entry, known []*entry) *entry {
	if last != nil && last.key == key && c.refused.holds(last) && last.good(ctx, p, b) {
		return last
	}
	for _, e := range slices.Backward(known) {
		if e != last && e.key == key && c.refused.holds(e) && e.good(ctx, p, b) {
			return e
		}
	}
	return nil
}

// flightOf names what is about to be rendered. Where nothing is known about the key yet, that is the key alone:
// then the first rendering tells which variables count. Afterwards clusters with different values do not wait for each other.
func flightOf(p *pass, b resolved, key string, known []*entry) string {
	if len(known) == 0 {
		return key
	}
	var names []string
	for _, e := range known {
		names = append(names, e.mentioned...)
	}
	slices.Sort(names)
	return digestOf([]any{key, variablesAmong(p.variablesOf(b), slices.Compact(names))})
}

// claim reports whether the caller is to render, and returns what is closed when that is done.
// A caller that knew fewer entries of the key than there are by now is to look again.
func (c *cache) claim(flight, key string, knew int) (mine bool, done chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done, ok := c.running[flight]; ok {
		return false, done
	}
	done = make(chan struct{})
	if len(c.shared[key]) > knew {
		close(done)
		return false, done
	}
	c.running[flight] = done
	return true, done
}

// render renders, keeps what came out, and lets go those that wait for it.
func (c *cache) render(ctx context.Context, p *pass, b resolved, m *metered, at cacheKey, key string, done chan struct{}) (*entry, error) {
	fresh := newEntry(ctx, p, b, m)
	fresh.key = key
	c.mu.Lock()
	defer c.mu.Unlock()
	for flight, other := range c.running {
		if other == done {
			delete(c.running, flight)
		}
	}
	defer close(done)
	fresh.refusedAt = c.refused.now()
	switch {
	case endsItself(fresh.err):
		c.rememberLocked(at, fresh.bare(key))
	case m != nil && m.remembered(fresh.err):
		c.rememberLocked(at, fresh.bare(costKeyOf(p, b)))
	}
	if fresh.err != nil && !endsItself(fresh.err) {
		return nil, fresh.err
	}
	c.useLocked(at, fresh)
	return fresh, fresh.err
}

// rememberLocked keeps that a rendering was refused or measured.
func (c *cache) rememberLocked(at cacheKey, e *entry) {
	c.remembered[at] = c.refused.with(c.remembered[at], e)
	c.refused.keep(at, c.remembered[at])
}

// useLocked makes an entry that of a bundle on a cluster, in place of another.
func (c *cache) useLocked(at cacheKey, e *entry) {
	had := c.entries[at]
	if had == e {
		return
	}
	if !slices.Contains(c.shared[e.key], e) {
		c.shared[e.key] = append(c.shared[e.key], e)
		c.kept++
	}
	c.entries[at] = e
	e.uses++
	if had != nil {
		c.releaseLocked(had)
	}
}

// releaseLocked has one place less use an entry, and forgets one that no place uses.
func (c *cache) releaseLocked(e *entry) {
	e.uses--
	if e.uses == 0 && (!c.keepAll || c.kept > c.limit || e.err != nil) {
		c.forgetLocked(e)
	}
}

func (c *cache) forgetLocked(e *entry) {
	i := slices.Index(c.shared[e.key], e)
	if i < 0 {
		return
	}
	c.kept--
	// Not in place: others may read the list that they were given.
	c.shared[e.key] = slices.Concat(c.shared[e.key][:i], c.shared[e.key][i+1:])
	if len(c.shared[e.key]) == 0 {
		delete(c.shared, e.key)
	}
}

// keyOf is a digest of what a rendering depends on beside what it reads.
func keyOf(p *pass, b resolved) string {
	in := append(costInputs(p, b), b.overlays, b.warnings, b.tenant)
	switch {
	case b.tenant == nil:
		in = append(in, p.tenantsDigest) // what they have is not the platform's
	case b.tenant.Rights.Suspend:
		in = append(in, b.siblings)
	}
	return digestOf(in)
}

// costKeyOf is a digest of what the time of a rendering depends on beside what it reads. What the bundle may have does not count,
// for it is looked at when the rendering is done.
func costKeyOf(p *pass, b resolved) string { return digestOf(append(costInputs(p, b), b.tenant.Name)) }

func costInputs(p *pass, b resolved) []any {
	in := []any{b.name, b.dir, b.file, b.spec, b.target, b.overlay, b.values}
	if b.spec.HasChart() {
		in = append(in, p.factsDigest, hashOf(b.data))
	}
	return in
}

// variablesAmong returns those of the variables that are among the names.
func variablesAmong(all manifest.Variables, names []string) map[string]string {
	if slices.Contains(names, manifest.AnyVariable) {
		return all
	}
	out := map[string]string{}
	for _, name := range names {
		if value, set := all[name]; set {
			out[name] = value
		}
	}
	return out
}

// good reports whether what the entry was made from is unchanged.
func (e *entry) good(ctx context.Context, p *pass, b resolved) bool {
	if e.fingerprint != "" && e.fingerprint != p.keys.Fingerprint() || !maps.Equal(e.variables, variablesAmong(p.variablesOf(b), e.mentioned)) {
		return false
	}
	if !e.holds(p, b) {
		return false
	}
	for _, c := range e.built.charts {
		if exactVersion.MatchString(c.Version) {
			continue
		}
		// A range of versions: ask which one it means now.
		_, digest, err := p.charts.Fetch(ctx, c.Repo, c.Name, c.Version)
		if err == nil && digest != c.Digest { // not reachable: what was fetched last stays
			return false
		}
	}
	return true
}

// holds reports whether the tree is what was read of it. A tree in which that was so once is not looked at again.
func (e *entry) holds(p *pass, b resolved) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.root == p.root {
		return true
	}
	tree := p.treeOf(b.tenant)
	for name, d := range e.deps {
		if !d.holds(tree, name) {
			return false
		}
	}
	e.root = p.root
	return true
}

func newEntry(ctx context.Context, p *pass, b resolved, m *metered) *entry {
	v := newView(p, b)
	counted := *p
	if m != nil {
		counted.engine = m
	}
	out, err := build(ctx, &counted, v, b)
	if err == nil {
		err = check(v, b, out)
	}
	e := &entry{deps: v.deps, built: out, finals: map[string]*api.RenderedBundle{}}
	if m != nil {
		e.cost = m.cost()
	}
	if e.mentioned = out.mentioned; err != nil && b.spec.Substitute {
		e.mentioned = []string{manifest.AnyVariable} // which ones is not known
	}
	slices.Sort(e.mentioned)
	e.mentioned = slices.Compact(e.mentioned)
	e.variables = variablesAmong(p.variablesOf(b), e.mentioned)
	e.inputs = inputsOf(p, b, e)
	e.inputs.Secrets = v.secrets
	if len(v.secrets) > 0 {
		e.fingerprint = p.keys.Fingerprint()
	}
	if err != nil {
		e.err = located(b, scrub(err, v.secrets))
		return e
	}
	e.scopes = scopesOf(out.objects)
	e.prepare(b)
	e.built.warnings = append(e.built.warnings, foreignMarkWarnings(v, b, out.objects)...)
	e.err = scrub(e.admit(v, b), v.secrets)
	return e
}

// bare is what the entry was made from, what it took and why it failed, without what came out. It has a key of its own.
func (e *entry) bare(key string) *entry {
	return &entry{
		key: key, deps: e.deps, variables: e.variables, mentioned: e.mentioned, fingerprint: e.fingerprint,
		built: built{charts: e.built.charts}, cost: e.cost, err: e.err, refusedAt: e.refusedAt,
	}
}

// located makes sure that an error names a file and has a kind.
func located(b resolved, err error) error {
	if e, ok := denied(err); ok {
		return e
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		if e.File == "" {
			c := *e
			c.File = b.file
			return &c
		}
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &api.Error{Kind: api.Stalled, Reason: "RenderFailed", File: b.file, Err: err}
}

// inputsOf tells what was read for an entry.
func inputsOf(p *pass, b resolved, e *entry) *api.Inputs {
	in := &api.Inputs{
		Target: b.target, Overlay: b.overlay, Variables: e.variables, Unset: slices.Clone(e.mentioned),
		Chart: digestsOf(e.built.charts), Paths: slices.Sorted(maps.Keys(e.deps)),
	}
	in.Unset = slices.DeleteFunc(in.Unset, func(name string) bool {
		_, set := e.variables[name]
		return set || name == manifest.AnyVariable
	})
	if b.spec.HasChart() {
		in.Facts = p.factsDigest
	}
	return in
}

// trim forgets the cluster's bundles that are gone, and other clusters' if too much is kept.
func (c *cache) trim(cluster string, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.entries {
		if k.cluster == cluster {
			if _, there := slices.BinarySearch(names, k.bundle); !there {
				delete(c.entries, k)
				c.releaseLocked(e)
			}
		}
	}
	for k := range c.remembered {
		if _, there := slices.BinarySearch(names, k.bundle); k.cluster == cluster && !there {
			c.refused.drop(k)
			delete(c.remembered, k)
		}
	}
	if c.kept <= c.limit {
		return
	}
	c.trimUnusedLocked()
	for _, k := range slices.SortedFunc(maps.Keys(c.entries), cacheKey.compare) {
		if c.kept <= c.limit {
			return
		}
		if k.cluster == cluster {
			continue
		}
		e := c.entries[k]
		delete(c.entries, k)
		c.releaseLocked(e)
	}
}

// trimUnusedLocked forgets what no cluster uses.
func (c *cache) trimUnusedLocked() {
	for _, entries := range c.shared {
		for _, e := range slices.Clone(entries) {
			if e.uses == 0 {
				c.forgetLocked(e)
			}
		}
	}
}

func (k cacheKey) compare(other cacheKey) int {
	return cmp.Or(strings.Compare(k.cluster, other.cluster), strings.Compare(k.bundle, other.bundle))
}
