package hub

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

// probeEvery is how long the store may go unwritten before it is tried; where writing fails, it is tried at every tick.
const probeEvery = time.Minute

// healthBody is what the probes answer.
type healthBody struct {
	// Status is ok, or failing.
	Status  string `json:"status"`
	Version string `json:"version"`
	Agents  int    `json:"agents"`
	Store   struct {
		Writable bool `json:"writable"`
		// Written is when the store was last written. Since and Error tell of its failing.
		Written time.Time `json:"written,omitzero"`
		Since   time.Time `json:"since,omitzero"`
		Error   string    `json:"error,omitempty"`
	} `json:"store"`
}

// getHealth says whether the hub can do its work: keep what agents report.
func (h *Hub) getHealth(w http.ResponseWriter, _ *http.Request) {
	is := h.store.Health()
	body := healthBody{Status: "ok", Version: h.cfg.Version, Agents: h.sessions.count()}
	body.Store.Writable, body.Store.Written, body.Store.Since = is.Writable, is.Written, is.Since
	status := http.StatusOK
	if !is.Writable {
		status, body.Status, body.Store.Error = http.StatusServiceUnavailable, "failing", cause(is)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encode(w, body)
}

// getLive says that the process answers. To start it again would not make room on a disk.
func (h *Hub) getLive(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"status": "ok", "version": h.cfg.Version})
}

// cause says why the store cannot be written, for whoever asks: the log has more.
func cause(is store.Health) string {
	if c := is.Cause(); c != "" {
		return c
	}
	return "see the hub's log"
}

// trouble is what every page says while the hub cannot keep what agents report; empty while it can.
func (h *Hub) trouble() string {
	is := h.store.Health()
	if is.Writable {
		return ""
	}
	return "The hub cannot write its store (" + cause(is) + "): what agents report is not kept, and what you see is as of " +
		is.Since.UTC().Format("2006-01-02 15:04:05 UTC") + "."
}

// probe tries whether the store can be written, where nothing else has lately.
func (h *Hub) probe(ctx context.Context) error {
	if is := h.store.Health(); is.Writable && h.now().Sub(is.Written).Abs() < probeEvery {
		return nil
	}
	if err := h.store.Probe(ctx); err != nil && !errors.Is(err, store.ErrNotWritten) {
		return err
	}
	return nil
}

// tellHealth logs once that the store cannot be written, and once that it can be again. was is what was told before.
func (h *Hub) tellHealth(was bool) bool {
	is := h.store.Health()
	switch {
	case was && !is.Writable:
		h.log.Error("the store cannot be written: reports are not kept", "error", is.Err)
	case !was && is.Writable:
		h.log.Info("the store can be written again")
	}
	return is.Writable
}

// notKept is what an agent is told whose reports could not be written. It keeps them, and sends them again.
func notKept(is store.Health) error {
	return &api.Error{
		Kind: api.Waiting, Reason: "StoreNotWritable", After: 10 * time.Second,
		Err: errors.New("the hub cannot write its store (" + cause(is) + "): reports stay with the agent"),
	}
}
