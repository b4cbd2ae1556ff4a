package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// ignoring is the rule to commit, and where.
type ignoring struct {
	// File is the file of the repository, Below the field of it that the rule's YAML goes below.
	File  string         `json:"file"`
	Below string         `json:"below"`
	Rule  api.IgnoreRule `json:"rule"`
	// HasRules is whether there are rules already, to which this one is to be added.
	HasRules bool `json:"hasRules,omitempty"`
}

func newDriftIgnore() *cobra.Command {
	var (
		from driftSource
		out  output
		repo repository
		all  bool
	)
	cmd := &cobra.Command{
		Use:   "ignore ID",
		Short: "Print the rule that leaves a drift to whoever makes it, and the file to put it in",
		Long: `Print the ignore rule that ends a drift: its fields of its object, and no more.
With --by-manager the rule names the manager instead: whatever it owns of the object is left to it.

Nothing is written. Commit the rule, and the agent leaves the fields alone from that commit on.
The file is found in --repo; where that is no fleet repository, only the bundle is named.`,
		Example: `  flotilla drift ignore prod-eu-k7qa-42
  flotilla drift ignore prod-eu-k7qa-42 --repo ~/fleet --by-manager
  flotilla drift ignore prod-eu-k7qa-42 --hub https://hub.example.com -o json`,
		Args: oneArg("ID", "flotilla drift lists them"),
	}
	from.flags(cmd)
	repo.flags(cmd)
	out.flag(cmd)
	cmd.Flags().BoolVar(&all, "by-manager", false, "leave to the manager all that it owns of the object")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := from.get(cmd, args[0])
		if err != nil {
			return err
		}
		rule, err := ruleFor(e, ruleBy(all))
		if err != nil {
			return err
		}
		ig, err := whereToIgnore(cmd, repo, e)
		if err != nil {
			return err
		}
		ig.Rule = rule
		return out.print(outOf(cmd), ig, func(w *terminal.Printer) {
			w.Printf("# %s, below %s:\n%s", ig.File, ig.Below, terminal.Laid(drift.RuleYAML(rule)))
			if ig.HasRules {
				errOf(cmd).Printf("%s has rules already: add this one to its list drift.ignore\n", ig.File)
			}
			errOf(cmd).Printf("commit it, and see with: flotilla drift --bundle %s\n", e.Bundle)
		})
	}
	return cmd
}

// byWhat says how a rule names what it leaves alone.
type byWhat int

const (
	byPath byWhat = iota
	byManager
)

func ruleBy(manager bool) byWhat {
	if manager {
		return byManager
	}
	return byPath
}

func ruleFor(e api.Episode, by byWhat) (api.IgnoreRule, error) {
	rule := drift.RuleFor(e)
	switch {
	case e.FieldsOmitted > 0 && by == byPath:
		return rule, &api.Error{
			Kind: api.Stalled, Reason: "TooManyFields",
			Err:  fmt.Errorf("%d more fields differ than were recorded, so the rule would not end it", e.FieldsOmitted),
			Hint: "name the manager (--by-manager), or write a path above them all",
		}
	case by == byPath:
		return rule, nil
	case e.By.Manager == "":
		return rule, &api.Error{
			Kind: api.Stalled, Reason: "NoManager", Err: errors.New("nobody knows which manager did it"),
			Hint: "leave --by-manager out: the rule then names the fields",
		}
	}
	rule.Paths = nil
	for _, f := range e.Fields {
		if f.By.Manager == "" {
			rule.Paths = append(rule.Paths, f.Path)
		} else if !strings.Contains(strings.Join(rule.Managers, "\n")+"\n", f.By.Manager+"\n") {
			rule.Managers = append(rule.Managers, f.By.Manager)
		}
	}
	return rule, nil
}

// whereToIgnore finds the file of the bundle.
func whereToIgnore(cmd *cobra.Command, repo repository, e api.Episode) (ignoring, error) {
	if e.Bundle == api.ClusterBundle {
		return ignoring{File: "fleet.yaml", Below: "spec.defaults"}, nil
	}
	unknown := ignoring{File: "bundle.yaml of the bundle " + e.Bundle, Below: "spec"}
	snap, done, err := repo.snapshot(cmd, quiet(cmd))
	if err != nil {
		if cmd.Flags().Changed("repo") {
			return unknown, err
		}
		return unknown, nil
	}
	defer done()
	if _, err := snap.Tree.Stat("clusters"); errors.Is(err, fs.ErrNotExist) {
		if cmd.Flags().Changed("repo") {
			return unknown, notAFleet(repo.config.URL)
		}
		return unknown, nil
	}
	b, ok, err := bundleOf(cmd.Context(), snap, e)
	if err != nil || !ok {
		return unknown, err
	}
	return ignoring{File: path.Join(b.Dir, "bundle.yaml"), Below: "spec", HasRules: len(b.Spec.Drift.Ignore) > 0}, nil
}

func notAFleet(dir string) error {
	return &api.Error{
		Kind: api.Stalled, Reason: "NotAFleetRepository", Err: fmt.Errorf("%q is no fleet repository: it has no directory clusters/", dir),
		Hint: "give the directory of a checkout",
	}
}

// bundleOf finds the bundle of an episode in the repository.
func bundleOf(ctx context.Context, snap api.Snapshot, e api.Episode) (api.RenderedBundle, bool, error) {
	renderer, err := newRenderer(nil)
	if err != nil {
		return api.RenderedBundle{}, false, err
	}
	defer renderer.Close()
	r, err := renderer.Render(ctx, snap, e.Cluster, api.ClusterFacts{})
	if err != nil {
		return api.RenderedBundle{}, false, err
	}
	for _, b := range r.Bundles {
		if b.Name == e.Bundle {
			return b, true, nil
		}
	}
	return api.RenderedBundle{}, false, nil
}
