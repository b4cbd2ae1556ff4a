package git

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/gitserver/gitservertest"
)

func TestMirrorIsClonedAfreshWhenItHasGrown(t *testing.T) {
	t.Parallel()
	repo := gitservertest.New(t)
	random := rand.New(rand.NewPCG(1, 2))
	content := func() string {
		b := make([]byte, 20_000)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return string(b)
	}
	repo.Commit(map[string]string{"a": content()})
	s, err := New(Config{URL: repo.Dir, Ref: Ref{Branch: "main"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.mirror.fullBytes = 150_000
	old, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, _ := old.Tree.ReadFile("a")
	most, clones := 0, map[string]bool{}
	for i := range 30 {
		repo.Commit(map[string]string{"a": content(), "n": fmt.Sprint(i)})
		snap, err := s.Fetch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := snap.Tree.ReadFile("n"); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file n is %q, %v", b, err)
		}
		files, _ := filepath.Glob(filepath.Join(s.mirror.packDir(), "*.pack"))
		most = max(most, len(files))
		clones[s.mirror.state.Full] = true
	}
	// 20 kB a fetch: the second clone comes after 8, the next when as much as thrice its size has come.
	if len(clones) < 2 || most > 27 {
		t.Errorf("%d complete clones, at most %d packs", len(clones), most)
	}
	if got, err := old.Tree.ReadFile("a"); err != nil || string(got) != string(want) {
		t.Errorf("the first snapshot cannot be read any more: %v", err)
	}
}
