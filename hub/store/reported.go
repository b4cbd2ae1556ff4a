package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

const (
	// reportedPerCluster is how many entries of one cluster's are kept: its agent drives out nobody else's.
	reportedPerCluster = 200
	// reportedAtOnce is how many entries one report makes at most; the last one then counts the others.
	reportedAtOnce = 20
	// sameEnd is how far apart two ends may be that are the same: agents give them by their own clocks.
	sameEnd = time.Minute
)

// witnessed is what a cluster's suspensions, before and now, say about what people did there, not seen by the hub.
func witnessed(before, now []api.Suspension, at time.Time) (out []AuditEntry) {
	old, left := map[string]api.Suspension{}, map[string]bool{}
	for _, s := range before {
		old[s.Name], left[s.Name] = s, true
	}
	for _, s := range now {
		was, known := old[s.Name]
		if delete(left, s.Name); !known || !same(was, s) {
			out = append(out, entryOf("suspend", s))
		}
		old[s.Name] = s // one that is listed twice is told once
	}
	for _, s := range before {
		if !left[s.Name] {
			continue
		}
		delete(left, s.Name)
		e := entryOf("resume", s)
		e.Actor = "" // whoever ended it left no name on the cluster
		if !at.Before(s.Until.Add(-sameEnd)) {
			e.Action = "suspension-ended"
		}
		out = append(out, e)
	}
	if more := len(out) - reportedAtOnce; more > 0 {
		out = append(out[:reportedAtOnce-1], AuditEntry{
			Action: "suspend", Result: fmt.Sprintf("%d more changes of suspensions were reported at once, and are not listed", more+1),
		})
	}
	return out
}

func same(a, b api.Suspension) bool {
	return a.Until.Sub(b.Until).Abs() < sameEnd && a.Reason == b.Reason && a.Actor == b.Actor && a.Scope.String() == b.Scope.String()
}

func entryOf(action string, s api.Suspension) AuditEntry {
	e := AuditEntry{
		Action: action, Actor: s.Actor, Name: s.Name, Scope: s.Scope.String(), Reason: s.Reason, Until: s.Until,
		Ordered: s.Created, Via: ViaObject,
	}
	if s.Name == api.GitSuspension {
		e.Via = ViaGit
	}
	return e
}

// witness notes what a cluster's new status says of its suspensions.
func (w *writer) witness(before, now api.ClusterStatus) error {
	entries := witnessed(before.Suspensions, now.Suspensions, w.at)
	if len(entries) == 0 {
		return nil
	}
	numbers, b := w.tx.Bucket(bucketAudit), w.tx.Bucket(bucketReported)
	for _, e := range entries {
		e.Seq = numbers.Sequence() + 1
		if err := numbers.SetSequence(e.Seq); err != nil {
			return err
		}
		e.At, e.Cluster, e.ReportedBy = w.at, w.cluster, w.rec.AgentID
		if err := b.Save(binary.BigEndian.AppendUint64(clusterKey(w.cluster, ""), e.Seq), e.bounded()); err != nil {
			return err
		}
	}
	return w.trimReported(b)
}

// trimReported drops the cluster's oldest entries beyond the bound.
func (w *writer) trimReported(b *boltfile.Bucket) error {
	prefix := clusterKey(w.cluster, "")
	var keys [][]byte
	err := b.Keys(prefix, func(k []byte, _ int) error {
		if !bytes.HasPrefix(k, prefix) {
			return boltfile.ErrStop
		}
		keys = append(keys, slices.Clone(k))
		return nil
	})
	if err != nil || len(keys) <= reportedPerCluster {
		return err
	}
	return deleteAll(b, keys[:len(keys)-reportedPerCluster])
}
