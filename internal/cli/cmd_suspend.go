package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/apply"
)

// scopeFlags choose what a suspension covers.
type scopeFlags struct {
	all     bool
	bundles []string
	objects []string
}

func (s *scopeFlags) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.all, "all", false, "everything on the cluster")
	cmd.Flags().StringSliceVar(&s.bundles, "bundle", nil, "a bundle; may be given more than once")
	cmd.Flags().StringSliceVar(&s.objects, "object", nil, "an object as KIND/NAMESPACE/NAME, KIND.GROUP/NAMESPACE/NAME or, without a namespace, KIND/NAME")
}

func (s scopeFlags) scope() (api.Scope, error) {
	scope := api.Scope{All: s.all, Bundles: s.bundles}
	for _, text := range s.objects {
		ref, err := parseObject(text)
		if err != nil {
			return api.Scope{}, err
		}
		scope.Objects = append(scope.Objects, ref)
	}
	if err := scope.Validate(); err != nil {
		return api.Scope{}, usageError{fmt.Errorf("%w: give --all, --bundle or --object", err)}
	}
	return scope, nil
}

// parseObject reads an object as ObjectRef.String writes it.
func parseObject(text string) (api.ObjectRef, error) {
	parts := strings.Split(text, "/")
	kind, group, _ := strings.Cut(parts[0], ".")
	ref := api.ObjectRef{Kind: kind, Group: group, Name: parts[len(parts)-1]}
	if len(parts) == 3 {
		ref.Namespace = parts[1]
	}
	if len(parts) < 2 || len(parts) > 3 || ref.Kind == "" || ref.Name == "" {
		return api.ObjectRef{}, usageError{fmt.Errorf("%q is not an object: write KIND/NAMESPACE/NAME or KIND/NAME", text)}
	}
	return ref, nil
}

func newSuspend() *cobra.Command {
	var (
		k      kube
		scope  scopeFlags
		reason string
		span   time.Duration
		name   string
	)
	cmd := &cobra.Command{
		Use:   "suspend (--all | --bundle NAME | --object KIND/NS/NAME) --for DURATION --reason TEXT",
		Short: "Break glass: stop correction of a scope for a while",
		Long: `Stop writing and pruning in a scope on one cluster, until an end, for a reason.

Drift is still detected and recorded, with the suspension's name.
When the suspension ends by itself, or by flotilla resume, the agent corrects again.

The order is a Suspension object on the cluster itself: it works while the hub, Git
or even the agent is down, and the cluster's RBAC and audit log guard it.`,
		Example: `  flotilla suspend --bundle podinfo --for 30m --reason INC-123
  flotilla suspend --object Deployment/podinfo/podinfo --for 2h --reason "debugging with Ana"
  flotilla suspend --all --for 10m --reason INC-123 --kubeconfig prod-eu.kubeconfig`,
		Args: cobra.NoArgs,
	}
	k.flags(cmd)
	scope.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, such as an incident's number (required)")
	cmd.Flags().DurationVar(&span, "for", 0, "how long, such as 30m or 2h (required)")
	cmd.Flags().StringVar(&name, "name", "", "name of the Suspension object (default: made up)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sc, err := scope.scope()
		if err != nil {
			return err
		}
		now := time.Now()
		s := api.Suspension{Name: name, Scope: sc, Reason: reason, Until: now.Add(span).Truncate(time.Second), Actor: whoami(), Created: now}
		if span <= 0 {
			return usageError{fmt.Errorf("--for is needed: how long, such as 30m")}
		}
		// The fleet's own limit is the agent's to know; this is the longest of all.
		if err := s.Validate(now, api.LongestSuspension); err != nil {
			return usageError{err}
		}
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		made, err := applier.Suspend(cmd.Context(), s)
		if err != nil {
			return err
		}
		outOf(cmd).Printf("%s\n", made.Name)
		errOf(cmd).Printf("suspended %s until %s; end it with: flotilla resume %s\n",
			made.Scope, made.Until.Local().Format(time.RFC1123), made.Name)
		warnUnknown(cmd.Context(), errOf(cmd), applier, made.Scope)
		return confirmed(cmd.Context(), errOf(cmd), applier, made)
	}
	return cmd
}

