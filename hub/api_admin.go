package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
	"github.com/flotilla-fleet/flotilla/hub/web"
)

// RevokeRequest takes an agent's certificates back.
type RevokeRequest struct {
	Reason string `json:"reason"`
}

func (h *Hub) postRevoke(w http.ResponseWriter, r *http.Request) {
	var req RevokeRequest
	if !readJSON(w, r, &req) {
		return
	}
	if req.Reason == "" {
		badRequest(w, errors.New("a revocation needs a reason"))
		return
	}
	name := r.PathValue("name")
	n, err := h.revokeKnown(r.Context(), name, req.Reason)
	e := act(r.Context(), "revoke", name)
	e.Reason, e.Scope = req.Reason, view.Count(n, "certificate")
	h.record(r.Context(), e, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done", "revoked": n})
}

// revokeKnown is Revoke for a cluster that has a certificate; else there is nothing to take back, which is an error.
func (h *Hub) revokeKnown(ctx context.Context, name, reason string) (int, error) {
	cs, err := h.store.Certificates(ctx, name)
	if err != nil {
		return 0, err
	}
	if name == "" || len(cs) == 0 {
		if _, found, err := h.store.Cluster(ctx, name); err != nil {
			return 0, err
		} else if !found {
			return 0, h.noCluster(ctx, name)
		}
		return 0, missing(fmt.Errorf("cluster %q has no certificate", name), "", nil)
	}
	if last := cs[len(cs)-1]; !slices.ContainsFunc(cs, func(c store.Certificate) bool { return c.Revoked.IsZero() }) {
		return 0, missing(fmt.Errorf("cluster %q has no certificate that is good: the last was revoked at %s: %s",
			name, last.Revoked.Format(time.RFC3339), last.Reason), "", nil)
	}
	return h.Revoke(ctx, name, reason)
}

func (h *Hub) deleteCluster(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if _, found, err := h.store.Cluster(r.Context(), name); err != nil {
		h.fail(w, r, err)
		return
	} else if !found {
		h.fail(w, r, h.noCluster(r.Context(), name))
		return
	}
	err := h.Forget(r.Context(), name, "the cluster was removed from the hub")
	h.audit(r.Context(), actor(r.Context()), "forget", name, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done"})
}

func (h *Hub) postJoinToken(w http.ResponseWriter, r *http.Request) {
	var req JoinTokenRequest
	if !readJSON(w, r, &req) {
		return
	}
	m, err := h.CreateJoinToken(r.Context(), req)
	e := act(r.Context(), "join-token", req.Cluster)
	if err == nil {
		e.Name, e.Until, e.Scope = m.ID, m.Expires, view.Count(m.MaxUses, "join")
	}
	h.record(r.Context(), e, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, m)
}

func (h *Hub) getJoinTokens(w http.ResponseWriter, r *http.Request) {
	ts, err := h.store.JoinTokens(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"items": append([]store.JoinToken{}, ts...)})
}

func (h *Hub) deleteJoinToken(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	found, err := h.store.DeleteJoinToken(r.Context(), id)
	if err == nil && !found {
		err = h.noJoinToken(r.Context(), id)
	}
	e := act(r.Context(), "delete-join-token", "")
	e.Name = id
	h.record(r.Context(), e, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done", "found": true})
}

// noJoinToken says which join tokens there are instead.
func (h *Hub) noJoinToken(ctx context.Context, id string) error {
	ts, err := h.store.JoinTokens(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, t := range ts {
		ids = append(ids, t.ID)
	}
	return missing(fmt.Errorf("there is no join token %q", id), "join tokens", ids)
}

func (h *Hub) getSessions(w http.ResponseWriter, r *http.Request) {
	ss, err := h.store.Sessions(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	for i := range ss {
		ss[i].Fingerprint = "" // the hub's own
	}
	writeJSON(w, map[string]any{"items": append([]store.Session{}, ss...)})
}

// deleteSessions ends all sessions of the tokens of a name, or one session by its ID.
// The tokens stay good: to take one back, remove it from its file.
func (h *Hub) deleteSessions(w http.ResponseWriter, r *http.Request) {
	token, id := r.URL.Query().Get("token"), r.URL.Query().Get("id")
	if (token == "") == (id == "") {
		badRequest(w, errors.New("say which sessions: ?token=NAME of the token, or ?id=ID of one session"))
		return
	}
	n, err := h.store.EndSessions(r.Context(), func(s store.Session) bool { return s.Token == token || s.ID == id })
	if err == nil && n == 0 {
		err = h.noSession(r.Context(), token+id)
	}
	h.auth.ended.ring()
	e := act(r.Context(), "end-sessions", "")
	e.Name, e.Scope = token+id, view.Count(n, "session")
	h.record(r.Context(), e, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done", "ended": n})
}

// noSession says whose sessions there are instead.
func (h *Hub) noSession(ctx context.Context, wanted string) error {
	ss, err := h.store.Sessions(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range ss {
		if !slices.Contains(names, s.Token) {
			names = append(names, s.Token)
		}
	}
	return missing(fmt.Errorf("%q has no session", wanted), "sessions of", names)
}

func (h *Hub) getAudit(w http.ResponseWriter, r *http.Request) {
	f, err := parseAudit(r.URL.Query())
	if err != nil {
		badRequest(w, err)
		return
	}
	part, err := h.Audit(r.Context(), f)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer := auditAnswer{stretch: stretch[store.AuditEntry]{Items: part.Entries}, Dropped: part.Dropped}
	if part.Before > 0 {
		q := r.URL.Query()
		q.Del("token")
		q.Set("before", strconv.FormatUint(part.Before, 10))
		answer.Next = r.URL.Path + "?" + q.Encode()
	}
	writeJSON(w, answer)
}

// auditAnswer is a part of the audit log, with whose entries had to go.
type auditAnswer struct {
	stretch[store.AuditEntry]

	Dropped []store.AuditShare `json:"dropped,omitempty"`
}

// parseAudit reads cluster, actor, action, before and size.
func parseAudit(q url.Values) (f store.AuditFilter, err error) {
	f = store.AuditFilter{Cluster: q.Get("cluster"), Actor: q.Get("actor"), Action: q.Get("action")}
	if s := q.Get("before"); s != "" {
		if f.Before, err = strconv.ParseUint(s, 10, 64); err != nil || f.Before == 0 {
			return f, errors.New("before is not a number from 1")
		}
	}
	_, f.Limit, err = view.ParsePage(url.Values{"size": q["size"]})
	return f, err
}

// Audit returns a part of the audit log, newest first.
func (h *Hub) Audit(ctx context.Context, f store.AuditFilter) (web.AuditPart, error) {
	size := f.Limit
	f.Limit++ // one more tells whether there is another part
	es, err := h.store.AuditLog(ctx, f)
	part := web.AuditPart{Entries: append([]store.AuditEntry{}, es...)}
	if len(es) > size {
		part.Entries = part.Entries[:size]
		part.Before = part.Entries[size-1].Seq
	}
	if err == nil {
		part.Dropped, err = h.store.AuditDropped(ctx)
	}
	return part, err
}
