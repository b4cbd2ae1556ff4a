package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/manifest"
	"github.com/flotilla-fleet/flotilla/render/sops"
)

// VariableClusterName is the variable that every cluster has: its name.
// A variable of the same name in fleet.yaml or cluster.yaml takes its place.
const VariableClusterName = "CLUSTER_NAME"

// ChartFetcher brings charts from outside the repository.
type ChartFetcher interface {
	// Fetch returns a packaged chart and its digest.
	// The repository is an https:// address of a Helm repository, or the part of an oci:// reference before the name.
	// The version may be a range. A network error should be an *api.Error of kind Transient.
	Fetch(ctx context.Context, repo, name, version string) (archive []byte, digest string, err error)
}

// Engine runs a chart or a kustomization.
type Engine interface {
	// Run returns what the engine says. Files may be nil for a chart; they are read by one goroutine, until Run returns.
	Run(ctx context.Context, req engine.Request, files engine.Files) (engine.Result, error)
}

var _ Engine = engine.Local{}

// Config is what a Renderer needs. Every field may be zero.
type Config struct {
	// Keys decrypt SOPS files. Nil: encrypted files are errors.
	Keys *sops.Keyring
	// Charts fetches remote charts. Nil: bundles with a remote chart are errors.
	Charts ChartFetcher
	// Engine runs charts and kustomizations. Nil: in this process, where nothing bounds what they take.
	Engine Engine
	// Bounds says what bounds the Engine. A bundle that was refused under other bounds is tried again.
	Bounds string
	// RefusedDir keeps which bundles ended their own rendering, so that a restart does not begin it again.
	// Empty means that only this Renderer remembers it.
	RefusedDir string
	// Concurrency bounds how many bundles are rendered at once. Zero means the number of processors.
	Concurrency int
	// CacheBundles bounds how many rendered bundles are kept. Zero means 10,000.
	CacheBundles int
	// KeepAll keeps, within CacheBundles, also what no cluster was rendered to last: for whoever renders many clusters,
	// or several commits, by turns.
	KeepAll bool
}

// Renderer renders, and remembers what it rendered. It is safe for concurrent use.
type Renderer struct {
	cfg   Config
	cache *cache
	found *finder
}

// New returns a Renderer.
func New(cfg Config) (*Renderer, error) {
	if cfg.Concurrency < 0 || cfg.CacheBundles < 0 {
		return nil, errors.New("render: Concurrency and CacheBundles cannot be negative")
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = runtime.GOMAXPROCS(0)
	}
	if cfg.Engine == nil {
		cfg.Engine = engine.Local{}
	}
	if cfg.CacheBundles == 0 {
		cfg.CacheBundles = 10_000
	}
	return &Renderer{cfg: cfg, cache: newCache(cfg.CacheBundles, cfg.KeepAll, refusals{dir: cfg.RefusedDir, bounds: cfg.Bounds, now: time.Now}), found: newFinder()}, nil
}

// Render returns what the snapshot says about one cluster.
// The error is for what concerns all bundles; a bundle that cannot be rendered carries its own.
func (r *Renderer) Render(ctx context.Context, snap api.Snapshot, cluster string, facts api.ClusterFacts) (api.Rendering, error) {
	if snap.Tree == nil {
		return api.Rendering{}, &api.Error{Kind: api.Stalled, Reason: "NoSnapshot", Err: errors.New("there is no snapshot to render")}
	}
	fleet, err := readFleet(snap.Tree)
	if err != nil {
		return api.Rendering{}, err
	}
	c, err := readCluster(snap.Tree, cluster)
	if err != nil {
		return api.Rendering{}, err
	}
	root, err := snap.Tree.Digest(".")
	if err != nil {
		return api.Rendering{}, fmt.Errorf("digest of the fleet repository: %w", err)
	}
	all, err := r.found.bundles(snap.Tree)
	if err != nil {
		return api.Rendering{}, err
	}
	here, stopped, warnings, err := resolve(snap.Tree, fleet, c, all, facts.Holders)
	if err != nil {
		return api.Rendering{}, err
	}
	facts.Holders = nil // no bundle's objects depend on them
	r.cfg.Keys.Refresh()
	print := r.cfg.Keys.Fingerprint()
	p := &pass{
		tree: snap.Tree, root: root, links: newLinks(snap.Tree), cluster: c.Metadata.Name,
		variables: variables(fleet, c), facts: facts, keys: r.cfg.Keys, charts: r.cfg.Charts, engine: r.cfg.Engine, fleet: fleet.Spec,
	}
	p.factsDigest, p.tenantsDigest = digestOf(facts), digestOf(fleet.Spec.Tenants)
	bundles, err := r.renderAll(ctx, p, here)
	if err != nil {
		return api.Rendering{}, err
	}
	return api.Rendering{Revision: snap.Revision, Fleet: fleet, Cluster: c, Bundles: bundles, Keys: print, Stopped: stopped, Warnings: warnings}, nil
}

