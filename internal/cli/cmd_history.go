package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// happened is one thing that happened to an object or a bundle.
type happened struct {
	At      time.Time      `json:"at"`
	Cluster string         `json:"cluster"`
	Bundle  string         `json:"bundle,omitempty"`
	Object  *api.ObjectRef `json:"object,omitempty"`
	// What is applied, drifted, failed, suspended, resumed or an action such as created.
	What string `json:"what"`
	// By is a field manager or person, or the revision that was applied.
	By string `json:"by,omitempty"`
	// Message says more; ID is the episode's.
	Message string `json:"message,omitempty"`
	ID      string `json:"id,omitempty"`
}

func newHistory() *cobra.Command {
	var (
		from   driftSource
		out    output
		filter driftFilter
	)
	cmd := &cobra.Command{
		Use:        "history [KIND/NAMESPACE/NAME]",
		SuggestFor: []string{"log", "logs", "events", "audit"},
		Short:      "Show what happened to an object, a bundle or a cluster: applied, drifted, corrected",
		Long: `Show what happened, newest first: drift from onset to end with who made it,
and what applies changed with the revision that they came from.

With --hub, it is what the hub keeps: the episodes, and the last 1,000 changes of every cluster,
those of bundles that have left it included.
Without, it is what the cluster tells: open drift, and the Events of the last hour or so.`,
		Example: `  flotilla history Deployment/podinfo/podinfo --hub https://hub.example.com
  flotilla history --cluster prod-eu --bundle podinfo --since 7d
  flotilla history --kubeconfig prod-eu.kubeconfig -o json`,
		Args: atMostOneArg("object"),
	}
	from.flags(cmd)
	out.wideFlag(cmd)
	fs := cmd.Flags()
	fs.StringVar(&filter.cluster, "cluster", "", "only this cluster")
	fs.StringVar(&filter.bundle, "bundle", "", "only this bundle")
	fs.StringVar(&filter.since, "since", "", "leave out what was before: a span such as 90m, 24h or 7d, or a time such as 2030-01-31T10:00:00Z")
	fs.IntVar(&filter.limit, "limit", 100, "how many to show at most, the newest first")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			filter.object = args[0]
		}
		list, more, err := from.history(cmd, filter)
		if err != nil {
			return err
		}
		defer func() {
			for _, m := range more {
				errOf(cmd).Println(m)
			}
		}()
		if len(list) == 0 && out.forPeople() {
			errOf(cmd).Println("Nothing is known to have happened.")
			return nil
		}
		fits := out.room(outOf(cmd))
		return out.print(outOf(cmd), list, func(w *terminal.Printer) { historyTable(w, list, fits) })
	}
	return cmd
}

// history returns what happened, newest first, and a line for each thing that is not in it.
func (s *driftSource) history(cmd *cobra.Command, f driftFilter) (list []happened, more []string, err error) {
	p, err := f.parse(time.Now())
	if err != nil {
		return nil, nil, err
	}
	c, err := s.asked()
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		list, more, err = hubHistory(cmd.Context(), c, &p)
	} else {
		list, more, err = s.clusterHistory(cmd, &p)
	}
	if err != nil {
		return nil, nil, err
	}
	if c != nil && len(list) == 0 {
		anyBundle := p
		anyBundle.bundle = "" // one that is no longer there had its time
		if err := anyBundle.knownTo(cmd.Context(), c); err != nil {
			return nil, nil, err
		}
	}
	list = slices.DeleteFunc(list, func(h happened) bool { return !p.wants(h) })
	slices.SortStableFunc(list, func(a, b happened) int { return b.At.Compare(a.At) })
	if n := len(list) - p.limit; n > 0 || len(more) > 0 {
		list = list[:min(len(list), p.limit)]
		more = append(more, fmt.Sprintf("the newest %d are shown, and there are more: see --limit and the filters", len(list)))
	}
	return list, more, nil
}

