package cli

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much garbage the agent lets pile up: it shares its node's memory with others, so it is a share of what it needs;
// but where that is little, collecting so often costs a quarter of its CPU, and a few megabytes are nothing.
const (
	garbagePercent = 30
	garbageBytes   = 16 << 20
)

// spareMemory keeps the garbage within these bounds, unless GOGC says otherwise.
func spareMemory() {
	if os.Getenv("GOGC") == "" {
		adjustGarbage(garbagePercent)
	}
}

// adjustGarbage sets the bound for the next collection, and does so again after each one.
func adjustGarbage(percent int) {
	if next := garbageBound(scanned()); next != percent {
		percent = next
		debug.SetGCPercent(percent)
	}
	collected := new([2]*int) // with pointers, so that it shares no memory with what lives on
	runtime.AddCleanup(collected, adjustGarbage, percent)
}

// garbageBound is the percentage, as SetGCPercent means it, for a program that needs so many bytes.
// It moves in steps of ten: each change of it stops the program for a moment.
func garbageBound(needed uint64) int {
	if needed == 0 {
		return garbagePercent
	}
	return max(garbagePercent, min(int(garbageBytes*10/needed)*10, 400))
}

// scanned is what the last collection found in use: the bytes that SetGCPercent is a percentage of.
func scanned() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	metrics.Read(samples)
	total := uint64(0)
	for _, s := range samples {
		total += s.Value.Uint64()
	}
	return total
}
