package store

import "github.com/flotilla-fleet/flotilla/internal/boltfile"

// history makes the bucket of version 2. What was applied before is not known.
func history() boltfile.Migration {
	return boltfile.Migration{Name: "history", Apply: func(tx *boltfile.Tx) error { return tx.CreateBucket("history") }}
}
