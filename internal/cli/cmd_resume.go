package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func newResume() *cobra.Command {
	var (
		k     kube
		scope scopeFlags
		yes   bool
	)
	cmd := &cobra.Command{
		Use:        "resume [NAME…] [--all | --bundle NAME | --object KIND/NS/NAME]",
		SuggestFor: []string{"unpause", "continue", "unsuspend", "enable"},
		Short:      "End a suspension; the agent corrects what drifted meanwhile",
		Long: `End suspensions on one cluster: the ones named, or those whose scope is exactly the one given;
--all ends every suspension there is.

First it shows what has drifted in their scope, field by field, and asks: correct it, or adopt it first.
The answer "a" ends nothing and prints how to keep what is live. --yes does not ask, for scripts.

Where another suspension covers the same, it goes on holding; that is said.`,
		Example: `  flotilla resume s-7f3k2
  flotilla resume --bundle podinfo --yes
  flotilla resume --all`,
	}
	k.flags(cmd)
	scope.flags(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		_, err := scope.scope()
		switch given := scope.all || len(scope.bundles)+len(scope.objects) > 0; {
		case len(names) > 0 && given:
			return usagef("give names, or one of --all, --bundle and --object, and not both%s", seeHelp(cmd))
		case len(names) == 0 && !given:
			return usagef("which one? give its name, --all, --bundle or --object; flotilla status lists them%s", seeHelp(cmd))
		case len(names) == 0 && err != nil:
			return err
		}
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		all, err := applier.Suspensions(cmd.Context())
		if err != nil {
			if len(all) == 0 {
				return err
			}
			// One that cannot be understood is among them. It may hold everything, and is ended like any other.
			errOf(cmd).Printf("warning: %v\n", err)
		}
		live, err := k.kinds()
		if err != nil {
			return err
		}
		chosen, err := choose(all, names, scope, live.object)
		if err != nil {
			return err
		}
		if len(chosen) == 0 {
			errOf(cmd).Println("Nothing is suspended on this cluster.")
			return nil
		}
		if !yes {
			if err := confirm(cmd.Context(), cmd.InOrStdin(), errOf(cmd), applier, all, chosen); err != nil {
				return err
			}
		}
		now := time.Now()
		for _, s := range chosen {
			if err := applier.Resume(cmd.Context(), s.Name); err != nil {
				return err
			}
			if !s.Active(now) {
				errOf(cmd).Printf("had ended already: %s, at %s (%s)\n", s.Scope, s.Until.Local().Format(time.RFC1123), s.Name)
				continue
			}
			errOf(cmd).Printf("resumed %s (%s)\n", s.Scope, s.Name)
		}
		stillHeld(errOf(cmd), all, chosen)
		return nil
	}
	return cmd
}

// choose returns the suspensions that the command line names.
func choose(all api.Suspensions, names []string, f scopeFlags, look func(string) (namedObject, error)) (api.Suspensions, error) {
	var out api.Suspensions
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			continue
		}
		at := slices.IndexFunc(all, func(s api.Suspension) bool { return s.Name == n })
		if at < 0 {
			return nil, &api.Error{Kind: api.Stalled, Reason: "NoSuchSuspension", Err: fmt.Errorf("there is no suspension %q", n), Hint: known(all)}
		}
		out = append(out, all[at])
	}
	if len(names) > 0 {
		return out, nil
	}
	if f.all {
		return all, nil
	}
	want, err := f.scope()
	if err != nil {
		return nil, err
	}
	var objects []namedObject
	for _, text := range f.objects {
		n, err := look(text)
		if err != nil {
			return nil, err
		}
		objects = append(objects, n)
	}
	for i, n := range objects {
		want.Objects[i] = n.refs[0]
	}
	for _, s := range all {
		if !s.Scope.All && sameNames(s.Scope.Bundles, want.Bundles) && sameObjects(s.Scope.Objects, objects) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, &api.Error{
			Kind: api.Stalled, Reason: "NoSuchSuspension",
			Err: fmt.Errorf("no suspension has the scope %s", want), Hint: known(all),
		}
	}
	return out, nil
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}

