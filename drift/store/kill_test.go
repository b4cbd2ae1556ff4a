package store_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

// childFile names the store of a child process that commits until it is killed.
const childFile = "FLOTILLA_TEST_STORE"

const writers = 4

func TestMain(m *testing.M) {
	if os.Getenv(childCommit) != "" {
		fmt.Fprintln(os.Stderr, commitOnce(os.Stdin))
		os.Exit(1)
	}
	if path := os.Getenv(childFile); path != "" {
		fmt.Fprintln(os.Stderr, commitForever(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// commitForever has several writers commit batches, and says on stdout which ones are acknowledged.
// Batch i of a writer sets two bundles to i, ends its episode i-1 and begins episode i.
func commitForever(path string) error {
	s, err := store.Open(store.Config{Path: path, Cluster: "prod-eu"})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var out sync.Mutex
	for w := range writers {
		wg.Go(func() {
			a, b := fmt.Sprintf("w%d-a", w), fmt.Sprintf("w%d-b", w)
			old, _, err := s.Bundle(a)
			for i := old.Status.Objects + 1; err == nil; i++ {
				ra, rb := bundle(a, api.PhaseReady), bundle(b, api.PhaseReady)
				ra.Status.Objects, rb.Status.Objects = i, i
				// Now and then one that does not fit into a page.
				rb.Status.Message = strings.Repeat("m", i%7*1500)
				e := episode(s, a, time.Now())
				e.Count = i
				batch := store.Batch{Bundles: []api.BundleRecord{ra, rb}, Episodes: []api.Episode{e}}
				prev, ok, lookErr := s.LatestEpisode(e.Object.ID())
				if ok {
					prev.End = time.Now()
					batch.Episodes = append(batch.Episodes, prev)
				}
				if err = lookErr; err != nil {
					break
				}
				if err = s.Commit(batch); err == nil {
					out.Lock()
					fmt.Println(w, i)
					out.Unlock()
				}
			}
			fmt.Fprintln(os.Stderr, err)
		})
	}
	wg.Wait()
	return nil
}

func TestKill9_losesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var acked [writers]int
	for round := range 12 {
		runAndKill(t, path, 1+rnd.IntN(150), &acked)
		boltfiletest.Check(t, path)
		checkAfterKill(t, path, acked)
		if t.Failed() {
			t.Fatalf("after kill %d", round)
		}
	}
	total := 0
	for _, n := range acked {
		total += n
	}
	t.Logf("%d batches acknowledged", total)
}

// runAndKill kills the child once it has acknowledged a number of batches.
func runAndKill(t *testing.T, path string, after int, acked *[writers]int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for n := 0; lines.Scan(); n++ {
		var w, i int
		// The last line may be cut off: then it was not acknowledged.
		if c, err := fmt.Sscanf(lines.Text(), "%d %d", &w, &i); c == 2 && err == nil && i == acked[w]+1 {
			acked[w] = i
		} else if c == 2 && i > acked[w]+1 && n < writers {
			acked[w] = i // batches that were stored, but not yet told, when the last child died
		}
		if n == after {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", stderr.String())
	}
}

func checkAfterKill(t *testing.T, path string, acked [writers]int) {
	t.Helper()
	s, err := store.Open(store.Config{Path: path, Cluster: "prod-eu"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	begun := 0
	for w, want := range acked {
		a, _, errA := s.Bundle(fmt.Sprintf("w%d-a", w))
		b, _, errB := s.Bundle(fmt.Sprintf("w%d-b", w))
		e, ok, errE := s.LatestEpisode(api.ObjectRef{Group: "apps", Kind: "Deployment", Namespace: "web", Name: a.Status.Name}.ID())
		if errA != nil || errB != nil || errE != nil {
			t.Fatal(errA, errB, errE)
		}
		got := a.Status.Objects
		begun += got
		switch {
		case got < want:
			t.Errorf("writer %d: batch %d was acknowledged, and the store has %d", w, want, got)
		case b.Status.Objects != got, ok && (e.Count != got || !e.Open()), ok != (got > 0):
			t.Errorf("writer %d: half a batch: bundles %d and %d, episode %d", w, got, b.Status.Objects, e.Count)
		}
	}
	open, err := s.OpenEpisodes()
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Episodes(store.Filter{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if len(open) > writers || len(all) != begun {
		t.Errorf("%d episodes, %d of them open; want %d", len(all), len(open), begun)
	}
	rs, last := 0, uint64(0)
	for {
		page, err := s.Outbox(last, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if r.Seq != last+1 {
				t.Fatalf("report %d follows %d", r.Seq, last)
			}
			last = r.Seq
			rs++
		}
	}
	// Each batch makes two reports of bundles and one of an episode that begins;
	// all but a writer's first also one of an episode that ends.
	firsts := 0
	for w := range writers {
		if r, ok, _ := s.Bundle(fmt.Sprintf("w%d-a", w)); ok && r.Status.Objects > 0 {
			firsts++
		}
	}
	if want := 4*begun - firsts; rs != want {
		t.Errorf("%d reports, want %d", rs, want)
	}
}