// wants reports whether something that happened was asked for.
func (p parsed) wants(h happened) bool {
	return (p.since.IsZero() || !h.At.Before(p.since)) &&
		(p.cluster == "" || p.cluster == h.Cluster) &&
		(p.bundle == "" || p.bundle == h.Bundle) &&
		(p.named == nil || (h.Object != nil && p.named.is(*h.Object)))
}

func hubHistory(ctx context.Context, c *hubClient, p *parsed) (out []happened, more []string, err error) {
	if err := p.about(nil); err != nil {
		return nil, nil, err
	}
	episodes, older, err := hubDrift(ctx, c, *p)
	if err != nil {
		return nil, nil, err
	}
	if older > 0 {
		more = append(more, fmt.Sprintf("%d more drifts are older", older))
	}
	applied, older, err := hubApplied(ctx, c, *p)
	if err != nil {
		return nil, nil, err
	}
	if older > 0 {
		more = append(more, "there are more passes, and they are older")
	}
	return append(ofEpisodes(episodes), applied...), more, nil
}

// hubApplied asks the hub for what passes changed, page by page, until there is as much as is wanted.
// older is not zero if there is more.
func hubApplied(ctx context.Context, c *hubClient, p parsed) (out []happened, older int, err error) {
	q := p.query()
	q.Set("size", strconv.Itoa(p.pageSize()))
	for page := 1; ; page++ {
		q.Set("page", strconv.Itoa(page))
		var list struct {
			Items []api.Applied `json:"items"`
			Next  string        `json:"next"`
		}
		if err := c.do(ctx, http.MethodGet, "/api/v1/history", q, nil, &list); err != nil {
			return nil, 0, err
		}
		for _, a := range list.Items {
			out = append(out, p.ofApplied(a)...)
		}
		switch {
		case list.Next == "" || len(list.Items) == 0:
			return out[:min(len(out), p.limit)], max(0, len(out)-p.limit), nil
		case len(out) >= p.limit:
			return out[:p.limit], len(out) - p.limit + 1, nil
		}
	}
}

// ofApplied tells of a pass: in one line, or only of the object that is asked for.
func (p parsed) ofApplied(a api.Applied) []happened {
	if p.named == nil {
		return []happened{inShort(a)}
	}
	return slices.DeleteFunc(objectByObject(a), func(h happened) bool { return !p.wants(h) })
}

// ofEpisodes tells of drift: its onset, and its end, each time that it began again.
func ofEpisodes(episodes []api.Episode) []happened {
	out := []happened{}
	for _, e := range episodes {
		h := happened{Cluster: e.Cluster, Bundle: e.Bundle, Object: &e.Object, ID: e.ID}
		for _, r := range e.Rounds {
			h.Message = string(r.Class) + " " + firstOf(r.Fields, r.FieldsOmitted)
			h.At, h.What, h.By = r.Began, "drifted", who(r.By)
			out = append(out, h)
			h.At, h.What, h.By = r.Ended, string(r.Outcome), ""
			out = append(out, h)
		}
		h.Message = string(e.Class) + " " + firstField(e)
		if lost := e.RoundsLost(); lost > 0 {
			h.Message += fmt.Sprintf(" (%d earlier times are not listed)", lost)
		}
		h.At, h.What, h.By = e.Began(), "drifted", who(e.By)
		out = append(out, h)
		h.Message = string(e.Class) + " " + firstField(e)
		switch {
		case !e.Open():
			h.At, h.What, h.By = e.End, string(e.Outcome), ""
			out = append(out, h)
		case e.Outcome != api.OutcomePending && e.LastSeen.After(e.Began()):
			h.At, h.What, h.By = e.LastSeen, string(e.Outcome), ""
			out = append(out, h)
		}
	}
	return out
}

