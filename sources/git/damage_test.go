package git_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

func glob(t testing.TB, pattern ...string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(pattern...))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDamage damages the mirror of a source that is not running, in every way that a disk can.
func TestDamage(t *testing.T) {
	t.Parallel()
	overwrite := func(t *testing.T, name string, at int64) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("damage"), at); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		// repaired is set where the damage is found, rather than without effect.
		repaired bool
		// forgotten is set where even the last good revision is lost.
		forgotten bool
	}{
		{name: "nothing", damage: func(*testing.T, string) {}},
		{name: "pack overwritten", repaired: true, damage: func(t *testing.T, dir string) {
			overwrite(t, glob(t, dir, "objects/pack/*.pack")[0], 40)
		}},
		{name: "pack cut short", repaired: true, damage: func(t *testing.T, dir string) {
			if err := os.Truncate(glob(t, dir, "objects/pack/*.pack")[0], 50); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "pack empty", repaired: true, damage: func(t *testing.T, dir string) {
			if err := os.Truncate(glob(t, dir, "objects/pack/*.pack")[0], 0); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "index overwritten", repaired: true, damage: func(t *testing.T, dir string) {
			overwrite(t, glob(t, dir, "objects/pack/*.idx")[0], 1100)
		}},
		{name: "index empty", repaired: true, damage: func(t *testing.T, dir string) {
			if err := os.Truncate(glob(t, dir, "objects/pack/*.idx")[0], 0); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "packs gone", repaired: true, damage: func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "objects")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "index gone", repaired: true, damage: func(t *testing.T, dir string) {
			if err := os.Remove(glob(t, dir, "objects/pack/*.idx")[0]); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "state overwritten", repaired: true, forgotten: true, damage: func(t *testing.T, dir string) {
			overwrite(t, filepath.Join(dir, "flotilla.json"), 0)
		}},
		{name: "state empty", repaired: true, forgotten: true, damage: func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "flotilla.json"), 0); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "fetch killed", damage: func(t *testing.T, dir string) {
			for _, name := range []string{"tmp-pack-123", "tmp-456", "pack-0000000000000000000000000000000000000000.pack"} {
				if err := os.WriteFile(filepath.Join(dir, "objects/pack", name), []byte("PACK..."), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := gitservertest.NewServer(t, gitserver.Config{})
			repo := server.Repository("fleet")
			want := repo.Commit(map[string]string{"a": "1", "b/c": strings.Repeat("data", 1000)})
			config := git.Config{URL: repo.URL, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}
			s := open(t, config)
			fetch(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			test.damage(t, config.Dir)

			s = open(t, config)
			last, ok := s.Last()
			if ok == test.repaired {
				t.Errorf("Last = %+v, %v", last, ok)
			}
			if !test.repaired {
				if last.Revision != want || read(t, last, "a") != "1" {
					t.Errorf("Last = %+v", last)
				}
			} else {
				if changed, err := s.Changed(t.Context()); err != nil || !changed {
					t.Errorf("Changed = %v, %v", changed, err)
				}
				server.Stop()
				for range 2 { // setting aside twice must not lose what was set aside
					_, err := s.Fetch(t.Context())
					if test.forgotten {
						wantError(t, err, api.Transient, "SourceUnreachable", "")
					} else {
						wantError(t, err, api.Transient, "MirrorDamaged", want)
					}
				}
				server.Restart()
			}
			if got := fetch(t, s); got.Revision != want || read(t, got, "b/c") != strings.Repeat("data", 1000) {
				t.Errorf("after the repair: %+v", got)
			}
			if left := glob(t, config.Dir, "objects/pack/tmp-*"); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
			if len(glob(t, config.Dir, "objects/pack/*")) != 2 {
				t.Errorf("packs: %q", glob(t, config.Dir, "objects/pack/*"))
			}
			wantAside := test.repaired && test.name != "packs gone" && test.name != "index gone"
			if aside := glob(t, config.Dir, "damaged/pack/*"); (len(aside) > 0) != wantAside {
				t.Errorf("set aside: %q", aside)
			}
			repo.Commit(map[string]string{"a": "2"})
			if got := fetch(t, s); read(t, got, "a") != "2" || read(t, got, "b/c") == "" {
				t.Errorf("the fetch after: %+v", got)
			}
			fsck(t, config.Dir)
		})
	}
}

// fsck lets git itself look at the mirror.
func fsck(t testing.TB, dir string) {
	t.Helper()
	if out, err := gitserver.Git(t.Context(), dir, "fsck", "--full"); err != nil {
		t.Errorf("git fsck: %v: %s", err, out)
	}
}

func TestDamageFoundWhileReading(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	want := repo.Commit(map[string]string{"a": strings.Repeat("one two three ", 5000), "b": "b"})
	config := git.Config{URL: repo.Dir, Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}
	s := open(t, config)
	snap := fetch(t, s)
	pack := glob(t, config.Dir, "objects/pack/*.pack")[0]
	data, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	// In place, so that the open file sees it.
	f, err := os.OpenFile(pack, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, len(data)-40), 12); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = snap.Tree.ReadFile("a")
	wantError(t, err, api.Transient, "MirrorDamaged", "")
	if changed, err := s.Changed(t.Context()); err != nil || !changed {
		t.Errorf("Changed = %v, %v", changed, err)
	}
	if got := fetch(t, s); got.Revision != want || !strings.HasPrefix(read(t, got, "a"), "one two") {
		t.Errorf("after the repair: %+v", got)
	}
	if changed, err := s.Changed(t.Context()); err != nil || changed {
		t.Errorf("after the repair Changed = %v, %v", changed, err)
	}
}

// TestInterruptedFetch cuts the server's answer after every number of bytes in turn.
func TestInterruptedFetch(t *testing.T) {
	t.Parallel()
	plain := gitservertest.NewServer(t, gitserver.Config{})
	repo := plain.Repository("fleet")
	first := repo.Commit(map[string]string{"a": "1", "dir/b": strings.Repeat("b", 100)})
	var most atomic.Int64
	most.Store(1 << 30)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			plain.ServeHTTP(w, r)
			return
		}
		all := httptest.NewRecorder()
		plain.ServeHTTP(all, r)
		body := all.Body.Bytes()
		w.Header().Set("Content-Type", all.Header().Get("Content-Type"))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if _, err := w.Write(body[:min(most.Load(), int64(len(body)))]); err != nil {
			return
		}
	}))
	t.Cleanup(proxy.Close)
	config := git.Config{URL: proxy.URL + "/fleet.git", Ref: git.Ref{Branch: "main"}, Dir: t.TempDir()}
	s := open(t, config)
	fetch(t, s)
	second := repo.Commit(map[string]string{"a": "2"})
	ended := false
	for n := int64(0); n < 2000; n += 7 {
		most.Store(n)
		snap, err := s.Fetch(t.Context())
		if err == nil {
			ended = true
			if snap.Revision != second {
				t.Errorf("revision %s", snap.Revision)
			}
			break
		}
		if api.KindOf(err) != api.Transient || snap.Revision != first || read(t, snap, "a") != "1" {
			t.Fatalf("cut at %d: %v, %+v", n, err, snap)
		}
		if left := glob(t, config.Dir, "objects/pack/tmp-*"); len(left) > 0 {
			t.Fatalf("left over: %q", left)
		}
	}
	if !ended {
		t.Error("the fetch never succeeded")
	}
	fsck(t, config.Dir)
}

