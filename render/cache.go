package render

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// cache keeps the last rendering of each bundle on each cluster.
// An entry is good as long as its key (what is not in the tree) and its deps (what is) are the same.
// Of what failed only that is kept which ended its own rendering by what it took (see refusals):
// everything else is tried again, because an error may have cut the list of deps short.
type cache struct {
	limit   int
	refused refusals

	mu      sync.Mutex
	entries map[cacheKey]*entry
}

type cacheKey struct{ cluster, bundle string }

// entry is a bundle as it was rendered. Nothing in it changes once it is in the cache, except final.
type entry struct {
	key         string
	deps        map[string]dep
	fingerprint string // of the keys that decrypted something; "" if nothing was encrypted
	built       built
	// scopes are the kinds that CRDs in this bundle define.
	scopes scopes
	// pending are objects of whose kind only another bundle's CRD may tell whether it is namespaced.
	pending []int

	// err is why there is nothing else, and refusedAt when that came out.
	err       error
	refusedAt time.Time

	mu       sync.Mutex
	finalKey string
	final    *api.RenderedBundle
}

func newCache(limit int, refused refusals) *cache {
	return &cache{limit: limit, refused: refused, entries: refused.load()}
}

// get returns the bundle's entry, rendering it if need be.
func (c *cache) get(ctx context.Context, p *pass, b resolved) (*entry, error) {
	at := cacheKey{p.cluster, b.name}
	key := keyOf(p, b)
	c.mu.Lock()
	have := c.entries[at]
	c.mu.Unlock()
	if have != nil && have.key == key && c.refused.holds(have) && have.good(ctx, p, b) {
		return have, have.err
	}
	fresh := newEntry(ctx, p, b)
	if fresh.err != nil && !endsItself(fresh.err) {
		return nil, fresh.err
	}
	fresh.key = key
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[at] = fresh
	if fresh.err != nil {
		fresh.refusedAt = c.refused.now()
		c.refused.keep(at, fresh)
	} else if have != nil && have.err != nil {
		c.refused.drop(at)
	}
	return fresh, fresh.err
}

// keyOf is a digest of what a rendering depends on beside the files it reads.
func keyOf(p *pass, b resolved) string {
	in := []any{b.dir, b.file, b.spec, b.target, b.overlay, b.values, b.overlays, b.warnings, b.tenant, b.siblings}
	if b.tenant == nil {
		in = append(in, p.tenantsDigest) // what they have is not the platform's
	}
	if b.spec.Substitute {
		in = append(in, p.variablesDigest)
	}
	if b.spec.Helm != nil {
		in = append(in, p.factsDigest, hashOf(b.data))
	}
	return digestOf(in)
}

// good reports whether what the entry was made from is unchanged.
func (e *entry) good(ctx context.Context, p *pass, b resolved) bool {
	if e.fingerprint != "" && e.fingerprint != p.keys.Fingerprint() {
		return false
	}
	tree := p.treeOf(b.tenant)
	for name, d := range e.deps {
		if !d.holds(tree, name) {
			return false
		}
	}
	if e.built.chartDigest == "" || exactVersion.MatchString(b.spec.Helm.Version) {
		return true
	}
	// A range of versions: ask which one it means now.
	repo, name, _ := remoteChart(b.spec.Helm)
	_, digest, err := p.charts.Fetch(ctx, repo, name, b.spec.Helm.Version)
	return err != nil || digest == e.built.chartDigest // not reachable: what was fetched last stays
}

func newEntry(ctx context.Context, p *pass, b resolved) *entry {
	v := newView(p, b)
	out, err := build(ctx, p, v, b)
	if err == nil {
		err = check(b, out)
	}
	e := &entry{deps: v.deps, built: out}
	if len(v.secrets) > 0 {
		e.fingerprint = p.keys.Fingerprint()
	}
	if err != nil {
		e.err = located(b, scrub(err, v.secrets))
		return e
	}
	e.scopes = scopesOf(out.objects)
	e.prepare(b)
	e.err = scrub(e.admit(b), v.secrets)
	return e
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

// trim forgets the cluster's bundles that are gone, and other clusters' if there are too many.
func (c *cache) trim(cluster string, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.entries {
		if k.cluster == cluster {
			if _, there := slices.BinarySearch(names, k.bundle); !there {
				if c.entries[k].err != nil {
					c.refused.drop(k)
				}
				delete(c.entries, k)
			}
		}
	}
	if len(c.entries) <= c.limit {
		return
	}
	keys := make([]cacheKey, 0, len(c.entries))
	for k := range c.entries {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b cacheKey) int {
		if (a.cluster == cluster) != (b.cluster == cluster) {
			if a.cluster == cluster {
				return 1
			}
			return -1
		}
		return strings.Compare(a.cluster+"/"+a.bundle, b.cluster+"/"+b.bundle)
	})
	for _, k := range keys[:len(keys)-c.limit] {
		delete(c.entries, k)
	}
}
