package cli

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/sandbox"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/render/compare"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// newRenderer makes the renderer of a command, which the command closes.
// Charts from outside the repository are kept in the user's cache directory,
// and fetched with the credentials of $FLOTILLA_CHART_CREDENTIALS, a file like Docker's config.json.
// $FLOTILLA_RENDER_LIMITS is what --render-limits is for an agent.
func newRenderer(ageKeyFiles []string) (agent.Checked, error) { return rendererOf(ageKeyFiles, false) }

// newFleetRenderer is newRenderer for a command that renders many clusters.
func newFleetRenderer(ageKeyFiles []string) (agent.Checked, error) {
	return rendererOf(ageKeyFiles, true)
}

func rendererOf(ageKeyFiles []string, fleet bool) (agent.Checked, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	limits, err := engine.ParseLimits(os.Getenv("FLOTILLA_RENDER_LIMITS"))
	if err != nil {
		return agent.Checked{}, fmt.Errorf("FLOTILLA_RENDER_LIMITS: %w", err)
	}
	worker, err := sandbox.Self(engine.Word)
	if err != nil {
		return agent.Checked{}, err
	}
	return agent.NewRenderer(agent.RendererConfig{
		AgeKeyFiles: ageKeyFiles, CacheDir: filepath.Join(cache, "flotilla"), Worker: worker, Limits: limits, Fleet: fleet,
		ChartCredentialsFile: os.Getenv("FLOTILLA_CHART_CREDENTIALS"),
	})
}

func newRender() *cobra.Command {
	var (
		repo    repository
		cluster string
		bundle  string
		keys    []string
		kubever string
		more    []string
		all     bool
		explain bool
		hooks   bool
		out     output
	)
	cmd := &cobra.Command{
		Use:        "render --repo DIR-or-URL {--cluster NAME | --all}",
		SuggestFor: []string{"build", "template", "manifest"},
		Short:      "Print what Git says a cluster should hold",
		Long: `Print, as YAML, the objects that the fleet repository describes for one cluster.

No cluster is asked. Charts see the kinds of Kubernetes itself, those whose CustomResourceDefinitions
are in the repository, as on a cluster that has them, and those of --api-versions.
Secrets are decrypted with the age keys given by --age-key
and printed with their values masked, unless --show-secrets is set.

With --all every cluster is rendered, and a bundle that comes out the same on several clusters is
printed once, with their names. With --explain as well it says instead how often each bundle was
rendered, and in which inputs the renderings differ: clusters for which the same is read (files,
variables, chart) share one.

With --hooks the hooks of charts are printed instead, in the order in which they run: when, with which
weight, and when they are deleted; with -o yaml or json also what they are.`,
		Example: `  flotilla render --repo . --cluster prod-eu
  flotilla render --repo https://git.example.com/fleet.git --cluster prod-eu --bundle podinfo --revision v1.2
  flotilla render --all --explain
  flotilla render --cluster prod-eu --bundle ingress --hooks`,
		Args: noArgsBut(func(string) string { return "--cluster" }),
	}
	repo.flags(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster")
	cmd.Flags().BoolVar(&all, "all", false, "all clusters, and what they have in common once")
	cmd.Flags().BoolVar(&explain, "explain", false, "with --all: say how often each bundle is rendered, and why")
	cmd.Flags().BoolVar(&hooks, "hooks", false, "print the hooks of charts instead of the objects")
	out.among(cmd, "yaml", "table", "json")
	cmd.Flags().StringVar(&bundle, "bundle", "", "only this bundle")
	cmd.Flags().StringArrayVar(&keys, "age-key", nil, "file with age identities, or NAME=FILE for those of a tenant; may be given more than once")
	cmd.Flags().StringVar(&kubever, "kube-version", "", "Kubernetes version that charts see")
	cmd.Flags().StringSliceVar(&more, "api-versions", nil, "API versions that charts see beside the usual ones, such as example.com/v1 or example.com/v1/Thing")
	show := cmd.Flags().Bool("show-secrets", false, "print the values of Secrets")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cluster == "" && !all {
			return usagef("--cluster is needed, the name of a directory below clusters/, or --all%s", seeHelp(cmd))
		}
		if cluster != "" && all {
			return usagef("--cluster and --all exclude each other%s", seeHelp(cmd))
		}
		if err := viewOf(cmd, &out, all, explain, hooks); err != nil {
			return err
		}
		if kubever != "" {
			if _, err := utilversion.ParseGeneric(kubever); err != nil {
				return usagef("--kube-version %q is not a version such as v1.37.1%s", kubever, seeHelp(cmd))
			}
		}
		log := slog.New(slog.NewTextHandler(errOf(cmd), &slog.HandlerOptions{Level: slog.LevelWarn}))
		snap, done, err := repo.snapshot(cmd, log)
		if err != nil {
			return err
		}
		defer done()
		renderer, err := rendererOf(keys, all)
		if err != nil {
			return err
		}
		defer renderer.Close()
		if all {
			fleet, err := renderClusters(cmd.Context(), renderer, snap, sight{kubever, more})
			if err != nil {
				return err
			}
			if explain {
				return explainSharing(cmd, out, fleet, bundle)
			}
			if hooks {
				return printHooks(cmd, out, fleet, bundle, maskOf(*show))
			}
			return printFleet(outOf(cmd), errOf(cmd), fleet, bundle, maskOf(*show))
		}
		rendering, err := renderSettled(cmd.Context(), renderer, snap, cluster, kubever, more)
		if err != nil {
			return err
		}
		if hooks {
			printWarnings(errOf(cmd), rendering, bundle)
			return printHooks(cmd, out, []compare.On{{Cluster: cluster, Rendering: rendering}}, bundle, maskOf(*show))
		}
		return printRendering(outOf(cmd), errOf(cmd), rendering, bundle, maskOf(*show))
	}
	return cmd
}

