package sandbox

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attributes of a worker: it ends with its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// confine bounds the memory that this process may take from now on, and gives up what a worker has no need of:
// new privileges, writing files, many files, a core file that would hold secrets.
// The system is told to end a worker, rather than its parent, when the machine has no memory left.
func confine(memory int64) error {
	used, err := field("/proc/self/status", "VmData:")
	if err != nil {
		return err
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // where /proc is read-only, the watch of the parent remains
	data := unix.Rlimit{Cur: uint64(used + memory), Max: uint64(used + memory)}
	return errors.Join(
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		unix.Setrlimit(unix.RLIMIT_DATA, &data),
		unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{}),
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 32, Max: 32}),
	)
}

// processor is the processor time that a worker has taken since it was started; 0 if it is gone.
func (w *worker) processor() time.Duration {
	// The clock of another process: clock_getcpuclockid(3) makes its number so, and the kernel does not change it.
	const ofTheProcess = 2
	clock := int32(^w.cmd.Process.Pid)<<3 | ofTheProcess
	var ts unix.Timespec
	if unix.ClockGettime(clock, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// resident is how much memory a worker holds; 0 if that is not known.
func (w *worker) resident() int64 {
	n, _ := field("/proc/"+strconv.Itoa(w.cmd.Process.Pid)+"/status", "VmRSS:")
	return n
}

// field reads a number of bytes from a status file of /proc.
func field(file, name string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, after, _ := bytes.Cut(text, []byte(name))
	line, _, found := bytes.Cut(after, []byte(" kB"))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil || !found {
		return 0, errors.New("there is no " + name + " in " + file)
	}
	return n << 10, nil
}

// killed reports whether the system, or somebody, killed a process.
func killed(s *os.ProcessState) bool {
	status, ok := s.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Self is the command that starts this program once more, also where its file has been replaced since.
func Self(args ...string) ([]string, error) { return append([]string{"/proc/self/exe"}, args...), nil }
