//go:build !linux

package sandbox

import (
	"os"
	"syscall"
	"time"
)

// Elsewhere a worker ends with its parent because its standard input does, and its memory is not bounded.

func attributes() *syscall.SysProcAttr { return nil }

func confine(int64) error { return nil }

// processor is the time since the worker was started: what it takes of it is not known.
func (w *worker) processor() time.Duration { return time.Since(w.begun) }

func (w *worker) resident() int64 { return 0 }

// Self is the command that starts this program once more.
func Self(args ...string) ([]string, error) {
	exe, err := os.Executable()
	return append([]string{exe}, args...), err
}

func killed(*os.ProcessState) bool { return false }
