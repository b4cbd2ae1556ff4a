package store

import (
	"bytes"
	"cmp"
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
	// Seq counts from 1, without gaps; it is set by Audit. Entries of both kinds share it.
	Seq uint64 `json:"seq"`
	// At is when the hub heard of it.
	At time.Time `json:"at"`
	// Actor is who: a token's name, an agent, the hub itself. Remote is the address.
	Actor  string `json:"actor"`
	Remote string `json:"remote,omitempty"`
	// Action is what, such as "join" or "suspend", and Cluster where.
	Action  string `json:"action"`
	Cluster string `json:"cluster,omitempty"`
	// Name is that of what was made, changed or ended: a suspension, a join token, an agent, a session.
	Name string `json:"name,omitempty"`
	// Scope is how much it covers, for people.
	Scope string `json:"scope,omitempty"`
	// Reason is the one that was given.
	Reason string `json:"reason,omitempty"`
	// Until is when what was ordered ends by itself; zero if it does not.
	Until time.Time `json:"until,omitzero"`
	// Result is "ok", or why it was refused or failed.
	Result string `json:"result,omitempty"`
	// ReportedBy is empty for what went through the hub. Else it is the agent that told of it:
	// the hub has seen nothing itself, and Actor, Name, Scope and Reason are as the cluster has them.
	ReportedBy string `json:"reportedBy,omitempty"`
	// Via is how a cluster got what an agent reports: ViaObject or ViaGit. Ordered is when, by the cluster's clock.
	Via     string    `json:"via,omitempty"`
	Ordered time.Time `json:"ordered,omitzero"`
}

// What AuditEntry.Via says.
const (
	// ViaObject: by a Suspension object, which the CLI, kubectl and, for the hub, the agent make.
	ViaObject = "object"
	// ViaGit: by spec.suspend of cluster.yaml.
	ViaGit = "git"
)

// maxAuditText bounds every text of an entry in bytes.
const maxAuditText = 1 << 10

// bounded cuts what is too long for an entry, and says so in its place.
func (e AuditEntry) bounded() AuditEntry {
	for _, f := range []*string{
		&e.Actor, &e.Remote, &e.Action, &e.Cluster, &e.Name, &e.Scope, &e.Reason, &e.Result, &e.ReportedBy, &e.Via,
	} {
		*f = cut(strings.ToValidUTF8(*f, "�"), maxAuditText)
	}
	e.Actor = strings.ReplaceAll(e.Actor, "\x00", "�") // it is part of a key
	e.At, e.Until, e.Ordered = e.At.UTC(), e.Until.UTC(), e.Ordered.UTC()
	return e
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
}

// Audit appends an entry to the audit log. An entry without a time gets the present one, and what is too long in it is cut.
// Each actor has a share of the log: beyond it, its own oldest entries go.
func (s *Store) Audit(ctx context.Context, e AuditEntry) error {
	if e.At.IsZero() {
		e.At = s.now()
	}
	e = e.bounded()
	return s.update(ctx, func(tx *boltfile.Tx) error {
		b, meta := tx.Bucket(bucketAudit), tx.Bucket(bucketMeta)
		e := e
		e.Seq = b.Sequence() + 1
		if err := b.SetSequence(e.Seq); err != nil {
			return err
		}
		a := auditor{Store: s, tx: tx}
		if _, err := meta.Load(keyCounters, &a.count); err != nil {
			return err
		}
		if err := a.add(e); err != nil {
			return err
		}
		return meta.Save(keyCounters, a.count)
	})
}

// AuditFilter selects entries; zero fields select all.
type AuditFilter struct {
	Cluster, Actor, Action string
	// Before is the Seq of the last entry of the page before.
	Before uint64
	// Limit is how many to return at most; zero means 100.
	Limit int
}

func (f AuditFilter) matches(e AuditEntry) bool {
	return (f.Cluster == "" || f.Cluster == e.Cluster) && (f.Actor == "" || f.Actor == e.Actor) &&
		(f.Action == "" || f.Action == e.Action)
}

// AuditLog returns entries of both kinds, newest first.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) (out []AuditEntry, err error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		if out, err = f.ordered(tx.Bucket(bucketAudit)); err != nil {
			return err
		}
		clusters := []string{f.Cluster}
		if f.Cluster == "" {
			clusters = nil
			err = tx.Bucket(bucketClusters).Keys(nil, func(k []byte, _ int) error {
				clusters = append(clusters, string(k))
				return nil
			})
		}
		for _, c := range clusters {
			if err != nil {
				return err
			}
			if err = ctx.Err(); err == nil {
				out, err = f.reported(tx.Bucket(bucketReported), c, out)
			}
		}
		return err
	})
	return out, err
}

// ordered returns what went through the hub.
func (f AuditFilter) ordered(b *boltfile.Bucket) (out []AuditEntry, err error) {
	var before []byte
	if f.Before > 0 {
		before = binary.BigEndian.AppendUint64(nil, f.Before)
	}
	err = b.Descend(before, func(k, v []byte) error {
		var e AuditEntry
		if err := b.Decode(k, v, &e); err != nil {
			return err
		}
		if f.matches(e) {
			out = append(out, e)
		}
		if len(out) == f.Limit {
			return boltfile.ErrStop
		}
		return nil
	})
	return out, err
}

// reported adds what an agent has reported to what was found up to now, and keeps the newest.
func (f AuditFilter) reported(b *boltfile.Bucket, cluster string, out []AuditEntry) ([]AuditEntry, error) {
	prefix := clusterKey(cluster, "")
	last := append([]byte(cluster), 1)
	if f.Before > 0 {
		last = binary.BigEndian.AppendUint64(clusterKey(cluster, ""), f.Before)
	}
	// What is older than a full page is not read.
	var floor uint64
	if len(out) == f.Limit {
		floor = out[len(out)-1].Seq
	}
	found := 0
	err := b.Descend(last, func(k, v []byte) error {
		if !bytes.HasPrefix(k, prefix) || found == f.Limit || binary.BigEndian.Uint64(k[len(prefix):]) < floor {
			return boltfile.ErrStop
		}
		var e AuditEntry
		if err := b.Decode(k, v, &e); err != nil {
			return err
		}
		if f.matches(e) {
			out = append(out, e)
			found++
		}
		return nil
	})
	if found > 0 {
		slices.SortFunc(out, func(a, b AuditEntry) int { return cmp.Compare(b.Seq, a.Seq) })
	}
	return out[:min(len(out), f.Limit)], err
}
