package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// maxRequest bounds what a worker reads at once. What it is asked is bounded by whoever asks.
const maxRequest = 1 << 30

// Serve does requests until there are no more, in a process that does nothing else: it gives up what the process may do.
// handle does one request; call asks whoever sent it for what it needs.
// The process ends, in the middle of a request, when in does: then nobody waits for the result.
func Serve(in io.Reader, out io.Writer, handle func(request []byte, call func([]byte) ([]byte, error)) []byte) error {
	kind, payload, err := readFrame(in, only(frameMemory, 8))
	if err != nil || kind != frameMemory || len(payload) != 8 {
		return errors.New("this command is started by flotilla itself, which tells it what to do")
	}
	memory := int64(binary.BigEndian.Uint64(payload))
	if err := confine(memory); err != nil {
		return fmt.Errorf("bound the memory: %w", err)
	}
	// Near its limit it collects garbage more often, before it is refused memory.
	debug.SetMemoryLimit(memory / 4 * 3)
	debug.SetMaxStack(maxStack)
	frames := make(chan []byte)
	go func() {
		for {
			kind, payload, err := readFrame(in, only(0, maxRequest))
			if err != nil || kind != frameRequest && kind != frameAnswer {
				// Nothing else ends a request that is under way: the engines cannot be asked to stop.
				os.Exit(0)
			}
			frames <- payload
		}
	}()
	for request := range frames {
		result := handle(request, func(call []byte) ([]byte, error) {
			if len(call) > maxCall {
				return nil, fmt.Errorf("a call of %d bytes is too long", len(call))
			}
			if err := writeFrame(out, frameCall, call); err != nil {
				return nil, err
			}
			return <-frames, nil
		})
		if err := writeFrame(out, frameResult, result); err != nil {
			return err
		}
	}
	return nil
}

// maxStack bounds a worker's stacks: Go's own bound is more than all the memory that it may have.
const maxStack = 64 << 20

// only lets frames pass of one kind (0: any), up to a length.
func only(kind byte, most int64) func(byte) int64 {
	return func(k byte) int64 {
		if kind != 0 && k != kind {
			return -1
		}
		return most
	}
}
