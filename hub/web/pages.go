package web

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/shell"
)

// pageRows is how many rows a page's table has.
const pageRows = 50

// roomyTiles is up to how many clusters the tiles have room for names.
const roomyTiles = 48

// maxTiles is how many clusters have a tile, those that need a look first. The table has pages for all.
const maxTiles = 1000

type fleetData struct {
	Fleet view.Fleet
	// Groups are the tiles of clusters that match, and NoTile how many of those have none. Rows is the table's page of them.
	Groups []tileGroup
	NoTile int
	Roomy  bool
	Rows   []view.Cluster
	Query  view.Query
	Facets []facet
	Total  int
	Pager  pager
	Heads  []head
	Spread []segment
	// URL is the hub's, for an empty fleet.
	URL string
	// GroupBy is a label's key or empty; Keys are those to choose from.
	GroupBy string
	Keys    []string
}

// facet is one filter with its count.
type facet struct {
	State  view.State
	Label  string
	Count  int
	Active bool
	URL    string
}

// head is a column that can be sorted by.
type head struct {
	Label, Class, URL, Arrow, Sort string
}

// Fleet is the front page.
func (p *Pages) Fleet(w http.ResponseWriter, r *http.Request) {
	r = p.marked(r)
	values := r.URL.Query()
	q, err := view.ParseQuery(values)
	if err != nil {
		p.problem(w, r, http.StatusBadRequest, "That filter does not work", err.Error())
		return
	}
	if values.Get("size") == "" {
		q.Size = pageRows
	}
	all, err := p.cfg.Source.Clusters(r.Context())
	if err != nil {
		p.failed(w, r, err)
		return
	}
	selected := q.Select(all)
	d := fleetData{
		Fleet: view.Sum(all), NoTile: max(0, len(selected)-maxTiles), Roomy: len(selected) <= roomyTiles, Query: q,
		Total: len(selected), URL: p.cfg.URL,
		GroupBy: values.Get("group"), Keys: labelKeys(all),
	}
	d.Groups = group(tiled(q, selected), d.GroupBy)
	rows, at, pages := view.Paged(selected, q.Page, q.Size)
	d.Rows, d.Pager = rows, newPager(r.URL, at, pages, q.Size, len(selected))
	d.Facets = facets(r.URL, d.Fleet, q)
	d.Heads = heads(r.URL, q)
	d.Spread = spread(d.Fleet)
	p.render(w, r, http.StatusOK, page{
		Name: "fleet", Title: "Fleet", Data: d, Open: d.Fleet.Drift, Twin: twin("/api/v1/clusters", values),
	})
}

// tiled are the clusters of a selection that have a tile: all in the order that was asked for, or where they are too many the most urgent.
func tiled(q view.Query, selected []view.Cluster) []view.Cluster {
	if len(selected) <= maxTiles {
		return selected
	}
	q.Sort, q.Descending = "state", false
	return q.Select(selected)[:maxTiles]
}

type clusterData struct {
	view.ClusterDetail
	Bundles []api.BundleStatus
	Pager   pager
	Recent  []api.Episode
}

// Cluster is the page of one cluster.
func (p *Pages) Cluster(w http.ResponseWriter, r *http.Request) {
	r = p.marked(r)
	name := r.PathValue("cluster")
	values := r.URL.Query()
	q, err := view.ParseBundleQuery(values)
	if err != nil {
		p.problem(w, r, http.StatusBadRequest, "That page does not work", err.Error())
		return
	}
	if q.Urgent = true; values.Get("size") == "" {
		q.Size = pageRows
	}
	c, found, err := p.cfg.Source.Cluster(r.Context(), name, q)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	if !found {
		p.problem(w, r, http.StatusNotFound, "The hub knows no cluster "+name,
			"It appears here when its agent joins.")
		return
	}
	closed, err := p.cfg.Source.Drift(r.Context(), view.DriftQuery{State: "closed", Cluster: name, Page: 1, Size: 10})
	if err != nil {
		p.failed(w, r, err)
		return
	}
	d := clusterData{
		ClusterDetail: c, Bundles: c.BundleStatus, Recent: closed.Items,
		Pager: newPager(r.URL, c.Page, c.Pages, q.Size, c.Bundles),
	}
	p.render(w, r, http.StatusOK, page{
		Name: "cluster", Title: name, Data: d, Open: p.openDrift(r), Twin: twin("/api/v1/clusters/"+url.PathEscape(name), values),
	})
}

type driftData struct {
	Query  view.DriftQuery
	List   view.List[api.Episode]
	Facets []facet
	Pager  pager
	// Last is the newest closed episode, for the page that has nothing open.
	Last *api.Episode
	// Filters names what else narrows the list, with the address without it.
	Filters []facet
}

