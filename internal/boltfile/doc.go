// Package boltfile is what flotilla's two bbolt stores have in common:
// a file with a schema version, a lock, a check for damage, and grouped commits.
//
// It promises:
//   - Every change that Update acknowledged is on the disk (fsync) and survives kill -9 and power loss;
//     a change is there as a whole or not at all.
//   - Updates of many callers at once share one transaction, so that they share its fsync.
//     An update that changes nothing writes nothing.
//   - Open reads the structure of the whole file before bbolt maps it, and says ErrDamaged
//     where bbolt would crash the process; every value carries a checksum that is checked on each read.
//   - Open does not write to a file that is up to date, and tells a file in use (ErrLocked) from a broken one.
//     It refuses by name a file that a newer flotilla has written, unless the file says that this one can use it.
//
// One process at a time can have a file open, even for reading: that is bbolt's lock.
// Who wants to look into the store of a running process asks that process.
//
// It knows nothing of what is stored. On the disk:
//
//	meta (bucket)     schema → {"kind":"agent store","version":1,"name":"initial","opensFrom":1}
//	<buckets of the store, made by its migrations>
//	    every value:  the store's bytes, then 4 bytes CRC-32C of key and bytes (big endian)
package boltfile
