package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/internal/shell"
)

// glyphs are drawn in a box of 16 by 16, so that they look the same with every font.
// With a word beside them they carry the state for people who cannot tell the colours apart.
var glyphs = map[string]string{
	"ready":       `<path d="M3 8.5l3.2 3.2L13 4.8"/>`,
	"failed":      `<path d="M4 4l8 8M12 4l-8 8"/>`,
	"drifted":     `<path d="M3 6h10M3 10h10M11 3L5 13"/>`,
	"suspended":   `<path d="M5.5 3.5v9M10.5 3.5v9"/>`,
	"progressing": `<path d="M13 8a5 5 0 1 1-1.6-3.7M13 2v3.2H9.8"/>`,
	"unknown":     `<path d="M5.2 6a2.8 2.8 0 1 1 4.3 2.3C8.5 9 8 9.4 8 10.3M8 13v.1"/>`,
	"pending":     `<path d="M3.5 8h.1M8 8h.1M12.5 8h.1"/>`,
	"blocked":     `<path d="M3 8h10"/>`,
	"search":      `<circle cx="7" cy="7" r="4"/><path d="M10 10l3.5 3.5"/>`,
	"copy":        `<rect x="5.5" y="5.5" width="8" height="8" rx="1"/><path d="M10.5 5.5v-3h-8v8h3"/>`,
	"theme":       `<circle cx="8" cy="8" r="5.5"/><path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor"/>`,
}

// glyph refers to a drawing in symbols: lists of a thousand clusters repeat it.
func glyph(name string) template.HTML {
	if _, ok := glyphs[name]; !ok {
		name = "pending"
	}
	return template.HTML(`<svg class="glyph" aria-hidden="true"><use href="#g-` + name + `"/></svg>`) //nolint:gosec // a known name
}

// symbols draws every glyph once per page.
func symbols() template.HTML {
	var b strings.Builder
	b.WriteString(`<svg class="hidden" aria-hidden="true">`)
	for _, name := range slices.Sorted(maps.Keys(glyphs)) {
		b.WriteString(`<symbol id="g-` + name + `" viewBox="0 0 16 16">` + glyphs[name] + `</symbol>`)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // constants only
}

func (p *Pages) funcs() template.FuncMap {
	return template.FuncMap{
		"glyph":   glyph,
		"symbols": symbols,
		"short":   view.Short,
		"count":   view.Count,
		"ago":     func(now, t time.Time) string { return view.Ago(now, t) },
		"left":    view.Left,
		"stamp":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"millis":  func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") },
		"clock":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"span":    func(from, to time.Time) string { return span(to.Sub(from)) },
		"tone":    tone,
		"value":   value,
		"pretty":  pretty,
		"who":     who,
		"path":    breakable,
		"scope":   scope,
		"resume":  resumeCommand,
		"join": func(hub string) string {
			return shell.Command("flotilla", "join", "--hub", hub, "--cluster", "NAME", "--out", "join.json")
		},
		"after":     after,
		"labels":    labelList,
		"where":     where,
		"did":       did,
		"class":     className,
		"state":     func(s view.State) string { return string(s) },
		"version":   func() string { return url.QueryEscape(p.cfg.Version) },
		"episodeIn": episodeSentence,
		"percent":   percent,
		"more":      func(e api.Episode) int { return max(0, len(e.Fields)+e.FieldsOmitted-1) },
		"dict":      dict,
		"title":     func(s any) string { t := fmt.Sprint(s); return strings.ToUpper(t[:1]) + t[1:] },
	}
}

// dict makes a map for a template that needs several values: key, value, key, value.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict needs pairs")
	}
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		k, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict key %v is not a string", pairs[i])
		}
		m[k] = pairs[i+1]
	}
	return m, nil
}

