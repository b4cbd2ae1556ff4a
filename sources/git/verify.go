package git

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources/signature"
)

// Verify says what must be signed, and by whom. The zero value asks for nothing.
type Verify struct {
	// Mode is what must be signed. Empty means ModeCommit where there are KeyFiles.
	Mode Mode
	// KeyFiles hold the public keys that are trusted, OpenPGP or SSH; a directory stands for its files.
	// They are read anew for each new commit.
	KeyFiles []string
}

// Mode is what must be signed.
type Mode string

// The modes.
const (
	// ModeCommit: the commit.
	ModeCommit Mode = "commit"
	// ModeTag: the annotated tag that is followed, which has to name itself as the server does.
	ModeTag Mode = "tag"
	// ModeBoth: the tag and the commit.
	ModeBoth Mode = "both"
)

const reasonUnverified = "Unverified"

func (v *Verify) validate(ref Ref) error {
	if v.Mode == "" && len(v.KeyFiles) > 0 {
		v.Mode = ModeCommit
	}
	switch {
	case v.Mode == "":
		return nil
	case v.Mode != ModeCommit && v.Mode != ModeTag && v.Mode != ModeBoth:
		return fmt.Errorf("verification %q is not one of commit, tag, both", v.Mode)
	case len(v.KeyFiles) == 0:
		return errors.New("to verify signatures, keys are needed: files with OpenPGP or SSH public keys")
	case v.Mode != ModeCommit && ref.Tag == "" && ref.SemVer == "":
		return fmt.Errorf("verification %q is for a tag or a range of versions that is followed", v.Mode)
	}
	return nil
}

func (v Verify) on() bool { return v.Mode != "" }

// files lists the files of keys.
func (v Verify) files() ([]string, error) {
	var out []string
	for _, name := range v.KeyFiles {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("keys %q: %w", name, unwrapPath(err))
		}
		if !info.IsDir() {
			out = append(out, name)
			continue
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			return nil, fmt.Errorf("keys %q: %w", name, unwrapPath(err))
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				out = append(out, filepath.Join(name, e.Name()))
			}
		}
	}
	return out, nil
}

// keys reads the keys.
func (v Verify) keys() (*signature.Keys, error) {
	bad := func(err error) error { return &api.Error{Kind: api.Stalled, Reason: "BadVerificationKeys", Err: err} }
	files, err := v.files()
	if err != nil {
		return nil, bad(err)
	}
	keys := &signature.Keys{}
	for _, f := range files {
		info, err := os.Stat(f)
		if err == nil && info.Size() > signature.MaxKeyFile {
			err = fs.ErrInvalid
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(f)
		}
		if err != nil {
			return nil, bad(fmt.Errorf("keys %q: %w", f, unwrapPath(err)))
		}
		if err := keys.Add(f, data); err != nil {
			return nil, bad(err)
		}
	}
	return keys, nil
}

