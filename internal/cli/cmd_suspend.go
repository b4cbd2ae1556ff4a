package cli

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
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

// scope is what the flags say, with kinds as they are typed.
func (s scopeFlags) scope() (api.Scope, error) {
	scope := api.Scope{All: s.all, Bundles: s.bundles}
	for _, text := range s.objects {
		named, err := parseObject(text)
		if err != nil {
			return api.Scope{}, err
		}
		scope.Objects = append(scope.Objects, named.refs[0])
	}
	if err := scope.Validate(); err != nil {
		return api.Scope{}, usagef("%w: give --all, --bundle or --object, and only one of them", err)
	}
	return scope, nil
}

// scopeFlagOf is the flag that a word without one was probably meant for.
func scopeFlagOf(word string) string {
	if strings.Contains(word, "/") {
		return "--object"
	}
	return "--bundle"
}

func newSuspend() *cobra.Command {
	var (
		k      kube
		scope  scopeFlags
		reason string
		span   time.Duration
		name   string
		force  bool
	)
	cmd := &cobra.Command{
		Use:        "suspend (--all | --bundle NAME | --object KIND/NS/NAME) --for DURATION --reason TEXT",
		SuggestFor: []string{"pause", "hold", "freeze", "stop", "disable"},
		Short:      "Break glass: stop correction of a scope for a while",
		Long: `Stop writing and pruning in a scope on one cluster, until an end, for a reason.

Drift is still detected and recorded, with the suspension's name.
When the suspension ends by itself, or by flotilla resume, the agent corrects again.

The order is a Suspension object on the cluster itself: it works while the hub, Git
or even the agent is down, and the cluster's RBAC and audit log guard it.

Kinds are taken as kubectl takes them: deploy, deployments, Deployment or deployment.apps.
A bundle or an object that flotilla does not have on the cluster is refused, for it is probably mistyped;
--force suspends it all the same.`,
		Example: `  flotilla suspend --bundle podinfo --for 30m --reason INC-123
  flotilla suspend --object deploy/podinfo/podinfo --for 2h --reason "debugging with Ana"
  flotilla suspend --all --for 10m --reason INC-123 --kubeconfig prod-eu.kubeconfig`,
		Args: noArgsBut(scopeFlagOf),
	}
	k.flags(cmd)
	scope.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, such as an incident's number (required)")
	spanVar(cmd.Flags(), &span, "for", 0, "how long, such as 30m, 2h or 5d (required)")
	cmd.Flags().StringVar(&name, "name", "", "name of the Suspension object (default: made up)")
	cmd.Flags().BoolVar(&force, "force", false, "suspend also what is not on the cluster, for when it comes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sc, err := scope.scope()
		if err != nil {
			return err
		}
		if span <= 0 {
			return usagef("--for is needed: how long, such as 30m or 5d")
		}
		if span > api.LongestSuspension {
			return usagef("--for is longer than any suspension may be: %d days", int(api.LongestSuspension.Hours()/24))
		}
		if strings.TrimSpace(reason) == "" {
			return usagef("--reason is needed: why, such as an incident's number")
		}
		now := time.Now()
		s := api.Suspension{Name: name, Scope: sc, Reason: reason, Until: now.Add(span).Truncate(time.Second), Actor: whoami(), Created: now}
		// The fleet's own limit is the agent's to know; this is the longest of all.
		if err := s.Validate(now, api.LongestSuspension); err != nil {
			return usageError{err}
		}
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		look := lookup{talk: errOf(cmd), applier: applier, force: force}
		if s.Scope, err = look.scope(cmd.Context(), scope, k); err != nil {
			return err
		}
		made, err := applier.Suspend(cmd.Context(), s)
		if err != nil {
			return err
		}
		outOf(cmd).Printf("%s\n", made.Name)
		errOf(cmd).Printf("suspended %s until %s; end it with: flotilla resume %s\n",
			made.Scope, made.Until.Local().Format(time.RFC1123), made.Name)
		return confirmed(cmd.Context(), errOf(cmd), applier, made)
	}
	return cmd
}

// confirmWithin is how long suspend waits for the agent's word; it usually takes a tenth of a second.
const confirmWithin = 3 * time.Second

// confirmed waits a moment until the agent tells that it holds the suspension, and says if it does not, or ends it sooner.
func confirmed(ctx context.Context, w *terminal.Printer, applier *agent.Target, made api.Suspension) error {
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

// applier returns what writes to the chosen cluster.
func (k kube) applier(log *slog.Logger) (*agent.Target, error) {
	cfg, err := k.rest()
	if err != nil {
		return nil, err
	}
	return agent.Connect(agent.TargetConfig{REST: cfg, Log: log, Version: version})
}

// quiet logs warnings only: commands speak for themselves.
func quiet(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(errOf(cmd), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
