package store

import (
	"time"

	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// usage counts, for version 4, what is kept of each cluster, and makes the index of its closed episodes.
func usage() boltfile.Migration {
	return boltfile.Migration{Name: "usage", Apply: func(tx *boltfile.Tx) error {
		if err := tx.CreateBucket("ended"); err != nil {
			return err
		}
		m := migration4{tx: tx, of: map[string]map[string]any{}}
		for _, step := range []func() error{m.clusters, m.bundles, m.episodes, m.history, m.save} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}}
}

type migration4 struct {
	tx *boltfile.Tx
	// cluster → its record
	of     map[string]map[string]any
	closed float64
}

// add adds to a number in a cluster's usage. A cluster without a record has nothing that counts.
func (m *migration4) add(cluster, what string, n int) {
	if r := m.of[cluster]; r != nil {
		u, _ := r["usage"].(map[string]any)
		have, _ := u[what].(float64)
		u[what] = have + float64(n)
	}
}

func (m *migration4) clusters() error {
	b := m.tx.Bucket("clusters")
	return b.Ascend(nil, func(k, v []byte) error {
		r := map[string]any{}
		err := b.Decode(k, v, &r)
		r["usage"] = map[string]any{}
		m.of[string(k)] = r
		return err
	})
}

// owner is the cluster that a key begins with.
func owner(k []byte) string {
	for i, c := range k {
		if c == 0 {
			return string(k[:i])
		}
	}
	return ""
}

func (m *migration4) bundles() error {
	return m.tx.Bucket("bundles").Keys(nil, func(k []byte, size int) error {
		m.add(owner(k), "bundles", 1)
		m.add(owner(k), "bundleBytes", size)
		return nil
	})
}

func (m *migration4) history() error {
	return m.tx.Bucket("history").Keys(nil, func(k []byte, size int) error {
		m.add(owner(k), "historyBytes", size)
		return nil
	})
}

func (m *migration4) episodes() error {
	heads, episodes := m.tx.Bucket("heads"), m.tx.Bucket("episodes")
	fresh := map[string]map[string]any{}
	err := heads.Ascend(nil, func(k, v []byte) error {
		h := map[string]any{}
		if err := heads.Decode(k, v, &h); err != nil {
			return err
		}
		var e struct {
			Outcome string `json:"outcome"`
		}
		data, err := episodes.Get(k)
		if err != nil {
			return err
		}
		if err := episodes.Decode(k, data, &e); err != nil {
			return err
		}
		h["out"], h["n"] = e.Outcome, len(data)
		fresh[string(k)] = h
		return nil
	})
	if err != nil {
		return err
	}
	for id, h := range fresh {
		if err := heads.Save([]byte(id), h); err != nil {
			return err
		}
		if err := m.count(id, h); err != nil {
			return err
		}
	}
	return nil
}

func (m *migration4) count(id string, h map[string]any) error {
	cluster, _ := h["cl"].(string)
	size, _ := h["n"].(int)
	end, _ := h["e"].(string)
	if end == "" {
		m.add(cluster, "open", 1)
		m.add(cluster, "openBytes", size)
		return nil
	}
	m.closed += float64(size)
	m.add(cluster, "closed", 1)
	m.add(cluster, "closedBytes", size)
	at, err := time.Parse(time.RFC3339Nano, end)
	if err != nil {
		return err
	}
	return m.tx.Bucket("ended").Put(append(append([]byte(cluster), 0), closedKey(at, id)...), nil)
}

func (m *migration4) save() error {
	for cluster, r := range m.of {
		if err := m.tx.Bucket("clusters").Save([]byte(cluster), r); err != nil {
			return err
		}
	}
	counters := map[string]any{}
	meta := m.tx.Bucket("meta")
	found, err := meta.Load([]byte("counters"), &counters)
	if err != nil || !found {
		return err
	}
	counters["closedBytes"] = m.closed
	return meta.Save([]byte("counters"), counters)
}
