// Package git follows one branch, tag, range of versions or commit of a fleet repository.
//
// A Source keeps one bare mirror on disk, fetches into it what a new commit adds,
// and hands out snapshots: the files of one commit, read straight from Git's objects.
// Nothing is ever unpacked, so a commit that changes one file of many thousands costs that one file.
//
// It promises that a snapshot never changes and stays readable while later fetches go on,
// that the last good snapshot is there after a restart with the server away,
// and that neither a kill nor a damaged disk makes it hand out anything but whole commits:
// a damaged mirror is set aside and cloned again.
// A rewritten branch is followed, unless commits are to be verified.
// Where they are, no commit is handed out that no trusted key vouches for, and none that is older than the last one.
//
// It reads http, https, ssh and file URLs and plain paths. A server is trusted by its certificate, or by known_hosts; neither
// can be turned off. It never writes to the repository, unless Push is called, runs no hooks, fetches no submodules,
// and shows credentials to nobody but the server.
package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	gitobject "github.com/go-git/go-git/v5/plumbing/object"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/redact"
)

// Config says what to follow, and where the mirror is. It is a plain value: whatever is secret is in a file that it names,
// and these files are read anew at every conversation with the server.
type Config struct {
	// URL is http(s)://…, ssh://…, USER@HOST:PATH, file:///… or a path. Required.
	// A user and a password in it are used where there is no CredentialsFile.
	URL string
	// Ref is what to follow. Empty means the branch that the repository's HEAD names.
	Ref Ref
	// Path is the directory of the fleet inside of the repository, with slashes. Empty means its root.
	// Nothing outside of it can be reached, by symbolic links neither.
	Path string
	// Dir is the directory of the mirror; it is created. Required, and for one Source only.
	Dir string
	// CredentialsFile holds a token, or username=, password= and other lines;
	// or it is a directory with a file for each of them, as a Secret is mounted. Empty means no credentials.
	CredentialsFile string
	// SSHKeys are files with private keys, tried in this order. KnownHosts are files with the keys of servers.
	// Empty means those of CredentialsFile, if it is a directory.
	SSHKeys, KnownHosts []string
	// CAFile holds certificates in PEM form that are trusted besides the system's.
	CAFile string
	// CertFile and KeyFile are our own certificate, for a server that wants one, and its key. Both or none.
	CertFile, KeyFile string
	// Proxy is the address of an http, https, socks5 or socks5h proxy.
	// Empty means what the environment says over HTTP, and none over SSH.
	Proxy string
	// Verify says whose signatures are needed. The zero value needs none.
	Verify Verify
	// Timeout is how long the server may be silent. Zero means DefaultTimeout.
	Timeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

func (c *Config) validate() error {
	bad := func(reason string, err error) error { return &api.Error{Kind: api.Stalled, Reason: reason, Err: err} }
	switch {
	case c.URL == "":
		return errors.New("git source: URL is needed")
	case c.Dir == "":
		return errors.New("git source: Dir is needed")
	case c.Path != "" && !fs.ValidPath(c.Path):
		return bad("BadSourcePath", fmt.Errorf("path %q must be a directory of the repository, such as fleets/shop", c.Path))
	}
	if err := c.Ref.validate(); err != nil {
		return bad("BadSourceRef", err)
	}
	if err := c.Verify.validate(c.Ref); err != nil {
		return bad("BadVerification", err)
	}
	if c.Path == "" {
		c.Path = "."
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// DefaultTimeout is how long a server may be silent where Config does not say.
const DefaultTimeout = time.Minute

// Source follows one Ref. Its methods may be called by many goroutines; fetches wait for each other.
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
	follows string // of last
	closed  bool

	// refused is the newest commit, if it is not to be handed out; under turn.
	refused *refusal
}

// New opens the mirror, and makes it if there is none. It does not talk to the server.
func New(config Config) (*Source, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	r, err := newRemote(config)
	if err != nil {
		return nil, err
	}
	s := &Source{config: config, remote: r, log: config.Log, turn: make(chan struct{}, 1)}
	m, packs, damage, err := openMirror(config.Dir, r.shown, config.Ref.String())
	if err != nil {
		return nil, fmt.Errorf("mirror %q: %w", config.Dir, err)
	}
	s.mirror, s.damage, s.follows = m, damage, m.state.Follows
	s.objects = &objects{newStore(), packs}
	if s.damage == nil && m.state.Revision != "" {
		s.last, err = s.kept()
		if reason := reasonOf(err); reason == reasonUnverified || reason == reasonPath {
			s.log.Warn("the last revision in the mirror is not used", "dir", config.Dir, "revision", m.state.Revision, "error", err)
		} else {
			s.damage = err
		}
	}
	if s.damage != nil {
		s.log.Warn("mirror is damaged and is cloned again at the next fetch",
			"dir", config.Dir, "revision", m.state.Revision, "error", s.damage)
	}
	return s, nil
}

// kept is the snapshot of the last good revision, from the mirror.
func (s *Source) kept() (api.Snapshot, error) {
	h := plumbing.NewHash(s.mirror.state.Revision)
	by, err := s.stillVerified(h)
	if err != nil {
		return api.Snapshot{}, err
	}
	snapshot, err := s.check(s.objects, h)
	snapshot.SignedBy = by
	return snapshot, err
}

func reasonOf(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Reason
	}
	return ""
}

// Last returns the last good snapshot without talking to the server; false if there is none.
func (s *Source) Last() (api.Snapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.last.Tree != nil
}

// Follows is what is followed, as Ref.String has it; empty as long as only the server knows.
func (s *Source) Follows() string {
	if f := s.config.Ref.String(); f != "" {
		return f
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follows
}

// Fetch returns the newest commit of what is followed.
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
		t, err := s.config.Ref.find(c.adv, s.remote.shown)
		if err != nil {
			return err
		}
		if err := s.stillRefused(t); err != nil {
			return err
		}
		last, _ := s.Last()
		changed = t.commit.String() != last.Revision
		return nil
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
		return s.vouched(h)
	}
	var snapshot api.Snapshot
	err = s.remote.talk(ctx, func(ctx context.Context, c *session) error {
		h, err := named(c.adv, revision)
		if err != nil {
			return err
		}
		before := s.view()
		if err := s.obtain(ctx, c, h, h); err != nil {
			return err
		}
		if snapshot, err = s.vouched(h); err != nil {
			s.forget(before)
		}
		return err
	})
	return snapshot, err
}