// objectByObject tells what a pass did.
func objectByObject(a api.Applied) []happened {
	var out []happened
	for _, c := range a.Changes {
		message := c.Reason
		if c.Error != "" {
			message = c.Error
		}
		out = append(out, happened{
			At: a.At, Cluster: a.Cluster, Bundle: a.Bundle, Object: &c.Object, What: string(c.Action),
			By: "Git " + shortRevision(a.Revision), Message: message,
		})
	}
	return out
}

// inShort tells the same in one line.
func inShort(a api.Applied) happened {
	h := happened{At: a.At, Cluster: a.Cluster, Bundle: a.Bundle, What: "applied", By: "Git " + shortRevision(a.Revision)}
	if a.Removed {
		h.What, h.Message = "removed", "the bundle left Git"
		return h
	}
	set := api.ChangeSet{Changes: a.Changes}
	var parts []string
	for _, action := range []api.Action{api.Created, api.Updated, api.Recreated, api.Pruned, api.Skipped, api.Denied, api.Failed} {
		if n := set.Count(action); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, action))
		}
	}
	if a.Omitted > 0 {
		parts = append(parts, fmt.Sprintf("%d more", a.Omitted))
	}
	h.Message = strings.Join(parts, ", ")
	return h
}

func (s *driftSource) clusterHistory(cmd *cobra.Command, p *parsed) (out []happened, more []string, err error) {
	applier, err := s.k.applier(quiet(cmd))
	if err != nil {
		return nil, nil, withHint(err, "or ask the hub about the whole fleet: --hub URL")
	}
	report, err := applier.Report(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	if err := p.about(&s.k); err != nil {
		return nil, nil, err
	}
	cluster := report.Status.Cluster
	if p.cluster != "" && p.cluster != cluster {
		return nil, nil, usageError{fmt.Errorf("this is cluster %s, not %s: choose another with --kubeconfig, or ask the --hub", cluster, p.cluster)}
	}
	events, err := applier.Happenings(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	if report.DriftOmitted > 0 {
		more = append(more, omittedDrift(report.DriftOmitted))
	}
	out = ofEpisodes(report.Drift)
	for _, e := range events {
		if e.Reason == "Drifted" && slices.ContainsFunc(report.Drift, func(d api.Episode) bool {
			return d.Object.ID() == e.Object.ID() && tells(d, e.At)
		}) {
			continue // the report says more
		}
		out = append(out, ofEvent(cluster, e))
	}
	return out, more, nil
}

// tells reports whether an episode has a beginning at about a time.
func tells(e api.Episode, at time.Time) bool {
	near := func(t time.Time) bool { return at.Sub(t).Abs() < 5*time.Second }
	return near(e.Began()) || slices.ContainsFunc(e.Rounds, func(r api.Round) bool { return near(r.Began) })
}

func ofEvent(cluster string, e cluster.Happening) happened {
	h := happened{At: e.At, Cluster: cluster, What: strings.ToLower(e.Reason), Message: e.Message}
	switch e.Object.Kind {
	case "BundleDeployment":
		h.Bundle = e.Object.Name
	case "Namespace":
		if e.Object.Name != api.SystemNamespace {
			h.Object = &e.Object
		}
	default:
		h.Object = &e.Object
	}
	return h
}

func historyTable(w *terminal.Printer, list []happened, fits room) {
	t := table{
		head:  []string{"TIME", "CLUSTER", "WHAT", "OBJECT", "BY", "DETAIL"},
		least: []int{0, 0, 0, 16, 12, 16},
	}
	if fits.wide {
		t.head = append(t.head, "BUNDLE", "ID")
	}
	for _, h := range list {
		about := ""
		if h.Object != nil {
			about = shortObject(*h.Object, fits)
		} else if h.Bundle != "" {
			about = "bundle " + h.Bundle
		}
		cells := []string{h.At.Local().Format("01-02 15:04:05"), h.Cluster, h.What, about, h.By, h.Message}
		if fits.wide {
			cells = append(cells, h.Bundle, h.ID)
		}
		t.add(cells...)
	}
	t.print(w, fits.width)
}
