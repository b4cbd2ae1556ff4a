//go:build !linux

package child

import (
	"os/exec"
	"syscall"
)

func killWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
