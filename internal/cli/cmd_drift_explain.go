package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	apiserver "github.com/flotilla-fleet/flotilla/reconciler/kube"
	"github.com/flotilla-fleet/flotilla/reconciler/plan"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// explanation is all that can be said of an object's fields.
type explanation struct {
	Cluster  string        `json:"cluster"`
	Bundle   string        `json:"bundle"`
	Object   api.ObjectRef `json:"object"`
	Revision string        `json:"revision"`
	File     string        `json:"file"`
	Mode     api.DriftMode `json:"mode"`
	// Exempt is what on the cluster, and not in Git, keeps it from being looked at or corrected.
	Exempt  string `json:"exempt,omitempty"`
	Missing bool   `json:"missing,omitempty"`
	// Refused is why the API server would not put Git's object in the place of the live one.
	Refused string            `json:"refused,omitempty"`
	Fields  []drift.Explained `json:"fields"`
}

func newDriftExplain() *cobra.Command {
	var (
		k       kube
		out     output
		repo    repository
		cluster string
		keys    []string
		differ  bool
	)
	cmd := &cobra.Command{
		Use:   "explain KIND/NAMESPACE/NAME",
		Short: "Explain an object field by field: who owns it, what Git says, what is live",
		Long: `Explain one object of the cluster of --kubeconfig: every field that we own or that differs,
with Git's value and its file, the live value, and the field manager that owns it.
A difference that is no drift is there with the reason; so is what admission changes and adds.

What Git says is read from --repo; without it, from the repository and the commit that the agent of the
cluster reports. The API server answers a dry run; nothing is written. Values of Secrets are masked.`,
		Example: `  flotilla drift explain Deployment/podinfo/podinfo --kubeconfig prod-eu.kubeconfig
  flotilla drift explain Namespace/podinfo --repo ~/fleet --differences
  flotilla drift explain Secret/backup/backup-target --age-key age.txt -o json`,
		Args: oneArg("KIND/NAMESPACE/NAME", "such as Deployment/podinfo/podinfo, or KIND/NAME without a namespace"),
	}
	k.flags(cmd)
	repo.flags(cmd)
	out.wideFlag(cmd)
	cmd.Flags().Lookup("repo").DefValue = "what the agent follows"
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster in the repository (default: as its agent reports)")
	cmd.Flags().StringArrayVar(&keys, "age-key", nil, "file with age identities, or NAME=FILE for those of a tenant; may be given more than once")
	cmd.Flags().BoolVar(&differ, "differences", false, "only the fields that differ")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := parseObject(args[0]); err != nil {
			return err
		}
		live, err := k.kinds()
		if err != nil {
			return err
		}
		named, err := live.object(args[0])
		if err != nil {
			return err
		}
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		rendering, err := whatIsApplied(cmd, applier, repo, cluster, keys, named)
		if err != nil {
			return err
		}
		ex, err := explain(cmd.Context(), applier, rendering, named)
		if err != nil {
			return err
		}
		if differ {
			ex.Fields = slices.DeleteFunc(ex.Fields, func(f drift.Explained) bool { return f.Class == "" })
		}
		fits := out.room(outOf(cmd))
		return out.print(outOf(cmd), ex, func(w *terminal.Printer) { showExplanation(w, ex, fits) })
	}
	return cmd
}