// tone is the state whose colour and glyph a word gets.
func tone(word any) string {
	switch w := fmt.Sprint(word); w {
	case string(api.PhaseApplying), string(api.PhaseProgressing):
		return "progressing"
	case string(api.PhaseBlocked), string(api.PhasePending):
		return w
	case string(api.OutcomeCorrected), string(api.OutcomeResolved):
		return "ready"
	case string(api.OutcomeIgnored):
		return string(api.PhaseSuspended)
	case string(api.OutcomeReported), string(api.OutcomeContested):
		return "drifted"
	default:
		return w
	}
}

// value shows one JSON value: strings without quotes, the absent as such.
func value(s string) string {
	if s == "" {
		return ""
	}
	var v any
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return s
	}
	switch v := v.(type) {
	case string:
		if v == "" {
			return `""`
		}
		return v
	case map[string]any, []any:
		return pretty(s)
	}
	return s
}

// breakable lets a long path break after its slashes only.
func breakable(path string) template.HTML {
	return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(path), "/", "/<wbr>")) //nolint:gosec // escaped
}

// scope says in words what a suspension covers.
func scope(s api.Scope) string {
	switch {
	case s.All:
		return "everything on the cluster"
	case len(s.Bundles) == 1:
		return "bundle " + s.Bundles[0]
	case len(s.Bundles) > 1:
		return "bundles " + strings.Join(s.Bundles, ", ")
	}
	var names []string
	for _, o := range s.Objects {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// after is a moment's distance from the first one.
func after(first, t time.Time) string {
	if d := t.Sub(first); d >= time.Millisecond {
		return "+" + span(d)
	}
	return ""
}

func pretty(s string) string {
	var out bytes.Buffer
	if json.Indent(&out, []byte(s), "", "  ") != nil {
		return s
	}
	return out.String()
}

// who names whoever is known: the person, else the tool.
func who(a api.Attribution) string {
	switch {
	case a.Person != "":
		return a.Person
	case a.Manager != "":
		return a.Manager
	}
	return "unknown"
}

// did says in words what was done about an episode.
func did(e api.Episode) string {
	switch e.Outcome {
	case api.OutcomePending:
		return "about to be corrected"
	case api.OutcomeCorrected:
		return "corrected"
	case api.OutcomeReported:
		return "only reported: the bundle's drift mode is report"
	case api.OutcomeSuspended:
		return "not corrected: suspended by " + e.Suspension
	case api.OutcomeContested:
		return "contested: " + who(e.By) + " keeps taking it back"
	case api.OutcomeResolved:
		return "over without us: the object matches Git again"
	case api.OutcomeIgnored:
		return "no longer looked at, and may stand as before"
	case api.OutcomeFailed:
		return "the correction was refused"
	}
	return string(e.Outcome)
}

// episodeSentence is an episode in one line.
func episodeSentence(e api.Episode) string {
	by := who(e.By)
	if by == "unknown" {
		by = "Somebody"
	}
	n := len(e.Fields) + e.FieldsOmitted
	switch e.Class {
	case api.ClassMissing:
		return by + " deleted it"
	case api.ClassExtra:
		return "It is not in Git, and carries our label"
	case api.ClassRemoved:
		return by + " removed " + view.Count(n, "field")
	case api.ClassAdded:
		return by + " added " + view.Count(n, "field")
	case api.ClassChanged:
	}
	return by + " changed " + view.Count(n, "field")
}

func className(c api.Class) string {
	switch c {
	case api.ClassChanged:
		return "a field that Git sets has another value"
	case api.ClassRemoved:
		return "a field that Git sets is gone"
	case api.ClassAdded:
		return "somebody added a field"
	case api.ClassMissing:
		return "the object is gone"
	case api.ClassExtra:
		return "the object is not in Git"
	}
	return string(c)
}

func where(e *api.StatusError) string {
	if e == nil || e.File == "" {
		return ""
	}
	if e.Line > 0 {
		return e.File + ":" + strconv.Itoa(e.Line)
	}
	return e.File
}

func span(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return view.Span(d)
}

func labelList(m map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

func labelKeys(cs []view.Cluster) []string {
	keys := map[string]struct{}{}
	for _, c := range cs {
		for k := range c.Labels {
			keys[k] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// tileGroup is the tiles of one value of a label.
type tileGroup struct {
	Name  string
	Tiles []view.Cluster
}

func group(cs []view.Cluster, key string) []tileGroup {
	if key == "" {
		return []tileGroup{{Tiles: cs}}
	}
	by := map[string][]view.Cluster{}
	for _, c := range cs {
		by[c.Labels[key]] = append(by[c.Labels[key]], c)
	}
	var out []tileGroup
	for _, v := range slices.Sorted(maps.Keys(by)) {
		name := key + "=" + v
		if v == "" {
			name = "no " + key
		}
		out = append(out, tileGroup{name, by[v]})
	}
	return out
}

// segment is one revision's share of the bar.
type segment struct {
	view.RevisionCount
	// X and Width are in percent; Shade numbers the colour.
	X, Width string
	Shade    int
}

// spread cuts the bar of applied revisions; what is too small to see is summed up at the end.
func spread(f view.Fleet) []segment {
	const most = 5
	revs := f.Revisions
	total := 0
	for _, r := range revs {
		total += r.Clusters
	}
	if total == 0 {
		return nil
	}
	if len(revs) > most {
		rest := view.RevisionCount{Revision: view.Count(len(revs)-most+1, "other revision")}
		for _, r := range revs[most-1:] {
			rest.Clusters += r.Clusters
		}
		revs = append(slices.Clone(revs[:most-1]), rest)
	}
	var out []segment
	at := 0
	for i, r := range revs {
		out = append(out, segment{
			RevisionCount: r, X: percent(at, total), Width: percent(r.Clusters, total), Shade: i,
		})
		at += r.Clusters
	}
	return out
}

func percent(n, of int) string {
	if of == 0 {
		return "0%"
	}
	return strconv.FormatFloat(100*float64(n)/float64(of), 'f', 2, 64) + "%"
}

// pager leads through the pages of a table.
type pager struct {
	Page, Pages, From, To, Total int
	Prev, Next                   string
}

func newPager(u *url.URL, at, pages, size, total int) pager {
	p := pager{Page: at, Pages: pages, From: min((at-1)*size+1, total), To: min(at*size, total), Total: total}
	if at > 1 {
		p.Prev = with(u, "page", strconv.Itoa(at-1))
	}
	if at < pages {
		p.Next = with(u, "page", strconv.Itoa(at+1))
	}
	return p
}

// with is an address with some parameters set; an empty value removes one.
func with(u *url.URL, pairs ...string) string {
	q := u.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			q.Del(pairs[i])
		} else {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return u.Path
	}
	return u.Path + "?" + q.Encode()
}

// twin is the address of the JSON with the same filters.
func twin(path string, v url.Values) string {
	v.Del("group")
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

func facets(u *url.URL, f view.Fleet, q view.Query) []facet {
	out := []facet{{Label: "All", Count: f.Clusters, Active: len(q.States) == 0, URL: with(u, "state", "", "page", "")}}
	for _, s := range view.States() {
		out = append(out, facet{
			State: s, Label: string(s), Count: f.States[s],
			Active: slices.Contains(q.States, s), URL: with(u, "state", string(s), "page", ""),
		})
	}
	return out
}

func heads(u *url.URL, q view.Query) []head {
	active := q.Sort
	if active == "" {
		active = "state"
	}
	var out []head
	for _, h := range []head{
		{Label: "State", Sort: "state"},
		{Label: "Cluster", Sort: "name"},
		{Label: "Revision", Sort: "revision"},
		{Label: "Bundles ready"},
		{Label: "Drift", Sort: "drift", Class: "num"},
		{Label: "Suspended"},
		{Label: "Last seen", Sort: "seen"},
	} {
		if h.Sort != "" {
			to := h.Sort
			if h.Sort == active {
				h.Arrow = "ascending"
				if q.Descending {
					h.Arrow = "descending"
				} else {
					to = "-" + to
				}
			}
			h.URL = with(u, "sort", to, "page", "")
		}
		out = append(out, h)
	}
	return out
}
