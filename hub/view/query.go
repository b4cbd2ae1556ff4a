package view

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
)

// Page sizes.
const (
	DefaultPageSize = 100
	MaxPageSize     = 1000
)

// Query selects, orders and pages clusters.
type Query struct {
	// Text matches a part of the name, or "key=value" of a label; several words must all match.
	Text string
	// States keeps only clusters in one of the states; empty keeps all.
	States []State
	// Sort is name, state, drift, seen or revision; empty is state (the most urgent first).
	Sort string
	// Descending turns the order around.
	Descending bool
	// Page counts from 1.
	Page, Size int
}

// Sorts are the values of Query.Sort.
func Sorts() []string { return []string{"state", "name", "drift", "revision", "seen"} }

// ParseQuery reads q, state (repeated or comma-separated), sort ("-" before it turns it around),
// page and size.
func ParseQuery(v url.Values) (Query, error) {
	q := Query{Text: strings.TrimSpace(v.Get("q")), Sort: v.Get("sort")}
	for _, s := range v["state"] {
		for w := range strings.SplitSeq(s, ",") {
			if w == "" || w == "all" {
				continue
			}
			if !slices.Contains(States(), State(w)) {
				return Query{}, fmt.Errorf("state %q is not one of %v", w, States())
			}
			q.States = append(q.States, State(w))
		}
	}
	q.Sort, q.Descending = strings.CutPrefix(q.Sort, "-")
	if q.Sort != "" && !slices.Contains(Sorts(), q.Sort) {
		return Query{}, fmt.Errorf("sort %q is not one of %v", q.Sort, Sorts())
	}
	var err error
	if q.Page, q.Size, err = ParsePage(v); err != nil {
		return Query{}, err
	}
	return q, nil
}

// ParsePage reads page and size.
func ParsePage(v url.Values) (page, size int, err error) {
	page, size = 1, DefaultPageSize
	if s := v.Get("page"); s != "" {
		if page, err = strconv.Atoi(s); err != nil || page < 1 {
			return 0, 0, fmt.Errorf("page %q is not a number from 1", s)
		}
	}
	if s := v.Get("size"); s != "" {
		if size, err = strconv.Atoi(s); err != nil || size < 1 || size > MaxPageSize {
			return 0, 0, fmt.Errorf("size %q is not a number from 1 to %d", s, MaxPageSize)
		}
	}
	return page, size, nil
}

// Select returns the clusters that match, in order, all pages.
func (q Query) Select(cs []Cluster) []Cluster {
	var out []Cluster
	for _, c := range cs {
		if (len(q.States) == 0 || slices.Contains(q.States, c.State)) && q.matches(c) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b Cluster) int {
		n := q.compare(a, b)
		if q.Descending {
			n = -n
		}
		return cmp.Or(n, strings.Compare(a.Name, b.Name))
	})
	return out
}

func (q Query) matches(c Cluster) bool {
	for w := range strings.FieldsSeq(strings.ToLower(q.Text)) {
		if k, v, ok := strings.Cut(w, "="); ok {
			if !strings.EqualFold(c.Labels[k], v) {
				return false
			}
			continue
		}
		if !strings.Contains(c.Name, w) {
			return false
		}
	}
	return true
}

func (q Query) compare(a, b Cluster) int {
	switch q.Sort {
	case "name":
		return strings.Compare(a.Name, b.Name)
	case "drift":
		return cmp.Compare(b.DriftOpen, a.DriftOpen)
	case "seen":
		return b.LastSeen.Compare(a.LastSeen)
	case "revision":
		return strings.Compare(a.AppliedRevision, b.AppliedRevision)
	}
	return cmp.Compare(a.State.Urgency(), b.State.Urgency())
}

// Paged cuts one page out of items. A page after the last is the last.
func Paged[T any](items []T, page, size int) (out []T, at, pages int) {
	size = max(1, size)
	pages = max(1, (len(items)+size-1)/size)
	at = min(max(page, 1), pages)
	from := min((at-1)*size, len(items))
	return items[from:min(from+size, len(items))], at, pages
}

