package cli

import (
	"context"
	"slices"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/suggest"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

// lookup makes a scope exact by what the cluster has.
type lookup struct {
	talk    *terminal.Printer
	applier *agent.Target
	// force takes what is not there as it was typed.
	force bool
}

// scope is what the flags say, with every object by its full name. What matches nothing is refused:
// a suspension of a mistyped name holds nothing, and nobody would find out before it is too late.
// Where it may not be looked up, it is taken as it was typed: breaking glass needs no right to read everything.
func (l lookup) scope(ctx context.Context, f scopeFlags, k kube) (api.Scope, error) {
	scope, err := f.scope()
	if err != nil || scope.All {
		return scope, err
	}
	if len(scope.Bundles) > 0 {
		return scope, l.bundles(ctx, scope.Bundles)
	}
	named, err := l.named(f, k)
	if err != nil {
		return scope, err
	}
	inventory, err := l.applier.Inventory(ctx)
	if err != nil {
		l.warn("whether flotilla has such objects on the cluster could not be looked up", err)
	}
	var open []api.Episode
	if report, err := l.applier.Report(ctx); err == nil {
		open = report.Drift // an object that is missing now is ours all the same
	}
	for i, n := range named {
		ref, known, found := n.among(inventory, open)
		switch {
		case found:
			scope.Objects[i] = ref
		case err != nil || l.force:
			scope.Objects[i] = n.refs[0]
		case n.unknown != nil:
			return scope, n.unknown
		default:
			return scope, forced(noObject(n, known))
		}
	}
	return scope, nil
}

func (lookup) named(f scopeFlags, k kube) ([]namedObject, error) {
	live, err := k.kinds()
	if err != nil {
		return nil, err
	}
	var out []namedObject
	for _, text := range f.objects {
		n, err := live.object(text)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func (l lookup) bundles(ctx context.Context, names []string) error {
	all, err := l.applier.BundleStatuses(ctx)
	if err != nil {
		l.warn("whether the cluster has such bundles could not be looked up", err)
		return nil
	}
	for _, name := range names {
		if !l.force && !slices.ContainsFunc(all, func(b api.BundleStatus) bool { return b.Name == name }) {
			return forced(noBundle(name, "", all))
		}
	}
	return nil
}

func (l lookup) warn(what string, err error) {
	l.talk.Printf("warning: %s: %v\n", what, terminal.Lines(err.Error()))
}

// among finds the object among those that flotilla has, in its inventory or as open drift.
// known are those of the same kind, or all if there are none.
func (n namedObject) among(inventory map[string][]api.InventoryEntry, open []api.Episode) (ref api.ObjectRef, known []string, found bool) {
	all := suggest.Objects(inventory, open)
	for _, want := range n.refs { // the likeliest kind goes first
		one := n
		one.refs = []api.ObjectRef{want}
		if i := slices.IndexFunc(all, one.is); i >= 0 {
			at := all[i]
			at.Version = ""
			return at, nil, true
		}
	}
	for _, a := range all {
		if slices.ContainsFunc(n.refs, func(r api.ObjectRef) bool { return calls(r.Kind, a.Kind) }) {
			known = append(known, a.String())
		}
	}
	if len(known) == 0 {
		for _, a := range all {
			known = append(known, a.String())
		}
	}
	return ref, slices.Compact(known), false
}

func noObject(n namedObject, known []string) *api.Error {
	return suggest.NoObject(n.refs[0].String(), known)
}

// noBundle says that a cluster has no such bundle; the cluster is empty for the one at hand.
func noBundle(name, cluster string, bundles []api.BundleStatus) *api.Error {
	var names []string
	for _, b := range bundles {
		names = append(names, b.Name)
	}
	return suggest.NoBundle(name, cluster, names)
}

// forced adds how to have it all the same.
func forced(e *api.Error) *api.Error {
	e.Hint += "; --force suspends it all the same, for when it comes"
	return e
}
