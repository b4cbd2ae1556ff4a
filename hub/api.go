package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// route is one thing that humans and scripts can ask for.
type route struct {
	verb, path string
	// who may; anyone needs no token.
	who    Role
	handle http.HandlerFunc
}

// routes is the whole surface for humans and scripts, and who may use what.
func (h *Hub) routes() []route {
	return []route{
		{"GET", "/healthz", anyone, h.getHealth},
		{"GET", "/readyz", anyone, h.getHealth},
		{"GET", "/livez", anyone, h.getLive},
		{"GET", "/metrics", Viewer, h.metrics.handler().ServeHTTP},

		{"GET", "/api/v1/clusters", Viewer, h.getClusters},
		{"GET", "/api/v1/clusters/{name}", Viewer, h.getCluster},
		{"GET", "/api/v1/drift", Viewer, h.getDrift},
		{"GET", "/api/v1/drift/{id}", Viewer, h.getEpisode},
		{"GET", "/api/v1/history", Viewer, h.getHistory},
		{"POST", "/api/v1/clusters/{name}/sync", Operator, h.postSync},
		{"POST", "/api/v1/clusters/{name}/suspend", Operator, h.postSuspend},
		{"POST", "/api/v1/clusters/{name}/resume", Operator, h.postResume},
		{"POST", "/api/v1/clusters/{name}/revoke", Admin, h.postRevoke},
		{"DELETE", "/api/v1/clusters/{name}", Admin, h.deleteCluster},
		{"GET", "/api/v1/join-tokens", Admin, h.getJoinTokens},
		{"POST", "/api/v1/join-tokens", Admin, h.postJoinToken},
		{"DELETE", "/api/v1/join-tokens/{id}", Admin, h.deleteJoinToken},
		{"GET", "/api/v1/sessions", Admin, h.getSessions},
		{"DELETE", "/api/v1/sessions", Admin, h.deleteSessions},
		{"GET", "/api/v1/audit", Admin, h.getAudit},
		{"GET", "/api/v1/backup", Admin, h.getBackup},
		{"GET", "/api/", anyone, notFound},

		{"GET", "/events", Viewer, h.serveEvents},
		{"GET", "/{$}", Viewer, h.pages.Fleet},
		{"GET", "/c/{cluster}", Viewer, h.pages.Cluster},
		{"GET", "/drift", Viewer, h.pages.Drift},
		{"GET", "/drift/{id}", Viewer, h.pages.Episode},
		{"GET", "/audit", Admin, h.pages.Audit},
		{"GET", "/static/", anyone, h.pages.Static},
		{"GET", "/login", anyone, h.getLogin},
		{"POST", "/login", anyone, h.postLogin},
		{"POST", "/logout", anyone, h.postLogout},
		{"GET", "/", anyone, h.pages.NotFound},
	}
}

func (h *Hub) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range h.routes() {
		mux.Handle(rt.verb+" "+rt.path, h.guard(rt))
	}
	// Forms of other sites must not act with the browser's session.
	foreign := http.NewCrossOriginProtection()
	if u := h.cfg.PublicURL; u != "" { // a proxy may ask for it by another name
		if err := foreign.AddTrustedOrigin(u); err != nil {
			h.log.Error("requests from the public address may be refused", "address", u, "error", err)
		}
	}
	return h.metrics.count(secure(foreign.Handler(mux)))
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeError(w, http.StatusNotFound, &api.Error{
		Kind: api.Stalled, Reason: "NotFound", Err: fmt.Errorf("there is no %s", r.URL.Path), Hint: "see docs/hub-api.md",
	})
}

func (h *Hub) getClusters(w http.ResponseWriter, r *http.Request) {
	q, err := view.ParseQuery(r.URL.Query())
	if err != nil {
		badRequest(w, err)
		return
	}
	if r.URL.Query().Get("size") == "" {
		q.Size = view.MaxPageSize // most fleets fit on one page; next leads to the others
	}
	all, err := h.Clusters(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	l := view.ListClusters(all, q)
	l.Next = view.NextPage(r.URL, l.Page, l.Pages)
	writeJSON(w, l)
}

func (h *Hub) getCluster(w http.ResponseWriter, r *http.Request) {
	q, err := view.ParseBundleQuery(r.URL.Query())
	if err != nil {
		badRequest(w, err)
		return
	}
	d, found, err := h.Cluster(r.Context(), r.PathValue("name"), q)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case !found:
		h.fail(w, r, h.noCluster(r.Context(), r.PathValue("name")))
	default:
		d.Next = view.NextPage(r.URL, d.Page, d.Pages)
		writeJSON(w, d)
	}
}

