// Package git follows one branch of a fleet repository.
//
// A Source keeps one bare mirror on disk, fetches into it what a new commit adds,
// and hands out snapshots: the files of one commit, read straight from Git's objects.
// Nothing is ever unpacked, so a commit that changes one file of many thousands costs that one file.
//
// It promises that a snapshot never changes and stays readable while later fetches go on,
// that the last good snapshot is there after a restart with the server away,
// and that neither a kill nor a damaged disk makes it hand out anything but whole commits:
// a damaged mirror is set aside and cloned again.
// A rewritten branch is followed.
//
// It reads http, https and file URLs and plain paths. It never writes to the repository, unless Push is called,
// runs no hooks, fetches no submodules, and shows credentials to nobody but the server.
package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// Config says what to follow, and where the mirror is.
type Config struct {
	// URL is http(s)://…, file:///… or a path. Required.
	// A user and a password in it are used where there is no CredentialsFile.
	URL string
	// Branch is the branch to follow. Empty means the one that the repository's HEAD names.
	Branch string
	// Dir is the directory of the mirror; it is created. Required, and for one Source only.
	Dir string
	// CredentialsFile holds a token, or username= and password= lines; it is read at every fetch.
	// Empty means no credentials.
	CredentialsFile string
	// CAFile holds certificates in PEM form that are trusted besides the system's.
	CAFile string
	// Timeout is how long the server may be silent. Zero means DefaultTimeout.
	Timeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// DefaultTimeout is how long a server may be silent where Config does not say.
const DefaultTimeout = time.Minute

// Source follows one branch. Its methods may be called by many goroutines; fetches wait for each other.
type Source struct {
	config Config
	remote *remote
	log    *slog.Logger

	// turn is held by whoever talks to the server or changes the mirror.
	turn   chan struct{}
	mirror *mirror
	damage error // why what was on disk cannot be used; nil after a good fetch
	aside  bool  // what was damaged has been set aside

	mu      sync.Mutex
	objects *objects
	last    api.Snapshot
	branch  string // of last
	closed  bool
}

// New opens the mirror, and makes it if there is none. It does not talk to the server.
func New(config Config) (*Source, error) {
	if config.URL == "" {
		return nil, errors.New("git source: URL is needed")
	}
	if config.Dir == "" {
		return nil, errors.New("git source: Dir is needed")
	}
	if config.Timeout <= 0 {
		config.Timeout = DefaultTimeout
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	r, err := newRemote(config)
	if err != nil {
		return nil, err
	}
	s := &Source{config: config, remote: r, log: config.Log, turn: make(chan struct{}, 1)}
	m, packs, damage, err := openMirror(config.Dir, r.shown, config.Branch)
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w", config.Dir, err)
	}
	s.mirror, s.damage, s.branch = m, damage, m.state.Branch
	s.objects = &objects{newStore(), packs}
	if s.damage == nil && m.state.Revision != "" {
		s.last, s.damage = s.check(s.objects, plumbing.NewHash(m.state.Revision))
	}
	if s.damage != nil {
		s.log.Warn("mirror is damaged and is cloned again at the next fetch",
			"dir", config.Dir, "revision", m.state.Revision, "error", s.damage)
	}
	return s, nil
}

// Last returns the last good snapshot without talking to the server; false if there is none.
func (s *Source) Last() (api.Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.last.Tree != nil
}

// Branch is the branch that is followed; empty as long as only the server knows.
func (s *Source) Branch() string {
	if s.config.Branch != "" {
		return s.config.Branch
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.branch
}

// Fetch returns the branch's newest commit.
// If that is not to be had, it returns the last good snapshot (the zero one if there never was any)
// together with an *api.Error.
func (s *Source) Fetch(ctx context.Context) (api.Snapshot, error) {
	release, err := s.take(ctx)
	if err != nil {
		last, _ := s.Last()
		return last, err
	}
	defer release()
	err = s.repair()
	if err == nil {
		err = s.remote.talk(ctx, s.follow)
	}
	last, _ := s.Last()
	if err != nil && s.damage != nil && s.mirror.state.Revision != "" {
		err = &api.Error{Kind: api.KindOf(err), Reason: "MirrorDamaged", Err: fmt.Errorf(
			"the mirror of revision %s was damaged (%v), and cloning it again ended: %w", s.mirror.state.Revision, s.damage, err)}
	}
	return last, err
}

// Changed asks the server whether Fetch would return another revision than the last good one.
func (s *Source) Changed(ctx context.Context) (bool, error) {
	release, err := s.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	if s.damaged() != nil {
		return true, nil
	}
	changed := false
	err = s.remote.talk(ctx, func(_ context.Context, c *session) error {
		_, h, err := s.tip(c.adv)
		last, _ := s.Last()
		changed = h.String() != last.Revision
		return err
	})
	return changed && err == nil, err
}

// At returns the snapshot of any commit: "" is the last good revision of the branch;
// else a full hash, a short one of a commit that the mirror has, a branch or a tag.
// What the mirror does not have is fetched, which does not change what the source follows.
func (s *Source) At(ctx context.Context, revision string) (api.Snapshot, error) {
	release, err := s.take(ctx)
	if err != nil {
		return api.Snapshot{}, err
	}
	defer release()
	if err := s.repair(); err != nil {
		return api.Snapshot{}, err
	}
	if revision == "" {
		if last, ok := s.Last(); ok {
			return last, nil
		}
		if err := s.remote.talk(ctx, s.follow); err != nil {
			return api.Snapshot{}, err
		}
		last, _ := s.Last()
		return last, nil
	}
	if h, ok, err := s.local(revision); err != nil {
		return api.Snapshot{}, err
	} else if ok {
		return s.check(s.view(), h)
	}
	var found plumbing.Hash
	err = s.remote.talk(ctx, func(ctx context.Context, c *session) error {
		h, err := named(c.adv, revision)
		if err != nil {
			return err
		}
		found = h
		return s.obtain(ctx, c, h)
	})
	if err != nil {
		return api.Snapshot{}, err
	}
	return s.check(s.view(), found)
}

// Close ends the source. Snapshots can still be read where they had been read before, no more.
func (s *Source) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.remote.client.Close()
	var problems []error
	for _, p := range s.objects.packs {
		problems = append(problems, p.file.Close())
	}
	return errors.Join(problems...)
}

// take waits for the turn.
func (s *Source) take(ctx context.Context) (release func(), err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, &api.Error{Kind: api.Transient, Reason: "SourceUnreachable", Err: context.Cause(ctx)}
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		<-s.turn
		return nil, &api.Error{Kind: api.Internal, Reason: "SourceClosed", Err: os.ErrClosed}
	}
	return func() { <-s.turn }, nil
}