// List is one page of a list, as the API answers it.
type List[T any] struct {
	Items []T `json:"items"`
	// Total counts what matched on all pages.
	Total int `json:"total"`
	Page  int `json:"page"`
	Pages int `json:"pages"`
	// Next is the address of the next page below the hub's; empty on the last.
	Next string `json:"next,omitempty"`
	// Fleet sums up all clusters, whatever was selected; only in lists of clusters.
	Fleet *Fleet `json:"fleet,omitempty"`
}

// NextPage is the address of a list's next page, made of the page's own address; empty on the last.
func NextPage(at *url.URL, page, pages int) string {
	if page >= pages {
		return ""
	}
	q := at.Query()
	q.Del("token")
	q.Set("page", strconv.Itoa(page+1))
	return (&url.URL{Path: at.Path, RawQuery: q.Encode()}).String()
}

// DriftQuery selects episodes.
type DriftQuery struct {
	// State is open, closed or empty for both.
	State   string
	Cluster string
	Bundle  string
	Class   api.Class
	// Manager is the field manager or person named for the episode.
	Manager string
	// Object is an api.ObjectRef's ID; with "*" in the place of its group, that kind in any group.
	Object string
	// Since leaves out what had ended before.
	Since      time.Time
	Page, Size int
}

// ParseDriftQuery reads state, cluster, bundle, class, manager, object, since, page and size.
func ParseDriftQuery(v url.Values) (DriftQuery, error) {
	q := DriftQuery{
		State: v.Get("state"), Cluster: v.Get("cluster"), Bundle: v.Get("bundle"),
		Class: api.Class(v.Get("class")), Manager: v.Get("manager"), Object: v.Get("object"),
	}
	if t := v.Get("since"); t != "" {
		var err error
		if q.Since, err = time.Parse(time.RFC3339, t); err != nil {
			return DriftQuery{}, fmt.Errorf("since %q is not a time such as 2030-01-31T10:00:00Z", t)
		}
	}
	switch q.State {
	case "all":
		q.State = ""
	case "", "open", "closed":
	default:
		return DriftQuery{}, fmt.Errorf("state %q is not open, closed or all", q.State)
	}
	var err error
	q.Page, q.Size, err = ParsePage(v)
	return q, err
}

// BundleQuery chooses a page of a cluster's bundles.
type BundleQuery struct {
	Page, Size int
	// Urgent puts those first that need a look; otherwise they are sorted by name.
	Urgent bool
}

// ParseBundleQuery reads page and size; without a size a page is as large as may be.
func ParseBundleQuery(v url.Values) (q BundleQuery, err error) {
	q.Page, q.Size, err = ParsePage(v)
	if v.Get("size") == "" {
		q.Size = MaxPageSize
	}
	return q, err
}

// Order sorts bundles, which come sorted by name, as is asked for.
func (q BundleQuery) Order(bundles []api.BundleStatus) []api.BundleStatus {
	if !q.Urgent {
		return bundles
	}
	out := slices.Clone(bundles)
	slices.SortStableFunc(out, func(a, b api.BundleStatus) int { return phaseRank(a) - phaseRank(b) })
	return out
}

// phaseRank puts the bundles first that need a look.
func phaseRank(b api.BundleStatus) int {
	switch b.Phase {
	case api.PhaseFailed:
		return 0
	case api.PhaseBlocked:
		return 1
	case api.PhaseReady:
		if b.Drifted > 0 {
			return 1
		}
		return 3
	default:
		return 2
	}
}

// Brief is an episode as lists show it: without evidence, timeline and bookkeeping.
func Brief(e api.Episode) api.Episode {
	e.Evidence, e.Timeline, e.Track = nil, nil, nil
	return e
}

// ListClusters is one page of the clusters that a query selects, with the sum of all.
func ListClusters(all []Cluster, q Query) List[Cluster] {
	sel := q.Select(all)
	sum := Sum(all)
	l := List[Cluster]{Total: len(sel), Fleet: &sum}
	l.Items, l.Page, l.Pages = Paged(sel, q.Page, q.Size)
	if l.Items == nil {
		l.Items = []Cluster{}
	}
	return l
}
