package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/terminal"
	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// driftSource is where episodes come from: the hub, or the report of a cluster's agent.
type driftSource struct {
	k   kube
	hub hubFlags
}

func (s *driftSource) flags(cmd *cobra.Command) {
	s.k.flags(cmd)
	s.hub.flags(cmd)
}

// asked returns the hub to ask, nil for the cluster: a kubeconfig that is named goes before a hub.
func (s *driftSource) asked() (*hubClient, error) {
	if s.k.kubeconfig != "" || s.k.context != "" {
		return nil, nil //nolint:nilnil // no hub is a choice, not an error
	}
	return s.hub.client()
}

// driftFilter says which episodes are wanted.
type driftFilter struct {
	state, cluster, bundle, manager, class string

	object, since string
	limit         int
}

func (f *driftFilter) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.state, "state", "", "open, closed or all (default: all of the hub; open on a cluster)")
	fs.StringVar(&f.cluster, "cluster", "", "only this cluster")
	fs.StringVar(&f.bundle, "bundle", "", "only this bundle")
	fs.StringVar(&f.manager, "manager", "", "only drift made by this field manager or person")
	fs.StringVar(&f.class, "class", "", "changed, removed, added, missing or extra")
	fs.StringVar(&f.object, "object", "", "only this object, as KIND/NAMESPACE/NAME or KIND/NAME")
	fs.StringVar(&f.since, "since", "", "leave out what had ended before: a span such as 90m, 24h or 7d, or a time such as 2030-01-31T10:00:00Z")
	fs.IntVar(&f.limit, "limit", 100, "how many to show at most, the newest first")
	complete(cmd, "state", "open", "closed", "all")
	complete(cmd, "class", classes...)
}

var classes = []string{string(api.ClassChanged), string(api.ClassRemoved), string(api.ClassAdded), string(api.ClassMissing), string(api.ClassExtra)}

// complete offers the values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
}

// parsed is a filter whose words have been understood.
type parsed struct {
	driftFilter
	named *namedObject // nil for any
	since time.Time
}

func (f driftFilter) parse(now time.Time) (parsed, error) {
	p := parsed{driftFilter: f}
	if !slices.Contains([]string{"", "open", "closed", "all"}, f.state) {
		return p, usageError{fmt.Errorf("--state %q is not open, closed or all", f.state)}
	}
	if f.class != "" && !slices.Contains(classes, f.class) {
		return p, usageError{fmt.Errorf("--class %q is not one of %s", f.class, strings.Join(classes, ", "))}
	}
	if f.limit < 1 {
		return p, usageError{fmt.Errorf("--limit %d is not a number from 1", f.limit)}
	}
	if f.object != "" {
		named, err := parseObject(f.object)
		if err != nil {
			return p, err
		}
		p.named = &named
	}
	var err error
	p.since, err = parseSince(f.since, now)
	return p, err
}

// parseSince reads a span before now, or a time; zero for nothing.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := parseSpan(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("--since %q is neither a span such as 90m, 24h or 7d nor a time such as 2030-01-31T10:00:00Z", text)}
}

// objectID is what the hub calls an object whose group may be left out.
func objectID(ref api.ObjectRef) string {
	if ref.Group == "" {
		return "*" + strings.TrimPrefix(ref.ID(), ref.Group)
	}
	return ref.ID()
}

// about looks up the kind of the object that is asked for: on the cluster, or by the names that are common where the hub is asked.
func (p *parsed) about(k *kube) error {
	if p.named == nil {
		return nil
	}
	if k == nil {
		named, err := p.named.commonly()
		p.named = &named
		return err
	}
	cluster, err := k.kinds()
	if err != nil {
		return err
	}
	named, err := cluster.object(p.object)
	p.named = &named
	return err
}

func (p parsed) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{
		"state": p.state, "cluster": p.cluster, "bundle": p.bundle, "manager": p.manager, "class": p.class,
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if p.named != nil && p.exact() {
		q.Set("object", objectID(p.named.refs[0]))
	}
	if !p.since.IsZero() {
		q.Set("since", p.since.UTC().Format(time.RFC3339))
	}
	return q
}

// exact reports whether the hub can find the object by itself: it knows kinds by their exact names only.
func (p parsed) exact() bool { return p.named.known && len(p.named.refs) == 1 }

// matches is the same selection for what a cluster tells.
func (p parsed) matches(e api.Episode) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	by := func(a api.Attribution) bool { return p.manager == a.Manager || p.manager == a.Person }
	return is(p.bundle, e.Bundle) && is(p.class, string(e.Class)) &&
		(p.manager == "" || by(e.By) || slices.ContainsFunc(e.Fields, func(f api.FieldDiff) bool { return by(f.By) })) &&
		(p.named == nil || p.named.is(e.Object))
}

