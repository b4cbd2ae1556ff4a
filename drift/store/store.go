package store

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/boltfile"
)

// What Open can find, for errors.Is. The error's text names the file.
var (
	// ErrLocked: another process has the store open, such as a running agent.
	ErrLocked = boltfile.ErrLocked
	// ErrDamaged: the file is not what was written. OpenOrReplace sets it aside.
	ErrDamaged = boltfile.ErrDamaged
	// ErrNewer: a newer flotilla has written the file.
	ErrNewer = boltfile.ErrNewer
	// ErrForeign: the file is not a store of this cluster's agent.
	ErrForeign = boltfile.ErrForeign
)

// Config is what Open needs.
type Config struct {
	// Path is the file; it and its directory are made if they are missing. Required.
	Path string
	// Cluster is the cluster's name. A file that another cluster's agent made is refused. Required.
	Cluster string
	// Limits bound the store; zero fields mean their defaults.
	Limits Limits
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// LockTimeout is how long to wait for a file in use; zero means boltfile.DefaultLockTimeout.
	LockTimeout time.Duration
}

// Limits bound the store.
type Limits struct {
	// ClosedEpisodes is how many closed episodes are kept; zero means 10,000.
	ClosedEpisodes int
	// ClosedAge is how long a closed episode is kept after its end; zero means 90 days.
	ClosedAge time.Duration
	// OutboxReports and OutboxBytes bound the outbox; zero means 50,000 and 64 MiB.
	// The newest report of what is so now is kept even beyond them.
	OutboxReports int
	OutboxBytes   int64
}

func (l Limits) withDefaults() Limits {
	if l.ClosedEpisodes <= 0 {
		l.ClosedEpisodes = 10_000
	}
	if l.ClosedAge <= 0 {
		l.ClosedAge = 90 * 24 * time.Hour
	}
	if l.OutboxReports <= 0 {
		l.OutboxReports = 50_000
	}
	if l.OutboxBytes <= 0 {
		l.OutboxBytes = 64 << 20
	}
	return l
}

// Store is an open store. Its methods may be called from several goroutines.
type Store struct {
	file   *boltfile.File
	owner  owner // Agent is guarded by mu
	limits Limits
	now    func() time.Time
	grew   chan struct{}

	mu sync.Mutex
	// nextEpisode is the highest number given to an episode.
	nextEpisode uint64
	// compactOver holds off compaction while the outbox is too large for want of anything to drop.
	compactOver int
}

// owner says who a file belongs to. It is written when the file is made, and by Adopt.
type owner struct {
	Agent   string `json:"agent"`
	Tag     string `json:"tag"`
	Cluster string `json:"cluster"`
	// Holder is what Agent was before Adopt; empty if it is the same.
	Holder string `json:"holder,omitempty"`
}

