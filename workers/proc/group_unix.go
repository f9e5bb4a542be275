//go:build unix

package proc

import (
	"os"
	"os/exec"
	"syscall"
)

func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
}

func terminate(group int) { syscall.Kill(-group, syscall.SIGTERM) }

func kill(group int) { syscall.Kill(-group, syscall.SIGKILL) }

// alive reports whether the group has a running member. It reaps those that have
// ended and became our children because their own parent died, which happens
// where the worker is process 1 of a container: nobody else would.
func alive(group int) bool {
	for {
		pid, err := syscall.Wait4(-group, nil, syscall.WNOHANG, nil)
		if pid <= 0 && err != syscall.EINTR {
			break
		}
	}
	return syscall.Kill(-group, 0) != syscall.ESRCH && running(group)
}

func signalName(s *os.ProcessState) string {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return w.Signal().String()
	}
	return ""
}
