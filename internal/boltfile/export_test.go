package boltfile

import bolt "go.etcd.io/bbolt"

// Waiting counts the updates that wait for a leader.
func (f *File) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queue)
}

// Transactions is the number of the last transaction written.
func (f *File) Transactions() int {
	n := 0
	_ = f.db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil })
	return n
}
