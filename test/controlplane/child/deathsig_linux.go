package child

import (
	"os/exec"
	"syscall"
)

func killWithParent(cmd *exec.Cmd) {
	// An own process group keeps a terminal's Ctrl-C from reaching the children before their parent stops them in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