// Changed reports whether the keys are others than those of api.Rendering.Keys: what could not be decrypted then may be now.
func (r *Renderer) Changed(since string) bool {
	r.cfg.Keys.Refresh()
	return since != r.cfg.Keys.Fingerprint()
}

// pass is what all bundles of one rendering share.
type pass struct {
	tree      api.Tree
	root      string // the tree's digest
	links     *links
	cluster   string
	variables manifest.Variables
	facts     api.ClusterFacts
	keys      *sops.Keyring
	charts    ChartFetcher
	engine    Engine
	fleet     api.FleetSpec

	factsDigest, tenantsDigest string
}

// variablesOf are what is put into a bundle's objects; nil leaves ${…} alone.
func (p *pass) variablesOf(b resolved) manifest.Variables {
	if !b.spec.Substitute {
		return nil
	}
	if len(b.spec.Variables) == 0 {
		return p.variables
	}
	out := maps.Clone(p.variables)
	maps.Copy(out, b.spec.Variables)
	return out
}

// renderAll renders the bundles in parallel, those of a tenant with a quota of rendering time last and one after the other.
// Then it does what needs to know all of them.
func (r *Renderer) renderAll(ctx context.Context, p *pass, here []resolved) ([]api.RenderedBundle, error) {
	entries := make([]*entry, len(here))
	errs := make([]error, len(here))
	var mu sync.Mutex
	done := func(i int, e *entry, err error) {
		mu.Lock()
		defer mu.Unlock()
		entries[i], errs[i] = e, err
	}
	var group errgroup.Group
	group.SetLimit(r.cfg.Concurrency)
	free, limited := byTenant(here)
	for _, i := range free {
		if here[i].err != nil {
			done(i, nil, here[i].err)
			continue
		}
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			e, err := r.cache.get(ctx, p, here[i], nil)
			done(i, e, err)
			return ctx.Err()
		})
	}
	for _, indexes := range limited {
		group.Go(func() error {
			r.cache.renderTenant(ctx, p, here, indexes, done)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	names := make([]string, len(here))
	for i, b := range here {
		names[i] = b.name
	}
	r.cache.trim(p.cluster, names)
	return finish(here, entries, errs), nil
}

// Clusters returns the clusters of a fleet repository, sorted by name.
// Clusters whose file is bad are left out, and joined in the error.
func Clusters(tree api.Tree) ([]api.Cluster, error) {
	names, err := ClusterNames(tree)
	if err != nil {
		return nil, err
	}
	var out []api.Cluster
	var errs []error
	for _, name := range names {
		c, err := readCluster(tree, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, c)
	}
	return out, errors.Join(errs...)
}

// ClusterNames lists the directories of clusters/ that hold a cluster.yaml, whatever is in it. They are sorted.
func ClusterNames(tree api.Tree) ([]string, error) {
	entries, err := tree.ReadDir(clustersDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if _, err := tree.Stat(clustersDir + "/" + e.Name() + "/" + clusterFile); err == nil {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

// digestOf is a digest of anything that JSON can hold.
func digestOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // only for values that come from no YAML
		b = fmt.Appendf(nil, "%#v", v)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
