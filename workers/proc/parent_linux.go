package proc

import "syscall"

// dieWithParent has the kernel kill the command when the worker dies.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
