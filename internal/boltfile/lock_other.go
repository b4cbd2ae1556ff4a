//go:build !unix || solaris || aix

package boltfile

import (
	"os"
	"time"
)

// lock leaves the locking to bbolt: here a second lock on one open file would wait for the first.
// The structure is then checked without the lock, which matters only if two processes
// are started on one file at the same moment.
func lock(*os.File, time.Duration) error { return nil }
