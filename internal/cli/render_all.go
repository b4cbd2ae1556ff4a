package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render/compare"
)

// common is a bundle as several clusters have it.
type common struct {
	api.RenderedBundle
	clusters []string
}

// commonIn groups bundles that came out the same, in the order of clusters and names.
func commonIn(fleet []compare.On, only string) []*common {
	var out []*common
	known := map[string]*common{}
	for _, on := range fleet {
		for _, b := range on.Rendering.Bundles {
			if b.Err != nil || only != "" && b.Name != only {
				continue
			}
			id := b.Name + "\x00" + b.Digest
			if known[id] == nil {
				known[id] = &common{RenderedBundle: b}
				out = append(out, known[id])
			}
			known[id].clusters = append(known[id].clusters, on.Cluster)
		}
	}
	return out
}

// printFleet prints all clusters' objects, and what several have in common once.
func printFleet(out, talk *terminal.Printer, fleet []compare.On, only string, m mask) error {
	for _, c := range commonIn(fleet, only) {
		for _, w := range c.Warnings {
			talk.Printf("warning: bundle %s on %s: %s\n", c.Name, clustersText(c.clusters, len(fleet)), terminal.Lines(w))
		}
		for _, o := range c.Objects {
			doc, err := terminal.YAML(masked(o.Object, m))
			if err != nil {
				return err
			}
			out.Printf("---\n# clusters: %s; bundle: %s, from: %s\n%s",
				strings.Join(c.clusters, ", "), c.Name, c.Origin[api.RefOf(o).ID()], terminal.Laid(doc))
		}
	}
	return printTroubles(talk, fleet, only)
}

// printTroubles tells what could not be rendered, and where; of all bundles, or of one.
func printTroubles(talk *terminal.Printer, fleet []compare.On, only string) error {
	found := only == ""
	for _, on := range fleet {
		for _, b := range on.Rendering.Bundles {
			found = found || b.Name == only
		}
	}
	failed := false
	for _, t := range troublesOf(fleet) {
		if only != "" && t.bundle != "" && t.bundle != only {
			continue
		}
		about := ""
		if t.bundle != "" {
			about = "bundle " + t.bundle + " "
		}
		talk.Printf("error: %son %s: %s\n", about, clustersText(t.clusters, len(fleet)), terminal.Lines(t.text))
		failed = true
	}
	switch {
	case failed:
		return &api.Error{Kind: api.Stalled, Reason: "RenderFailed", Err: errors.New("not everything could be rendered")}
	case !found:
		return &api.Error{Kind: api.Stalled, Reason: api.ReasonNoSuchBundle, Err: fmt.Errorf("bundle %q is on no cluster", only)}
	}
	return nil
}

// explainSharing prints how often each bundle was rendered, and why not once.
func explainSharing(cmd *cobra.Command, o output, fleet []compare.On, only string) error {
	all := compare.Sharing(fleet)
	shown := make([]compare.Shared, 0, len(all))
	for _, s := range all {
		if only == "" || s.Bundle == only {
			shown = append(shown, s)
		}
	}
	err := o.print(outOf(cmd), shown, func(w *terminal.Printer) {
		row(w, "BUNDLE", "CLUSTERS", "RENDERINGS", "THEY DIFFER IN")
		for _, s := range shown {
			row(w, s.Bundle, fmt.Sprint(s.Clusters), fmt.Sprint(len(s.Renderings)), strings.Join(s.Apart, ", "))
		}
	})
	if err != nil {
		return err
	}
	return printTroubles(errOf(cmd), fleet, only)
}