// Drift is the inbox.
func (p *Pages) Drift(w http.ResponseWriter, r *http.Request) {
	r = p.marked(r)
	values := r.URL.Query()
	q, err := view.ParseDriftQuery(values)
	if err != nil {
		p.problem(w, r, http.StatusBadRequest, "That filter does not work", err.Error())
		return
	}
	if !values.Has("state") {
		q.State = "open"
	}
	if values.Get("size") == "" {
		q.Size = pageRows
	}
	d := driftData{Query: q}
	if d.List, err = p.cfg.Source.Drift(r.Context(), q); err != nil {
		p.failed(w, r, err)
		return
	}
	d.Pager = newPager(r.URL, d.List.Page, d.List.Pages, q.Size, d.List.Total)
	for _, s := range []struct{ state, label string }{{"open", "Open"}, {"closed", "Closed"}, {"all", "All"}} {
		c := q
		c.State, c.Page, c.Size = strings.TrimSuffix(s.state, "all"), 1, 1
		l, err := p.cfg.Source.Drift(r.Context(), c)
		if err != nil {
			p.failed(w, r, err)
			return
		}
		d.Facets = append(d.Facets, facet{
			Label: s.label, Count: l.Total, Active: q.State == c.State, URL: with(r.URL, "state", s.state, "page", ""),
		})
		if s.state == "closed" && len(l.Items) > 0 {
			d.Last = &l.Items[0]
		}
	}
	for _, k := range []string{"cluster", "bundle", "class", "manager"} {
		if v := values.Get(k); v != "" {
			d.Filters = append(d.Filters, facet{Label: k + ": " + v, URL: with(r.URL, k, "", "page", "")})
		}
	}
	p.render(w, r, http.StatusOK, page{
		Name: "drift", Title: "Drift", Data: d, Open: p.openDrift(r), Twin: twin("/api/v1/drift", values),
	})
}

type episodeData struct {
	api.Episode
	Commands []command
}

// command is a command line worth trying.
type command struct {
	What, Line string
}

// Episode is the page of one drifted object.
func (p *Pages) Episode(w http.ResponseWriter, r *http.Request) {
	r = p.marked(r)
	id := r.PathValue("id")
	e, found, err := p.cfg.Source.Episode(r.Context(), id)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	if !found {
		p.problem(w, r, http.StatusNotFound, "There is no drift "+id, "Old episodes are dropped after a while.")
		return
	}
	p.render(w, r, http.StatusOK, page{
		Name: "episode", Title: e.Object.Kind + " " + e.Object.Name, Open: p.openDrift(r),
		Data: episodeData{e, p.commands(e)}, Twin: "/api/v1/drift/" + url.PathEscape(id),
	})
}

func (p *Pages) commands(e api.Episode) []command {
	out := []command{{"The same on a terminal", shell.Command("flotilla", "drift", "show", e.ID, "--hub", p.cfg.URL)}}
	if e.Suspension != "" && e.Outcome == api.OutcomeSuspended {
		out = append(out, command{"End the suspension and correct", resumeCommand(e.Cluster, e.Suspension)})
	} else {
		out = append(out, command{
			"Stop correcting the bundle for an hour",
			shell.Command("flotilla", "suspend", "--context", e.Cluster, "--bundle", e.Bundle, "--for", "1h", "--reason", "INC-123: why"),
		})
	}
	if rule := ignoreRule(e); rule != "" {
		out = append(out, command{"Leave these fields alone: commit to spec of the bundle.yaml of " + e.Bundle, rule})
	}
	return out
}

// resumeCommand ends a suspension. A command on the cluster itself works without the hub, and names the cluster:
// that of kubectl's present context may be another.
func resumeCommand(cluster, suspension string) string {
	return shell.Command("flotilla", "resume", "--context", cluster, suspension)
}

// ignoreRule is what would make flotilla leave the episode's fields alone; empty if no rule fits.
// It is YAML: every value in it is quoted.
func ignoreRule(e api.Episode) string {
	if len(e.Fields) == 0 || e.FieldsOmitted > 0 {
		return ""
	}
	var paths []string
	for _, f := range e.Fields {
		paths = append(paths, strconv.Quote(f.Path))
	}
	return fmt.Sprintf("drift: {ignore: [{target: {kind: %s, name: %s}, paths: [%s]}]}",
		scalar(e.Object.Kind), scalar(e.Object.Name), strings.Join(paths, ", "))
}

var plainScalar = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.-]*$`)

// scalar writes a text in YAML, quoted unless it is read as a text anyway.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		return strconv.Quote(s)
	}
	if plainScalar.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

// openDrift is the number in the navigation. Not knowing it must not break a page.
func (p *Pages) openDrift(r *http.Request) int {
	all, err := p.cfg.Source.Clusters(r.Context())
	if err != nil {
		return 0
	}
	return view.Sum(all).Drift
}
