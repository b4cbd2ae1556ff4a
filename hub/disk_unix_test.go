//go:build unix

package hub_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/api"
	agentstore "github.com/flotilla-fleet/flotilla/drift/store"
	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
)

// fullDiskVariable is set in the process that TestFullDisk starts.
const fullDiskVariable = "FLOTILLA_TEST_FULL_DISK"

// limitFiles keeps every file of this process from growing beyond a size, as a full disk does, until it is told to stop.
// The process must be one that runs a single test: the limit holds for the files of the testing package, too.
func limitFiles(t *testing.T, size int64) (stop func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = uint64(size)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDisk runs its story in a process of its own. A limit of the size of files holds for a whole process,
// and the testing package writes a file, too: the list of the files that tests read.
func TestFullDisk(t *testing.T) {
	if os.Getenv(fullDiskVariable) != "" {
		tellsOfAFullDisk(t)
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), program, "-test.run=^TestFullDisk$", "-test.v", "-test.timeout=10m")
	child.Env = append(os.Environ(), fullDiskVariable+"=1")
	out, err := child.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestFullDisk")) {
		t.Errorf("the hub with a full disk: %v\n%s", err, out)
	}
}

// A hub whose disk is full says so, in its probes, on its pages, in its log and to its agents, which keep their reports.
func tellsOfAFullDisk(t *testing.T) {
	t.Helper()
	var log lines
	h := hubtest.Start(t, hub.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	a.Run()
	a.Commit(hubtest.Status("prod-eu", rev1))
	delivered(t, a)
	probe := func(path string) (int, []byte) { return h.DoAs("", http.MethodGet, path, "") }
	for _, path := range []string{"/healthz", "/readyz", "/livez"} {
		if status, body := probe(path); status != http.StatusOK || !bytes.Contains(body, []byte(`"ok"`)) {
			t.Errorf("%s of a sound hub: %d %s", path, status, body)
		}
	}
	// The agent's store is smaller, and may still grow a little.
	size := fileSize(t, filepath.Join(h.DataDir(), "hub.db"))
	var pending []api.Episode
	for range 60 {
		e := drift(a, "podinfo")
		e.Evidence = &api.Evidence{Live: strings.Repeat("x", 60<<10)}
		e.End, e.Outcome = time.Now(), api.OutcomeCorrected
		pending = append(pending, e)
	}
	a.Stop()
	a.Commit(agentstore.Batch{Episodes: pending})
	room := limitFiles(t, size)
	a.Run()
	hubtest.Eventually(t, "the probes tell", func() bool {
		ready, body := probe("/readyz")
		health, _ := probe("/healthz")
		return ready == http.StatusServiceUnavailable && health == ready && bytes.Contains(body, []byte(`file too large`))
	})
	if status, body := probe("/livez"); status != http.StatusOK {
		t.Errorf("/livez: %d %s: to start it again would not help", status, body)
	}
	hubtest.Eventually(t, "the agent knows", func() bool {
		err := a.Client.Status().Err
		return err != nil && strings.Contains(err.Error(), "cannot write its store")
	})
	if _, page := h.Do(http.MethodGet, "/", ""); !strings.Contains(string(page), "what agents report is not kept") {
		t.Error("the page does not tell")
	}
	hubtest.Eventually(t, "the log tells", func() bool {
		n, _ := log.count("the store cannot be written")
		return n > 0
	})
	if n, _ := log.count("agent gone"); n > 1 { // once, when the agent was stopped
		t.Errorf("the log says %d times that the agent is gone", n)
	}
	room()
	hubtest.Eventually(t, "all reports are kept", func() bool {
		return hubtest.Get[episodes](h, "/api/v1/drift?state=closed").Total == len(pending)
	})
	var body struct{ Store struct{ Since time.Time } }
	if _, b := probe("/healthz"); json.Unmarshal(b, &body) != nil {
		t.Errorf("/healthz: %s", b)
	}
}
