package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/flotilla-fleet/flotilla/reconciler/cluster"
)

// vitals is what /readyz judges by.
type vitals struct {
	now time.Time
	// leased is when the API server last said that the Lease is this agent's, reached when the repository
	// last answered; zero is never.
	leased, reached time.Time
	// standby says that another agent has the cluster, and this one waits. leased is then when the API server last answered.
	standby bool
	// poll is how often the repository is asked.
	poll time.Duration
	// stored is why the store, or its disk, does not take anything.
	stored error
}

// How long an answer counts as one of lately.
const (
	leaseLately      = 3*cluster.RenewEvery + 10*time.Second
	repositoryLately = 5 * time.Minute
	standbyLately    = 30 * standbyPoll
)

// check is one line of /readyz.
type check struct {
	name string
	err  error
	// note stands beside a check that is well.
	note string
}

// checks says what an agent that is ready has. A cluster that cannot be kept as Git says is not among it:
// that is told by the status, for everybody who looks at the cluster or the hub.
func (v vitals) checks() []check {
	lease := check{name: "lease", err: v.lately(v.leased, leaseLately, "the API server has not yet said that the cluster is this agent's", "the API server last said %s ago that the cluster is this agent's")}
	if v.standby {
		lease.note = "this agent stands by: another one has the cluster"
		lease.err = v.lately(v.leased, standbyLately, "the API server has not yet answered", "the API server last answered %s ago")
	}
	return []check{
		lease,
		{name: "repository", err: v.lately(v.reached, max(repositoryLately, 3*v.poll), "the repository has not yet answered", "the repository last answered %s ago")},
		{name: "store", err: v.stored},
	}
}

func (v vitals) lately(at time.Time, limit time.Duration, never, ago string) error {
	switch d := v.now.Sub(at); {
	case at.IsZero():
		return errors.New(never)
	case d > limit:
		return fmt.Errorf(ago, d.Round(time.Second))
	}
	return nil
}

// answer writes all checks, one a line, with 503 if one of them fails.
func (v vitals) answer(w http.ResponseWriter) {
	var text strings.Builder
	status := http.StatusOK
	for _, c := range v.checks() {
		if c.err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "[-] %s: %v\n", c.name, c.err)
			continue
		}
		fmt.Fprintf(&text, "[+] %s", c.name)
		if c.note != "" {
			fmt.Fprintf(&text, " (%s)", c.note)
		}
		text.WriteByte('\n')
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text.String()))
}

// diskProbe finds out whether a directory takes a file, though not more often than every probeEvery:
// an agent with nothing to store would else not know that its disk is full.
type diskProbe struct {
	dir string

	mu   sync.Mutex
	at   time.Time
	last error
}

const (
	probeEvery = 30 * time.Second
	probeBytes = 64 << 10 // more than a transaction usually takes
)

func (p *diskProbe) writable(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if age := now.Sub(p.at); !p.at.IsZero() && age >= 0 && age < probeEvery {
		return p.last
	}
	p.at, p.last = now, nil
	if err := writeAndRemove(p.dir); err != nil {
		p.last = fmt.Errorf("the agent's directory takes no file: %w", withoutPath(err))
	}
	return p.last
}

func writeAndRemove(dir string) error {
	f, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, probeBytes))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// withoutPath is the cause of an error about a file.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
