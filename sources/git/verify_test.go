package git_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
	"github.com/flotilla-fleet/flotilla/sources/signature/signaturetest"
)

// signer signs like git commit -S and git tag -s.
type signer interface {
	Public() string
	Sign(payload []byte) string
}

// object adds an object to a repository.
func object(t testing.TB, repo *gitservertest.Repository, kind, raw string) string {
	t.Helper()
	return repo.Git("hash-object", "-t", kind, "-w", writeFile(t, filepath.Join(t.TempDir(), "object"), raw))
}

// signed makes the newest commit of a branch one that somebody signed.
func signed(t testing.TB, repo *gitservertest.Repository, branch string, by signer) string {
	t.Helper()
	raw := repo.Git("cat-file", "commit", branch) + "\n"
	head, body, _ := strings.Cut(raw, "\n\n")
	sig := strings.ReplaceAll(strings.TrimSpace(by.Sign([]byte(raw))), "\n", "\n ")
	h := object(t, repo, "commit", head+"\ngpgsig "+sig+"\n\n"+body)
	repo.Git("update-ref", "refs/heads/"+branch, h)
	return h
}

// signedCommit commits a file, and signs.
func signedCommit(t testing.TB, repo *gitservertest.Repository, content string, by signer) string {
	t.Helper()
	repo.Commit(map[string]string{"a": content})
	return signed(t, repo, "main", by)
}

// tagObject makes a signed tag, and the ref of a name.
func tagObject(t testing.TB, repo *gitservertest.Repository, ref, name, commit string, by signer) {
	t.Helper()
	raw := fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger A <a@example.com> 1700000000 +0000\n\nmessage\n", commit, name)
	if by != nil {
		raw += by.Sign([]byte(raw))
	}
	repo.Git("update-ref", "refs/tags/"+ref, object(t, repo, "tag", raw))
}

func keyFile(t testing.TB, keys ...signer) string {
	t.Helper()
	dir := t.TempDir()
	for i, k := range keys {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i)), k.Public()+"\n")
	}
	return dir
}

func TestUnverifiedIsRefused(t *testing.T) {
	t.Parallel()
	ann, bob, eve := signaturetest.NewPGP(t, "Ann", 0), signaturetest.NewSSH(t), signaturetest.NewSSH(t)
	server := gitservertest.NewServer(t, gitserver.Config{})
	repo := server.Repository("fleet")
	repo.Commit(map[string]string{"a": "0"})
	keys := keyFile(t, ann, bob)
	dir := t.TempDir()
	config := git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, Verify: git.Verify{KeyFiles: []string{keys}}, Dir: dir}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "is not signed")
	if got.Tree != nil {
		t.Error("there is a snapshot of what nobody signed")
	}
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "*.pack"))
	if len(packs) > 0 {
		t.Errorf("what was refused takes room: %q", packs)
	}
	for name, by := range map[string]signer{"Ann <ann@example.com>, OpenPGP": ann, "SSH SHA256:": bob} {
		want := signedCommit(t, repo, name, by)
		if got := fetch(t, s); got.Revision != want || !strings.HasPrefix(got.SignedBy, name) {
			t.Errorf("signed by %q: %+v", got.SignedBy, got)
		}
	}
	good := fetch(t, s)

	for name, refused := range map[string]func() string{
		"is not signed":                          func() string { return repo.Commit(map[string]string{"a": "unsigned"}) },
		"is signed by a key that is not trusted": func() string { return signedCommit(t, repo, "eve", eve) },
		"has a signature that is not valid": func() string {
			h := signedCommit(t, repo, "then changed", bob)
			raw := repo.Git("cat-file", "commit", h) + "\n"
			h = object(t, repo, "commit", strings.Replace(raw, "tree ", "tree "+repo.Git("rev-parse", good.Revision+"^{tree}")+"\ntree ", 1))
			repo.Git("update-ref", "refs/heads/main", h)
			return h
		},
	} {
		h := refused()
		for range 2 {
			got, err := s.Fetch(t.Context())
			wantError(t, err, api.Stalled, "Unverified", "stays")
			if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), h[:12]) {
				t.Errorf("want %q of %s: %v", name, h, err)
			}
			if got.Revision != good.Revision || read(t, got, "a") != read(t, good, "a") {
				t.Errorf("the last good revision does not stay: %+v", got)
			}
			changed, err := s.Changed(t.Context())
			if changed {
				t.Error("a refused commit counts as a change")
			}
			wantError(t, err, api.Stalled, "Unverified", "stays")
		}
		if _, err := s.At(t.Context(), h); err == nil {
			t.Errorf("At hands out a commit that %s", name)
		}
		repo.Git("update-ref", "refs/heads/main", good.Revision)
		if got := fetch(t, s); got.Revision != good.Revision {
			t.Errorf("after it was taken back: %+v", got)
		}
	}
	// History that a trusted key vouches for can be looked at.
	if _, err := s.At(t.Context(), good.Revision); err != nil {
		t.Errorf("At of the last good revision: %v", err)
	}
	if _, err := s.At(t.Context(), repo.Git("rev-parse", good.Revision+"~2")); err != nil {
		t.Errorf("At of its unsigned ancestor: %v", err)
	}

	// A key that is added is used without a restart, and one that is taken away stops what comes after it.
	want := signedCommit(t, repo, "eve", eve)
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "not trusted")
	writeFile(t, filepath.Join(keys, "eve"), eve.Public())
	if changed, err := s.Changed(t.Context()); !changed || err != nil {
		t.Errorf("after a key was added Changed = %v, %v", changed, err)
	}
	if got := fetch(t, s); got.Revision != want {
		t.Errorf("after a key was added: %+v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if last, ok := again.Last(); !ok || last.Revision != want || !strings.HasPrefix(last.SignedBy, "SSH") {
		t.Errorf("after a restart: %+v", last)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(keys, "eve")); err != nil {
		t.Fatal(err)
	}
	if last, ok := open(t, config).Last(); ok {
		t.Errorf("a restart takes up what no trusted key signed: %+v", last)
	}
}

