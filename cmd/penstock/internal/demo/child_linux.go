package demo

import "syscall"

// childAttr puts a child into a process group of its own, and has the kernel
// kill it when this program dies. The kernel means the thread that started
// it; see children.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
