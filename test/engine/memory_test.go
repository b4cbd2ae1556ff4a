package engine

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// 5,000 objects fit into 800 MiB with all that this test has in memory besides the agent. (test/bench measures the agent alone.)
func TestManyObjects_fitIntoMemory(t *testing.T) {
	const bundles, each, limit = 10, 500, 800 << 20
	fs := files{}
	for i := range bundles {
		dir := fmt.Sprintf("a%d", i)
		fs[dir+"/bundle.yaml"] = bundle(dir, "")
		for j := range each {
			name := fmt.Sprintf("m%d-%d", i, j)
			fs[dir+"/"+name+".yaml"] = configMap(name, "one")
		}
	}
	r := start(t, fs)
	r.Patience = 4 * time.Minute // for thousands of requests
	for i := range bundles {
		r.Ready(fmt.Sprintf("NS-a%d", i), "")
	}
	r.value("m9-499", "one")
	r.Ready("NS-a9", r.Commit(files{"a9/m9-499.yaml": configMap("m9-499", "two")}))
	r.value("m9-499", "two")

	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("no peak in\n%s", status)
	}
	kib, err := strconv.Atoi(string(peak[1]))
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("peak: %d MiB", kib>>10); kib<<10 > limit {
		t.Errorf("%d MiB for %d objects", kib>>10, bundles*each)
	}
}
