package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/render/engine"
)

// hostile is a chart with one template, as a bundle.
func hostile(name, template string) files {
	return files{
		name + "/bundle.yaml":      bundle(name, "helm: {chart: ./}, namespace: NS"),
		name + "/Chart.yaml":       "{apiVersion: v2, name: " + name + ", version: 1.0.0}\n",
		name + "/templates/x.yaml": template,
	}
}

const (
	endless  = `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`
	manyKeys = `{{ range until 100000 }}{{ $x := genPrivateKey "rsa" }}{{ end }}`
	repeat   = `{{ repeat 2000000000 "a" }}`
)

// doubling writes a text that is twice as long with each line.
func doubling() string {
	return `{{ $a := "aa" }}` + strings.Repeat("{{ $a = print $a $a }}\n", 40) + "{{ $a }}"
}

// workers are the processes that render for this one, with the memory that each holds, in bytes.
func workers() map[int]int64 {
	out := map[int]int64{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(dir + "/cmdline")
		status, _ := os.ReadFile(dir + "/status")
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && status != nil &&
			bytes.Contains(args, []byte("\x00"+engine.Word+"\x00")) && number(status, "PPid:") == int64(os.Getpid()) {
			out[pid] = number(status, "VmRSS:") << 10
		}
	}
	return out
}

// number reads a field of a status file; 0 if it has none, as that of a process which has ended.
func number(status []byte, name string) int64 {
	_, after, _ := bytes.Cut(status, []byte(name))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(string(line), " kB")), 10, 64)
	return n
}

// inMemory is the memory that this process and its workers hold, in bytes.
func inMemory(t *testing.T) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Error(err)
	}
	sum := number(status, "VmRSS:") << 10
	for _, n := range workers() {
		sum += n
	}
	return sum
}

// peak watches the memory until the function that it returns is called, which tells the most that was held.
func peak(t *testing.T) func() int64 {
	end, most := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		top := int64(0)
		for {
			top = max(top, inMemory(t))
			select {
			case <-end:
				most <- top
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(end)
		return <-most
	}
}

// rendering waits until a worker is at work on an endless chart.
func (r *rig) rendering() {
	r.t.Helper()
	r.Eventually("a worker renders", func(context.Context) error {
		if len(workers()) == 0 {
			return errors.New("there is no worker")
		}
		return nil
	})
}

// edit changes a ConfigMap by hand.
func (r *rig) edit(name, value string) {
	r.t.Helper()
	patch := fmt.Appendf(nil, `{"data":{"key":%q}}`, value)
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Patch(r.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// A line of a chart that takes all memory or all time fails its bundle, with the limit, and costs its neighbours nothing:
// what the same commit brings for them is applied. All that agent and workers hold together is bounded.
func TestHostileChart_neighboursGoOn(t *testing.T) {
	r := newRig(t, agenttest.Config{Change: func(c *agent.Config) { c.Limits.Time = 5 * time.Second }, Files: with(files{
		"good/bundle.yaml": bundle("good", ""), "good/m.yaml": configMap("plain", "one"),
	}, hostile("chart", configMap("from-chart", "one")))})
	r.Start()
	r.Ready("NS-good", "")
	r.Ready("NS-chart", "")
	before, measured := inMemory(t), peak(t)
	commit := files{"good/m.yaml": configMap("plain", "two"), "chart/templates/x.yaml": configMap("from-chart", "two")}
	for name, template := range map[string]string{
		"repeat": repeat, "until": `{{ until 2000000000 }}`, "doubling": doubling(), "endless": endless, "keys": manyKeys,
	} {
		commit = with(commit, hostile(name, template))
	}
	revision := r.Commit(commit)
	r.Failed("NS-repeat", "needs more than 512 MiB of memory", "--render-limits")
	r.Failed("NS-until", "to render") // on a slow machine it takes its time before it takes its memory
	r.Failed("NS-doubling", "to render")
	r.Failed("NS-endless", "takes longer than 5s")
	r.Failed("NS-keys", "takes longer than 5s")
	r.value("plain", "two")
	r.value("from-chart", "two")
	r.Ready("NS-good", revision)
	r.Ready("NS-chart", revision)
	if most := measured(); most-before > 1<<30 {
		t.Errorf("agent and workers held %d MiB, %d before", most>>20, before>>20)
	} else {
		t.Logf("agent and workers held %d MiB, %d before", most>>20, before>>20)
	}
	r.edit("plain", "by hand")
	r.value("plain", "two")
}

// While a chart is rendered that has no end, drift is corrected, and the commit that mends the chart is taken.
func TestHostileChart_aNewerCommitEndsIt(t *testing.T) {
	r := newRig(t, agenttest.Config{Change: func(c *agent.Config) { c.Limits.Time = time.Hour }, Files: files{
		"good/bundle.yaml": bundle("good", ""), "good/m.yaml": configMap("plain", "one"),
	}})
	r.Start()
	r.Ready("NS-good", "")
	r.Commit(hostile("chart", endless))
	r.rendering()
	r.edit("plain", "by hand")
	r.value("plain", "one")
	r.rendering() // it still does
	r.Ready("NS-chart", r.Commit(hostile("chart", configMap("from-chart", "one"))))
	r.value("from-chart", "one")
}

// An agent that is told to stop does, in the middle of a rendering that has no end, and leaves no worker behind.
func TestHostileChart_stopEndsIt(t *testing.T) {
	r := newRig(t, agenttest.Config{Change: func(c *agent.Config) { c.Limits.Time = time.Hour }, Files: hostile("chart", endless)})
	r.Start()
	r.rendering()
	r.Stop()
	if left := workers(); len(left) > 0 {
		t.Errorf("%d workers are left", len(left))
	}
}

// A restart refuses a chart that ended its own rendering, without another try, also where an older one of it was applied.
// The commit that mends it is tried.
func TestHostileChart_aRestartRemembersIt(t *testing.T) {
	r := start(t, with(hostile("chart", configMap("from-chart", "zero")), files{"good/bundle.yaml": bundle("good", ""), "good/m.yaml": configMap("plain", "one")}))
	r.Ready("NS-chart", "")
	r.Commit(hostile("chart", repeat))
	r.Failed("NS-chart", "memory")
	r.Stop()
	kept, err := filepath.Glob(r.Config.Dir + "/refused/*.json")
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept: %v, %v", kept, err)
	}
	before, err := os.Stat(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	for _, value := range []string{"two", "three"} {
		r.Ready("NS-good", r.Commit(files{"good/m.yaml": configMap("plain", value)}))
		r.Failed("NS-chart", "memory")
		if after, err := os.Stat(kept[0]); err != nil || !os.SameFile(before, after) {
			t.Errorf("it was tried again: %v", err)
		}
	}
	r.value("from-chart", "zero")
	r.Ready("NS-chart", r.Commit(hostile("chart", configMap("from-chart", "one"))))
	r.value("from-chart", "one")
}
