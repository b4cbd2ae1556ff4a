package agent

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/reconciler/health"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/engine"
	"github.com/flotilla-fleet/flotilla/render/sops"
	"github.com/flotilla-fleet/flotilla/sources/chart"
)

// RendererConfig is what rendering needs beyond a snapshot.
type RendererConfig struct {
	// AgeKeyFiles hold the identities that decrypt Secrets: FILE, or NAME=FILE for those of a tenant. each as FILE or, for those of a tenant, NAME=FILE; none is fine.
	AgeKeyFiles []string
	// LateKeys lets those files be wrong for now: what they are needed for fails, and nothing else.
	LateKeys bool
	// CacheDir keeps charts from outside the repository. Required.
	CacheDir string
	// ChartCredentialsFile is for chart repositories and registries, in the format of Docker's config.json; empty means none.
	ChartCredentialsFile string
	// Worker is the command of the processes that run charts and kustomizations: a program that calls engine.Serve.
	// Empty means that they run in this process, where nothing bounds what they take.
	Worker []string
	// Limits bound the rendering of one bundle in a worker; what is zero is as in engine.DefaultLimits.
	Limits sandbox.Limits
	// RefusedDir keeps which bundles ended their own rendering; empty means that a restart forgets it.
	RefusedDir string
	// Fleet is for whoever renders many clusters: as many workers as there are processors, and nothing is forgotten in between.
	Fleet bool
	Log   *slog.Logger
}

// NewRenderer makes the renderer that agents use, and commands that show what an agent would do.
func NewRenderer(cfg RendererConfig) (Checked, error) {
	keys, err := sops.Open(sops.Config{Files: cfg.AgeKeyFiles, Later: cfg.LateKeys})
	if err != nil {
		return Checked{}, err
	}
	if err := keys.Problem(); err != nil {
		cfg.Log.Error("the age keys cannot be read: Secrets that need them fail", "error", err)
	}
	charts, err := chart.New(chart.Config{
		Dir: filepath.Join(cfg.CacheDir, "charts"), CredentialsFile: cfg.ChartCredentialsFile, Log: cfg.Log,
	})
	if err != nil {
		return Checked{}, err
	}
	rc := render.Config{Keys: keys, Charts: charts, RefusedDir: cfg.RefusedDir, KeepAll: cfg.Fleet}
	if len(cfg.Worker) == 0 {
		r, err := render.New(rc)
		return Checked{Renderer: r}, err
	}
	wc := engine.RemoteConfig{Command: cfg.Worker, Limits: cfg.Limits}
	if cfg.Fleet {
		wc.Workers = max(2, runtime.GOMAXPROCS(0))
	}
	workers, err := engine.NewRemote(wc)
	if err != nil {
		return Checked{}, err
	}
	rc.Engine, rc.Bounds = workers, workers.Bounds()
	r, err := render.New(rc)
	return Checked{r, workers}, err
}

// Checked is a renderer that also finds health expressions which can never be evaluated: rendering knows no CEL.
// They fail their bundle, before anything of it is applied.
type Checked struct {
	*render.Renderer
	workers *engine.Remote // nil if there are none
}

// Close ends the workers.
func (c Checked) Close() {
	if c.workers != nil {
		c.workers.Close()
	}
}

// Render is render.Renderer.Render.
func (c Checked) Render(ctx context.Context, snap api.Snapshot, cluster string, facts api.ClusterFacts) (api.Rendering, error) {
	r, err := c.Renderer.Render(ctx, snap, cluster, facts)
	if err != nil {
		return r, err
	}
	for i, b := range r.Bundles {
		if b.Err != nil || len(b.Spec.Health) == 0 {
			continue
		}
		if err := health.Validate(b.Spec.Health); err != nil {
			r.Bundles[i] = api.RenderedBundle{Name: b.Name, Dir: b.Dir, Spec: b.Spec, Tenant: b.Tenant, Warnings: b.Warnings, Err: inBundleFile(err, snap.Tree, b.Dir)}
		}
	}
	return r, nil
}

// inBundleFile adds the file and the line to an error about a field of a bundle.yaml.
func inBundleFile(err error, tree api.Tree, dir string) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	at := *e
	at.File = path.Join(dir, "bundle.yaml")
	if data, err := tree.ReadFile(at.File); err == nil {
		at.Line = render.LineOf(data, strings.Split(at.Field, ".")...)
	}
	return &at
}