// TestVerificationTurnedOn: what was fetched before is not taken over unseen.
func TestVerificationTurnedOn(t *testing.T) {
	t.Parallel()
	ann := signaturetest.NewSSH(t)
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"a": "1"})
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config.Verify.KeyFiles = []string{keyFile(t, ann)}
	s = open(t, config)
	if last, ok := s.Last(); ok {
		t.Errorf("an unsigned revision is taken over: %+v", last)
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "is not signed")
	want := signedCommit(t, repo, "2", ann)
	if got := fetch(t, s); got.Revision != want {
		t.Errorf("snapshot is %+v", got)
	}
}

// TestExpiredKeyKeepsWhatIsApplied: it takes no new commit, and a restart does not lose the last one.
func TestExpiredKeyKeepsWhatIsApplied(t *testing.T) {
	t.Parallel()
	ann := signaturetest.NewSSH(t)
	repo := gitservertest.New(t)
	want := signedCommit(t, repo, "1", ann)
	keys := filepath.Join(t.TempDir(), "keys")
	end := time.Now().Add(time.Hour).UTC()
	writeFile(t, keys, `ann valid-before="`+end.Format("20060102150405")+`" `+ann.Public())
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir(), Verify: git.Verify{KeyFiles: []string{keys}}}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// An hour later: the state says when the commit was verified, so that is what is put back.
	state := filepath.Join(config.Dir, "flotilla.json")
	data := string(mustRead(t, state))
	writeFile(t, keys, `ann valid-before="`+time.Now().UTC().Format("20060102150405")+`" `+ann.Public())
	at := data[strings.Index(data, `"at": "`)+7:]
	at = at[:strings.Index(at, `"`)]
	writeFile(t, state, strings.Replace(data, at, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano), 1))
	s = open(t, config)
	if last, ok := s.Last(); !ok || last.Revision != want {
		t.Errorf("after the key expired: %+v", last)
	}
	signedCommit(t, repo, "2", ann)
	got, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "is not valid since")
	if got.Revision != want {
		t.Errorf("snapshot is %+v", got)
	}
}

