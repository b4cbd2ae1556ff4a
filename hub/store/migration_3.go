package store

import "github.com/flotilla-fleet/flotilla/internal/boltfile"

// people makes the buckets of version 3: browser sessions, and what agents report that people did on their clusters.
func people() boltfile.Migration {
	return boltfile.Migration{Name: "people", Apply: func(tx *boltfile.Tx) error {
		for _, name := range []string{"sessions", "reported"} {
			if err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	}}
}