// whatIsApplied renders what the cluster should be: of what is given, or else of what its agent reports,
// and of that the revision from which the object's own bundle was applied. Other bundles may have come further, or less far.
func whatIsApplied(cmd *cobra.Command, applier *agent.Target, repo repository, cluster string, keys []string, named namedObject) (api.Rendering, error) {
	given := cmd.Flags().Changed("repo")
	if given && cluster != "" {
		return renderFor(cmd, applier, repo, cluster, keys)
	}
	report, err := applier.Report(cmd.Context())
	if err != nil {
		return api.Rendering{}, withHint(err, "or give --repo and --cluster")
	}
	if cluster == "" {
		cluster = report.Status.Cluster
	}
	if given {
		return renderFor(cmd, applier, repo, cluster, keys)
	}
	repo.config.URL = report.Status.Source
	if b := report.Status.Branch; b != "" && !cmd.Flags().Changed("branch") {
		repo.config.Ref = git.ParseRef(b)
	}
	if repo.revision != "" {
		return renderFor(cmd, applier, repo, cluster, keys)
	}
	at := func(revision string) (api.Rendering, error) {
		repo.revision = revision
		return renderFor(cmd, applier, repo, cluster, keys)
	}
	newest, err := at(report.Status.DesiredRevision)
	if err != nil {
		return at(report.Status.AppliedRevision) // what is newest cannot be read as a whole
	}
	b, _, err := declared(newest, named)
	if err != nil {
		if old, oldErr := at(report.Status.AppliedRevision); oldErr == nil {
			return old, nil
		}
		return newest, nil
	}
	all, err := applier.BundleStatuses(cmd.Context())
	if err != nil {
		return api.Rendering{}, err
	}
	for _, s := range all {
		if s.Name == b.Name && s.AppliedRevision != "" && s.AppliedRevision != newest.Revision {
			return at(s.AppliedRevision)
		}
	}
	return newest, nil
}

// renderFor renders a cluster with what the live one is capable of.
func renderFor(cmd *cobra.Command, applier *agent.Target, repo repository, cluster string, keys []string) (api.Rendering, error) {
	snap, done, err := repo.snapshot(cmd, quiet(cmd))
	if err != nil {
		if !cmd.Flags().Changed("repo") {
			err = fmt.Errorf("%w; give a checkout with --repo DIR", err)
		}
		return api.Rendering{}, err
	}
	defer done()
	renderer, err := newRenderer(keys)
	if err != nil {
		return api.Rendering{}, err
	}
	defer renderer.Close()
	facts, err := applier.Facts(cmd.Context())
	if err != nil {
		return api.Rendering{}, err
	}
	r, err := renderer.Render(cmd.Context(), snap, cluster, facts)
	if err != nil {
		return api.Rendering{}, err
	}
	return applier.Resolve(cmd.Context(), r), nil
}

func explain(ctx context.Context, applier *agent.Target, r api.Rendering, named namedObject) (explanation, error) {
	b, o, err := declared(r, named)
	if err != nil {
		return explanation{}, err
	}
	ref := api.RefOf(o)
	ex := explanation{
		Cluster: r.Cluster.Metadata.Name, Bundle: b.Name, Object: ref, Revision: r.Revision, File: b.Origin[ref.ID()],
		Fields: []drift.Explained{},
	}
	in, refused, err := lookAt(ctx, applier, r, b, o)
	if err != nil {
		return ex, err
	}
	ex.Missing = in.Live == nil
	inGit, onCluster := o.GetAnnotations(), liveAnnotations(in.Live)
	ex.Mode = drift.Mode(b.Spec.Drift, inGit, onCluster)
	ex.Exempt = plan.Exempt(api.OrdersIn(inGit), api.OrdersIn(onCluster), b.Spec.Drift)
	if refused != nil {
		ex.Refused = refused.Error()
	}
	if f := drift.Explain(in); f != nil {
		ex.Fields = f
	}
	return ex, nil
}

// maxLooks is how often an object is looked at that changes between two questions about it.
const maxLooks = 5

// lookAt asks all of an object that an explanation needs, as the agent does where additions are looked for.
// Refused is why the API server would not put Git's object in the place of the live one.
func lookAt(ctx context.Context, applier *agent.Target, r api.Rendering, b api.RenderedBundle, o *unstructured.Unstructured) (in drift.Input, refused, err error) {
	for range maxLooks {
		ins := applier.Inspect(ctx, b, o)
		if ins.Err != nil {
			return drift.Input{}, nil, ins.Err
		}
		disabled := func(a map[string]string) bool { return api.OrdersIn(a).Reconcile == api.ValueDisabled }
		in = drift.Input{
			Desired: ins.Desired, Live: ins.Live, DryRun: ins.DryRun, Refused: ins.Refused != nil,
			Unapplied: disabled(o.GetAnnotations()) || disabled(liveAnnotations(ins.Live)), Spec: b.Spec.Drift, Autoscalers: autoscalers(r),
		}
		asked := in
		if !asked.Spec.AsksForExtra() {
			asked.Spec.Extra = api.ExtraReport
		}
		patch := drift.Additions(asked)
		if patch == nil || ins.Refused != nil {
			return in, ins.Refused, nil
		}
		in.Stripped, err = applier.Without(ctx, b, ins, patch)
		if !apiserver.IsConflict(err) {
			return in, nil, err
		}
	}
	return drift.Input{}, nil, err
}

