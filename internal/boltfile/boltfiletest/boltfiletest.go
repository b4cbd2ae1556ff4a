// Package boltfiletest checks a store's file after a test, with bbolt's own consistency check.
// It never changes the file.
package boltfiletest

import (
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Check reports every inconsistency of a closed file as an error of the test.
func Check(t testing.TB, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		t.Errorf("open %q to check it: %v", path, err)
		return
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("check %q: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
