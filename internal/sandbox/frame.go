package sandbox

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// The kinds of frames.
const (
	frameMemory  = 'm'
	frameRequest = 'q'
	frameCall    = 'c'
	frameAnswer  = 'a'
	frameResult  = 'r'
)

const headerSize = 5

// maxCall bounds what a worker may send in a call.
const maxCall = 1 << 16

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	if len(payload) > math.MaxInt32 {
		return fmt.Errorf("a message of %d bytes is too long", len(payload))
	}
	header := [headerSize]byte{kind}
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	if _, err := w.Write(header[:]); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// tooLongError is a frame that is longer than it may be.
type tooLongError struct{ kind byte }

func (e tooLongError) Error() string { return fmt.Sprintf("a message %q is too long", e.kind) }

// readFrame reads a frame. limit says how long each kind may be; a kind that may not come has none, below zero.
func readFrame(r io.Reader, limit func(kind byte) int64) (kind byte, payload []byte, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	kind = header[0]
	size := int64(binary.BigEndian.Uint32(header[1:]))
	switch most := limit(kind); {
	case most < 0:
		return 0, nil, fmt.Errorf("a message of the unknown kind %q", kind)
	case size > most:
		return 0, nil, tooLongError{kind}
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return kind, payload, err
}