// vouched is the snapshot of any commit. Where commits are verified it must be signed, or in the history of the last good one.
func (s *Source) vouched(h plumbing.Hash) (api.Snapshot, error) {
	by, err := s.vouchedBy(h)
	if err != nil {
		return api.Snapshot{}, err
	}
	snapshot, err := s.check(s.view(), h)
	snapshot.SignedBy = by
	return snapshot, err
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
	s.remote.close()
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

// namesOf is for people.
func namesOf(what string, names []string) string {
	const most = 10
	if len(names) == 0 {
		return "no " + what
	}
	rest := ""
	if len(names) > most {
		rest = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	return fmt.Sprintf("%q", names) + rest
}

// follow makes the newest commit of what is followed the last good one.
func (s *Source) follow(ctx context.Context, c *session) error {
	t, err := s.config.Ref.find(c.adv, s.remote.shown)
	if err != nil {
		return err
	}
	if err := s.stillRefused(t); err != nil {
		return err
	}
	follows := s.config.Ref.String()
	if follows == "" {
		follows = strings.TrimPrefix(t.name, "refs/heads/")
	}
	last, ok := s.Last()
	state := s.mirror.state
	if ok && s.damage == nil && last.Revision == t.commit.String() && state.Follows == follows && state.Ref == t.name && s.refused == nil {
		return nil
	}
	next := state
	next.URL, next.Follows, next.Ref, next.Revision, next.Fetched = s.remote.shown, follows, t.name, t.commit.String(), time.Now().UTC()
	before := s.view()
	full := len(before.packs) == 0 || s.mirror.wantsFull(before.packs)
	if full {
		next.Full, err = s.cloneAll(ctx, c, t)
	} else {
		err = s.obtain(ctx, c, t.object, t.via)
	}
	if err != nil {
		return err
	}
	snapshot, err := s.accept(t, &next)
	if err != nil {
		if reasonOf(err) == reasonUnverified {
			s.forget(before)
		}
		return err
	}
	if err := s.mirror.save(next); err != nil {
		return &api.Error{Kind: api.Transient, Reason: "MirrorWriteFailed", Err: err}
	}
	s.damage, s.aside, s.refused = nil, false, nil
	s.mu.Lock()
	s.last, s.follows = snapshot, follows
	s.mu.Unlock()
	s.tellMoved(state, next)
	s.tidy(full)
	return nil
}

// accept makes the snapshot of what was fetched, if it is whole, within bounds, and verified where it must be.
func (s *Source) accept(t target, next *state) (api.Snapshot, error) {
	view := s.view()
	if !view.has(t.commit) {
		return api.Snapshot{}, notFound("CommitNotFound", "%s has no commit %s in the branch that it was looked for in", s.remote.shown, t.commit)
	}
	if t.name == "" { // named by a hash, which may be that of a tag
		if kind, err := view.kindOf(t.commit); err == nil && kind != plumbing.CommitObject {
			return api.Snapshot{}, notFound("CommitNotFound", "%s is a %s, and not a commit", t.commit, kind)
		}
	}
	v, err := s.verify(t)
	if err != nil {
		s.refused = &refusal{target: t, keys: s.config.Verify.state(), err: err}
		return api.Snapshot{}, err
	}
	snapshot, err := s.check(view, t.commit)
	if v != nil {
		next.Verified, snapshot.SignedBy = v, v.By
	}
	return snapshot, err
}

// tellMoved warns of a tag that is another commit than it was: people expect that of branches only.
func (s *Source) tellMoved(old, now state) {
	if old.Ref == now.Ref && strings.HasPrefix(now.Ref, "refs/tags/") && old.Revision != "" && old.Revision != now.Revision {
		s.log.Warn("the tag moved", "tag", strings.TrimPrefix(now.Ref, "refs/tags/"), "from", old.Revision, "to", now.Revision)
	}
}

// forget goes back to a view of before, and removes what came since.
func (s *Source) forget(before *objects) {
	s.setView(before)
	if err := s.mirror.keepOnly(before.packs); err != nil {
		s.log.Warn("removing what was refused", "dir", s.config.Dir, "error", err)
	}
}

// obtain downloads what a commit or a tag needs and the mirror lacks. Where via is set, that is what is asked of the server.
func (s *Source) obtain(ctx context.Context, c *session, h, via plumbing.Hash) error {
	view := s.view()
	if view.has(h) {
		return nil
	}
	if via.IsZero() {
		via = h
	}
	p, err := s.download(ctx, c, via, s.haves(view))
	if err != nil {
		return err
	}
	s.setView(view.with(p))
	return nil
}

// cloneAll downloads a commit with everything it needs, and looks at nothing else from then on.
func (s *Source) cloneAll(ctx context.Context, c *session, t target) (checksum string, err error) {
	want := t.object
	if !t.via.IsZero() {
		want = t.via
	}
	p, err := s.download(ctx, c, want, nil)
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
	root, err := s.rootOf(view, c)
	if err != nil {
		return api.Snapshot{}, err
	}
	if _, err := view.survey(root); err != nil {
		return api.Snapshot{}, err
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return snapshotOf(view, h, root, subject, c.Author.Name, c.Committer.When), nil
}

// snapshotOf is the snapshot of a commit, or of a directory of it.
func snapshotOf(view *objects, commit, root plumbing.Hash, subject, author string, when time.Time) api.Snapshot {
	return api.Snapshot{
		Revision: commit.String(),
		Subject:  redact.Text(strings.TrimSpace(subject)),
		Author:   author,
		Time:     when,
		Tree:     &tree{objects: view, root: root, time: when},
	}
}

const reasonPath = "PathNotFound"

// rootOf finds the directory of the fleet in a commit.
func (s *Source) rootOf(view *objects, c *gitobject.Commit) (plumbing.Hash, error) {
	if s.config.Path == "." {
		return c.TreeHash, nil
	}
	root := c.TreeHash
	done := "the root"
	for element := range strings.SplitSeq(s.config.Path, "/") {
		entries, err := view.tree(root)
		if err != nil {
			return root, err
		}
		i := slices.IndexFunc(entries, func(e treeEntry) bool { return e.name == element })
		if i < 0 || entries[i].mode != modeDir {
			var dirs []string
			for _, e := range entries {
				if e.mode == modeDir {
					dirs = append(dirs, e.name)
				}
			}
			return root, notFound(reasonPath, "commit %s has no directory %q (path %q): %s has %s",
				c.Hash, element, s.config.Path, done, namesOf("directories", dirs))
		}
		root, done = entries[i].hash, fmt.Sprintf("%q", element)
	}
	return root, nil
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
