package git_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

func TestRefs(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	one := repo.Commit(map[string]string{"a": "1"})
	repo.Git("tag", "1.0.0", one)
	repo.Git("tag", "nightly", one)
	two := repo.Commit(map[string]string{"a": "2"})
	repo.Git("-c", "user.name=x", "-c", "user.email=x@example.com", "tag", "-a", "-m", "two", "v1.1.0", two)
	repo.Git("tag", "v1.2.0-rc.1", two)
	three := repo.Commit(map[string]string{"a": "3"})
	repo.Git("tag", "v2.0.0", three)
	repo.Git("update-ref", "refs/pull/7/head", two)
	side := repo.Do(gitserver.Commit{Branch: "side", Write: map[string]string{"a": "side"}})
	for name, test := range map[string]struct {
		ref     git.Ref
		want    string
		follows string
	}{
		"branch":               {git.Ref{Branch: "side"}, side, "side"},
		"nothing":              {git.Ref{}, three, "main"},
		"tag":                  {git.Ref{Tag: "nightly"}, one, "tag nightly"},
		"annotated tag":        {git.Ref{Tag: "v1.1.0"}, two, "tag v1.1.0"},
		"range":                {git.Ref{SemVer: ">=1.0.0 <2.0.0"}, two, "semver >=1.0.0 <2.0.0"},
		"range of candidates":  {git.Ref{SemVer: ">=1.1.0-0 <2"}, two, "semver >=1.1.0-0 <2"},
		"highest":              {git.Ref{SemVer: "*"}, three, "semver *"},
		"without v":            {git.Ref{SemVer: "~1.0"}, one, "semver ~1.0"},
		"commit in the middle": {git.Ref{Commit: one}, one, "commit " + one},
		"commit of a branch":   {git.Ref{Commit: side, Branch: "side"}, side, "commit " + side},
		"any ref":              {git.Ref{Name: "refs/pull/7/head"}, two, "ref refs/pull/7/head"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := git.New(git.Config{URL: repo.Dir, Ref: test.ref, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if got := fetch(t, s); got.Revision != test.want || s.Follows() != test.follows {
				t.Errorf("revision %s of %q, want %s of %q", got.Revision, s.Follows(), test.want, test.follows)
			}
			if changed, err := s.Changed(t.Context()); changed || err != nil {
				t.Errorf("Changed = %v, %v", changed, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			// After a restart the mirror knows.
			again := open(t, git.Config{URL: filepath.Join(repo.Dir), Ref: test.ref, Dir: dir})
			if last, ok := again.Last(); !ok || last.Revision != test.want {
				t.Errorf("after a restart: %+v", last)
			}
			if r := git.ParseRef(test.follows); r.String() != test.follows {
				t.Errorf("ParseRef(%q) = %+v", test.follows, r)
			}
		})
	}
	for name, test := range map[string]struct {
		ref          git.Ref
		reason, text string
	}{
		"no tag":     {git.Ref{Tag: "v9"}, "TagNotFound", `no tag "v9"; it has ["1.0.0"`},
		"no version": {git.Ref{SemVer: ">=3"}, "TagNotFound", "no tag"},
		"no ref":     {git.Ref{Name: "refs/pull/8/head"}, "RefNotFound", "no ref"},
		"no commit":  {git.Ref{Commit: strings.Repeat("a", 40)}, "CommitNotFound", "has no commit aaaa"},
	} {
		t.Log(name)
		_, err := open(t, git.Config{URL: repo.Dir, Ref: test.ref}).Fetch(t.Context())
		wantError(t, err, api.Stalled, test.reason, test.text)
	}
	for text, ref := range map[string]git.Ref{
		"only one of":             {Tag: "a", SemVer: "*"},
		"not a branch's name":     {Branch: "../../etc"},
		"not a tag's name":        {Tag: "a b"},
		"not the full name":       {Name: "main"},
		"not a commit's whole":    {Commit: "abc"},
		"not a range of versions": {SemVer: "newest"},
	} {
		_, err := git.New(git.Config{URL: repo.Dir, Ref: ref, Dir: t.TempDir()})
		wantError(t, err, api.Stalled, "BadSourceRef", text)
	}
}

func TestRangeFollowsTheHighestVersion(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Git("tag", "v1.9.0", repo.Commit(map[string]string{"a": "1"}))
	s := open(t, git.Config{URL: repo.Dir, Ref: git.Ref{SemVer: "^1"}})
	fetch(t, s)
	want := repo.Commit(map[string]string{"a": "2"})
	if changed, err := s.Changed(t.Context()); changed || err != nil {
		t.Errorf("after a commit without a tag Changed = %v, %v", changed, err)
	}
	repo.Git("tag", "v1.10.0", want)
	if got := fetch(t, s); got.Revision != want {
		t.Errorf("revision %s, want %s", got.Revision, want)
	}
	repo.Git("tag", "v1.9.1", repo.Commit(map[string]string{"a": "3"}))
	if got := fetch(t, s); got.Revision != want {
		t.Error("a lower version was taken")
	}
}

func TestPath(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Do(gitserver.Commit{
		Write: map[string]string{"other/x": "x", "fleets/shop/fleet.yaml": "shop", "fleets/shop/apps/a": "a", "secret": "s"},
		Link:  map[string]string{"fleets/shop/up": "../../secret", "fleets/shop/in": "apps/a", "link": "fleets"},
	})
	s := open(t, git.Config{URL: repo.Dir, Path: "fleets/shop"})
	got := fetch(t, s)
	if read(t, got, "fleet.yaml") != "shop" || read(t, got, "in") != "a" {
		t.Errorf("snapshot is %+v", got)
	}
	if _, err := got.Tree.ReadFile("up"); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("a link out of the path: %v", err)
	}
	if _, err := got.Tree.Stat("../../secret"); err == nil {
		t.Error("a name out of the path")
	}
	before, err := got.Tree.Digest(".")
	if err != nil {
		t.Fatal(err)
	}
	repo.Commit(map[string]string{"other/x": "y"})
	if after, err := fetch(t, s).Tree.Digest("."); err != nil || after != before {
		t.Errorf("a commit elsewhere changed the digest: %v", err)
	}
	for _, bad := range []string{"fleets/none", "link/shop", "secret"} {
		_, err := open(t, git.Config{URL: repo.Dir, Path: bad}).Fetch(t.Context())
		wantError(t, err, api.Stalled, "PathNotFound", "has no directory")
	}
	for _, bad := range []string{"../x", "/x", "a//b", "a/../b"} {
		_, err := git.New(git.Config{URL: repo.Dir, Path: bad, Dir: t.TempDir()})
		wantError(t, err, api.Stalled, "BadSourcePath", "must be a directory of the repository")
	}
}

// TestPathThatWasRight: the mirror of one path serves another, and one that is gone is no damage.
func TestPathThatWasRight(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	repo.Commit(map[string]string{"a/x": "1", "b/x": "2"})
	dir := t.TempDir()
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: dir, Path: "a"}
	s, err := git.New(config)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	config.Path = "c"
	s = open(t, config)
	if _, ok := s.Last(); ok {
		t.Error("there is a snapshot of a path that is not there")
	}
	_, err = s.Fetch(t.Context())
	wantError(t, err, api.Stalled, "PathNotFound", `has no directory "c"`)
	if _, err := os.Stat(filepath.Join(dir, "damaged")); err == nil {
		t.Error("the mirror was set aside")
	}
}

// pkt is a line of Git's protocol.
func pkt(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

// hostile serves a made-up advertisement.
func hostile(t *testing.T, refs, answer func(io.Writer)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			answer(w)
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = io.WriteString(w, pkt("# service=git-upload-pack\n")+"0000")
		refs(w)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/x"
}

// TestHostileRefs: no name that a server gives becomes the name of a file, and none of its answers is endless.
func TestHostileRefs(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("1", 40)
	evil := "refs/heads/../../../../escaped"
	named := func(w io.Writer) {
		_, _ = io.WriteString(w, pkt(hash+" HEAD\x00symref=HEAD:"+evil+" agent=x\n")+pkt(hash+" "+evil+"\n")+"0000")
	}
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	_, err := open(t, git.Config{URL: hostile(t, named, nil), Dir: dir}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "BranchNotFound", "has no branch")

	endless := func(w io.Writer) {
		_, _ = io.WriteString(w, pkt(hash+" HEAD\x00agent=x\n"))
		many := strings.Repeat(pkt(hash+" refs/heads/"+strings.Repeat("a", 900)+"\n"), 1000)
		for {
			if _, err := io.WriteString(w, many); err != nil {
				return
			}
		}
	}
	_, err = open(t, git.Config{URL: hostile(t, endless, nil), Ref: git.Ref{Branch: "main"}}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryTooLarge", "sends more than it may")

	main := func(w io.Writer) { _, _ = io.WriteString(w, pkt(hash+" refs/heads/main\x00agent=x\n")+"0000") }
	acks := func(w io.Writer) {
		many := strings.Repeat(pkt("ACK "+hash+"\n"), 1000)
		for {
			if _, err := io.WriteString(w, many); err != nil {
				return
			}
		}
	}
	_, err = open(t, git.Config{URL: hostile(t, main, acks), Ref: git.Ref{Branch: "main"}, Timeout: 30 * time.Second}).Fetch(t.Context())
	wantError(t, err, api.Stalled, "RepositoryTooLarge", "sends more than it may")
}

// TestRedirects: credentials stay with the host that they are for.
func TestRedirects(t *testing.T) {
	t.Parallel()
	got := make(chan string, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Authorization")
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(elsewhere.Close)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	t.Cleanup(server.Close)
	file := writeFile(t, filepath.Join(t.TempDir(), "credentials"), "password=s3cret")
	if _, err := open(t, git.Config{URL: server.URL + "/x", Ref: git.Ref{Branch: "main"}, CredentialsFile: file}).Fetch(t.Context()); err == nil {
		t.Error("no error")
	}
	select {
	case h := <-got:
		if h != "" {
			t.Errorf("the other host was shown %q", h)
		}
	default: // not followed at all
	}
}
