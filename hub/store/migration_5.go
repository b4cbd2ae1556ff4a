package store

import "github.com/flotilla-fleet/flotilla/internal/boltfile"

// actors makes, for version 5, the index of the audit log's entries by actor, and counts them.
func actors() boltfile.Migration {
	return boltfile.Migration{Name: "actors", Apply: func(tx *boltfile.Tx) error {
		for _, name := range []string{"audit-actors", "audit-shares"} {
			if err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		kept := map[string]int{}
		var keys [][]byte
		audit := tx.Bucket("audit")
		err := audit.Ascend(nil, func(k, v []byte) error {
			var e struct {
				Actor string `json:"actor"`
			}
			if err := audit.Decode(k, v, &e); err != nil {
				return err
			}
			kept[e.Actor]++
			keys = append(keys, append(append([]byte(e.Actor), 0), k...))
			return nil
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := tx.Bucket("audit-actors").Put(k, nil); err != nil {
				return err
			}
		}
		for actor, n := range kept {
			if err := tx.Bucket("audit-shares").Save(append([]byte(actor), 0), map[string]int{"kept": n}); err != nil {
				return err
			}
		}
		return nil
	}}
}
