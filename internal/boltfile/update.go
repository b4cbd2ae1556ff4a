package boltfile

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// update is one caller's part of a group.
type update struct {
	fn   func(*Tx) error
	done chan error // buffered
}

// View runs fn on a state of the file that does not change meanwhile.
// The bytes it sees are valid only within fn.
func (f *File) View(fn func(*Tx) error) error {
	return f.db.View(func(tx *bolt.Tx) error { return fn(&Tx{tx: tx}) })
}

// Update runs fn in a transaction, and returns when its changes are on the disk.
// Callers that come while another transaction is being written share the next one:
// fn sees what those before it in the group did, and if it fails, only it is undone.
// So fn may run more than once; it must change nothing but the transaction,
// and leave everything else to Tx.OnCommit.
func (f *File) Update(fn func(*Tx) error) error {
	u := &update{fn: fn, done: make(chan error, 1)}
	f.mu.Lock()
	f.queue = append(f.queue, u)
	f.mu.Unlock()
	select {
	case err := <-u.done:
		return err
	case f.writer <- struct{}{}:
	}
	defer func() { <-f.writer }()
	f.mu.Lock()
	group := f.queue
	f.queue = nil
	f.mu.Unlock()
	// An earlier leader may have done u: then group holds only others, or none.
	f.lead(group)
	return <-u.done
}

// lead writes a group, leaving out those that fail, and answers everyone.
// A panic in one update answers the others, too, before it goes on.
func (f *File) lead(group []*update) {
	for len(group) > 0 {
		failed, err := f.try(group)
		if failed < 0 {
			for _, u := range group {
				u.done <- err
			}
			return
		}
		group[failed].done <- err
		group = append(group[:failed:failed], group[failed+1:]...)
	}
}

// try runs a group in one transaction. It returns the index of an update that failed,
// or -1 and the error that concerns them all, if any.
func (f *File) try(group []*update) (failed int, err error) {
	btx, err := f.db.Begin(true)
	if err != nil {
		return -1, err
	}
	tx := &Tx{tx: btx}
	for i, u := range group {
		if err := run(u.fn, tx); err != nil {
			_ = btx.Rollback() // cannot fail on an open transaction
			return i, err
		}
	}
	if !tx.dirty {
		_ = btx.Rollback()
		tx.committed()
		return -1, nil
	}
	if err := btx.Commit(); err != nil {
		return -1, fmt.Errorf("%w %q: %w", ErrNotWritten, f.path, err)
	}
	tx.committed()
	return -1, nil
}

// run turns a panic into an error, so that one caller's bug does not leave the others waiting.
func run(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
	}()
	return fn(tx)
}
