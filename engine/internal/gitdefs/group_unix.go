//go:build unix

package gitdefs

import (
	"os/exec"
	"syscall"
)

// group makes a command end with everything that it started: git starts ssh
// and programs for its protocols.
func group(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
