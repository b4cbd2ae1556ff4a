package boltfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// What Open can find. They come wrapped, with the file's name.
var (
	// ErrLocked: another process has the file open.
	ErrLocked = errors.New("in use by another process")
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrNotWritten: a transaction did not get to the disk, which may be full. It changed nothing.
	ErrNotWritten = errors.New("cannot write")
	// ErrNewer: a newer flotilla has written the file.
	ErrNewer = errors.New("written by a newer flotilla")
	// ErrForeign: a sound bbolt file, but of another kind or owner.
	ErrForeign = errors.New("of another kind")
)

// DefaultLockTimeout is how long Open waits for a file that is in use:
// enough for the predecessor of a restarted process to end.
const DefaultLockTimeout = 2 * time.Second

// Config is what Open needs.
type Config struct {
	// Path is the file; it and its directory are made if they are missing. Required.
	Path string
	// Kind is what messages call the file, such as "agent store". Required.
	Kind string
	// Migrations make the schema, oldest first; the version is their number. Required.
	Migrations []Migration
	// LockTimeout is how long to wait for a file in use; zero means DefaultLockTimeout.
	LockTimeout time.Duration
}

// File is an open file. Its methods may be called from several goroutines.
type File struct {
	path string
	kind string
	db   *bolt.DB

	writer chan struct{} // holds one token: who has it leads a group of updates

	mu    sync.Mutex
	queue []*update // waiting for a leader
}

// Open opens the file, or makes it, and brings its schema up to date.
func Open(cfg Config) (*File, error) {
	switch {
	case cfg.Path == "":
		return nil, errors.New("boltfile: Path is required")
	case cfg.Kind == "":
		return nil, errors.New("boltfile: Kind is required")
	case len(cfg.Migrations) == 0:
		return nil, errors.New("boltfile: Migrations are required")
	}
	if cfg.LockTimeout <= 0 {
		cfg.LockTimeout = DefaultLockTimeout
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, err
	}
	_, statErr := os.Stat(cfg.Path)
	db, err := openDB(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", cfg.Kind, cfg.Path, err)
	}
	f := &File{path: cfg.Path, kind: cfg.Kind, db: db, writer: make(chan struct{}, 1)}
	err = f.migrate(cfg.Migrations)
	if err == nil && errors.Is(statErr, fs.ErrNotExist) {
		err = syncDir(filepath.Dir(cfg.Path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s %q: %w", cfg.Kind, cfg.Path, err), db.Close())
	}
	return f, nil
}

// openDB has bbolt open the file, after checking its structure under bbolt's own lock.
func openDB(cfg Config) (db *bolt.DB, err error) {
	var file *os.File
	// A damage that the check overlooks may still make bbolt panic or fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(fmt.Errorf("%w: %v", ErrDamaged, p), file.Close())
		}
	}()
	db, err = bolt.Open(cfg.Path, 0o600, &bolt.Options{
		Timeout:      cfg.LockTimeout,
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(path, flag, mode)
			if err != nil {
				return nil, err
			}
			// bbolt takes the same lock on the same file again, which is then free.
			if err := lock(f, cfg.LockTimeout); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			if err := checkFile(f); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			file = f
			return f, nil
		},
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return db, err
}

// Path is the file's name.
func (f *File) Path() string { return f.path }

// Copy writes the whole file as it is at one moment, while others go on to read and write it.
// begin is told how many bytes there will be, and returns where they go.
func (f *File) Copy(begin func(size int64) (io.Writer, error)) error {
	return f.db.View(func(tx *bolt.Tx) error {
		w, err := begin(tx.Size())
		if err != nil {
			return err
		}
		_, err = tx.WriteTo(w)
		return err
	})
}

// Close closes the file after the updates and views that are under way.
func (f *File) Close() error {
	f.writer <- struct{}{}
	defer func() { <-f.writer }()
	return f.db.Close()
}

// SetAside renames a damaged file, so that a new one can begin in its place,
// and returns its new name: the old one with ".damaged-" and the time.
func SetAside(path string, at time.Time) (string, error) {
	base := path + ".damaged-" + at.UTC().Format("20060102T150405Z")
	aside := base
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	return aside, syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