// sameObjects reports whether the objects of a scope are exactly those that were named.
func sameObjects(in []api.ObjectRef, named []namedObject) bool {
	// A scope may name a kind without its group, and then means that of any.
	is := func(n namedObject, o api.ObjectRef) bool {
		return n.is(o) || o.Group == "" && slices.ContainsFunc(n.refs, func(r api.ObjectRef) bool {
			r.Group = ""
			return r == api.ObjectRef{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
		})
	}
	for _, o := range in {
		if !slices.ContainsFunc(named, func(n namedObject) bool { return is(n, o) }) {
			return false
		}
	}
	for _, n := range named {
		if !slices.ContainsFunc(in, func(o api.ObjectRef) bool { return is(n, o) }) {
			return false
		}
	}
	return true
}

func known(all api.Suspensions) string {
	if len(all) == 0 {
		return "nothing is suspended on this cluster"
	}
	var names []string
	for _, s := range all {
		names = append(names, fmt.Sprintf("%s (%s)", s.Name, s.Scope))
	}
	return "suspended: " + strings.Join(names, ", ")
}

// confirm shows what drifted in the scopes, and asks whether to correct it, or to adopt it first.
func confirm(ctx context.Context, in io.Reader, talk *terminal.Printer, applier *agent.Target, all, chosen api.Suspensions) error {
	report, err := applier.Report(ctx)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(all), func(s api.Suspension) bool {
		return slices.ContainsFunc(chosen, func(c api.Suspension) bool { return c.Name == s.Name })
	})
	var drifted []api.Episode
	for _, e := range report.Drift {
		if _, covered := chosen.Find(time.Now(), e.Bundle, e.Object); !covered {
			continue
		}
		if s, stays := others.Find(time.Now(), e.Bundle, e.Object); stays {
			talk.Printf("%s: %s by %s stays as it is: %s holds it, too (%s)\n", e.Object, e.Class, who(e.By), s.Name, e.ID)
			continue
		}
		drifted = append(drifted, e)
	}
	question := "Resume? [y/N] "
	if len(drifted) == 0 {
		talk.Println("Nothing has drifted in the scope that would be set back.")
	} else {
		talk.Printf("%d drifted in the scope, and will be set back to what Git says:\n\n", len(drifted))
		for _, e := range drifted {
			talk.Printf("%s: %s by %s, since %s (%s)\n", e.Object, e.Class, who(e.By), stamp(e.Onset), e.ID)
			resumeFields(talk, e)
		}
		question = "\nCorrect them? [y]es, [a]dopt: how to keep what is live, [N]o: "
	}
	if report.DriftOmitted > 0 {
		talk.Println(omittedDrift(report.DriftOmitted))
	}
	talk.Printf("%s", terminal.Laid(question))
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return &api.Error{Kind: api.Stalled, Reason: "NotConfirmed", Err: errors.New("nobody answered, so nothing was resumed"), Hint: "give --yes in scripts"}
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	case "a", "adopt":
		howToAdopt(talk, drifted)
		return &api.Error{Kind: api.Stalled, Reason: "NotConfirmed", Err: errors.New("nothing was resumed"), Hint: "resume when the commit has been pushed"}
	}
	return &api.Error{Kind: api.Stalled, Reason: "NotConfirmed", Err: errors.New("nothing was resumed")}
}

func resumeFields(w *terminal.Printer, e api.Episode) {
	t := table{head: []string{"  FIELD", "GIT", "LIVE", "BY"}, least: []int{24, 12, 12, 12}}
	for _, f := range e.Fields {
		t.rows = append(t.rows, []string{"  " + f.Path, absent(f.Desired), absent(f.Live), who(f.By)})
	}
	if len(t.rows) > 0 {
		t.print(w, widthOf(w))
	}
	if e.FieldsOmitted > 0 {
		w.Printf("  and %d more fields\n", e.FieldsOmitted)
	}
}

// howToAdopt prints the commands that keep what is live. They know the files; this command knows only the cluster.
func howToAdopt(w *terminal.Printer, drifted []api.Episode) {
	w.Printf("\nIn a checkout of the fleet repository, with the flags that choose this cluster:\n\n")
	for _, e := range drifted {
		switch e.Class {
		case api.ClassMissing:
			w.Printf("  # %s is gone: to keep it so, remove it from the bundle %s\n", e.Object, e.Bundle)
		case api.ClassExtra:
			w.Printf("  # %s is not in Git: to keep it, add it to the bundle %s\n", e.Object, e.Bundle)
		default:
			w.Printf("  flotilla drift adopt %s --out .\n", e.ID)
		}
	}
	w.Printf("  git add -A && git commit && git push\n\nUntil then the suspension keeps what is live.\n")
}

// stillHeld tells of suspensions that go on covering what was resumed.
func stillHeld(w *terminal.Printer, all, resumed api.Suspensions) {
	for _, s := range all {
		ended := slices.ContainsFunc(resumed, func(r api.Suspension) bool { return r.Name == s.Name })
		if !ended && s.Active(time.Now()) && slices.ContainsFunc(resumed, func(r api.Suspension) bool { return overlaps(r.Scope, s.Scope) }) {
			w.Printf("still suspended: %s until %s by %s (%s)\n", s.Scope, s.Until.Local().Format(time.RFC1123), s.Name, s.Reason)
		}
	}
}

// overlaps reports whether two scopes may hold an object in common. Which bundle an object is in is not known here.
func overlaps(a, b api.Scope) bool {
	if a.All || b.All || (len(a.Objects) > 0) != (len(b.Objects) > 0) {
		return true
	}
	if slices.ContainsFunc(a.Bundles, func(n string) bool { return slices.Contains(b.Bundles, n) }) {
		return true
	}
	return slices.ContainsFunc(a.Objects, func(o api.ObjectRef) bool { return b.Covers("", o) })
}