func (h *Hub) getDrift(w http.ResponseWriter, r *http.Request) {
	q, err := view.ParseDriftQuery(r.URL.Query())
	if err != nil {
		badRequest(w, err)
		return
	}
	list, err := h.Drift(r.Context(), q)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	list.Next = view.NextPage(r.URL, list.Page, list.Pages)
	writeJSON(w, list)
}

func (h *Hub) getHistory(w http.ResponseWriter, r *http.Request) {
	q, err := view.ParseDriftQuery(r.URL.Query())
	if err != nil {
		badRequest(w, err)
		return
	}
	list, err := h.store.History(r.Context(), store.HistoryFilter{
		Cluster: q.Cluster, Bundle: q.Bundle, Object: q.Object, Since: q.Since,
		Limit: q.Size + 1, Skip: (q.Page - 1) * q.Size, // one more tells whether there is another page
	})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer := stretch[api.Applied]{Items: append([]api.Applied{}, list...)}
	if len(list) > q.Size {
		answer.Items, answer.Next = answer.Items[:q.Size], view.NextPage(r.URL, q.Page, q.Page+1)
	}
	writeJSON(w, answer)
}

func (h *Hub) getEpisode(w http.ResponseWriter, r *http.Request) {
	e, found, err := h.Episode(r.Context(), r.PathValue("id"))
	switch {
	case err != nil:
		h.fail(w, r, err)
	case !found:
		h.fail(w, r, missing(fmt.Errorf("there is no drift %q", r.PathValue("id")), "", nil))
	default:
		writeJSON(w, e)
	}
}

// stretch is a part of a list that is too long to be counted.
type stretch[T any] struct {
	Items []T `json:"items"`
	// Next is the address of the next part below the hub's; empty on the last.
	Next string `json:"next,omitempty"`
}

// namesInHint is how many names an error about what does not exist tells of what does.
const namesInHint = 20

// missing is the error about something that does not exist; the hint names what does.
func missing(err error, what string, names []string) *api.Error {
	e := &api.Error{Kind: api.Stalled, Reason: reasonNotFound, Err: err}
	switch more := len(names) - namesInHint; {
	case what == "":
	case len(names) == 0:
		e.Hint = "there are none"
	case more > 0:
		e.Hint = fmt.Sprintf("there are %s %s and %d more", what, strings.Join(names[:namesInHint], ", "), more)
	default:
		e.Hint = fmt.Sprintf("there are %s %s", what, strings.Join(names, ", "))
	}
	return e
}

const reasonNotFound = "NotFound"

func (h *Hub) noCluster(ctx context.Context, name string) error {
	names, err := h.store.Clusters(ctx)
	if err != nil {
		return err
	}
	return missing(fmt.Errorf("the hub knows no cluster %q", name), "clusters", names)
}

// errorBody is every error's JSON.
type errorBody struct {
	Error api.StatusError `json:"error"`
	Hint  string          `json:"hint,omitempty"`
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encode(w, v)
}

func encode(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the only error is a client that went away
}

func writeError(w http.ResponseWriter, status int, err error) {
	body := errorBody{Error: *api.StatusErrorOf(err)}
	if e, ok := errors.AsType[*api.Error](err); ok {
		body.Hint = e.Hint
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func badRequest(w http.ResponseWriter, err error) {
	writeError(w, http.StatusBadRequest, &api.Error{Kind: api.Stalled, Reason: "BadRequest", Err: err})
}

// fail answers with an error by its kind. What nobody classified is logged, and not told.
func (h *Hub) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind := api.KindOf(err)
	if e, ok := errors.AsType[*api.Error](err); ok && (e.Reason == reasonNotFound || slices.Contains(notThere, e.Reason)) {
		writeError(w, http.StatusNotFound, err)
		return
	}
	if kind == api.Internal {
		h.log.Error("request failed", "path", r.URL.Path, "error", err)
		err = &api.Error{Kind: api.Internal, Reason: "Internal", Err: errors.New("internal error: see the hub's log")}
	}
	writeError(w, kind.HTTPStatus(), err)
}
