package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// Batch is what Commit stores. Empty fields change nothing.
type Batch struct {
	// Status replaces the cluster's status.
	Status *api.ClusterStatus
	// Bundles replace what is stored under their names.
	Bundles []api.BundleRecord
	// RemovedBundles are no longer on the cluster.
	RemovedBundles []string
	// Episodes replace those with their IDs, which come from NextEpisodeID.
	Episodes []api.Episode
}

// Commit stores a batch in one transaction, and reports what changed to the outbox in the same.
// It returns when everything is on the disk.
// Something that differs from what is stored only in bookkeeping (api's Content methods)
// is stored, but not reported; something equal is not even written.
func (s *Store) Commit(b Batch) error {
	p, err := s.prepare(b)
	if err != nil {
		return fmt.Errorf("agent store: %w", err)
	}
	return s.file.Update(func(tx *boltfile.Tx) error {
		w, err := s.begin(tx)
		if err != nil {
			return err
		}
		if err := w.store(p); err != nil {
			return err
		}
		return w.end()
	})
}

// prepared is a batch, checked and encoded before the transaction.
type prepared struct {
	status   *item
	bundles  []preparedBundle
	removed  []string
	episodes []preparedEpisode
}

// item is a value with its report.
type item struct {
	data    []byte // as stored
	content []byte // without bookkeeping
	report  api.Report
}

type preparedBundle struct {
	item
	inventory []byte
}

type preparedEpisode struct {
	item
	n    uint64
	head head
}

func newItem(v, content any, r api.Report) (item, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return item{}, err
	}
	c, err := json.Marshal(content)
	return item{data: data, content: c, report: r}, err
}

func (s *Store) prepare(b Batch) (prepared, error) {
	p := prepared{removed: b.RemovedBundles}
	if b.Status != nil {
		if b.Status.Cluster != s.owner.Cluster {
			return p, fmt.Errorf("the status is of cluster %q, and the store of %q", b.Status.Cluster, s.owner.Cluster)
		}
		st := *b.Status
		it, err := newItem(st, st.Content(), api.Report{Status: &st})
		if err != nil {
			return p, err
		}
		p.status = &it
	}
	names := map[string]bool{}
	for _, r := range b.Bundles {
		if r.Status.Name == "" || names[r.Status.Name] {
			return p, fmt.Errorf("bundle %q has no name, or is twice in the batch", r.Status.Name)
		}
		names[r.Status.Name] = true
		it, err := newItem(r.Status, r.Status.Content(), api.Report{Bundle: &r.Status})
		if err != nil {
			return p, fmt.Errorf("bundle %q: %w", r.Status.Name, err)
		}
		inv, err := json.Marshal(r.Inventory)
		if err != nil {
			return p, fmt.Errorf("bundle %q: %w", r.Status.Name, err)
		}
		p.bundles = append(p.bundles, preparedBundle{it, inv})
	}
	for _, name := range b.RemovedBundles {
		if name == "" || names[name] {
			return p, fmt.Errorf("removed bundle %q has no name, or is twice in the batch", name)
		}
		names[name] = true
	}
	for _, e := range b.Episodes {
		n, ok := s.episodeNumber(e.ID)
		if !ok || e.Cluster != s.owner.Cluster {
			return p, fmt.Errorf("episode %q of cluster %q does not belong to this store: see NextEpisodeID", e.ID, e.Cluster)
		}
		it, err := newItem(e, e.Content(), api.Report{Episode: &e})
		if err != nil {
			return p, fmt.Errorf("episode %q: %w", e.ID, err)
		}
		p.episodes = append(p.episodes, preparedEpisode{it, n, headOf(e)})
	}
	return p, nil
}

// writer is one transaction's view of the store. Its methods are in the files of what they write.
type writer struct {
	*Store
	tx      *boltfile.Tx
	at      time.Time
	count   Counters
	outbox  *boltfile.Bucket
	reports int // appended
}

func (s *Store) begin(tx *boltfile.Tx) (*writer, error) {
	w := &writer{Store: s, tx: tx, at: s.now().UTC(), outbox: tx.Bucket(bucketOutbox)}
	_, err := tx.Bucket(bucketMeta).Load(keyCounters, &w.count)
	return w, err
}

// end does what follows from any change.
func (w *writer) end() error {
	if err := w.retain(); err != nil {
		return err
	}
	if w.reports > 0 {
		if err := w.compact(); err != nil {
			return err
		}
		w.tx.OnCommit(w.announce)
	}
	return w.tx.Bucket(bucketMeta).Save(keyCounters, w.count)
}

func (w *writer) store(p prepared) error {
	if p.status != nil {
		if err := w.put(bucketStatus, keyStatus, *p.status, statusContent); err != nil {
			return err
		}
	}
	for _, b := range p.bundles {
		key := []byte(b.report.Bundle.Name)
		if err := w.put(bucketBundles, key, b.item, bundleContent); err != nil {
			return err
		}
		if err := w.tx.Bucket(bucketInventory).Put(key, b.inventory); err != nil {
			return err
		}
	}
	for _, name := range p.removed {
		if err := w.removeBundle(name); err != nil {
			return err
		}
	}
	for _, e := range p.episodes {
		if err := w.putEpisode(e); err != nil {
			return err
		}
	}
	return nil
}

// put stores a value and reports it, as far as it is new.
func (w *writer) put(bucket string, key []byte, it item, content func(data []byte) ([]byte, error)) error {
	b := w.tx.Bucket(bucket)
	old, err := b.Get(key)
	if err != nil || bytes.Equal(old, it.data) {
		return err
	}
	news := true
	if old != nil {
		c, err := content(old)
		if err != nil {
			return fmt.Errorf("%w: %q in %s: %v", ErrDamaged, key, bucket, err)
		}
		news = !bytes.Equal(c, it.content)
	}
	if err := b.Put(key, it.data); err != nil || !news {
		return err
	}
	return w.report(it.report, 0)
}

func statusContent(data []byte) ([]byte, error) {
	var v api.ClusterStatus
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v.Content())
}

func bundleContent(data []byte) ([]byte, error) {
	var v api.BundleStatus
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v.Content())
}

func (w *writer) removeBundle(name string) error {
	key := []byte(name)
	b := w.tx.Bucket(bucketBundles)
	if !b.Has(key) {
		return nil
	}
	if err := b.Delete(key); err != nil {
		return err
	}
	if err := w.tx.Bucket(bucketInventory).Delete(key); err != nil {
		return err
	}
	return w.report(api.Report{RemovedBundle: name}, 0)
}
