package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// ErrNotWritten is the error of a change that could not be written to the disk, which may be full. Nothing of it was kept.
var ErrNotWritten = boltfile.ErrNotWritten

// Health is whether the store can be written.
type Health struct {
	Writable bool
	// Written is when something last was.
	Written time.Time
	// Since is when writing began to fail, and Err why it did last; both are zero while it can be written.
	Since time.Time
	Err   error
}

// Cause is the system's word for what is wrong, without names of files; empty if it is none of those that are known.
// bbolt keeps only the text of some.
func (h Health) Cause() string {
	if h.Err == nil {
		return ""
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS, syscall.EIO} {
		if errors.Is(h.Err, errno) || strings.Contains(h.Err.Error(), errno.Error()) {
			return errno.Error()
		}
	}
	return ""
}

// settle is how long nothing may fail until the store counts as writable again: what is small still
// finds a place in a file that cannot grow, and agents try again what is not within a quarter of a minute.
const settle = 30 * time.Second

// health follows what becomes of writing.
type health struct {
	mu sync.Mutex
	// The rest is guarded by mu; failed is when writing last failed.
	is     Health
	failed time.Time
}

// note takes in how a write went.
func (h *health) note(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotWritten), errors.Is(err, ErrDamaged):
		if h.is.Writable {
			h.is.Since = now
		}
		h.is.Writable, h.is.Err, h.failed = false, err, now
	case err != nil: // of whoever wanted to write
	case h.is.Writable || now.Sub(h.failed).Abs() >= settle:
		h.is = Health{Writable: true, Written: now}
	}
}

// Health says whether the store can be written, as far as it was tried.
func (s *Store) Health() Health {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.is
}

// Probe writes a little, to find out whether the store can be written.
func (s *Store) Probe(ctx context.Context) error {
	return s.update(ctx, func(tx *boltfile.Tx) error {
		return tx.Bucket(bucketMeta).Save(keyProbe, s.now().UTC())
	})
}