// list returns the episodes, newest first, and a line for each thing that is not among them.
func (s *driftSource) list(cmd *cobra.Command, f driftFilter) (episodes []api.Episode, more []string, err error) {
	p, err := f.parse(time.Now())
	if err != nil {
		return nil, nil, err
	}
	c, err := s.asked()
	if err != nil {
		return nil, nil, err
	}
	older := 0
	if c == nil {
		episodes, more, err = s.openOnCluster(cmd, &p)
	} else if err = p.about(nil); err == nil {
		episodes, older, err = hubDrift(cmd.Context(), c, p)
		if err == nil && len(episodes) == 0 {
			err = p.knownTo(cmd.Context(), c)
		}
	}
	if n := len(episodes) - p.limit; n > 0 {
		episodes, older = episodes[:p.limit], n
	}
	if older > 0 {
		more = append(more, fmt.Sprintf("and %d more: see --limit and the filters", older))
	}
	return episodes, more, err
}

// openOnCluster returns what a cluster tells, newest first. That is what is open, and not all of it where it is much.
func (s *driftSource) openOnCluster(cmd *cobra.Command, p *parsed) (episodes []api.Episode, more []string, err error) {
	if p.state == "closed" {
		return nil, nil, usagef("--state closed needs --hub: a cluster tells only what is open")
	}
	report, err := s.report(cmd)
	if err != nil {
		return nil, nil, err
	}
	if err := p.about(&s.k); err != nil {
		return nil, nil, err
	}
	if p.cluster != "" && p.cluster != report.Status.Cluster {
		return nil, nil, usagef("this is cluster %s, not %s: choose another with --kubeconfig, or ask the --hub", report.Status.Cluster, p.cluster)
	}
	episodes = []api.Episode{}
	for _, e := range report.Drift {
		if p.matches(e) {
			episodes = append(episodes, e)
		}
	}
	slices.SortStableFunc(episodes, func(a, b api.Episode) int { return b.Onset.Compare(a.Onset) })
	if report.DriftOmitted > 0 {
		more = []string{omittedDrift(report.DriftOmitted)}
	} else if len(episodes) == 0 {
		err = s.mistyped(cmd, *p, report.Status.Cluster)
	}
	return episodes, more, err
}

// omittedDrift says what a cluster does not list.
func omittedDrift(n int) string {
	return fmt.Sprintf("and %d more open drifts that the cluster does not list; the hub knows them all: --hub URL", n)
}

// pageSize is how much to ask of the hub at once: no more than is shown, unless most of it may not match.
func (p parsed) pageSize() int {
	if p.named != nil && !p.exact() {
		return view.MaxPageSize
	}
	return min(p.limit, view.MaxPageSize)
}

func hubDrift(ctx context.Context, c *hubClient, p parsed) ([]api.Episode, int, error) {
	q := p.query()
	q.Set("size", strconv.Itoa(p.pageSize()))
	out, seen := []api.Episode{}, 0
	for page := 1; ; page++ {
		q.Set("page", strconv.Itoa(page))
		var list view.List[api.Episode]
		if err := c.do(ctx, http.MethodGet, "/api/v1/drift", q, nil, &list); err != nil {
			return nil, 0, err
		}
		seen += len(list.Items)
		for _, e := range list.Items {
			if p.named == nil || p.named.is(e.Object) {
				out = append(out, e)
			}
		}
		switch n := len(out); {
		case seen >= list.Total || len(list.Items) == 0:
			return out[:min(n, p.limit)], max(0, n-p.limit), nil
		case n >= p.limit && (p.named == nil || p.exact()):
			return out[:p.limit], list.Total - p.limit, nil
		}
	}
}

// knownTo asks where nothing was found whether the hub knows the cluster, and it the bundle:
// "no drift" is not to be said of what was only mistyped.
func (p parsed) knownTo(ctx context.Context, c *hubClient) error {
	if p.cluster == "" {
		return nil
	}
	d, err := c.cluster(ctx, p.cluster)
	if err != nil {
		return addHint(err, "flotilla status --hub lists the clusters")
	}
	return p.hasBundle(d.Name, d.BundleStatus)
}

// hasBundle is an error where the bundle that is asked for is not on the cluster.
func (p parsed) hasBundle(cluster string, bundles []api.BundleStatus) error {
	if p.bundle == "" || slices.ContainsFunc(bundles, func(b api.BundleStatus) bool { return b.Name == p.bundle }) {
		return nil
	}
	return noBundle(p.bundle, cluster, bundles)
}

func (s *driftSource) report(cmd *cobra.Command) (cluster.Report, error) {
	applier, err := s.k.applier(quiet(cmd))
	if err != nil {
		return cluster.Report{}, withHint(err, "or ask the hub about the whole fleet: --hub URL")
	}
	return applier.Report(cmd.Context())
}

func (s *driftSource) bundles(cmd *cobra.Command) ([]api.BundleStatus, error) {
	applier, err := s.k.applier(quiet(cmd))
	if err != nil {
		return nil, err
	}
	return applier.BundleStatuses(cmd.Context())
}

