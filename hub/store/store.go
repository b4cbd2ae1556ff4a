package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// What Open can find, for errors.Is. The error's text names the file.
var (
	// ErrLocked: another process has the store open.
	ErrLocked = boltfile.ErrLocked
	// ErrDamaged: the file is not what was written. Unlike an agent's, a hub's store
	// cannot be made again from the clusters alone, so nothing replaces it by itself.
	ErrDamaged = boltfile.ErrDamaged
	// ErrNewer: a newer flotilla has written the file.
	ErrNewer = boltfile.ErrNewer
	// ErrForeign: the file is no hub's store.
	ErrForeign = boltfile.ErrForeign
)

// Config is what Open needs.
type Config struct {
	// Path is the file; it and its directory are made if they are missing. Required.
	Path string
	// Limits bound the store; zero fields mean their defaults.
	Limits Limits
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// LockTimeout is how long to wait for a file in use; zero means boltfile.DefaultLockTimeout.
	LockTimeout time.Duration
}

// Limits bound the store: what the fleet has together, and what each cluster may take of it.
type Limits struct {
	// ClosedEpisodes and ClosedBytes are how many closed episodes of the fleet are kept; zero means 200,000 and 4 GiB.
	// Beyond that the cluster goes first that has most.
	ClosedEpisodes int
	ClosedBytes    int64
	// ClosedPerCluster and ClosedBytesPerCluster are how many of each cluster; zero means 20,000 and 128 MiB.
	ClosedPerCluster      int
	ClosedBytesPerCluster int64
	// BundlesPerCluster and BundleBytesPerCluster bound what is known of a cluster's bundles; zero means 5,000 and 16 MiB.
	BundlesPerCluster     int
	BundleBytesPerCluster int64
	// OpenPerCluster and OpenBytesPerCluster bound a cluster's open episodes; zero means 5,000 and 32 MiB.
	OpenPerCluster      int
	OpenBytesPerCluster int64
	// ClosedAge is how long a closed episode is kept after its end; zero means 90 days.
	ClosedAge time.Duration
	// HistoryPerCluster and HistoryBytesPerCluster are how many passes that changed something are kept of each cluster,
	// for as long as closed episodes are; zero means 1,000 and 32 MiB.
	HistoryPerCluster      int
	HistoryBytesPerCluster int64
	// AuditEntries is how many entries of the audit log are kept; zero means 100,000. Beyond that whoever has most gives.
	// AuditPerActor is how many of each actor; zero means a tenth of it, and at least one.
	AuditEntries  int
	AuditPerActor int
}

func (l Limits) withDefaults() Limits {
	for _, n := range []struct {
		limit *int
		most  int
	}{
		{&l.ClosedEpisodes, 200_000},
		{&l.ClosedPerCluster, 20_000},
		{&l.BundlesPerCluster, 5000},
		{&l.OpenPerCluster, 5000},
		{&l.HistoryPerCluster, 1000},
		{&l.AuditEntries, 100_000},
	} {
		if *n.limit <= 0 {
			*n.limit = n.most
		}
	}
	if l.AuditPerActor <= 0 {
		l.AuditPerActor = max(1, l.AuditEntries/10)
	}
	for _, n := range []struct {
		limit *int64
		most  int64
	}{
		{&l.ClosedBytes, 4 << 30},
		{&l.ClosedBytesPerCluster, 128 << 20},
		{&l.BundleBytesPerCluster, 16 << 20},
		{&l.OpenBytesPerCluster, 32 << 20},
		{&l.HistoryBytesPerCluster, 32 << 20},
	} {
		if *n.limit <= 0 {
			*n.limit = n.most
		}
	}
	if l.ClosedAge <= 0 {
		l.ClosedAge = 90 * 24 * time.Hour
	}
	return l
}

// Store is an open store. Its methods may be called from several goroutines.
type Store struct {
	file   *boltfile.File
	limits Limits
	now    func() time.Time
	mem    *memory
	health health
}

// Counters is what the store counts.
type Counters struct {
	// ClosedEpisodes are kept now; DroppedEpisodes were dropped by count or age.
	ClosedEpisodes  int    `json:"closedEpisodes"`
	ClosedBytes     int64  `json:"closedBytes"`
	DroppedEpisodes uint64 `json:"droppedEpisodes"`
	// LostEpisodes are closed episodes that agents had to drop before the hub heard of them.
	LostEpisodes uint64 `json:"lostEpisodes"`
	// AuditEntries are kept now; DroppedEntries were dropped by count.
	AuditEntries   int    `json:"auditEntries"`
	DroppedEntries uint64 `json:"droppedEntries"`
}

const (
	bucketMeta     = "meta"
	bucketClusters = "clusters"
	bucketStatus   = "status"
	bucketBundles  = "bundles"
	bucketSeen     = "seen"
	bucketEpisodes = "episodes"
	bucketHeads    = "heads"
	bucketOpen     = "open"
	bucketClosed   = "closed"
	bucketEnded    = "ended"
	bucketJoin     = "join-tokens"
	bucketCerts    = "certificates"
	bucketAudit    = "audit"
	bucketKeys     = "keys"
	bucketHistory  = "history"
	bucketSessions = "sessions"
	bucketReported = "reported"
	bucketActors   = "audit-actors"
	bucketShares   = "audit-shares"
)

var (
	keyCounters = []byte("counters")
	keyAging    = []byte("aging")
	keyProbe    = []byte("probe")
)

// Open opens the store, or makes it, and reads the heads of the episodes into memory.
// It does not write to a file that is up to date.
func Open(cfg Config) (*Store, error) {
	if cfg.Path == "" {
		return nil, errors.New("hub store: Path is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f, err := boltfile.Open(boltfile.Config{
		Path: cfg.Path, Kind: "hub store", LockTimeout: cfg.LockTimeout,
		Migrations: []boltfile.Migration{initial(), history(), people(), usage(), actors()},
	})
	if err != nil {
		return nil, err
	}
	s := &Store{file: f, limits: cfg.Limits.withDefaults(), now: cfg.Now, mem: &memory{}}
	s.health.is = Health{Writable: true, Written: cfg.Now()}
	if err := f.View(s.mem.load); err != nil {
		return nil, errors.Join(fmt.Errorf("hub store %q: %w", cfg.Path, err), f.Close())
	}
	return s, nil
}

// Close closes the store after what is under way.
func (s *Store) Close() error { return s.file.Close() }

// Backup writes a copy of the whole store as it is at one moment, while the hub goes on. A copy of the file itself,
// taken while the hub runs, can be damaged. The copy holds the CA's key: whoever has it can be any agent.
// begin is told how many bytes there will be, and returns where they go.
func (s *Store) Backup(ctx context.Context, begin func(size int64) (io.Writer, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.file.Copy(begin)
}

// Counters returns what the store has counted up to now.
func (s *Store) Counters(ctx context.Context) (c Counters, err error) {
	err = s.view(ctx, func(tx *boltfile.Tx) error {
		_, err := tx.Bucket(bucketMeta).Load(keyCounters, &c)
		return err
	})
	return c, err
}

func (s *Store) view(ctx context.Context, fn func(*boltfile.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.file.View(fn)
}

func (s *Store) update(ctx context.Context, fn func(*boltfile.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.file.Update(fn)
	s.health.note(err, s.now())
	return err
}

// denied is a refusal with a reason, for the agent or person who asked.
func denied(reason string, err error) error {
	return &api.Error{Kind: api.Forbidden, Reason: reason, Err: err}
}