// Open opens the store, or makes it. It does not write to a file that is up to date.
func Open(cfg Config) (*Store, error) {
	switch {
	case cfg.Path == "":
		return nil, errors.New("agent store: Path is required")
	case !api.ValidName(cfg.Cluster):
		return nil, fmt.Errorf("agent store: %q is not a cluster's name", cfg.Cluster)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f, err := boltfile.Open(boltfile.Config{
		Path: cfg.Path, Kind: "agent store", LockTimeout: cfg.LockTimeout,
		Migrations: migrations(),
	})
	if err != nil {
		return nil, err
	}
	s := &Store{file: f, limits: cfg.Limits.withDefaults(), now: cfg.Now, grew: make(chan struct{}, 1)}
	if err := s.load(cfg.Cluster); err != nil {
		return nil, errors.Join(fmt.Errorf("agent store %q: %w", cfg.Path, err), f.Close())
	}
	return s, nil
}

// OpenOrReplace is Open, but begins anew where the file is damaged.
// It returns the name under which the damaged file was set aside, empty if it was sound.
func OpenOrReplace(cfg Config, at time.Time) (s *Store, aside string, err error) {
	s, err = Open(cfg)
	if !errors.Is(err, ErrDamaged) {
		return s, "", err
	}
	aside, asideErr := boltfile.SetAside(cfg.Path, at)
	if asideErr != nil {
		return nil, "", errors.Join(err, asideErr)
	}
	s, err = Open(cfg)
	return s, aside, err
}

// migrations lists them, oldest first; each is in a file of its own.
func migrations() []boltfile.Migration {
	return []boltfile.Migration{initial()}
}

// load claims a new file, and checks one that is there.
func (s *Store) load(cluster string) error {
	err := s.file.View(func(tx *boltfile.Tx) error {
		ok, err := tx.Bucket(bucketMeta).Load(keyAgent, &s.owner)
		if err != nil || !ok {
			return err
		}
		s.nextEpisode = tx.Bucket(bucketEpisodes).Sequence()
		return verify(tx)
	})
	switch {
	case err != nil:
		return err
	case s.owner.Agent == "":
		s.owner = owner{Agent: strings.ToLower(rand.Text()), Tag: strings.ToLower(rand.Text()[:4]), Cluster: cluster}
		return s.file.Update(func(tx *boltfile.Tx) error {
			return tx.Bucket(bucketMeta).Save(keyAgent, s.owner)
		})
	case s.owner.Cluster != cluster:
		return fmt.Errorf("%w: it belongs to the agent of cluster %q, and this is the agent of %q",
			ErrForeign, s.owner.Cluster, cluster)
	}
	return nil
}

// Close closes the store after what is under way.
func (s *Store) Close() error { return s.file.Close() }

// AgentID was made at random with the file, or adopted. The hub tells by it that a store was begun anew.
func (s *Store) AgentID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner.Agent
}

// HolderID was made at random with the file, and no other file has it: two agents that adopted one AgentID have two.
func (s *Store) HolderID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.owner.Holder, s.owner.Agent)
}

// Adopt has a store that is new go on in the place of one that was lost: it takes over the agent's ID, and numbers its reports
// on from the time, which is above all that the lost store can have numbered: the hub then asks for the whole state.
// A store that has made a report is refused.
func (s *Store) Adopt(agent string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if agent == s.owner.Agent {
		return nil
	}
	next := owner{Agent: agent, Tag: s.owner.Tag, Cluster: s.owner.Cluster, Holder: cmp.Or(s.owner.Holder, s.owner.Agent)}
	err := s.file.Update(func(tx *boltfile.Tx) error {
		outbox, meta := tx.Bucket(bucketOutbox), tx.Bucket(bucketMeta)
		if outbox.Sequence() > 0 {
			return fmt.Errorf("agent store: it has made reports as agent %q, and cannot go on as %q", s.owner.Agent, agent)
		}
		var c Counters
		if _, err := meta.Load(keyCounters, &c); err != nil {
			return err
		}
		c.Last = uint64(max(1, s.now().UnixMilli()))
		c.Acked = c.Last
		if err := outbox.SetSequence(c.Last); err != nil {
			return err
		}
		return errors.Join(meta.Save(keyCounters, c), meta.Save(keyAgent, next))
	})
	if err == nil {
		s.owner = next
	}
	return err
}

// NextEpisodeID returns an ID that was never stored, different at each call.
// It writes nothing: the number counts once an episode with it is committed.
func (s *Store) NextEpisodeID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextEpisode++
	return s.episodeID(s.nextEpisode)
}

func (s *Store) episodeID(n uint64) string {
	return api.EpisodeID{Cluster: s.owner.Cluster, Store: s.owner.Tag, Seq: n}.String()
}

// episodeNumber is the inverse of episodeID.
func (s *Store) episodeNumber(id string) (uint64, bool) {
	p, err := api.ParseEpisodeID(id)
	if err != nil || p.Cluster != s.owner.Cluster || p.Store != s.owner.Tag {
		return 0, false
	}
	return p.Seq, true
}