// mistyped is an error where what was asked for is not on the cluster: "no drift" is not to be said of that.
func (s *driftSource) mistyped(cmd *cobra.Command, p parsed, cluster string) error {
	if p.bundle != "" {
		bundles, err := s.bundles(cmd)
		if err != nil {
			return err
		}
		if err := p.hasBundle(cluster, bundles); err != nil {
			return err
		}
	}
	if p.named == nil {
		return nil
	}
	applier, err := s.k.applier(quiet(cmd))
	if err != nil {
		return err
	}
	inventory, err := applier.Inventory(cmd.Context())
	_, known, found := p.named.among(inventory, nil)
	switch {
	case err == nil && !found && p.named.unknown != nil:
		return p.named.unknown
	case err == nil && !found:
		return noObject(*p.named, known)
	}
	return nil // where it cannot be looked up, it is not known to be wrong
}

// withHint adds what else there is to try.
func withHint(err error, hint string) error {
	var e *api.Error
	if !errors.As(err, &e) || e.Hint == "" {
		return err
	}
	c := *e
	c.Hint += "; " + hint
	return &c
}

// get returns one episode: from the hub with all that is known of it, from a cluster only while it is open.
func (s *driftSource) get(cmd *cobra.Command, id string) (api.Episode, error) {
	var e api.Episode
	c, err := s.asked()
	if err != nil {
		return e, err
	}
	if c != nil {
		err := c.do(cmd.Context(), http.MethodGet, "/api/v1/drift/"+url.PathEscape(id), nil, nil, &e)
		if api.KindOf(err) == api.Stalled {
			err = withHint(addHint(err, "is the ID whole?"), "flotilla drift lists the newest")
		}
		return e, err
	}
	report, err := s.report(cmd)
	if err != nil {
		return e, err
	}
	for _, e := range report.Drift {
		if e.ID == id {
			return e, nil
		}
	}
	hint := "flotilla drift lists what is open on " + report.Status.Cluster + "; what has ended is known to the hub: --hub URL"
	if report.DriftOmitted > 0 {
		hint = omittedDrift(report.DriftOmitted)
	}
	return e, &api.Error{Kind: api.Stalled, Reason: "NoSuchDrift", Err: fmt.Errorf("there is no open drift %q on cluster %s", id, report.Status.Cluster), Hint: hint}
}

// addHint makes room for a hint on an error that has none.
func addHint(err error, hint string) error {
	var e *api.Error
	if errors.As(err, &e) && e.Hint == "" {
		c := *e
		c.Hint = hint
		return &c
	}
	return err
}

// who names the actor, or says that nobody knows.
func who(a api.Attribution) string {
	switch {
	case a.Person != "" && a.Manager != "":
		return a.Person + " (" + a.Manager + ")"
	case a.Person != "":
		return a.Person
	case a.Manager != "":
		return a.Manager
	default:
		return "unknown"
	}
}

// sure puts the confidence of an attribution in words.
func sure(a api.Attribution) string {
	switch a.Confidence {
	case api.ConfidencePerson:
		return "proven: the API server stamped the user's name"
	case api.ConfidenceTool:
		return "the tool's own claim, in managedFields"
	default:
		return "unknown: nothing on the object says who"
	}
}

// driftTable is the list of episodes.
func driftTable(w *terminal.Printer, episodes []api.Episode, fits room) {
	now := time.Now()
	t := table{
		head:  []string{"ID", "OBJECT", "CLASS", "FIELD", "BY", "SINCE", "DONE"},
		least: []int{0, 12, 0, 10, 7, 0, 0},
	}
	if fits.wide {
		t.head = append(t.head, "CHANGE", "CLUSTER", "BUNDLE", "REVISION")
	}
	for _, e := range episodes {
		cells := []string{e.ID, shortObject(e.Object, fits), string(e.Class), firstField(e), who(e.By), age(now, e.Onset), done(e)}
		if fits.wide {
			cells = append(cells, firstChange(e), e.Cluster, e.Bundle, shortRevision(e.Revision))
		}
		t.add(cells...)
	}
	t.print(w, fits.width)
}

// shortObject leaves out the group where a table must be narrow.
func shortObject(ref api.ObjectRef, fits room) string {
	if !fits.wide {
		ref.Group = ""
	}
	return ref.String()
}

func firstField(e api.Episode) string { return firstOf(e.Fields, e.FieldsOmitted) }

// firstOf names the first of some fields, and how many more there are.
func firstOf(fields []api.FieldDiff, omitted int) string {
	if len(fields) == 0 {
		return ""
	}
	s := fields[0].Path
	if n := len(fields) + omitted - 1; n > 0 {
		s += fmt.Sprintf(" +%d", n)
	}
	return s
}

// firstChange is Git's value and the live one of the first field.
func firstChange(e api.Episode) string {
	if len(e.Fields) == 0 {
		return ""
	}
	f := e.Fields[0]
	return shorten(oneLine(absent(f.Desired)), maxChange) + " → " + shorten(oneLine(absent(f.Live)), maxChange)
}

// maxChange is how many characters of a value are in a list.
const maxChange = 40

// done is what was done about it, in a word, and how often it began.
func done(e api.Episode) string {
	s := string(e.Outcome)
	if e.Count > 1 {
		s += fmt.Sprintf(" ×%d", e.Count)
	}
	if e.Flapping {
		s += ", flapping"
	}
	return s
}
