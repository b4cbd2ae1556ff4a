package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// AuditEntry is one thing that somebody did, or tried to do. Entries are never changed.
type AuditEntry struct {
	// Seq counts from 1, without gaps; it is set by Audit.
	Seq uint64    `json:"seq"`
	At  time.Time `json:"at"`
	// Actor is who: a token's name, an agent, the hub itself. Remote is the address.
	Actor  string `json:"actor"`
	Remote string `json:"remote,omitempty"`
	// Action is what, such as "join" or "suspend", and Cluster and Target on what.
	Action  string `json:"action"`
	Cluster string `json:"cluster,omitempty"`
	Target  string `json:"target,omitempty"`
	// Result is "ok", or why it was refused or failed.
	Result string `json:"result,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Bounds of an entry: of its detail, and of every other text.
const (
	maxAuditText   = 1 << 10
	maxAuditDetail = 8 << 10
)

// bounded cuts what is too long for an entry, and says so in its place.
func (e AuditEntry) bounded() AuditEntry {
	for _, f := range []*string{&e.Actor, &e.Remote, &e.Action, &e.Cluster, &e.Target, &e.Result} {
		*f = cut(*f, maxAuditText)
	}
	e.Detail = cut(e.Detail, maxAuditDetail)
	return e
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
}

// Audit appends an entry to the audit log. An entry without a time gets the present one, and what is too long in it is cut.
func (s *Store) Audit(ctx context.Context, e AuditEntry) error {
	e = e.bounded()
	if e.At.IsZero() {
		e.At = s.now()
	}
	e.At = e.At.UTC()
	return s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketAudit)
		e := e
		e.Seq = b.Sequence() + 1
		if err := b.SetSequence(e.Seq); err != nil {
			return err
		}
		if err := b.Save(binary.BigEndian.AppendUint64(nil, e.Seq), e); err != nil {
			return err
		}
		var c Counters
		if _, err := tx.Bucket(bucketMeta).Load(keyCounters, &c); err != nil {
			return err
		}
		c.AuditEntries++
		if err := s.trimAudit(b, &c); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Save(keyCounters, c)
	})
}

func (s *Store) trimAudit(b *boltfile.Bucket, c *Counters) error {
	var old [][]byte
	err := b.Keys(nil, func(k []byte, _ int) error {
		if c.AuditEntries-len(old) <= s.limits.AuditEntries {
			return boltfile.ErrStop
		}
		old = append(old, slices.Clone(k))
		return nil
	})
	if err != nil {
		return err
	}
	c.AuditEntries -= len(old)
	c.DroppedEntries += uint64(len(old))
	return deleteAll(b, old)
}

// AuditFilter selects entries; zero fields select all.
type AuditFilter struct {
	Cluster, Actor, Action string
	// Before is the Seq of the last entry of the page before.
	Before uint64
	// Limit is how many to return at most; zero means 100.
	Limit int
}

// AuditLog returns entries, newest first.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) (out []AuditEntry, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	var before []byte
	if f.Before > 0 {
		before = binary.BigEndian.AppendUint64(nil, f.Before)
	}
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketAudit)
		return b.Descend(before, func(k, v []byte) error {
			var e AuditEntry
			if err := b.Decode(k, v, &e); err != nil {
				return err
			}
			if f.Cluster != "" && f.Cluster != e.Cluster || f.Actor != "" && f.Actor != e.Actor ||
				f.Action != "" && f.Action != e.Action {
				return nil
			}
			if out = append(out, e); len(out) == f.Limit {
				return boltfile.ErrStop
			}
			return nil
		})
	})
	return out, err
}
