// Package engine runs the two engines that other people's programs drive: Helm and Kustomize.
//
// It promises that a Request and its Files are all that a result depends on,
// and that both can cross a pipe: Local runs an engine in this process, and Remote has a worker process run it.
// It never reads a disk, a network, a key or a cluster, and it keeps nothing between runs.
package engine

import (
	"context"
	"io/fs"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/render/helm"
	"github.com/flotilla-fleet/flotilla/render/kustomize"
	"github.com/flotilla-fleet/flotilla/render/manifest"
)

// Files is what a kustomization is built from. Names are relative to the root, slash-separated.
type Files interface {
	fs.ReadFileFS
	fs.ReadDirFS
	fs.StatFS
}

// Request asks for one bundle. Exactly one of Chart and Kustomization is set.
type Request struct {
	Chart         *Chart
	Kustomization *Kustomization
	// Time is how much time it may take, counted as in Result. Zero means that only the limits bound it.
	// Local has nothing that could end it.
	Time time.Duration `cbor:"-"`
}

// Chart asks for the objects and hooks of a chart.
type Chart struct {
	Packed      helm.Packed
	ReleaseName string
	Namespace   string
	// Values are layered over the chart's own. They hold what JSON can hold.
	Values map[string]any
	// SkipSchema leaves the values unchecked.
	SkipSchema bool
	Facts      api.ClusterFacts
}

// Kustomization asks for the objects of the kustomization in a directory.
type Kustomization struct {
	Dir string
	// Variables are put into the objects; nil leaves ${…} alone.
	Variables manifest.Variables
}

// Result is what an engine says.
type Result struct {
	Objects  []manifest.Object
	Hooks    []Hook
	Warnings []string
	// Ignore are rules for fields that come out differently each time.
	Ignore []api.IgnoreRule
	// Read are the files of a kustomization that were read, also where it failed.
	Read []string
	// Mentioned are the variables that a kustomization may depend on; see manifest.Mentioned.
	Mentioned []string
	// Took is how long it took, also where it failed: the processor time of a worker, where that is known.
	Took time.Duration
}

// Hook is a hook of a chart.
type Hook struct {
	api.Hook
	// Unstable are paths of fields that come out differently each time.
	Unstable []string
}

// Local runs the engines in this process. Nothing can end them, and nothing bounds what they take.
type Local struct{}

// Run runs the engine that the request is for. Files may be nil for a chart.
// With an error, only Read and Took of the result mean something.
func (Local) Run(ctx context.Context, req Request, files Files) (Result, error) {
	begun := time.Now()
	out, err := run(ctx, req, files)
	out.Took = time.Since(begun)
	return out, err
}

func run(ctx context.Context, req Request, files Files) (Result, error) {
	if req.Chart != nil {
		return renderChart(*req.Chart)
	}
	docs, read, err := kustomize.Build(ctx, files, req.Kustomization.Dir)
	if err != nil {
		return Result{Read: read}, err
	}
	var mentioned []string
	if req.Kustomization.Variables != nil {
		mentioned = manifest.Mentioned(docs) // before they are put in
	}
	objects, err := manifest.Objects(docs, req.Kustomization.Variables)
	return Result{Objects: objects, Read: read, Mentioned: mentioned}, err
}
