package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/preview"
	"github.com/flotilla-fleet/flotilla/sources"
)

// ahead is a preview, and what it was made of.
type ahead struct {
	*preview.Preview
	r    api.Rendering
	past *commits
}

// lookAhead reads all that does not depend on a bundle. The renderer serves for as long as the answer does.
func lookAhead(cmd *cobra.Command, k kube, repo repository, cluster string, renderer agent.Checked) (*ahead, error) {
	ctx := cmd.Context()
	target, err := k.applier(quiet(cmd))
	if err != nil {
		return nil, err
	}
	snap, done, err := repo.snapshot(cmd, quiet(cmd))
	if err != nil {
		return nil, err
	}
	defer done()
	facts, err := target.Facts(ctx)
	if err != nil {
		return nil, err
	}
	told, err := target.BundleStatuses(ctx)
	if err != nil {
		return nil, err
	}
	facts.Holders = map[string]string{}
	for _, s := range told {
		facts.Holders[s.Name] = s.Tenant
	}
	rendering, err := renderer.Render(ctx, snap, cluster, facts)
	if err != nil {
		return nil, err
	}
	a := &ahead{r: target.Resolve(ctx, rendering), past: &commits{repo: repo, cmd: cmd}}
	talk := errOf(cmd)
	a.Preview, err = preview.New(ctx, preview.Config{
		Cluster: target, Differ: target, Judge: agent.Judge{}, Rendering: a.r, Told: told,
		Note: func(line string) { talk.Println(line) },
		History: func(ctx context.Context, revision string) (api.Rendering, error) {
			if revision == snap.Revision {
				return a.r, nil
			}
			old, err := a.past.at(ctx, revision)
			if err != nil {
				return api.Rendering{}, err
			}
			r, err := renderer.Render(ctx, old, cluster, facts)
			return target.Resolve(ctx, r), err
		},
	})
	if err != nil {
		return nil, err
	}
	if len(told) > 0 {
		a.otherCluster(ctx, talk, target)
	}
	return a, nil
}

// otherCluster warns where the cluster's agent has another name for it than the diff.
func (a *ahead) otherCluster(ctx context.Context, talk *terminal.Printer, target *agent.Target) {
	report, err := target.Report(ctx)
	if name := report.Status.Cluster; err == nil && name != "" && name != a.r.Cluster.Metadata.Name {
		talk.Printf("warning: the agent of the cluster that --kubeconfig leads to calls it %q, and this is what %q should be\n", name, a.r.Cluster.Metadata.Name)
	}
}

// commits reads a repository at other commits; it is opened when first asked for.
type commits struct {
	repo repository
	cmd  *cobra.Command

	src   sources.Source
	close func()
	err   error
}

// at returns the snapshot of a commit. A directory has commits only if it is a Git checkout.
func (c *commits) at(ctx context.Context, revision string) (api.Snapshot, error) {
	if c.close == nil {
		if c.src, c.close, c.err = c.repo.open(c.cmd, quiet(c.cmd)); c.err == nil {
			_, c.err = c.src.Fetch(ctx)
		}
	}
	if c.err != nil {
		return api.Snapshot{}, c.err
	}
	return c.src.At(ctx, revision)
}

func (c *commits) end() {
	if c.close != nil {
		c.close()
	}
}
