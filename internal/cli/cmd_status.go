package cli

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// clusterState is what status says of one cluster.
type clusterState struct {
	// Agent says whether the rest is of now.
	Agent cluster.Life `json:"agent"`
	cluster.Report
	Bundles []api.BundleStatus `json:"bundles"`
}

func newStatus() *cobra.Command {
	var (
		k   kube
		hub hubFlags
		out output
	)
	cmd := &cobra.Command{
		Use:        "status [CLUSTER]",
		SuggestFor: []string{"get", "list", "ls", "ps", "describe", "top"},
		Short:      "Show how a cluster, or the fleet, fares",
		Long: `Show the bundles of one cluster: revision, readiness, drift, suspensions and errors.

With --kubeconfig (or the current context) the cluster itself is asked, so it works without the hub.
With --hub, the fleet is shown, or CLUSTER as the hub knows it.

The cluster holds what its agent told last. The first line says when the agent gave a sign of life
and when it reached the repository. Where it does not answer, has stopped, or is started again and again,
that is said first, and the exit code is 3.`,
		Example: `  flotilla status
  flotilla status --kubeconfig prod-eu.kubeconfig -o json
  flotilla status --hub https://hub.example.com
  flotilla status --hub https://hub.example.com prod-eu`,
		Args: atMostOneArg("cluster"),
	}
	k.flags(cmd)
	hub.flags(cmd)
	out.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := hub.client()
		if err != nil {
			return err
		}
		switch {
		case c != nil && k.kubeconfig == "" && len(args) == 1:
			d, err := c.cluster(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return out.print(outOf(cmd), d, func(w *terminal.Printer) {
				w.Printf("%s is %s: %s\n\n", d.Name, d.State, d.Reason)
				bundleTable(w, d.BundleStatus)
			})
		case c != nil && k.kubeconfig == "":
			return fleetStatus(cmd, c, out)
		case len(args) == 1:
			return usageError{fmt.Errorf("a cluster's name goes with --hub; without a hub, choose the cluster with --kubeconfig")}
		}
		applier, err := k.applier(quiet(cmd))
		if err != nil {
			return err
		}
		var s clusterState
		if s.Report, err = applier.Report(cmd.Context()); err != nil {
			return err
		}
		if s.Bundles, err = applier.BundleStatuses(cmd.Context()); err != nil {
			return err
		}
		if s.Agent, err = applier.Life(cmd.Context()); err != nil {
			errOf(cmd).Printf("warning: whether the agent lives cannot be looked up: %s\n", terminal.Lines(err.Error()))
		}
		if s.Agent.Reached.After(s.Status.Fetched) {
			s.Status.Fetched = s.Agent.Reached
		}
		if err := out.print(outOf(cmd), s, func(w *terminal.Printer) { clusterTable(w, s) }); err != nil {
			return err
		}
		return atWork(s.Agent)
	}
	return cmd
}

// atWork returns an error if what the agent of a cluster told may not be so any more.
func atWork(l cluster.Life) error {
	if l.Works() {
		return nil
	}
	return &api.Error{
		Kind: api.Stalled, Reason: "AgentNotAtWork", Err: errors.New("what is shown is what the agent told last: " + lifeLine(l)),
		Hint: "look for its process, or its Pod and the log of that",
	}
}

// lifeLine says how an agent fares. Only one that is not at work is in capitals.
func lifeLine(l cluster.Life) string {
	sign := "no sign of life is known"
	if !l.LastSign.IsZero() {
		sign = "last sign of life " + seconds(l.Age) + " ago"
	}
	switch l.State {
	case cluster.LifeSilent:
		return "THE AGENT DOES NOT ANSWER: " + sign
	case cluster.LifeStopped:
		return "THE AGENT HAS STOPPED: " + sign
	case cluster.LifeRestarting:
		return fmt.Sprintf("THE AGENT ENDS AGAIN AND AGAIN: started %d times within an hour after it had not ended properly, %s", len(l.UncleanStarts), sign)
	case cluster.LifeUnknown:
		return "agent: " + sign + "; this one does not tell whether it lives"
	default:
		return "agent: " + sign
	}
}

