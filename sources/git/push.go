package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	gitobject "github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/file"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/flotilla-fleet/flotilla/api"
)

// Author is whom a commit names.
type Author struct{ Name, Email string }

// Change is what a commit does.
type Change struct {
	// Files holds the whole content of files by path; nil deletes one. Other files stay as they are.
	Files   map[string][]byte
	Message string
}

// PushRequest says what to push.
type PushRequest struct {
	By Author
	// Decide returns the change that the branch's newest commit needs. It is given an empty tree, and no revision,
	// if the repository has no commit yet. A change without files pushes nothing.
	Decide func(head api.Snapshot) (Change, error)
	// Check refuses a commit before the server has it. It is called once for each commit that is made,
	// and for the head if nothing changes. It may be nil.
	Check func(made api.Snapshot) error
	// Dry makes and checks the commit, and keeps it from the server.
	Dry bool
}

// maxPushes bounds how often a push that lost the race is tried on the new head.
const maxPushes = 10

// defaultBranch is the branch of a repository without a commit, where none is configured.
const defaultBranch = "main"

// Push makes one commit on the branch's newest one, and pushes it.
// If somebody else pushes meanwhile, it is decided again about the new head.
//
// Push returns that commit, or the head if there was nothing to change. Its errors are *api.Error, or those of the request.
func (s *Source) Push(ctx context.Context, req PushRequest) (api.Snapshot, error) {
	if ref := s.config.Ref; ref != (Ref{Branch: ref.Branch}) || s.config.Path != "." {
		return api.Snapshot{}, &api.Error{
			Kind: api.Stalled, Reason: "PushToBranchOnly",
			Err: fmt.Errorf("cannot push to %s: only a branch of a whole repository is pushed to", s.remote.shown),
		}
	}
	for range maxPushes {
		head, err := s.Head(ctx)
		if err != nil {
			return api.Snapshot{}, err
		}
		made, err := s.try(ctx, head, req)
		if errors.Is(err, errLostRace) {
			continue
		}
		return made, err
	}
	return api.Snapshot{}, &api.Error{
		Kind: api.Transient, Reason: "PushRace",
		Err: fmt.Errorf("cannot push to %s: somebody else was faster, %d times", s.remote.shown, maxPushes),
	}
}

// try makes one commit on head, and pushes it.
func (s *Source) try(ctx context.Context, head api.Snapshot, req PushRequest) (api.Snapshot, error) {
	c, err := req.Decide(head)
	if err != nil {
		return head, err
	}
	made, pack := head, []byte(nil)
	if len(c.Files) > 0 {
		if made, pack, err = s.commit(ctx, head, req.By, c); err != nil {
			return head, err
		}
	}
	if req.Check != nil {
		if err := req.Check(made); err != nil {
			return head, err
		}
	}
	if pack == nil || req.Dry {
		return made, nil
	}
	if err := s.push(ctx, head.Revision, made.Revision, pack); err != nil {
		return s.arrived(ctx, head, made, err)
	}
	return made, nil
}

// Head is Fetch, but takes a repository without a commit for an empty tree.
func (s *Source) Head(ctx context.Context) (api.Snapshot, error) {
	head, err := s.Fetch(ctx)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Reason != "EmptyRepository" {
		return head, err
	}
	view := &objects{store: newStore()}
	root := emptyTree()
	view.store.trees.add(root, nil, 64)
	return api.Snapshot{Tree: &tree{objects: view, root: root, time: time.Unix(0, 0).UTC()}}, nil
}

// emptyTree is the hash of a directory without entries.
func emptyTree() plumbing.Hash { return plumbing.ComputeHash(plumbing.TreeObject, nil) }

// errLostRace: the branch is not at the commit any more that the change was made for.
var errLostRace = errors.New("somebody else has pushed")

// arrived decides what a failed push was: the server may have taken the commit, and its answer be lost.
func (s *Source) arrived(ctx context.Context, head, made api.Snapshot, failed error) (api.Snapshot, error) {
	if errors.Is(failed, errLostRace) {
		return head, failed
	}
	now, err := s.Head(ctx)
	if err == nil && now.Revision == made.Revision {
		return made, nil
	}
	return head, failed
}