// state is a digest of the keys' files, to notice that they changed.
func (v Verify) state() string {
	files, err := v.files()
	sum := sha256.New()
	fmt.Fprint(sum, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		fmt.Fprintf(sum, "%s\x00%d\x00%v\x00", f, len(data), err)
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// verified is a revision that a signature vouched for.
type verified struct {
	Revision string    `json:"revision"`
	Ref      string    `json:"ref,omitempty"`
	Object   string    `json:"object"` // the tag, or else the commit
	By       string    `json:"by"`
	At       time.Time `json:"at"`
}

// refusal is a commit that is not handed out.
type refusal struct {
	target target
	keys   string // Verify.state, when it was refused
	err    error
}

// stillRefused returns why a commit is refused, as long as neither it nor the keys have changed.
func (s *Source) stillRefused(t target) error {
	if r := s.refused; r != nil && r.target == t && r.keys == s.config.Verify.state() {
		return r.err
	}
	return nil
}

// refuse says why a commit is not taken, and that the last one stays.
func (s *Source) refuse(hint, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if last, ok := s.Last(); ok {
		err = fmt.Errorf("%w; the last good revision %.12s stays", err, last.Revision)
	}
	return &api.Error{Kind: api.Stalled, Reason: reasonUnverified, Hint: hint, Err: err}
}

// verify checks the signatures of what was fetched, and that it goes forward. It returns nil where nothing is asked for.
func (s *Source) verify(t target) (*verified, error) {
	if !s.config.Verify.on() {
		return nil, nil
	}
	keys, err := s.config.Verify.keys()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	by, err := s.signers(keys, t, now)
	if err != nil {
		return nil, s.refuse("sign it with a trusted key, or add the key to the files of --verify-keys", "%w", err)
	}
	if err := s.forward(t); err != nil {
		return nil, err
	}
	return &verified{Revision: t.commit.String(), Ref: t.name, Object: t.object.String(), By: by, At: now.UTC()}, nil
}

// signers checks the signatures that the mode asks for.
func (s *Source) signers(keys *signature.Keys, t target, at time.Time) (string, error) {
	var who []string
	if s.config.Verify.Mode != ModeCommit {
		by, err := s.tagSigner(keys, t, at)
		if err != nil {
			return "", err
		}
		who = append(who, by)
	}
	if s.config.Verify.Mode != ModeTag {
		by, err := s.commitSigner(keys, t.commit, at)
		if err != nil {
			return "", err
		}
		if !slices.Contains(who, by) {
			who = append(who, by)
		}
	}
	return strings.Join(who, "; "), nil
}

// commitSigner returns who signed a commit.
func (s *Source) commitSigner(keys *signature.Keys, h plumbing.Hash, at time.Time) (string, error) {
	view := s.view()
	raw, err := view.read(h, plumbing.CommitObject, maxTreeBytes)
	if err != nil {
		return "", err
	}
	c, err := view.commit(h)
	if err != nil {
		return "", err
	}
	payload, sig, err := splitCommit(raw)
	if err == nil && !bytes.HasPrefix(payload, []byte("tree "+c.TreeHash.String()+"\n")) {
		err = errors.New("has not exactly one tree")
	}
	by := ""
	if err == nil {
		by, err = keys.Verify(payload, sig, at)
	}
	if err != nil {
		return "", fmt.Errorf("commit %s %w", h, err)
	}
	return by, nil
}

// splitCommit takes the signature out of a commit: the header gpgsig with its lines, which is not part of what is signed.
func splitCommit(raw []byte) (payload []byte, sig string, err error) {
	head, body, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		head, body = bytes.TrimSuffix(raw, []byte("\n")), nil
	}
	var kept []string
	within, seen := false, 0
	for line := range strings.SplitSeq(string(head), "\n") {
		word, value, _ := strings.Cut(line, " ")
		continued := strings.HasPrefix(line, " ")
		within = within && continued
		switch {
		case within:
			sig += strings.TrimPrefix(line, " ") + "\n"
		case word == "gpgsig":
			within, sig = true, value+"\n"
			seen++
		case word == "gpgsig-sha256":
			return nil, "", errors.New("has a signature for another kind of hash")
		default:
			kept = append(kept, line)
		}
	}
	if seen > 1 {
		return nil, "", errors.New("has more than one signature")
	}
	payload = []byte(strings.Join(kept, "\n") + "\n\n")
	return append(payload, body...), sig, nil
}

// tagSigner returns who signed the tag that is followed.
func (s *Source) tagSigner(keys *signature.Keys, t target, at time.Time) (string, error) {
	name := strings.TrimPrefix(t.name, "refs/tags/")
	if t.object == t.commit {
		return "", fmt.Errorf("tag %q is not an annotated tag, so it cannot be signed", name)
	}
	raw, err := s.view().read(t.object, plumbing.TagObject, maxTreeBytes)
	if err != nil {
		return "", err
	}
	payload, sig := splitTag(raw)
	by, err := keys.Verify(payload, sig, at)
	if err != nil {
		return "", fmt.Errorf("tag %q %w", name, err)
	}
	// What is signed must say what the server says: a signed tag of another name, or of another commit, is no proof.
	want := fmt.Sprintf("object %s\ntype commit\ntag %s\n", t.commit, name)
	if !bytes.HasPrefix(payload, []byte(want)) {
		return "", fmt.Errorf("tag %q %w: the signed tag has another name or commit", name, signature.ErrNotValid)
	}
	return by, nil
}

// splitTag cuts the signature off a tag: it is the end of the message.
func splitTag(raw []byte) (payload []byte, sig string) {
	for _, begin := range []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN SSH SIGNATURE-----"} {
		if i := bytes.LastIndex(raw, []byte("\n"+begin)); i >= 0 {
			return raw[:i+1], string(raw[i+1:])
		}
	}
	return raw, ""
}

