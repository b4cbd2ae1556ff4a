// Package web is the hub's pages: the fleet, one cluster, the drift inbox, one drifted object.
//
// Every page is complete without JavaScript and loads nothing from elsewhere.
// With JavaScript one shared event stream tells which clusters changed,
// and the page's live part is fetched again and morphed, which keeps focus and scroll.
// The package shows view models and decides nothing: states, counts and orders come from hub/view.
package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

//go:embed templates static
var files embed.FS

// Source answers what the pages show.
type Source interface {
	Clusters(ctx context.Context) ([]view.Cluster, error)
	Cluster(ctx context.Context, name string, q view.BundleQuery) (view.ClusterDetail, bool, error)
	Drift(ctx context.Context, q view.DriftQuery) (view.List[api.Episode], error)
	Episode(ctx context.Context, id string) (api.Episode, bool, error)
	// Audit returns a part of the audit log, newest first.
	Audit(ctx context.Context, f store.AuditFilter) (AuditPart, error)
}

// AuditPart is a part of the audit log.
type AuditPart struct {
	Entries []store.AuditEntry
	// Before is the Seq that the next part begins before; zero if there is none.
	Before uint64
	// Dropped are the actors of whom entries had to go for newer ones.
	Dropped []store.AuditShare
}

// Config is what Pages are made from.
type Config struct {
	// Source is required.
	Source Source
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log gets pages that could not be made; nil logs nothing.
	Log     *slog.Logger
	Version string
	// Mark names the changes so far, as the event stream's ids do; see Pages.marked. Required.
	Mark func() string
	// Trouble is what every page says while the hub cannot do its work, empty while it can; nil means that it always can.
	Trouble func() string
	// URL is the pages' own address, shown where no cluster has joined yet.
	URL string
}

// Pages serves the pages.
type Pages struct {
	cfg    Config
	tmpl   map[string]*template.Template
	static http.Handler
}

// New reads the templates.
func New(cfg Config) (*Pages, error) {
	if cfg.Source == nil {
		return nil, errors.New("web: Source is required")
	}
	if cfg.Mark == nil {
		return nil, errors.New("web: Mark is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pages{cfg: cfg, tmpl: map[string]*template.Template{}}
	for _, name := range []string{"fleet", "cluster", "drift", "episode", "audit", "login", "problem"} {
		t, err := template.New("layout.html").Funcs(p.funcs()).
			ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		p.tmpl[name] = t
	}
	static, err := fs.Sub(files, "static")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	p.static = http.StripPrefix("/static/", http.FileServerFS(static))
	return p, nil
}

// page is what every template gets.
type page struct {
	// Name is which page it is, for the navigation; Title is the browser's.
	Name, Title string
	Now         time.Time
	Version     string
	// Mark is up to which change the page shows all.
	Mark string
	// Open counts open episodes in the fleet, for the navigation.
	Open int
	// Admin is whether the page is for an admin.
	Admin bool
	// Trouble is what is wrong with the hub; empty if nothing is.
	Trouble string
	// Twin is the page's JSON.
	Twin string
	// Data is the page's own.
	Data any
}

type adminKey struct{}

// ForAdmin has pages lead to what only an admin may see. Whether somebody may see it, the hub decides.
func ForAdmin(ctx context.Context) context.Context { return context.WithValue(ctx, adminKey{}, true) }

type markKey struct{}

// marked notes the mark before a page is read from the hub: what changes later, the browser hears of,
// or finds that it has missed it.
func (p *Pages) marked(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), markKey{}, p.cfg.Mark()))
}

// render writes a page, or only its live part for a request by htmx.
func (p *Pages) render(w http.ResponseWriter, r *http.Request, status int, pg page) {
	pg.Now, pg.Version = p.cfg.Now(), p.cfg.Version
	if p.cfg.Trouble != nil {
		pg.Trouble = p.cfg.Trouble()
	}
	if r != nil {
		pg.Mark, _ = r.Context().Value(markKey{}).(string)
		pg.Admin, _ = r.Context().Value(adminKey{}).(bool)
	}
	block := "layout.html"
	if r != nil && r.Header.Get("HX-Request") != "" {
		block = "live"
	}
	var buf bytes.Buffer
	if err := p.tmpl[pg.Name].ExecuteTemplate(&buf, block, pg); err != nil {
		p.cfg.Log.Error("page not made", "page", pg.Name, "error", err)
		http.Error(w, "the page could not be made; see the hub's log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Add("Vary", "HX-Request")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // the only error is a browser that went away
}

type problemData struct {
	Title, Text string
}

// problem shows an error as a page.
func (p *Pages) problem(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	p.render(w, r, status, page{Name: "problem", Title: title, Data: problemData{title, text}})
}

func (p *Pages) failed(w http.ResponseWriter, r *http.Request, err error) {
	p.cfg.Log.Error("page not made", "path", r.URL.Path, "error", err)
	p.problem(w, r, http.StatusInternalServerError, "The hub could not answer", "The reason is in its log.")
}

// NotFound is the page for an address that leads nowhere.
func (p *Pages) NotFound(w http.ResponseWriter, r *http.Request) {
	p.problem(w, r, http.StatusNotFound, "There is no such page", r.URL.Path)
}

// Denied is the page for whoever may not see another one.
func (p *Pages) Denied(w http.ResponseWriter, r *http.Request, why string) {
	p.problem(w, r, http.StatusForbidden, "This page is not for this token", why)
}

type loginData struct {
	Next, Problem string
}

// Login shows the form for the token.
func (p *Pages) Login(w http.ResponseWriter, status int, next, problem string) {
	p.render(w, nil, status, page{Name: "login", Title: "Log in", Data: loginData{next, problem}})
}

// Static serves the style sheet and the scripts. They are part of the binary, so their age is its version.
func (p *Pages) Static(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("v") == p.cfg.Version && p.cfg.Version != "" {
		w.Header().Set("Cache-Control", "public, max-age=86400")
	} else {
		w.Header().Set("Cache-Control", "no-cache")
	}
	p.static.ServeHTTP(w, r)
}