// confirmWithin is how long suspend waits for the agent's word; it usually takes a tenth of a second.
const confirmWithin = 3 * time.Second

// confirmed waits a moment until the agent tells that it holds the suspension, and says if it does not, or ends it sooner.
func confirmed(ctx context.Context, w *terminal.Printer, applier *apply.Applier, made api.Suspension) error {
	for begun := time.Now(); time.Since(begun) < confirmWithin; {
		report, err := applier.Report(ctx)
		if e, ok := errors.AsType[*api.Error](err); ok && e.Reason == "NoAgent" {
			w.Println("warning: no agent has been on this cluster; one that comes obeys it before its first write")
			return nil
		}
		if api.KindOf(err) == api.Forbidden {
			w.Printf("warning: whether the agent holds it may not be looked up: %v\n", err)
			return nil
		}
		if i := slices.IndexFunc(report.Status.Suspensions, func(s api.Suspension) bool { return s.Name == made.Name }); err == nil && i >= 0 {
			if held := report.Status.Suspensions[i]; made.Until.Sub(held.Until) > 2*time.Second {
				w.Printf("warning: the fleet allows no longer suspension (spec.suspendMax in fleet.yaml): it ends %s\n", held.Until.Local().Format(time.RFC1123))
			}
			w.Println("the agent holds it: nothing in its scope is written or pruned")
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	w.Printf("warning: the agent has not confirmed it within %s: it is down, or cannot reach the API server, and obeys as soon as it can; see flotilla status\n", confirmWithin)
	return nil
}

// warnUnknown tells which bundles and objects of a suspension's scope are not on the cluster: a name may be mistyped.
// It never stands in the way of the suspension, which may well be made before they come.
func warnUnknown(ctx context.Context, w *terminal.Printer, applier *apply.Applier, scope api.Scope) {
	if len(scope.Bundles) > 0 {
		all, err := applier.BundleStatuses(ctx)
		if err != nil {
			w.Printf("warning: whether the cluster has such bundles could not be looked up: %v\n", err)
			return
		}
		names := make([]string, 0, len(all))
		for _, b := range all {
			names = append(names, b.Name)
		}
		for _, b := range scope.Bundles {
			if !slices.Contains(names, b) {
				w.Printf("warning: there is no bundle %q on this cluster now; known are: %s\n", b, listed(names))
			}
		}
	}
	if len(scope.Objects) == 0 {
		return
	}
	inventory, err := applier.Inventory(ctx)
	if err != nil {
		w.Printf("warning: whether flotilla has such objects on the cluster could not be looked up: %v\n", err)
		return
	}
	for _, o := range scope.Objects {
		one := api.Scope{Objects: []api.ObjectRef{o}}
		found := false
		var names []string // those of the same kind
		for _, entries := range inventory {
			for _, e := range entries {
				found = found || one.Covers("", e.Object)
				if e.Object.Kind == o.Kind {
					names = append(names, e.Object.String())
				}
			}
		}
		if !found {
			slices.Sort(names)
			w.Printf("warning: flotilla has no object %q on this cluster now; known of its kind are: %s\n", o, listed(names))
		}
	}
}

// listed joins names for people, up to a bound.
func listed(names []string) string {
	const most = 20
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// applier returns what writes to the chosen cluster.
func (k kube) applier(log *slog.Logger) (*apply.Applier, error) {
	cfg, err := k.rest()
	if err != nil {
		return nil, err
	}
	return apply.New(apply.Config{REST: cfg, Log: log, AgentVersion: version})
}

// quiet logs warnings only: commands speak for themselves.
func quiet(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(errOf(cmd), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