func (s *Source) view() *objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects
}

func (s *Source) setView(o *objects) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects = o
}

// damaged returns what is known to be wrong with the mirror, found at start or by a reader.
func (s *Source) damaged() error {
	if s.damage != nil {
		return s.damage
	}
	if err := s.view().store.damage.Load(); err != nil {
		return *err
	}
	return nil
}

// repair sets a damaged mirror aside, so that the fetch that follows clones it again.
func (s *Source) repair() error {
	damage := s.damaged()
	if damage == nil || s.aside {
		return nil
	}
	s.log.Warn("setting the damaged mirror aside", "dir", s.config.Dir, "error", damage)
	if err := s.mirror.setAside(); err != nil {
		return &api.Error{Kind: api.Stalled, Reason: "MirrorDamaged", Err: fmt.Errorf("set the mirror %q aside: %w", s.config.Dir, err)}
	}
	s.damage, s.aside = damage, true
	s.setView(&objects{store: newStore()})
	return nil
}

// tip finds the branch in what the server has.
func (s *Source) tip(adv advertisement) (branch string, h plumbing.Hash, err error) {
	branch = s.config.Branch
	if branch == "" {
		branch = adv.head
	}
	if branch == "" {
		return "", h, &api.Error{Kind: api.Stalled, Reason: "BranchNotFound", Err: errors.New("the repository's HEAD names no branch, and none is configured")}
	}
	h, ok := adv.refs["refs/heads/"+branch]
	if !ok {
		return "", h, &api.Error{
			Kind: api.Stalled, Reason: "BranchNotFound",
			Err: fmt.Errorf("%s has no branch %q; it has %s", s.remote.shown, branch, namesOf(adv.branches())),
		}
	}
	return branch, h, nil
}

