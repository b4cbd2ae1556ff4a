package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/intake"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Cluster is what is known of a cluster now.
type Cluster struct {
	Name    string
	AgentID string
	// Joined is when the hub first knew it, LastSeen when it last heard from its agent.
	Joined   time.Time
	LastSeen time.Time
	// Seq is the last report of the agent that is stored.
	Seq uint64
	// Status is nil until the agent's first report.
	Status *api.ClusterStatus
	// Bundles are sorted by name.
	Bundles []api.BundleStatus
	// Open is the open episodes, oldest first.
	Open []api.Episode
	// Usage is how much is kept of it, LeftOut what is not.
	Usage   Usage
	LeftOut LeftOut
}

// State is the cluster's present state, as its agent has it if nothing was lost between them.
func (c Cluster) State() api.State {
	return api.State{Status: c.Status, Bundles: c.Bundles, Episodes: c.Open}
}

// record is what the disk knows of a cluster apart from its state.
type record struct {
	AgentID string    `json:"agentID,omitempty"`
	Joined  time.Time `json:"joined"`
	// Seq is the last report applied.
	Seq uint64 `json:"seq"`
	// StateSeq is the newest report that the last snapshot includes: older ones
	// say nothing new of the present.
	StateSeq uint64 `json:"stateSeq,omitempty"`
	// History counts what is kept of its history.
	History int   `json:"history,omitempty"`
	Usage   Usage `json:"usage"`
	// The rest is as in LeftOut.
	LeftOut   []intake.LeftOut `json:"leftOut,omitempty"`
	Dropped   uint64           `json:"dropped,omitempty"`
	DroppedAt time.Time        `json:"droppedAt,omitzero"`
	Partial   bool             `json:"partial,omitempty"`
	Whole     time.Time        `json:"whole,omitzero"`
}

// AddCluster makes a cluster known that has joined. One that is known stays as it is.
func (s *Store) AddCluster(ctx context.Context, name string) error {
	if !api.ValidName(name) {
		return denied("BadCluster", fmt.Errorf("%q is not a cluster's name", name))
	}
	return s.update(ctx, func(tx *boltfile.Tx) error {
		w, err := s.begin(tx, name)
		if err != nil || tx.Bucket(bucketClusters).Has([]byte(name)) {
			return err
		}
		return w.end()
	})
}

// Clusters returns the names of all clusters, sorted.
func (s *Store) Clusters(ctx context.Context) (names []string, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		return tx.Bucket(bucketClusters).Keys(nil, func(k []byte, _ int) error {
			names = append(names, string(k))
			return nil
		})
	})
	return names, err
}

// Cluster returns one cluster, and whether there is one of the name.
func (s *Store) Cluster(ctx context.Context, name string) (Cluster, bool, error) {
	return s.cluster(ctx, name, readOpen)
}

// Summary is Cluster with no more of the open episodes than their IDs, bundles and outcomes:
// it is read whenever anything of a cluster has changed.
func (s *Store) Summary(ctx context.Context, name string) (Cluster, bool, error) {
	return s.cluster(ctx, name, summarizeOpen)
}

func (s *Store) cluster(ctx context.Context, name string, open func(*boltfile.Tx, []byte) (api.Episode, error)) (c Cluster, ok bool, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		if ok = tx.Bucket(bucketClusters).Has([]byte(name)); !ok {
			return nil
		}
		c, err = readCluster(tx, name, open)
		return err
	})
	return c, ok, err
}

func readOpen(tx *boltfile.Tx, id []byte) (e api.Episode, err error) {
	return e, listedIn(tx.Bucket(bucketEpisodes), id, &e)
}

func summarizeOpen(tx *boltfile.Tx, id []byte) (api.Episode, error) {
	var h head
	err := listedIn(tx.Bucket(bucketHeads), id, &h)
	return api.Episode{ID: string(id), Cluster: h.Cluster, Bundle: h.Bundle, Class: h.Class, Onset: h.Onset, Outcome: h.Outcome}, err
}

func listedIn(b *boltfile.Bucket, id []byte, v any) error {
	ok, err := b.Load(id, v)
	if err == nil && !ok {
		err = fmt.Errorf("%w: episode %q is listed and missing", ErrDamaged, id)
	}
	return err
}

