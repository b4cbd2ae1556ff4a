package store_test

import (
	"bufio"
	"context"
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
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/internal/boltfile/boltfiletest"
)

// childFile names the store of a child process that applies reports until it is killed.
const childFile = "FLOTILLA_TEST_HUB_STORE"

const agents = 4

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		fmt.Fprintln(os.Stderr, applyForever(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// applyForever applies reports of several clusters, four at a time: the status and a bundle
// say the round, an episode of the round begins, and that of the round before ends.
func applyForever(path string) error {
	s, err := store.Open(store.Config{Path: path, Now: func() time.Time { return t0 }})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var out sync.Mutex
	ctx := context.Background()
	for a := range agents {
		wg.Go(func() {
			name := fmt.Sprint("c", a)
			_, seq, err := s.Position(ctx, name)
			for round := int(seq)/4 + 1; err == nil; round++ {
				var ack uint64
				rs := numbered(uint64(round-1)*4+1, status(name, fmt.Sprint(round)), bundle("web", api.BundlePhase(fmt.Sprint(round))),
					episode(name, round+1, nil), episode(name, round, closed))
				if ack, err = s.Apply(ctx, name, "agent", rs); err == nil {
					out.Lock()
					fmt.Println(a, ack)
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
	path := filepath.Join(t.TempDir(), "hub.db")
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var acked [agents]uint64
	for round := range 10 {
		runAndKill(t, path, 1+rnd.IntN(120), &acked)
		boltfiletest.Check(t, path)
		checkAfterKill(t, path, acked)
		if t.Failed() {
			t.Fatalf("after kill %d", round)
		}
	}
	t.Logf("acknowledged %v", acked)
}

// runAndKill kills the child once it has acknowledged a number of times.
func runAndKill(t *testing.T, path string, after int, acked *[agents]uint64) {
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
		var a int
		var seq uint64
		// A line that was cut off shows a smaller number, or none.
		if c, err := fmt.Sscanf(lines.Text(), "%d %d", &a, &seq); c == 2 && err == nil && seq > acked[a] {
			acked[a] = seq
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

func checkAfterKill(t *testing.T, path string, acked [agents]uint64) {
	t.Helper()
	s := open2(t, store.Config{Path: path, LockTimeout: time.Second, Now: func() time.Time { return t0 }})
	defer s.Close()
	for a, want := range acked {
		name := fmt.Sprint("c", a)
		c, ok, err := s.Cluster(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if c.Seq < want {
			t.Errorf("cluster %s: report %d was acknowledged, and the store has %d", name, want, c.Seq)
		}
		if !ok {
			continue
		}
		round := fmt.Sprint(c.Seq / 4)
		if got, want := sum(c), fmt.Sprintf("agent@%d %s web=%s drift:x%d", c.Seq, round, round, c.Seq/4+1); got != want {
			t.Errorf("cluster %s: %q, want %q", name, got, want)
		}
		_, total, err := s.Drift(t.Context(), store.DriftFilter{Cluster: name})
		if err != nil || total != int(c.Seq/4)+1 {
			t.Errorf("cluster %s: %d episodes, want %d (%v)", name, total, c.Seq/4+1, err)
		}
	}
}