// namesOf is for people.
func namesOf(names []string) string {
	const most = 10
	if len(names) == 0 {
		return "no branches"
	}
	rest := ""
	if len(names) > most {
		rest = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Sprintf("%q", names) + rest
}

// follow makes the branch's newest commit the last good one.
func (s *Source) follow(ctx context.Context, c *session) error {
	branch, h, err := s.tip(c.adv)
	if err != nil {
		return err
	}
	last, ok := s.Last()
	if ok && s.damage == nil && last.Revision == h.String() && s.mirror.state.Branch == branch {
		return nil
	}
	next := s.mirror.state
	next.URL, next.Branch, next.Revision, next.Fetched = s.remote.shown, branch, h.String(), time.Now().UTC()
	full := len(s.view().packs) == 0 || s.mirror.wantsFull(s.view().packs)
	if full {
		next.Full, err = s.cloneAll(ctx, c, h)
	} else {
		err = s.obtain(ctx, c, h)
	}
	if err != nil {
		return err
	}
	snapshot, err := s.check(s.view(), h)
	if err != nil {
		return err
	}
	if err := s.mirror.save(next); err != nil {
		return &api.Error{Kind: api.Transient, Reason: "MirrorWriteFailed", Err: err}
	}
	s.damage, s.aside = nil, false
	s.mu.Lock()
	s.last, s.branch = snapshot, branch
	s.mu.Unlock()
	s.tidy(full)
	return nil
}

// obtain downloads what a commit needs and the mirror lacks.
func (s *Source) obtain(ctx context.Context, c *session, h plumbing.Hash) error {
	view := s.view()
	if view.has(h) {
		return nil
	}
	p, err := s.download(ctx, c, h, s.haves(view))
	if err != nil {
		return err
	}
	s.setView(view.with(p))
	return nil
}

// cloneAll downloads a commit with everything it needs, and looks at nothing else from then on.
func (s *Source) cloneAll(ctx context.Context, c *session, h plumbing.Hash) (checksum string, err error) {
	p, err := s.download(ctx, c, h, nil)
	if err != nil {
		return "", err
	}
	s.setView(&objects{newStore(), []*pack{p}})
	return p.checksum(), nil
}

func (s *Source) download(ctx context.Context, c *session, want plumbing.Hash, haves []plumbing.Hash) (*pack, error) {
	broken := func(err error) error {
		return &api.Error{Kind: api.Transient, Reason: "MirrorWriteFailed", Err: fmt.Errorf("mirror %q: %w", s.config.Dir, err)}
	}
	f, err := s.mirror.tempPack()
	if err != nil {
		return nil, broken(err)
	}
	if err := c.download(ctx, f, want, haves); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	p, err := s.mirror.install(f)
	if errors.Is(err, errTooLarge) {
		return nil, &api.Error{Kind: api.Stalled, Reason: "RepositoryTooLarge", Err: fmt.Errorf("fetch from %s: an object is larger than %d MiB", s.remote.shown, maxInflate>>20)}
	}
	if err != nil {
		return nil, broken(err)
	}
	return p, nil
}

// maxHaves bounds the walk back in history for commits that the server may know as well.
const maxHaves = 256

// haves names commits of ours, denser the newer: the last good one, its 1st, 2nd, 4th, 8th … ancestor.
// After a rewrite of the branch one of them is still known to the server.
func (s *Source) haves(view *objects) []plumbing.Hash {
	if s.mirror.state.Revision == "" {
		return nil
	}
	var out []plumbing.Hash
	h := plumbing.NewHash(s.mirror.state.Revision)
	for i := range maxHaves {
		if !view.has(h) {
			break
		}
		if i&(i-1) == 0 {
			out = append(out, h)
		}
		c, err := view.commit(h)
		if err != nil || len(c.ParentHashes) == 0 {
			break
		}
		h = c.ParentHashes[0]
	}
	return out
}

// check makes a snapshot, after it has made sure that all of the commit is there and within bounds.
func (s *Source) check(view *objects, h plumbing.Hash) (api.Snapshot, error) {
	c, err := view.commit(h)
	if err != nil {
		return api.Snapshot{}, err
	}
	if _, err := view.survey(c.TreeHash); err != nil {
		return api.Snapshot{}, err
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return api.Snapshot{
		Revision: h.String(),
		Subject:  redact.Text(strings.TrimSpace(subject)),
		Author:   c.Author.Name,
		Time:     c.Committer.When,
		Tree:     &tree{objects: view, root: c.TreeHash, time: c.Committer.When},
	}, nil
}

// tidy keeps the number of packs small, and after a complete clone drops what came before it.
// What cannot be done now, a later fetch does: the mirror is whole either way.
func (s *Source) tidy(full bool) {
	view := s.view()
	old, keep := joinable(view.packs)
	if len(old) > 0 {
		p, err := s.mirror.join(old)
		if err != nil {
			s.log.Warn("joining small packs", "dir", s.config.Dir, "error", err)
			return
		}
		s.setView(&objects{view.store, append(slices.Clone(keep), p)})
	} else if !full {
		return
	}
	if err := s.mirror.keepOnly(s.view().packs); err != nil {
		s.log.Warn("removing old packs", "dir", s.config.Dir, "error", err)
	}
}