func liveAnnotations(live *unstructured.Unstructured) map[string]string {
	if live == nil {
		return nil
	}
	return live.GetAnnotations()
}

// autoscalers are those in Git: an autoscaler that somebody made by hand is not known here.
func autoscalers(r api.Rendering) []drift.Autoscaler {
	var objects []*unstructured.Unstructured
	for _, b := range r.Bundles {
		objects = append(objects, b.Objects...)
	}
	return drift.AutoscalersIn(objects)
}

// declared finds the object in what Git says.
func declared(r api.Rendering, named namedObject) (api.RenderedBundle, *unstructured.Unstructured, error) {
	var failed []string
	var others []string
	for _, b := range r.Bundles {
		if b.Err != nil {
			failed = append(failed, fmt.Sprintf("%s (%v)", b.Name, b.Err))
		}
		for _, o := range b.Objects {
			ref := api.RefOf(o)
			if named.is(ref) {
				return b, o, nil
			}
			if ref.Name == named.refs[0].Name {
				others = append(others, ref.String())
			}
		}
	}
	e := &api.Error{
		Kind: api.Stalled, Reason: "NotInGit",
		Err: fmt.Errorf("no bundle of cluster %s holds %s", r.Cluster.Metadata.Name, named.refs[0]),
	}
	switch {
	case len(others) > 0:
		e.Hint = "do you mean " + strings.Join(others[:min(len(others), 3)], " or ") + "?"
	case len(failed) > 0:
		e.Err = fmt.Errorf("%w; these could not be rendered: %s", e.Err, strings.Join(failed, ", "))
		e.Hint = "Secrets need --age-key"
	default:
		e.Hint = "flotilla render --cluster " + r.Cluster.Metadata.Name + " prints what there is"
	}
	return api.RenderedBundle{}, nil, e
}

func showExplanation(w *terminal.Printer, ex explanation, fits room) {
	w.Printf("%s on %s, bundle %s: mode %s\n", ex.Object, ex.Cluster, ex.Bundle, ex.Mode)
	w.Printf("Git %s: %s\n", shortRevision(ex.Revision), ex.File)
	if ex.Exempt != "" {
		w.Printf("It is exempt: %s, on the cluster and not in Git.\n", ex.Exempt)
	}
	if ex.Missing {
		w.Println("It is missing on the cluster.")
		return
	}
	if ex.Refused != "" {
		w.Printf("The API server refuses to apply that here: %s\n", oneLine(ex.Refused))
	}
	if len(ex.Fields) == 0 {
		w.Println("No field differs.")
		return
	}
	w.Println("")
	t := table{head: []string{"", "FIELD", "GIT", "LIVE", "OWNER", "OPERATION", "WROTE"}, least: []int{0, 30, 12, 12, 12, 0, 0}}
	now := time.Now()
	var reasons []string
	for _, f := range ex.Fields {
		mark := " "
		switch {
		case f.Reason != "":
			mark = "="
			reasons = append(reasons, f.Path+": "+f.Reason)
		case f.Class == api.ClassAdded:
			mark = "+"
		case f.Class == api.ClassRemoved:
			mark = "-"
		case f.Class != "":
			mark = "~"
		}
		live := absent(f.Live)
		if f.Class == "" {
			live = "same"
		}
		at := ago(now, f.By.Time)
		if fits.wide {
			at = written(f.By)
		}
		t.rows = append(t.rows, []string{mark, f.Path, oneLine(absent(f.Desired)), oneLine(live), who(f.By), operation(f.By), at})
	}
	t.print(w, fits.width)
	w.Println("\n~ changed, - removed, + added by others, = differs and is no drift")
	for _, r := range reasons {
		w.Printf("= %s\n", r)
	}
}

func ago(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return age(now, at) + " ago"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
