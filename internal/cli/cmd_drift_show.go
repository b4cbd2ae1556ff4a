package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/adopt"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
)

func newDriftShow() *cobra.Command {
	var (
		from driftSource
		out  output
	)
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one drift: its fields, both values, who, and what happened",
		Long: `Show one drift: every field with Git's value and the live one, the difference as a diff,
who owns the live values and how sure that is, and what happened, in order.
Drift that ended and began again is shown with its earlier rounds, and how each of them ended.

The hub also knows drift that has ended, and the timeline. A cluster tells of drift that is open.
Values of Secrets are masked: it is only said that they differ.`,
		Example: `  flotilla drift show prod-eu-k7qa-42 --hub https://hub.example.com
  flotilla drift show prod-eu-k7qa-42 --kubeconfig prod-eu.kubeconfig -o yaml`,
		Args: oneArg("ID", "flotilla drift lists them"),
	}
	from.flags(cmd)
	out.flag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := from.get(cmd, args[0])
		if err != nil {
			return err
		}
		width := widthOf(outOf(cmd))
		return out.print(outOf(cmd), e, func(w *terminal.Printer) { showEpisode(w, e, width) })
	}
	return cmd
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

func showEpisode(w *terminal.Printer, e api.Episode, width int) {
	w.Printf("%s\n", e.ID)
	w.Printf("%s on %s, bundle %s: %s, %s\n", e.Object, e.Cluster, e.Bundle, e.Class, done(e))
	w.Printf("by %s: %s\n", who(e.By), sure(e.By))
	w.Printf("since %s", stamp(e.Onset))
	if !e.Open() {
		w.Printf(", until %s", stamp(e.End))
	}
	if e.Count > 1 {
		w.Printf(", begun %d times", e.Count)
		if !e.Reopened.IsZero() {
			w.Printf(", last %s", stamp(e.Reopened))
		}
	}
	if e.Revision != "" {
		w.Printf(", from what Git says at %s", shortRevision(e.Revision))
	}
	w.Println("")
	if e.Suspension != "" && e.Outcome == api.OutcomeSuspended {
		w.Printf("held by suspension %s\n", e.Suspension)
	}
	if !e.NextCorrection.IsZero() && e.Open() {
		w.Printf("next correction %s\n", stamp(e.NextCorrection))
	}
	if e.Error != "" {
		w.Printf("error: %s\n", terminal.Lines(e.Error))
	}
	if e.Hint != "" {
		w.Printf("\n%s\n", terminal.Lines(strings.TrimSpace(e.Hint)))
	}
	showFields(w, e, width)
	showDiff(w, e)
	showManagers(w, e)
	showRounds(w, e, width)
	if len(e.Timeline) > 0 {
		w.Println("")
		t := table{head: []string{"TIME", "WHAT"}}
		for _, m := range e.Timeline {
			t.add(m.At.Local().Format("15:04:05.000"), m.What)
		}
		t.print(w, 0)
	}
}

func showFields(w *terminal.Printer, e api.Episode, width int) {
	if len(e.Fields) == 0 {
		return
	}
	w.Println("")
	t := table{head: []string{"FIELD", "CLASS", "GIT", "LIVE", "BY"}, least: []int{24, 0, 12, 12, 12}}
	for _, f := range e.Fields {
		t.add(f.Path, string(f.Class), absent(f.Desired), absent(f.Live), who(f.By))
	}
	t.print(w, width)
	if e.FieldsOmitted > 0 {
		w.Printf("and %d more fields\n", e.FieldsOmitted)
	}
}

// showRounds shows the times that the drift stood before it began again.
func showRounds(w *terminal.Printer, e api.Episode, width int) {
	if len(e.Rounds) > 0 {
		w.Println("")
		t := table{head: []string{"BEFORE", "UNTIL", "DONE", "BY", "FIELD", "GIT", "LIVE"}, least: []int{0, 0, 0, 8, 16, 8, 8}}
		for _, r := range e.Rounds {
			began, ended := r.Began.Local().Format("01-02 15:04:05"), r.Ended.Local().Format("01-02 15:04:05")
			if len(r.Fields) == 0 {
				t.add(began, ended, string(r.Outcome), who(r.By), string(r.Class), "", "")
				continue
			}
			f := r.Fields[0]
			t.add(began, ended, string(r.Outcome), who(r.By), firstOf(r.Fields, r.FieldsOmitted), absent(f.Desired), absent(f.Live))
		}
		t.print(w, width)
	}
	if lost := e.RoundsLost(); lost > 0 {
		w.Printf("%d earlier times are not kept in detail\n", lost)
	}
}

// showDiff shows the fields where they stand in the manifest.
func showDiff(w *terminal.Printer, e api.Episode) {
	if len(e.Fields) == 0 {
		return
	}
	git, live := adopt.Excerpt(e.Fields)
	a, err1 := terminal.YAML(git)
	b, err2 := terminal.YAML(live)
	if err1 != nil || err2 != nil {
		return
	}
	d := unified("Git "+shortRevision(e.Revision), "live on "+e.Cluster, string(a), string(b))
	if d != "" {
		w.Printf("\n%s", d)
	}
}

// showManagers shows who owns what of it, once each.
func showManagers(w *terminal.Printer, e api.Episode) {
	if len(e.Fields) == 0 {
		return
	}
	type key struct {
		manager, person, operation, subresource string
		confidence                              api.Confidence
	}
	counts := map[key]int{}
	var order []api.Attribution
	keyOf := func(a api.Attribution) key {
		return key{a.Manager, a.Person, a.Operation, a.Subresource, a.Confidence}
	}
	for _, f := range e.Fields {
		if counts[keyOf(f.By)]++; counts[keyOf(f.By)] == 1 {
			order = append(order, f.By)
		}
	}
	w.Println("")
	t := table{head: []string{"MANAGER", "OPERATION", "LAST WROTE", "FIELDS", "HOW SURE"}, least: []int{12, 0, 0, 0, 0}}
	for _, a := range order {
		t.add(who(a), operation(a), written(a), fmt.Sprint(counts[keyOf(a)]), sure(a))
	}
	t.print(w, 0)
}

func operation(a api.Attribution) string {
	if a.Subresource != "" {
		return a.Operation + " /" + a.Subresource
	}
	return a.Operation
}

func written(a api.Attribution) string {
	if a.Time.IsZero() {
		return ""
	}
	return stamp(a.Time)
}

// unified is the difference of two files. Each of its lines begins with a sign, whatever the files hold.
func unified(nameA, nameB, a, b string) terminal.Laid {
	return terminal.Laid(udiff.Unified(terminal.Line(nameA), terminal.Line(nameB), a, b))
}
