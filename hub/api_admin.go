package hub

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/flotilla-fleet/flotilla/hub/store"
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
	n, err := h.Revoke(r.Context(), r.PathValue("name"), req.Reason)
	h.audit(r.Context(), actor(r.Context()), "revoke", r.PathValue("name"), err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done", "revoked": n})
}

func (h *Hub) deleteCluster(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if _, found, err := h.store.Cluster(r.Context(), name); err != nil {
		h.fail(w, r, err)
		return
	} else if !found {
		writeError(w, http.StatusNotFound, noCluster(name))
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
	h.audit(r.Context(), actor(r.Context()), "join-token", req.Cluster, err)
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
	found, err := h.store.DeleteJoinToken(r.Context(), r.PathValue("id"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.audit(r.Context(), actor(r.Context()), "delete-join-token", "", nil)
	writeJSON(w, map[string]any{"status": "done", "found": found})
}

func (h *Hub) getAudit(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := store.AuditFilter{Cluster: q.Get("cluster"), Actor: q.Get("actor"), Action: q.Get("action")}
	if s := q.Get("before"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			badRequest(w, errors.New("before is not a number"))
			return
		}
		f.Before = n
	}
	es, err := h.store.AuditLog(r.Context(), f)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"items": append([]store.AuditEntry{}, es...)})
}
