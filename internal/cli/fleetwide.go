package cli

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

// sight is what charts are told of clusters that nobody asks.
type sight struct {
	kubeVersion string
	apiVersions []string // beside the usual ones
}

// renderClusters renders all clusters of a snapshot, in parallel and each distinct bundle once.
// A cluster that cannot be rendered has its error, also where its cluster.yaml cannot be read.
func renderClusters(ctx context.Context, r agent.Checked, snap api.Snapshot, s sight) ([]compare.On, error) {
	names, err := render.ClusterNames(snap.Tree)
	if err != nil {
		return nil, err
	}
	out := make([]compare.On, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			got, err := renderSettled(ctx, r, snap, name, s.kubeVersion, s.apiVersions)
			out[i] = compare.On{Cluster: name, Rendering: got, Err: err}
			return ctx.Err()
		})
	}
	return out, group.Wait()
}

// someOf names the first of many things.
func someOf(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// clustersText names clusters out of all: people want to know whether it is all of them, and else which.
func clustersText(names []string, all int) string {
	switch {
	case len(names) == all && all > 1:
		return fmt.Sprintf("all %d clusters", all)
	case len(names) > 5:
		return fmt.Sprintf("%d clusters: %s", len(names), someOf(names))
	}
	return strings.Join(names, ", ")
}

// trouble is something that could not be rendered, with the clusters that it is about.
type trouble struct {
	bundle   string // empty for a whole cluster
	text     string
	clusters []string
}

// troublesOf lists what could not be rendered, each thing once.
func troublesOf(fleet []compare.On) []*trouble {
	var out []*trouble
	known := map[[2]string]*trouble{}
	note := func(bundle, cluster string, err error) {
		id := [2]string{bundle, err.Error()}
		if known[id] == nil {
			known[id] = &trouble{bundle: bundle, text: err.Error()}
			out = append(out, known[id])
		}
		known[id].clusters = append(known[id].clusters, cluster)
	}
	for _, on := range fleet {
		if on.Err != nil {
			note("", on.Cluster, on.Err)
			continue
		}
		shared := sharedIn(on.Rendering)
		for _, b := range on.Rendering.Bundles {
			err := b.Err
			if err == nil {
				err = shared[b.Name].err()
			}
			if err != nil {
				note(b.Name, on.Cluster, err)
			}
		}
	}
	return out
}
