package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/drift/adopt"
	"github.com/flotilla-fleet/flotilla/render"
	"github.com/flotilla-fleet/flotilla/sources"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

func newDriftAdopt() *cobra.Command {
	var (
		from     driftSource
		dir      string
		path     string
		keys     []string
		all, dry bool
	)
	cmd := &cobra.Command{
		Use:   "adopt ID --out DIR",
		Short: "Write the live values of a drift into a checkout of the fleet repository",
		Long: `Make what is live what Git says: change the checkout in DIR so that the fields of a drift
have their live values. Then look at the change, commit and push it.

Plain YAML is edited in place, with its comments. For a kustomization the overlay is changed: its entry of
replicas or images, a patch that says the field already, or a new patch. A chart's values are not guessed.

The repository is rendered for every cluster before and after. If anything but these fields of this object
would change, or if other clusters share the files (see --all-clusters), nothing is written, and it says why.
Secrets are never written.`,
		Example: `  flotilla drift adopt prod-eu-k7qa-42 --out ~/fleet
  flotilla drift adopt prod-eu-k7qa-42 --out ~/fleet --dry-run
  flotilla drift adopt prod-eu-k7qa-42 --out ~/fleet --all-clusters && git -C ~/fleet diff`,
		Args: oneArg("ID", "flotilla drift lists them"),
	}
	from.flags(cmd)
	cmd.Flags().StringVar(&dir, "out", "", "checkout of the fleet repository (required)")
	cmd.Flags().StringVar(&path, "path", "", "directory of the fleet inside of the checkout (default: its root)")
	cmd.Flags().StringArrayVar(&keys, "age-key", nil, "file with age identities, or NAME=FILE for those of a tenant; may be given more than once")
	cmd.Flags().BoolVar(&all, "all-clusters", false, "let the change take effect on the other clusters that share the files, too")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the change and write nothing")
	_ = cmd.MarkFlagDirname("out") // fails only for an unknown flag
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dir == "" {
			return usageError{errors.New("--out is needed: the directory of a checkout of the fleet repository")}
		}
		checkout := repository{sourceFlags: sourceFlags{config: sources.Config{Config: git.Config{URL: dir, Path: path}}}}
		snap, done, err := checkout.files(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		if _, err := snap.Tree.Stat("clusters"); errors.Is(err, fs.ErrNotExist) {
			return notAFleet(dir)
		}
		e, err := from.get(cmd, args[0])
		if err != nil {
			return err
		}
		renderer, err := newRenderer(keys)
		if err != nil {
			return err
		}
		defer renderer.Close()
		plan, err := adopt.New(cmd.Context(), adopt.Request{Episode: e, Snapshot: snap, Renderer: renderer, List: render.Clusters, Clusters: adoptOn(all)})
		if err != nil {
			return err
		}
		for _, f := range plan.Files {
			name := "a/" + f.Name
			if f.Before == nil {
				name = "/dev/null"
			}
			outOf(cmd).Printf("%s", unified(name, "b/"+f.Name, string(f.Before), string(f.After)))
		}
		talk := errOf(cmd)
		talk.Printf("rendered for every cluster: only %s changes, on %s\n", e.Object, strings.Join(plan.Clusters, ", "))
		if dry {
			talk.Println("nothing was written (--dry-run)")
			return nil
		}
		if err := plan.Write(filepath.Join(dir, filepath.FromSlash(cleanPath(path)))); err != nil {
			return err
		}
		talk.Printf("written; next: cd %s && git add -A && git commit && git push; the drift ends with that commit\n", dir)
		return nil
	}
	return cmd
}

func adoptOn(all bool) adopt.Clusters {
	if all {
		return adopt.AllConcerned
	}
	return adopt.OnlyDrifted
}
