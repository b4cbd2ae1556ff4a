package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// AuditShare is how much of the audit log one actor has, and how much of it was dropped.
type AuditShare struct {
	Actor string `json:"actor"`
	// Kept are there; Dropped were, and had to go for newer ones. Last is when that was last.
	Kept    int       `json:"kept"`
	Dropped int       `json:"dropped,omitempty"`
	Last    time.Time `json:"last,omitzero"`
}

// shareKey is an actor's place among the shares; its entries begin with it. No actor's begins another's.
func shareKey(actor string) []byte { return append([]byte(actor), 0) }

// auditor appends to the audit log, and keeps every actor within a share of it.
type auditor struct {
	*Store
	tx    *boltfile.Tx
	count Counters
}

// add appends an entry, whose number is set. What is beyond the actor's share, and beyond the log's bound, goes:
// the oldest of the actor, and of whoever has most.
func (a *auditor) add(e AuditEntry) error {
	key := binary.BigEndian.AppendUint64(nil, e.Seq)
	if err := a.tx.Bucket(bucketAudit).Save(key, e); err != nil {
		return err
	}
	if err := a.tx.Bucket(bucketActors).Put(append(shareKey(e.Actor), key...), nil); err != nil {
		return err
	}
	share, err := a.share(e.Actor)
	if err != nil {
		return err
	}
	share.Kept++
	a.count.AuditEntries++
	if over := share.Kept - a.limits.AuditPerActor; over > 0 {
		if err := a.drop(&share, over, e.At); err != nil {
			return err
		}
	}
	if err := a.save(share); err != nil {
		return err
	}
	for a.count.AuditEntries > a.limits.AuditEntries {
		most, err := a.most()
		if err != nil {
			return err
		}
		if err := a.drop(&most, min(most.Kept, a.count.AuditEntries-a.limits.AuditEntries), e.At); err != nil {
			return err
		}
		if err := a.save(most); err != nil {
			return err
		}
	}
	return nil
}

func (a *auditor) share(actor string) (AuditShare, error) {
	var s AuditShare
	_, err := a.tx.Bucket(bucketShares).Load(shareKey(actor), &s)
	s.Actor = actor
	return s, err
}

// save keeps a share as long as it says anything.
func (a *auditor) save(s AuditShare) error {
	if s.Kept == 0 && s.Dropped == 0 {
		return a.tx.Bucket(bucketShares).Delete(shareKey(s.Actor))
	}
	return a.tx.Bucket(bucketShares).Save(shareKey(s.Actor), s)
}

// most is the share of whoever has most; of several, of the one whose name comes first.
func (a *auditor) most() (out AuditShare, err error) {
	all, err := shares(a.tx)
	for _, s := range all {
		if s.Kept > out.Kept {
			out = s
		}
	}
	if err == nil && out.Kept == 0 {
		err = ErrDamaged
	}
	return out, err
}

// drop deletes the oldest n entries of an actor.
func (a *auditor) drop(s *AuditShare, n int, at time.Time) error {
	prefix := shareKey(s.Actor)
	var keys [][]byte
	err := a.tx.Bucket(bucketActors).Keys(prefix, func(k []byte, _ int) error {
		if len(keys) == n || !bytes.HasPrefix(k, prefix) {
			return boltfile.ErrStop
		}
		keys = append(keys, slices.Clone(k))
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := a.tx.Bucket(bucketAudit).Delete(k[len(prefix):]); err != nil {
			return err
		}
	}
	if len(keys) < n {
		return ErrDamaged
	}
	s.Kept -= n
	s.Dropped, s.Last = s.Dropped+n, at
	a.count.AuditEntries -= n
	a.count.DroppedEntries += uint64(n)
	return deleteAll(a.tx.Bucket(bucketActors), keys)
}

func shares(tx *boltfile.Tx) (out []AuditShare, err error) {
	b := tx.Bucket(bucketShares)
	err = b.Ascend(nil, func(k, v []byte) error {
		var s AuditShare
		if err := b.Decode(k, v, &s); err != nil {
			return err
		}
		s.Actor = strings.TrimSuffix(string(k), "\x00")
		out = append(out, s)
		return nil
	})
	return out, err
}

// AuditDropped returns the actors of whom entries were dropped from the audit log, those with most first, at most 100.
func (s *Store) AuditDropped(ctx context.Context) (out []AuditShare, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		out, err = shares(tx)
		return err
	})
	out = slices.DeleteFunc(out, func(s AuditShare) bool { return s.Dropped == 0 })
	slices.SortStableFunc(out, func(a, b AuditShare) int { return b.Dropped - a.Dropped })
	return out[:min(len(out), 100)], err
}
