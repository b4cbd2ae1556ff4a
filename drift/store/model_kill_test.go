package store_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/drift/store"
)

// childCommit makes a child process that commits one batch and then waits to be killed.
const childCommit = "FLOTILLA_TEST_COMMIT"

// order is what such a child is told.
type order struct {
	Path   string
	Now    time.Time
	Limits store.Limits
	Batch  store.Batch
}

func commitOnce(in io.Reader) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	s, err := store.Open(store.Config{Path: o.Path, Cluster: "prod-eu", Limits: o.Limits, Now: func() time.Time { return o.Now }})
	if err != nil {
		return err
	}
	fmt.Println("begun")
	if err := s.Commit(o.Batch); err != nil {
		return err
	}
	fmt.Println("done")
	select {}
}

// killed has a child commit a batch, and kills it some time after it has begun.
// It reports whether the store holds the batch: all of it, or nothing.
func (m *model) killed(rnd *rand.Rand, revision string) bool {
	m.t.Helper()
	m.clock.add(time.Duration(rnd.IntN(100)) * time.Millisecond)
	before := *m
	before.bundles, before.episodes = maps.Clone(m.bundles), maps.Clone(m.episodes)
	before.order, before.reports = slices.Clone(m.order), slices.Clone(m.reports)
	o := order{Path: m.cfg.Path, Now: m.clock.now(), Limits: m.cfg.Limits, Batch: m.batch(rnd.IntN, revision)}
	m.retain()
	if err := m.s.Close(); err != nil {
		m.t.Fatal(err)
	}
	// From at once to when it surely has committed.
	after := []int{0, 1, 1000, 4000, 30_000}[rnd.IntN(5)]
	acknowledged := runOrder(m.t, o, time.Duration(rnd.IntN(after+1))*time.Microsecond)
	m.open()
	if must[store.Counters](m.t)(m.s.Counters()).Last == m.last {
		return true
	}
	if acknowledged {
		m.t.Fatal("a batch that was acknowledged is lost")
	}
	s := m.s
	*m = before
	m.s = s
	return false
}

// runOrder reports whether the child said that it was done.
func runOrder(t *testing.T, o order, after time.Duration) (done bool) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childCommit+"=1")
	cmd.Stdin = strings.NewReader(string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if lines.Text() == "begun" {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		done = done || lines.Text() == "done"
	}
	_ = cmd.Wait() // killed
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", stderr.String())
	}
	return done
}

// Random operations, some of which are killed half-way: nothing is lost, doubled or reordered.
func TestModel_killed(t *testing.T) {
	landed := map[bool]int{}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 4))
			m := newModel(t, store.Limits{ClosedEpisodes: 10 + int(seed), ClosedAge: 5 * time.Second})
			for i := range 80 {
				if i%4 == 3 {
					landed[m.killed(rnd, fmt.Sprint("killed-", i))]++
				} else {
					m.step(rnd.IntN)
				}
				m.check()
				m.checkOutbox()
			}
			m.checkHub(len(m.order) + m.dropped)
		})
	}
	t.Logf("%d batches landed before the kill, %d did not", landed[true], landed[false])
	if landed[true] == 0 || landed[false] == 0 {
		t.Errorf("the kills never hit: %v", landed)
	}
}