// seconds is a number of them for people.
func seconds(n int) string {
	now := time.Now()
	return age(now, now.Add(-time.Duration(n)*time.Second))
}

func fleetStatus(cmd *cobra.Command, c *hubClient, out output) error {
	list, err := c.clusters(cmd.Context(), view.Query{})
	if err != nil {
		return err
	}
	return out.print(outOf(cmd), list, func(w *terminal.Printer) {
		now := time.Now()
		row(w, "CLUSTER", "STATE", "APPLIED", "DESIRED", "READY", "DRIFT", "LAST SEEN", "WHY")
		for _, c := range list.Items {
			row(w, c.Name, string(c.State), shortRevision(c.AppliedRevision), shortRevision(c.DesiredRevision),
				fmt.Sprintf("%d/%d", c.ReadyBundles, c.Bundles), strconv.Itoa(c.DriftOpen), age(now, c.LastSeen), c.Reason)
		}
	})
}

func clusterTable(w *terminal.Printer, s clusterState) {
	st := s.Status
	reached := ""
	if !st.Fetched.IsZero() {
		reached = ", repository reached " + st.Fetched.Local().Format(time.RFC1123)
	}
	w.Printf("%s%s\n", lifeLine(s.Agent), reached)
	w.Printf("%s: applied %s of %s, newest %s %s\n", st.Cluster, shortRevision(st.AppliedRevision), st.Source, shortRevision(st.DesiredRevision), st.Subject)
	if st.SignedBy != "" {
		w.Printf("signed by %s\n", st.SignedBy)
	}
	if st.Error != nil {
		w.Printf("ERROR %s\n", terminal.Lines(st.Error.Message))
	}
	for _, x := range st.Suspensions {
		w.Printf("SUSPENDED %s until %s by %s: %s (%s)\n", x.Scope, x.Until.Local().Format(time.RFC1123), x.Actor, x.Reason, x.Name)
	}
	w.Println("")
	bundleTable(w, s.Bundles)
}

func bundleTable(w *terminal.Printer, bundles []api.BundleStatus) {
	row(w, "BUNDLE", "PHASE", "REVISION", "OBJECTS", "DRIFT", "MESSAGE")
	for _, b := range bundles {
		message := b.Message
		if b.Error != nil {
			message = b.Error.Message
		}
		row(w, b.Name, string(b.Phase), shortRevision(b.AppliedRevision), fmt.Sprintf("%d/%d", b.ReadyObjects, b.Objects), strconv.Itoa(b.Drifted), message)
	}
	for _, b := range bundles {
		for _, failure := range b.Uncorrected {
			w.Printf("\nNOT CORRECTED %s\n", terminal.Lines(failure))
		}
		if b.UncorrectedOmitted > 0 {
			w.Printf("NOT CORRECTED and %d more: flotilla drift --bundle %s\n", b.UncorrectedOmitted, b.Name)
		}
		for _, fight := range b.Contested {
			w.Printf("\nCONTESTED %s\n", terminal.Lines(fight))
		}
		if b.ContestedOmitted > 0 {
			w.Printf("CONTESTED and %d more: flotilla drift --bundle %s\n", b.ContestedOmitted, b.Name)
		}
		for _, object := range b.Uncompared {
			w.Printf("\nUNKNOWN %s\n", terminal.Lines(object))
		}
		if n := b.Unknown - len(b.Uncompared); n > 0 {
			w.Printf("UNKNOWN and %d more of %s: flotilla drift explain tells of each object\n", n, b.Name)
		}
		for i, object := range b.Exempt {
			if i == 0 {
				w.Println("")
			}
			w.Printf("EXEMPT %s, on the cluster and not in Git\n", object)
		}
		if b.ExemptOmitted > 0 {
			w.Printf("EXEMPT and %d more of %s: flotilla status -o json names %d of them, and flotilla drift explain tells of each object\n", b.ExemptOmitted, b.Name, len(b.Exempt))
		}
		for _, warning := range b.Warnings {
			w.Printf("\nWARNING %s: %s\n", b.Name, terminal.Lines(warning))
		}
	}
}