func TestDowngradeIsRefused(t *testing.T) {
	t.Parallel()
	ann := signaturetest.NewPGP(t, "Ann", 0)
	repo := gitservertest.New(t)
	old := signedCommit(t, repo, "1", ann)
	repo.Do(gitserver.Commit{Branch: "side", Parent: gitserver.Parent(old), Write: map[string]string{"a": "side"}})
	side := signed(t, repo, "side", ann)
	newest := signedCommit(t, repo, "2", ann)
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir(), Verify: git.Verify{KeyFiles: []string{keyFile(t, ann)}}}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, s)
	for _, back := range []string{old, side} {
		repo.Git("update-ref", "refs/heads/main", back)
		got, err := s.Fetch(t.Context())
		wantError(t, err, api.Stalled, "Unverified", "does not follow on")
		if got.Revision != newest {
			t.Errorf("snapshot is %+v", got)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A restart remembers, also where something else is followed.
	config.Ref = git.Ref{Branch: "side"}
	s, err = git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "does not follow on")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The operator may say so.
	config.Ref = git.Ref{Commit: side}
	s, err = git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, s); got.Revision != side {
		t.Errorf("snapshot is %+v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config.Ref = git.Ref{Branch: "main"} // which is at side now
	if got := fetch(t, open(t, config)); got.Revision != side {
		t.Errorf("snapshot is %+v", got)
	}
}

func TestSignedTags(t *testing.T) {
	t.Parallel()
	ann, eve := signaturetest.NewSSH(t), signaturetest.NewSSH(t)
	repo := gitservertest.New(t)
	one := repo.Commit(map[string]string{"a": "1"})
	tagObject(t, repo, "v1.0.0", "v1.0.0", one, ann)
	two := repo.Commit(map[string]string{"a": "2"})
	tagObject(t, repo, "v1.1.0", "v1.1.0", two, ann)
	tagObject(t, repo, "v1.2.0", "v1.0.0", one, ann) // an old signed tag under a new name
	tagObject(t, repo, "forged", "forged", two, eve)
	tagObject(t, repo, "unsigned", "unsigned", two, nil)
	repo.Git("tag", "light", two)
	keys := keyFile(t, ann)
	at := func(ref git.Ref, mode git.Mode) git.Config {
		return git.Config{URL: repo.Dir, Ref: ref, Dir: t.TempDir(), Verify: git.Verify{Mode: mode, KeyFiles: []string{keys}}}
	}
	if got := fetch(t, open(t, at(git.Ref{Tag: "v1.1.0"}, git.ModeTag))); got.Revision != two || !strings.HasPrefix(got.SignedBy, "SSH") {
		t.Errorf("snapshot is %+v", got)
	}
	for tag, text := range map[string]string{
		"v1.2.0": "another name or commit", "forged": "not trusted", "unsigned": "is not signed", "light": "not an annotated tag",
	} {
		_, err := open(t, at(git.Ref{Tag: tag}, git.ModeTag)).Fetch(t.Context())
		wantError(t, err, api.Stalled, "Unverified", text)
	}
	_, err := open(t, at(git.Ref{Tag: "v1.1.0"}, git.ModeBoth)).Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "commit "+two+" is not signed")
	for text, bad := range map[string]git.Config{
		"is for a tag":    at(git.Ref{Branch: "main"}, git.ModeTag),
		"is not one of":   at(git.Ref{Branch: "main"}, "HEAD"),
		"keys are needed": {URL: repo.Dir, Dir: t.TempDir(), Verify: git.Verify{Mode: git.ModeCommit}},
	} {
		_, err := git.New(bad)
		wantError(t, err, api.Stalled, "BadVerification", text)
	}
}

// TestRangeDoesNotGoBack: whoever has the server can hide the newest version, and not have an older one applied by that.
func TestRangeDoesNotGoBack(t *testing.T) {
	t.Parallel()
	ann := signaturetest.NewSSH(t)
	repo := gitservertest.New(t)
	one := repo.Commit(map[string]string{"a": "1"})
	tagObject(t, repo, "v1.0.0", "v1.0.0", one, ann)
	two := repo.Commit(map[string]string{"a": "2"})
	tagObject(t, repo, "v1.1.0", "v1.1.0", two, ann)
	s := open(t, git.Config{
		URL: repo.Dir, Ref: git.Ref{SemVer: "1.x"}, Dir: t.TempDir(),
		Verify: git.Verify{Mode: git.ModeTag, KeyFiles: []string{keyFile(t, ann)}},
	})
	fetch(t, s)
	repo.Git("update-ref", "-d", "refs/tags/v1.1.0")
	got, err := s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", "version v1.0.0 is lower than v1.1.0")
	if got.Revision != two {
		t.Errorf("snapshot is %+v", got)
	}
	tagObject(t, repo, "v1.1.0", "v1.1.0", one, ann)
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "Unverified", `tag "v1.1.0" moved`)
	// A higher version may come from another branch.
	patch := repo.Do(gitserver.Commit{Branch: "release", Parent: gitserver.Parent(one), Write: map[string]string{"a": "3"}})
	tagObject(t, repo, "v1.1.1", "v1.1.1", patch, ann)
	if got := fetch(t, s); got.Revision != patch {
		t.Errorf("snapshot is %+v", got)
	}
}

// TestTagThatMoves is followed where nothing is verified, and told.
func TestTagThatMoves(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	one := repo.Commit(map[string]string{"a": "1"})
	repo.Git("tag", "stable", one)
	var log bytes.Buffer
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Tag: "stable"}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	fetch(t, s)
	if log.Len() > 0 {
		t.Errorf("log says %s", &log)
	}
	two := repo.Commit(map[string]string{"a": "2"})
	repo.Git("tag", "-f", "stable", two)
	if got := fetch(t, s); got.Revision != two {
		t.Errorf("snapshot is %+v", got)
	}
	if !strings.Contains(log.String(), "the tag moved") || !strings.Contains(log.String(), one) {
		t.Errorf("log says %s", &log)
	}
}

func TestBadVerificationKeys(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"a": "1"})
	for text, file := range map[string]string{
		"no such file":       filepath.Join(t.TempDir(), "none"),
		"neither an armored": writeFile(t, filepath.Join(t.TempDir(), "empty"), ""),
		"is no SSH public":   writeFile(t, filepath.Join(t.TempDir(), "text"), "what\n"),
	} {
		_, err := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Verify: git.Verify{KeyFiles: []string{file}}}).Fetch(t.Context())
		wantError(t, err, api.Stalled, "BadVerificationKeys", text)
	}
}