// readCluster reads a cluster with everything that belongs to its present state.
func readCluster(tx *boltfile.Tx, name string, open func(*boltfile.Tx, []byte) (api.Episode, error)) (Cluster, error) {
	c := Cluster{Name: name}
	key := []byte(name)
	var r record
	if _, err := tx.Bucket(bucketClusters).Load(key, &r); err != nil {
		return c, err
	}
	c.AgentID, c.Joined, c.Seq, c.Usage = r.AgentID, r.Joined, r.Seq, r.Usage
	c.LeftOut = r.leftOut()
	if _, err := tx.Bucket(bucketSeen).Load(key, &c.LastSeen); err != nil {
		return c, err
	}
	var st api.ClusterStatus
	ok, err := tx.Bucket(bucketStatus).Load(key, &st)
	if err != nil {
		return c, err
	}
	if ok {
		c.Status = &st
	}
	b := tx.Bucket(bucketBundles)
	err = within(b, name, func(k, v []byte) error {
		var bs api.BundleStatus
		err := b.Decode(k, v, &bs)
		c.Bundles = append(c.Bundles, bs)
		return err
	})
	if err != nil {
		return c, err
	}
	if err != nil {
		return c, err
	}
	err = within(tx.Bucket(bucketOpen), name, func(k, _ []byte) error {
		e, err := open(tx, k[len(name)+1:])
		c.Open = append(c.Open, e)
		return err
	})
	slices.SortFunc(c.Open, func(a, b api.Episode) int {
		return cmp.Or(a.Onset.Compare(b.Onset), strings.Compare(a.ID, b.ID))
	})
	return c, err
}

// within calls fn for all keys of a cluster.
func within(b *boltfile.Bucket, cluster string, fn func(k, v []byte) error) error {
	prefix := clusterKey(cluster, "")
	return b.Ascend(prefix, func(k, v []byte) error {
		if !bytes.HasPrefix(k, prefix) {
			return boltfile.ErrStop
		}
		return fn(k, v)
	})
}

func clusterKey(cluster, rest string) []byte {
	return append(append([]byte(cluster), 0), rest...)
}

// Position returns how far a cluster's agent was heard: which agent, and the last of its reports
// that is stored. For a cluster that never reported it is empty and zero.
func (s *Store) Position(ctx context.Context, cluster string) (agentID string, seq uint64, err error) {
	var r record
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		_, err := tx.Bucket(bucketClusters).Load([]byte(cluster), &r)
		return err
	})
	return r.AgentID, r.Seq, err
}

// Seen records when clusters were last heard from, all in one write.
// An earlier time than the last, and a cluster that is not known, are left out.
// A last time that has not come yet was written by a clock that was wrong, and counts for nothing.
func (s *Store) Seen(ctx context.Context, at map[string]time.Time) error {
	return s.update(ctx, func(tx *boltfile.Tx) error {
		b := tx.Bucket(bucketSeen)
		for name, t := range at {
			key := []byte(name)
			if !tx.Bucket(bucketClusters).Has(key) {
				continue
			}
			var last time.Time
			if _, err := b.Load(key, &last); err != nil {
				return err
			}
			if !t.After(last) && !last.After(s.now()) {
				continue
			}
			if err := b.Save(key, t.UTC()); err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveCluster forgets a cluster, its history and all its episodes. Its certificates are left:
// revoke them first, or its agent comes back.
func (s *Store) RemoveCluster(ctx context.Context, name string) error {
	return s.update(ctx, func(tx *boltfile.Tx) error {
		w, err := s.begin(tx, name)
		if err != nil || !tx.Bucket(bucketClusters).Has([]byte(name)) {
			return err
		}
		return w.removeCluster()
	})
}

func (w *writer) removeCluster() error {
	for _, bucket := range []string{bucketBundles, bucketHistory, bucketReported} {
		var keys [][]byte
		b := w.tx.Bucket(bucket)
		err := within(b, w.cluster, func(k, _ []byte) error {
			keys = append(keys, slices.Clone(k))
			return nil
		})
		if err != nil {
			return err
		}
		if err := deleteAll(b, keys); err != nil {
			return err
		}
	}
	ids, err := w.allEpisodes()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := w.dropEpisode(id); err != nil {
			return err
		}
	}
	for _, bucket := range []string{bucketClusters, bucketStatus, bucketSeen} {
		if err := w.tx.Bucket(bucket).Delete([]byte(w.cluster)); err != nil {
			return err
		}
	}
	return w.publish()
}

// allEpisodes returns the IDs of all the cluster's episodes.
func (w *writer) allEpisodes() (ids []string, err error) {
	prefix := w.cluster + "-"
	heads := w.tx.Bucket(bucketHeads)
	err = heads.Ascend([]byte(prefix), func(k, v []byte) error {
		if !strings.HasPrefix(string(k), prefix) {
			return boltfile.ErrStop
		}
		var h head
		err := heads.Decode(k, v, &h)
		if h.Cluster == w.cluster { // and not another whose name begins alike
			ids = append(ids, string(k))
		}
		return err
	})
	return ids, err
}