// commit makes one commit on head. It stays in the mirror, where nothing refers to it.
func (s *Source) commit(ctx context.Context, head api.Snapshot, by Author, c Change) (api.Snapshot, []byte, error) {
	t, ok := head.Tree.(*tree)
	if !ok {
		return head, nil, &api.Error{Kind: api.Internal, Reason: "ForeignTree", Err: errors.New("the snapshot is no commit of this source")}
	}
	data, hash, err := newCommit(t, head.Revision, by, c)
	if err != nil {
		return head, nil, err
	}
	release, err := s.take(ctx)
	if err != nil {
		return head, nil, err
	}
	defer release()
	f, err := s.mirror.tempPack()
	if err == nil {
		_, err = f.Write(data)
	}
	var kept *pack
	if err == nil {
		kept, err = s.mirror.install(f)
	}
	if err != nil {
		return head, nil, &api.Error{Kind: api.Transient, Reason: "MirrorWriteFailed", Err: fmt.Errorf("mirror %q: %w", s.config.Dir, err)}
	}
	made, err := s.check(t.objects.with(kept), hash)
	return made, data, err
}

// push sends a commit.
func (s *Source) push(ctx context.Context, head, fresh string, pack []byte) error {
	release, err := s.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	branch := cmp.Or(s.Follows(), defaultBranch)
	cmd := &packp.Command{Name: plumbing.NewBranchReferenceName(branch), New: plumbing.NewHash(fresh)}
	if head != "" {
		cmd.Old = plumbing.NewHash(head)
	}
	return s.remote.send(ctx, cmd, pack)
}

// send has the server move a branch.
func (r *remote) send(ctx context.Context, cmd *packp.Command, pack []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, maxConversation, errSlow)
	defer cancel()
	a, err := r.access(ctx)
	if err != nil {
		return err
	}
	if r.endpoint.Protocol == "ssh" {
		return r.eachKey(a, func(access sshAccess) error { return r.sendAs(ctx, a, access, cmd, pack) })
	}
	return r.sendAs(ctx, a, sshAccess{}, cmd, pack)
}

// receiver begins a conversation with the server's side of a push.
func (r *remote) receiver(ctx context.Context, s *session, a access, key sshAccess) (transport.ReceivePackSession, error) {
	ep := r.endpoint
	switch ep.Protocol {
	case "ssh":
		return r.sshSession(ctx, key, transport.ReceivePackServiceName)
	case "file":
		return file.DefaultClient.NewReceivePackSession(&ep, nil)
	}
	t, auth, err := r.overHTTP(s, a)
	if err != nil {
		return nil, err
	}
	return t.NewReceivePackSession(&ep, auth)
}

func (r *remote) sendAs(ctx context.Context, a access, key sshAccess, cmd *packp.Command, pack []byte) error {
	s := &session{r: r, secrets: a.secrets(), given: a.method() != nil, verb: "push to"}
	s.watch, ctx = newWatchdog(ctx, r.config.Timeout)
	defer s.watch.stop()
	down, err := r.receiver(ctx, s, a, key)
	if err != nil {
		return s.classify(ctx, err)
	}
	defer func() { _ = down.Close() }()
	have, err := down.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		have, err = packp.NewAdvRefs(), nil
	}
	if err != nil {
		return s.classify(ctx, err)
	}
	if have.References[cmd.Name.String()] != cmd.Old {
		return errLostRace
	}
	req := packp.NewReferenceUpdateRequestFromCapabilities(have.Capabilities)
	req.Commands = []*packp.Command{cmd}
	req.Packfile = io.NopCloser(bytes.NewReader(pack))
	status, err := down.ReceivePack(ctx, req)
	if status != nil && status.Error() != nil {
		return s.refused(ctx, cmd, status.Error())
	}
	if err != nil {
		return s.classify(ctx, err)
	}
	return nil
}

// refused finds out why the server did not take a commit: a branch that moved on meanwhile is refused, too.
func (s *session) refused(ctx context.Context, cmd *packp.Command, why error) error {
	moved := false
	err := s.r.talk(ctx, func(_ context.Context, now *session) error {
		moved = now.adv.refs[cmd.Name.String()] != cmd.Old
		return nil
	})
	if err == nil && moved {
		return errLostRace
	}
	e := &api.Error{Kind: api.Forbidden, Reason: "PushRefused", Hint: "push to another branch with --branch, or print the change with --no-push and make it there in your own way"}
	e.Err = fmt.Errorf("push to %s: the server refuses: %w", s.r.shown, why)
	return e
}

