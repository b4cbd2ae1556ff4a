package store

import "github.com/flotilla-fleet/flotilla/internal/boltfile"

// initial makes the buckets of version 1.
func initial() boltfile.Migration {
	return boltfile.Migration{Name: "initial", Apply: func(tx *boltfile.Tx) error {
		for _, name := range []string{
			"clusters", "status", "bundles", "seen", "episodes", "heads", "open", "closed",
			"join-tokens", "api-tokens", "certificates", "audit", "keys",
		} {
			if err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	}}
}