// TestPackWithAFlippedByte makes sure that no wrong content gets in.
func TestPackWithAFlippedByte(t *testing.T) {
	t.Parallel()
	plain := gitservertest.NewServer(t, gitserver.Config{})
	repo := plain.Repository("fleet")
	repo.Commit(map[string]string{"a": "1", "dir/b": strings.Repeat("b", 100)})
	flip, accepted := -1, 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			plain.ServeHTTP(w, r)
			return
		}
		all := httptest.NewRecorder()
		plain.ServeHTTP(all, r)
		body := all.Body.Bytes()
		if at := bytes.Index(body, []byte("PACK")) + flip; flip >= 0 && at < len(body) {
			body[at] ^= 0x10
		}
		_, _ = io.Copy(w, bytes.NewReader(body))
	}))
	t.Cleanup(proxy.Close)
	for flip = 0; flip < 300; flip += 13 {
		s := open(t, git.Config{URL: proxy.URL + "/fleet.git", Ref: git.Ref{Branch: "main"}})
		snap, err := s.Fetch(t.Context())
		if err == nil {
			// Past the end of the pack there are some bytes of the protocol.
			accepted++
			if accepted > 1 || read(t, snap, "a") != "1" || read(t, snap, "dir/b") != strings.Repeat("b", 100) {
				t.Errorf("a pack with byte %d changed was accepted", flip)
			}
		} else if errors.Is(err, os.ErrNotExist) {
			t.Errorf("byte %d: %v", flip, err)
		}
	}
}

func TestOtherURLOrBranchIsNotMixedUp(t *testing.T) {
	t.Parallel()
	one, two := gitservertest.New(t), gitservertest.New(t)
	one.Commit(map[string]string{"a": "one"})
	side := one.Do(gitserver.Commit{Branch: "side", Write: map[string]string{"a": "side"}})
	want := two.Commit(map[string]string{"a": "two"})
	dir := t.TempDir()
	s := open(t, git.Config{URL: one.Dir, Ref: git.Ref{Branch: "main"}, Dir: dir})
	fetch(t, s)
	s.Close()
	s = open(t, git.Config{URL: one.Dir, Ref: git.Ref{Branch: "side"}, Dir: dir})
	if last, ok := s.Last(); ok {
		t.Errorf("Last of another branch: %+v", last)
	}
	if got := fetch(t, s); got.Revision != side {
		t.Errorf("revision %s, want %s", got.Revision, side)
	}
	s.Close()
	s = open(t, git.Config{URL: two.Dir, Ref: git.Ref{Branch: "main"}, Dir: dir})
	if last, ok := s.Last(); ok {
		t.Errorf("Last of another repository: %+v", last)
	}
	if got := fetch(t, s); got.Revision != want || read(t, got, "a") != "two" {
		t.Errorf("revision %s, want %s", got.Revision, want)
	}
	if packs := glob(t, dir, "objects/pack/*.pack"); len(packs) != 1 {
		t.Errorf("packs of the other repository are left: %q", packs)
	}
}