// newCommit returns a pack with a commit on a tree, and with everything that the tree lacks.
func newCommit(on *tree, parent string, by Author, c Change) (pack []byte, commit plumbing.Hash, err error) {
	g := growth{on: on.objects, fresh: memory.NewStorage()}
	files := map[string][]byte{}
	for name, data := range c.Files {
		if path.Clean(name) != name || path.IsAbs(name) || name == "." || strings.HasPrefix(name, "../") {
			return nil, commit, &api.Error{Kind: api.Internal, Reason: "BadPath", Err: fmt.Errorf("%q is no path in a repository", name)}
		}
		files[name] = data
	}
	root, err := g.directory("", on.root, files)
	if err != nil {
		return nil, commit, err
	}
	who := gitobject.Signature{Name: by.Name, Email: by.Email, When: time.Now().UTC()}
	made := gitobject.Commit{Author: who, Committer: who, Message: c.Message, TreeHash: root}
	if parent != "" {
		made.ParentHashes = []plumbing.Hash{plumbing.NewHash(parent)}
	}
	if commit, err = g.add(&made); err != nil {
		return nil, commit, err
	}
	var out bytes.Buffer
	_, err = packfile.NewEncoder(&out, g.fresh, false).Encode(g.hashes, 0)
	return out.Bytes(), commit, err
}

// growth collects the objects that a commit adds.
type growth struct {
	on     *objects
	fresh  *memory.Storage
	hashes []plumbing.Hash
}

// add encodes an object and keeps it, unless the repository has it.
func (g *growth) add(o interface {
	Encode(o plumbing.EncodedObject) error
},
) (plumbing.Hash, error) {
	e := g.fresh.NewEncodedObject()
	if err := o.Encode(e); err != nil {
		return plumbing.ZeroHash, err
	}
	h, err := g.fresh.SetEncodedObject(e)
	if err == nil && !slices.Contains(g.hashes, h) {
		g.hashes = append(g.hashes, h)
	}
	return h, err
}

// blob is the content of a file.
type blob []byte

// Encode writes it as Git's object.
func (b blob) Encode(o plumbing.EncodedObject) error {
	o.SetType(plumbing.BlobObject)
	w, err := o.Writer()
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return errors.Join(err, w.Close())
}

// modes are those of Git.
var modes = map[entryMode]filemode.FileMode{
	modeFile: filemode.Regular, modeExecutable: filemode.Executable, modeDir: filemode.Dir,
	modeLink: filemode.Symlink, modeSubmodule: filemode.Submodule,
}

// directory puts files over a directory, and returns the new one. at is where it stands, for errors.
func (g *growth) directory(at string, old plumbing.Hash, files map[string][]byte) (plumbing.Hash, error) {
	all, err := g.entries(old)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	below := map[string]map[string][]byte{}
	for name, data := range files {
		dir, rest, deeper := strings.Cut(name, "/")
		if deeper {
			if below[dir] == nil {
				below[dir] = map[string][]byte{}
			}
			below[dir][rest] = data
			continue
		}
		if data == nil {
			delete(all, name)
			continue
		}
		if there, ok := all[name]; ok && there.Mode != filemode.Regular && there.Mode != filemode.Executable {
			return plumbing.ZeroHash, inTheWay(path.Join(at, name), "is there, and is no file")
		}
		h, err := g.add(blob(data))
		if err != nil {
			return plumbing.ZeroHash, err
		}
		mode := filemode.Regular
		if all[name].Mode == filemode.Executable {
			mode = filemode.Executable
		}
		all[name] = gitobject.TreeEntry{Name: name, Mode: mode, Hash: h}
	}
	for _, dir := range slices.Sorted(maps.Keys(below)) {
		there, ok := all[dir]
		if ok && there.Mode != filemode.Dir {
			return plumbing.ZeroHash, inTheWay(path.Join(at, dir), "is there, and is no directory")
		}
		from := emptyTree()
		if ok {
			from = there.Hash
		}
		h, err := g.directory(path.Join(at, dir), from, below[dir])
		if err != nil {
			return plumbing.ZeroHash, err
		}
		all[dir] = gitobject.TreeEntry{Name: dir, Mode: filemode.Dir, Hash: h}
		if h == emptyTree() {
			delete(all, dir)
		}
	}
	t := gitobject.Tree{Entries: slices.Collect(maps.Values(all))}
	sort.Sort(gitobject.TreeEntrySorter(t.Entries)) // Git's order
	return g.add(&t)
}

// entries lists a directory; the empty one need not be there.
func (g *growth) entries(h plumbing.Hash) (map[string]gitobject.TreeEntry, error) {
	out := map[string]gitobject.TreeEntry{}
	if h == emptyTree() {
		return out, nil
	}
	all, err := g.on.tree(h)
	for _, e := range all {
		out[e.name] = gitobject.TreeEntry{Name: e.name, Mode: modes[e.mode], Hash: e.hash}
	}
	return out, err
}

func inTheWay(name, what string) error {
	return &api.Error{Kind: api.Stalled, Reason: "PathTaken", File: name, Err: fmt.Errorf("cannot write %q: it %s", name, what)}
}
