package render

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/flotilla-fleet/flotilla/api"
)

// cache keeps the last rendering of each bundle on each cluster.
// An entry is good as long as its key (what is not in the tree) and its deps (what is) are the same.
// Only success is kept: what failed is tried again, because an error may have cut the list of deps short.
type cache struct {
	limit int

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

	mu       sync.Mutex
	finalKey string
	final    *api.RenderedBundle
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: map[cacheKey]*entry{}}
}

// get returns the bundle's entry, rendering it if need be.
func (c *cache) get(ctx context.Context, p *pass, b resolved) (*entry, error) {
	at := cacheKey{p.cluster, b.name}
	key := keyOf(p, b)
	c.mu.Lock()
	have := c.entries[at]
	c.mu.Unlock()
	if have != nil && have.key == key && have.good(ctx, p, b) {
		return have, nil
	}
	fresh, err := newEntry(ctx, p, b)
	if err != nil {
		return nil, err
	}
	fresh.key = key
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[at] = fresh
	return fresh, nil
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

func newEntry(ctx context.Context, p *pass, b resolved) (*entry, error) {
	v := newView(p, b)
	out, err := build(ctx, p, v, b)
	if err == nil {
		err = check(b, out)
	}
	if err != nil {
		return nil, located(b, scrub(err, v.secrets))
	}
	e := &entry{deps: v.deps, built: out, scopes: scopesOf(out.objects)}
	if len(v.secrets) > 0 {
		e.fingerprint = p.keys.Fingerprint()
	}
	e.prepare(b)
	if err := e.admit(b); err != nil {
		return nil, scrub(err, v.secrets)
	}
	return e, nil
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
