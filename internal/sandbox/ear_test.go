package sandbox

import "testing"

// What the runtime says as it ends a process, as a whole and byte by byte.
func TestEar(t *testing.T) {
	for _, tt := range []struct {
		says          string
		memory, stack bool
	}{
		{says: "fatal error: runtime: out of memory\n\ngoroutine 1 [running]:\n", memory: true},
		{says: "fatal error: runtime: cannot map pages in arena address space\n", memory: true},
		{says: "runtime: failed to create new OS thread\nfatal error: newosproc\n", memory: true},
		{says: "SIGSEGV: segmentation violation\nPC=0x432d7d m=3 sigcode=1 addr=0x0\n\ngoroutine 0 [idle]:\nruntime.(*spanQueue).tryDrain()\n", memory: true},
		{says: "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x1]\n"},
		{says: "runtime: goroutine stack exceeds 1000000000-byte limit\nfatal error: stack overflow\n", stack: true},
		{says: "panic: boom\n"},
	} {
		var whole, pieces ear
		_, _ = whole.Write([]byte(tt.says))
		for _, b := range []byte(tt.says) {
			_, _ = pieces.Write([]byte{b})
		}
		for how, e := range map[string]*ear{"whole": &whole, "byte by byte": &pieces} {
			if memory, stack := e.heard(); memory != tt.memory || stack != tt.stack {
				t.Errorf("%s, %s: memory %v, stack %v", tt.says, how, memory, stack)
			}
		}
	}
}
