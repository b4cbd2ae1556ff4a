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
	// OpensFrom is the version of the oldest program that can still work on the file: one that only adds what
	// older programs leave alone names the version before its own. Zero means its own version.
	OpensFrom int
	// Apply is run in the same transaction that records the new version.
	Apply func(tx *Tx) error
}

const metaBucket = "meta"

// schema is the record of the newest migration that was applied.
type schema struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
	Name    string `json:"name"`
	// OpensFrom is the highest that any migration of the file named; zero means Version.
	OpensFrom int `json:"opensFrom,omitempty"`
}

// opensFrom is the version of the oldest program that can work on a file after all of some migrations.
func opensFrom(all []Migration) int {
	oldest := 0
	for i, m := range all {
		if m.OpensFrom == 0 {
			m.OpensFrom = i + 1
		}
		oldest = max(oldest, m.OpensFrom)
	}
	return oldest
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
	if have.OpensFrom == 0 {
		have.OpensFrom = have.Version
	}
	if have.OpensFrom > len(all) {
		return fmt.Errorf("%w: its schema is version %d (%q), for programs that know version %d, and this one knows versions up to %d",
			ErrNewer, have.Version, have.Name, have.OpensFrom, len(all))
	}
	for i := have.Version; i < len(all); i++ {
		err := f.Update(func(tx *Tx) error {
			if err := tx.CreateBucket(metaBucket); err != nil {
				return err
			}
			if err := all[i].Apply(tx); err != nil {
				return err
			}
			v, err := json.Marshal(schema{Kind: f.kind, Version: i + 1, Name: all[i].Name, OpensFrom: opensFrom(all[:i+1])})
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
