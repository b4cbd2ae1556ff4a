package boltfile

import (
	"encoding/json"
	"fmt"
)

// Migration brings a file from the version before to its own.
// Keep each in a file of its own, and never change one that was released.
type Migration struct {
	// Name says in a few words what it does; an older program that refuses the file shows it.
	Name string
	// Apply is run in the same transaction that records the new version.
	Apply func(tx *Tx) error
}

const metaBucket = "meta"

// schema is the record of the newest migration that was applied.
type schema struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
	Name    string `json:"name"`
}

// migrate applies what is missing, each migration in its own transaction.
// A file that is up to date is only read.
func (f *File) migrate(all []Migration) error {
	have, err := f.schema()
	if err != nil {
		return err
	}
	if have.Version > 0 && have.Kind != f.kind {
		return fmt.Errorf("%w: it calls itself %q", ErrForeign, have.Kind)
	}
	if have.Version > len(all) {
		return fmt.Errorf("%w: its schema is version %d (%q), and this program knows versions up to %d",
			ErrNewer, have.Version, have.Name, len(all))
	}
	for i := have.Version; i < len(all); i++ {
		err := f.Update(func(tx *Tx) error {
			if err := tx.CreateBucket(metaBucket); err != nil {
				return err
			}
			if err := all[i].Apply(tx); err != nil {
				return err
			}
			v, err := json.Marshal(schema{Kind: f.kind, Version: i + 1, Name: all[i].Name})
			if err != nil {
				return err
			}
			return tx.Bucket(metaBucket).Put([]byte("schema"), v)
		})
		if err != nil {
			return fmt.Errorf("migrate to version %d (%q): %w", i+1, all[i].Name, err)
		}
	}
	return nil
}

// schema reads the version; zero for a file without any bucket.
func (f *File) schema() (schema, error) {
	var s schema
	err := f.View(func(tx *Tx) error {
		if tx.Bucket(metaBucket) == nil {
			if k, _ := tx.tx.Cursor().First(); k != nil {
				return fmt.Errorf("%w: it has no schema version", ErrForeign)
			}
			return nil
		}
		v, err := tx.Bucket(metaBucket).Get([]byte("schema"))
		if err != nil {
			return err
		}
		if v == nil || json.Unmarshal(v, &s) != nil || s.Version < 1 {
			return fmt.Errorf("%w: it has no schema version", ErrForeign)
		}
		return nil
	})
	return s, err
}

// CreateBucket makes a bucket unless it exists.
func (t *Tx) CreateBucket(name string) error {
	if t.tx.Bucket([]byte(name)) != nil {
		return nil
	}
	t.dirty = true
	_, err := t.tx.CreateBucket([]byte(name))
	return err
}
