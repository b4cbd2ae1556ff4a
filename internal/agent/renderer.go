package agent

import (
	"log/slog"
	"path/filepath"

	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/sops"
	"github.com/flotilla-fleet/flotilla/sources/chart"
)

// RendererConfig is what rendering needs beyond a snapshot.
type RendererConfig struct {
	// AgeKeyFiles hold the identities that decrypt Secrets; none is fine.
	AgeKeyFiles []string
	// CacheDir keeps charts from outside the repository. Required.
	CacheDir string
	// ChartCredentialsFile is for chart repositories and registries, in the format of Docker's config.json; empty means none.
	ChartCredentialsFile string
	Log                  *slog.Logger
}

// NewRenderer makes the renderer that agents use, and commands that show what an agent would do.
func NewRenderer(cfg RendererConfig) (*render.Renderer, error) {
	keys, err := sops.Open(sops.Config{Files: cfg.AgeKeyFiles})
	if err != nil {
		return nil, err
	}
	charts, err := chart.New(chart.Config{
		Dir: filepath.Join(cfg.CacheDir, "charts"), CredentialsFile: cfg.ChartCredentialsFile, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	return render.New(render.Config{Keys: keys, Charts: charts})
}