// forward refuses to go back: to a commit that does not follow on the last one that was verified, or to a lower version.
// Signatures do not wear out: whoever has the server could else put any older signed commit in the place of the newest.
// A commit that the operator names by its hash is taken.
func (s *Source) forward(t target) error {
	last := s.mirror.state.Verified
	if last == nil || s.config.Ref.Commit != "" || last.Revision == t.commit.String() {
		return nil
	}
	const hint = "if this is meant: follow that commit once with --commit, and then what you follow again; else look for who changed the repository"
	was, now := strings.TrimPrefix(last.Ref, "refs/tags/"), strings.TrimPrefix(t.name, "refs/tags/")
	if s.config.Ref.SemVer != "" {
		old, okOld := versionOf(was)
		next, okNext := versionOf(now)
		switch {
		case okOld && okNext && next.GreaterThan(old):
			return nil
		case okOld && okNext && next.LessThan(old):
			return s.refuse(hint, "version %s is lower than %s, which was verified before", now, was)
		}
	}
	ok, err := s.view().descends(t.commit, plumbing.NewHash(last.Revision))
	if err != nil {
		return err
	}
	if ok {
		return nil
	}
	if last.Ref == t.name && strings.HasPrefix(t.name, "refs/tags/") {
		return s.refuse(hint, "tag %q moved from commit %.12s to %.12s, which does not follow on it", now, last.Revision, t.commit)
	}
	return s.refuse(hint, "commit %s is signed, and does not follow on %.12s, which was verified before", t.commit, last.Revision)
}

// maxWalk bounds how many commits are looked at to find one among the ancestors of another.
const maxWalk = 100_000

// descends reports whether a commit is, or has among its ancestors, another.
func (o *objects) descends(from, ancestor plumbing.Hash) (bool, error) {
	seen := map[plumbing.Hash]bool{from: true}
	for todo := []plumbing.Hash{from}; len(todo) > 0 && len(seen) < maxWalk; {
		h := todo[0]
		todo = todo[1:]
		if h == ancestor {
			return true, nil
		}
		c, err := o.commit(h)
		if err != nil {
			return false, err
		}
		for _, p := range c.ParentHashes {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return false, nil
}

// stillVerified returns who vouched for the last good revision in the mirror. Its signature is checked with the keys of
// now as of the time when it was verified: a key that has expired since does not take away what is applied.
func (s *Source) stillVerified(h plumbing.Hash) (string, error) {
	if !s.config.Verify.on() {
		return "", nil
	}
	v := s.mirror.state.Verified
	if v == nil || v.Revision != h.String() {
		return "", s.refuse("", "commit %s was fetched before signatures were asked for", h)
	}
	keys, err := s.config.Verify.keys()
	if err != nil {
		return "", s.refuse("", "%w", err)
	}
	by, err := s.signers(keys, target{name: v.Ref, object: plumbing.NewHash(v.Object), commit: h}, v.At)
	if err != nil {
		return "", s.refuse("", "%w", err)
	}
	return by, nil
}

// vouchedBy returns who signed any commit; empty if it is in the history of the last good one, which has been verified.
func (s *Source) vouchedBy(h plumbing.Hash) (string, error) {
	if !s.config.Verify.on() {
		return "", nil
	}
	if last, ok := s.Last(); ok {
		if last.Revision == h.String() {
			return last.SignedBy, nil
		}
		if older, err := s.view().descends(plumbing.NewHash(last.Revision), h); older || err != nil {
			return "", err
		}
	}
	keys, err := s.config.Verify.keys()
	if err != nil {
		return "", err
	}
	by, err := s.commitSigner(keys, h, time.Now())
	if err != nil {
		return "", s.refuse("", "%w", err)
	}
	return by, nil
}
