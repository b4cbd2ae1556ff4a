package hub

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// stalled is how long a copy may wait for whoever reads it: while it is read, the store's file cannot shrink.
const stalled = 30 * time.Second

// getBackup sends a copy of the store.
func (h *Hub) getBackup(w http.ResponseWriter, r *http.Request) {
	begun := false
	err := h.store.Backup(r.Context(), func(size int64) (io.Writer, error) {
		begun = true
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		w.Header().Set("Content-Disposition", `attachment; filename="hub.db"`)
		w.Header().Set("Cache-Control", "no-store")
		return &paced{w: w, rc: http.NewResponseController(w)}, nil
	})
	h.audit(r.Context(), actor(r.Context()), "backup", "", err)
	switch {
	case err == nil:
	case begun:
		h.log.Warn("backup broken off", "actor", actor(r.Context()), "error", err)
	default:
		h.fail(w, r, err)
	}
}

// paced gives every part that is written its own deadline.
type paced struct {
	w  io.Writer
	rc *http.ResponseController
}

// Write implements io.Writer.
func (p *paced) Write(b []byte) (int, error) {
	if err := p.rc.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}
