package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// commandTimeout is how long a command's result is waited for.
const commandTimeout = 20 * time.Second

// SuspendRequest asks an agent to suspend correction.
type SuspendRequest struct {
	Scope  api.Scope `json:"scope"`
	Reason string    `json:"reason"`
	// Until is the end; or For is how long from now. Exactly one is set.
	Until time.Time    `json:"until,omitzero"`
	For   api.Duration `json:"for,omitempty"`
	// Force suspends also bundles and objects that the cluster does not have, for when they come.
	Force bool `json:"force,omitempty"`
}

// ResumeRequest asks an agent to end a suspension; an empty name ends all.
type ResumeRequest struct {
	Name string `json:"name,omitempty"`
}

// SyncRequest asks an agent for a pass now; an empty bundle means all.
type SyncRequest struct {
	Bundle string `json:"bundle,omitempty"`
}

func (h *Hub) postSync(w http.ResponseWriter, r *http.Request) {
	var req SyncRequest
	if !readJSON(w, r, &req) {
		return
	}
	if req.Bundle != "" && !api.ValidName(req.Bundle) {
		badRequest(w, fmt.Errorf("bundle: %q is not a name of at most 63 lower-case letters, digits and dashes", req.Bundle))
		return
	}
	e := act(r.Context(), "sync", r.PathValue("name"))
	if e.Scope = (api.Scope{All: true}).String(); req.Bundle != "" {
		e.Scope = api.Scope{Bundles: []string{req.Bundle}}.String()
	}
	h.answer(w, r, &hubv1.Command{Kind: "sync", Name: req.Bundle}, e)
}

func (h *Hub) postResume(w http.ResponseWriter, r *http.Request) {
	var req ResumeRequest
	if !readJSON(w, r, &req) {
		return
	}
	if req.Name != "" {
		if err := api.CheckSuspensionName(req.Name); err != nil {
			badRequest(w, fmt.Errorf("name: %w", err))
			return
		}
	}
	e := act(r.Context(), "resume", r.PathValue("name"))
	if e.Name = req.Name; req.Name == "" {
		e.Scope = "every suspension"
	}
	h.answer(w, r, &hubv1.Command{Kind: "resume", Name: req.Name}, e)
}

func (h *Hub) postSuspend(w http.ResponseWriter, r *http.Request) {
	var req SuspendRequest
	if !readJSON(w, r, &req) {
		return
	}
	now := h.now()
	s := api.Suspension{
		Scope: req.Scope, Reason: req.Reason, Until: req.Until, Created: now, Actor: actor(r.Context()),
	}
	if req.For != 0 {
		if !req.Until.IsZero() {
			badRequest(w, errors.New("until and for cannot both be set"))
			return
		}
		s.Until = now.Add(time.Duration(req.For))
	}
	// The fleet's own limit is the agent's to check; a hundred years is only against overflow.
	if err := s.Validate(now, 100*365*24*time.Hour); err != nil {
		badRequest(w, err)
		return
	}
	b, err := json.Marshal(s)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	e := act(r.Context(), "suspend", r.PathValue("name"))
	e.Scope, e.Reason, e.Until = s.Scope.String(), s.Reason, s.Until
	h.answer(w, r, &hubv1.Command{Kind: "suspend", Suspension: b, Force: req.Force}, e)
}

// answer passes a command to a cluster's agent, notes what came of it, and answers with the result.
func (h *Hub) answer(w http.ResponseWriter, r *http.Request, c *hubv1.Command, e store.AuditEntry) {
	payload, err := h.command(r.Context(), e.Cluster, c)
	if err == nil {
		named(&e, payload)
	}
	h.record(r.Context(), e, err)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, map[string]any{"status": "done", "result": json.RawMessage(payload)})
}

// named takes from an agent's answer what the suspensions are called that were made or ended.
func named(e *store.AuditEntry, payload []byte) {
	var done struct {
		Name    string   `json:"name"`
		Resumed []string `json:"resumed"`
	}
	// An agent of another version may answer something else: then the entry holds what was ordered.
	if json.Unmarshal(payload, &done) != nil || e.Name != "" {
		return
	}
	if e.Name = done.Name; e.Action == "resume" {
		e.Name = strings.Join(done.Resumed, ", ")
	}
}

// command sends a command over the cluster's stream and waits for the result.
func (h *Hub) command(ctx context.Context, cluster string, c *hubv1.Command) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	s := h.sessions.get(cluster)
	if s == nil {
		if _, found, err := h.store.Summary(ctx, cluster); err != nil {
			return nil, err
		} else if !found {
			return nil, h.noCluster(ctx, cluster)
		}
		return nil, notConnected(cluster)
	}
	c.Id, c.Actor = rand.Text(), actor(ctx)
	res, err := s.command(ctx, c)
	if err != nil {
		return nil, err
	}
	if res.GetError() != "" {
		kind := api.ErrorKind(res.GetErrorKind())
		if kind == "" || kind == api.Internal {
			kind = api.Transient
		}
		reason := "CommandFailed"
		if slices.Contains(notThere, res.GetErrorReason()) {
			reason = res.GetErrorReason()
		}
		return nil, &api.Error{Kind: kind, Reason: reason, Err: fmt.Errorf("cluster %q: %s", cluster, shortened(res.GetError()))}
	}
	if len(res.GetPayload()) == 0 {
		return []byte("null"), nil
	}
	return res.GetPayload(), nil
}

// notThere are the reasons of an agent that say that what was named does not exist.
var notThere = []string{api.ReasonNoSuchSuspension, api.ReasonNoSuchBundle, api.ReasonNoSuchObject}

// shortened bounds what an agent says of an error.
func shortened(s string) string {
	const most = 4 << 10
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
}

// readJSON reads a body strictly; no body is the zero request.
func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	if r.ContentLength == 0 {
		return true
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		badRequest(w, fmt.Errorf("body: %w", err))
		return false
	}
	return true
}
