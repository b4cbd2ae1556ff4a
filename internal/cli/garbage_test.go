package cli

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbageBound(t *testing.T) {
	for needed, want := range map[uint64]int{0: 30, 1 << 20: 400, 8 << 20: 200, 16 << 20: 100, 50 << 20: 30, 1 << 40: 30} {
		if got := garbageBound(needed); got != want {
			t.Errorf("%d MB: %d percent, want %d", needed>>20, got, want)
		}
	}
}

// The bound follows what the program needs, collection after collection.
func TestAdjustGarbage(t *testing.T) {
	bound := func() int {
		now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(now)
		return int(now[0].Value.Uint64())
	}
	before := bound()
	adjustGarbage(before)
	becomes := func(what string, ok func(int) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(bound()); {
			if time.Now().After(deadline) {
				t.Fatalf("with %s the bound is %d percent", what, bound())
			}
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
	}
	becomes("little", func(p int) bool { return p > garbagePercent })
	much := make([]byte, 1<<30)
	becomes("a gigabyte", func(p int) bool { return p == garbagePercent })
	runtime.KeepAlive(much)
	becomes("little again", func(p int) bool { return p > garbagePercent })
}