// viewOf refuses flags that do not go together, and makes a table the form of what is no object.
func viewOf(cmd *cobra.Command, out *output, all, explain, hooks bool) error {
	switch changed := cmd.Flags().Changed("output"); {
	case explain && hooks:
		return usagef("--explain and --hooks exclude each other%s", seeHelp(cmd))
	case explain && !all:
		return usagef("--explain belongs to --all%s", seeHelp(cmd))
	case changed && !explain && !hooks:
		return usagef("--output belongs to --explain and to --hooks%s", seeHelp(cmd))
	case !changed:
		out.format = "table"
	}
	return nil
}

// maxSettling bounds how often CustomResourceDefinitions of charts may bring further ones out of charts.
const maxSettling = 5

// renderSettled renders until charts have seen every kind whose CustomResourceDefinition is rendered, as they do on a cluster.
func renderSettled(ctx context.Context, r agent.Checked, snap api.Snapshot, cluster, kubeVersion string, more []string) (api.Rendering, error) {
	facts := api.ClusterFacts{KubeVersion: kubeVersion}
	if len(more) > 0 {
		facts.APIVersions = append(render.DefaultAPIVersions(), more...)
	}
	for n := 1; ; n++ {
		rendering, err := r.Render(ctx, snap, cluster, facts)
		if err != nil {
			return rendering, err
		}
		next, grown := render.WithCRDs(facts, rendering)
		if !grown || n == maxSettling {
			return rendering, nil
		}
		facts = next
	}
}

// mask says what happens to the values of Secrets.
type mask int

const (
	maskSecrets mask = iota
	showSecrets
)

func maskOf(show bool) mask {
	if show {
		return showSecrets
	}
	return maskSecrets
}

// printWarnings tells what a rendering warns of: of all bundles, or of one.
func printWarnings(talk *terminal.Printer, r api.Rendering, only string) {
	for _, w := range r.Warnings {
		talk.Printf("warning: %s\n", terminal.Lines(w))
	}
	for _, b := range r.Bundles {
		if only == "" || b.Name == only {
			for _, w := range b.Warnings {
				talk.Printf("warning: bundle %s: %s\n", b.Name, terminal.Lines(w))
			}
		}
	}
}

func printRendering(out, talk *terminal.Printer, r api.Rendering, only string, m mask) error {
	var failed []string
	found := false
	printWarnings(talk, r, only)
	shared := sharedIn(r)
	for _, b := range r.Bundles {
		if only != "" && b.Name != only {
			continue
		}
		found = true
		if b.Err != nil {
			talk.Printf("error: bundle %s: %v\n", b.Name, terminal.Lines(b.Err.Error()))
			failed = append(failed, b.Name)
			continue
		}
		if err := shared[b.Name].err(); err != nil {
			talk.Printf("error: bundle %s: %v\n", b.Name, terminal.Lines(err.Error()))
			failed = append(failed, b.Name)
		}
		for _, o := range b.Objects {
			if _, others := shared[b.Name][api.RefOf(o).ID()]; others {
				continue
			}
			doc, err := terminal.YAML(masked(o.Object, m))
			if err != nil {
				return err
			}
			out.Printf("---\n# bundle: %s, from: %s\n%s", b.Name, b.Origin[api.RefOf(o).ID()], terminal.Laid(doc))
		}
	}
	for _, tenant := range slices.Sorted(maps.Keys(r.Stopped)) {
		if only == "" {
			talk.Printf("error: nothing of tenant %s is applied: %v\n", tenant, terminal.Lines(r.Stopped[tenant].Error()))
			failed = append(failed, "tenant "+tenant)
		}
	}
	if only != "" && !found {
		return &api.Error{
			Kind: api.Stalled, Reason: api.ReasonNoSuchBundle,
			Err: fmt.Errorf("bundle %q is not on cluster %q", only, r.Cluster.Metadata.Name),
		}
	}
	if len(failed) > 0 {
		return &api.Error{Kind: api.Stalled, Reason: "RenderFailed", Err: fmt.Errorf("cannot render %s", strings.Join(failed, ", "))}
	}
	return nil
}

// masked returns the object with a Secret's values hidden.
func masked(o map[string]any, m mask) map[string]any {
	if m == showSecrets || o["kind"] != "Secret" || o["apiVersion"] != "v1" {
		return o
	}
	out := make(map[string]any, len(o))
	for k, v := range o {
		if values, ok := v.(map[string]any); ok && (k == "data" || k == "stringData") {
			hidden := make(map[string]any, len(values))
			for key := range values {
				hidden[key] = "(hidden)"
			}
			v = hidden
		}
		out[k] = v
	}
	return out
}
